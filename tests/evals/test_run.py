from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from flantune.errors import RecipeError, StateError
from flantune.evals import (
    BENCHMARKS,
    Setting,
    compare,
    read_items,
    run_evaluation,
    score_file,
    score_outputs,
    settings_of,
)
from flantune.evals.compare import write_comparison
from flantune.evals.results import MISSING
from flantune.inference.backends import Capabilities
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest
from flantune.recipe import BenchmarkSpec


class Oracle:
    """Answers from the text of the prompt alone and remembers what it was asked; may die after some answers."""

    capabilities, chat_template, prices = Capabilities(), None, None

    def __init__(
        self, dies_after: int | None = None, says: str = "The answer is {n}.", model: str = "m", max_inputs: int = 9_999
    ) -> None:
        self.asked: list[str] = []
        self.dies_after, self.says, self.max_inputs = dies_after, says, max_inputs
        self.identity = {"model": model, "max_inputs": max_inputs}

    def num_tokens(self, text: str) -> int:
        return len(text)

    def fits(self, prompt: str, *, special: bool = False) -> bool:
        return len(prompt) <= self.max_inputs

    def _answering(self, prompt: str) -> None:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(prompt)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated]:
        for index in sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt)):
            self._answering(requests[index].prompt)
            n = len(requests[index].prompt) % 5
            yield Generated(index, (self.says.format(n=n) if n else "no idea",), truncated=n == 1)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored]:
        for index, request in enumerate(requests):
            self._answering(request.prompt)
            best = len(request.prompt) % len(request.options)
            yield Scored(index, tuple(-1.0 if i == best else -2.0 for i in range(len(request.options))), False)


@pytest.fixture
def settings(benchmarks: Path) -> list[Setting]:
    return [
        Setting(benchmark=BENCHMARKS[name], path=benchmarks / BENCHMARKS[name].folder, mode=mode, shots=1)
        for name, mode in [("mmlu", "direct"), ("mmlu", "cot"), ("bbh", "cot"), ("gsm8k", "cot"), ("mgsm", "cot")]
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != "items.jsonl"}


def test_a_run_leaves_one_row_per_item_and_one_entry_per_setting(settings: list[Setting], tmp_path: Path):
    engine = Oracle()
    seen: list[tuple[int, int]] = []
    summary = run_evaluation(engine, settings, tmp_path / "e", on_progress=lambda *p: seen.append(p))
    assert len(engine.asked) == 3 + 3 + 3 + 2 + 3 and seen[0] == (0, 14) and seen[-1] == (14, 14)
    assert orjson.loads((tmp_path / "e/summary.json").read_bytes()) == orjson.loads(orjson.dumps(summary))
    rows = read_items(tmp_path / "e/items.parquet")
    assert len(rows) == 14 and len({(r.setting, r.result.item.id) for r in rows}) == 14
    entries = summary["results"]
    assert [e["setting"] for e in entries] == [s.key for s in settings]
    for entry in entries:
        own = [r for r in rows if r.setting == entry["setting"]]
        assert entry["items"] == len(own) and entry["missing"] == 0
        assert entry["extracted"] == sum(r.result.extracted is not None for r in own)
        assert entry["extraction_rate"] == entry["extracted"] / entry["items"]
        assert entry["truncated"] == sum(r.result.truncated for r in own)
        low, high = entry["interval"]
        assert 0 <= low <= entry["score"] <= high <= 1
        assert sum(t["items"] for t in entry["tasks"].values()) == entry["items"]
        assert sum(entry["rules"].values()) == entry["items"]
    scored = [r for r in rows if r.setting == "mmlu/direct/1-shot"]
    assert all(r.result.option_scores and r.result.rule == "highest log-probability" for r in scored)


def test_unread_is_not_wrong(settings: list[Setting], tmp_path: Path):
    summary = run_evaluation(Oracle(says="well, {n}"), settings[1:3], tmp_path / "e")
    rows = read_items(tmp_path / "e/items.parquet")
    for row in rows:
        if row.result.extracted is None:
            assert row.result.score is None and row.result.reason == "no answer found in it"
    table = pq.read_table(tmp_path / "e/items.parquet")
    assert table.column("score").null_count == sum(r.result.score is None for r in rows) > 0
    mmlu = summary["results"][0]
    assert mmlu["extraction_rate"] == 0 and mmlu["score"] == 0 and mmlu["score_parsed"] is None
    bbh = summary["results"][1]
    read = [r.result.score for r in rows if r.setting == "bbh/cot/1-shot" and r.result.score is not None]
    assert bbh["score_parsed"] is not None and len(read) == bbh["extracted"] < bbh["items"]
    assert bbh["score"] <= bbh["score_parsed"]


def test_an_interrupted_run_asks_nothing_twice_and_ends_in_the_same_bytes(settings: list[Setting], tmp_path: Path):
    whole = Oracle()
    run_evaluation(whole, settings, tmp_path / "whole")
    asked: list[str] = []
    for dies_after in (0, 2, 1, 5, 3, None):
        engine = Oracle(dies_after)
        if dies_after is None:
            run_evaluation(engine, settings, tmp_path / "cut")
        else:
            with pytest.raises(KeyboardInterrupt):
                run_evaluation(engine, settings, tmp_path / "cut")
            assert not (tmp_path / "cut/summary.json").exists() and not (tmp_path / "cut/items.parquet").exists()
        asked += engine.asked
    assert sorted(asked) == sorted(whole.asked)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    again = Oracle()
    run_evaluation(again, settings, tmp_path / "cut")
    assert again.asked == [] and files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_torn_last_line_is_asked_again_wherever_it_was_torn(settings: list[Setting], tmp_path: Path):
    run_evaluation(Oracle(), settings[:1], tmp_path / "e")
    data = (tmp_path / "e/items.jsonl").read_bytes()
    kept = files(tmp_path / "e")
    start = data[:-1].rfind(b"\n") + 1
    for end in range(start + 1, len(data), 37):
        (tmp_path / "e/items.jsonl").write_bytes(data[:end])
        engine = Oracle()
        run_evaluation(engine, settings[:1], tmp_path / "e")
        assert len(engine.asked) == 1
        assert (tmp_path / "e/items.jsonl").read_bytes() == data and files(tmp_path / "e") == kept


def test_a_killed_process_loses_no_answer_it_gave(benchmarks: Path, tmp_path: Path):
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_run import BENCHMARKS, Oracle, Setting, run_evaluation

        class Killed(Oracle):
            def _answering(self, prompt):
                if len(self.asked) == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.asked.append(prompt)

        root = Path({str(benchmarks)!r})
        names = ("mmlu", "bbh", "mgsm")
        settings = [Setting(benchmark=BENCHMARKS[n], path=root / n, mode="cot", shots=1) for n in names]
        run_evaluation(Killed(), settings, Path({str(tmp_path / "e")!r}))
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len((tmp_path / "e/items.jsonl").read_bytes().split(b"\n")) == 7
    engine = Oracle()
    same = [Setting(benchmark=BENCHMARKS[n], path=benchmarks / n, mode="cot", shots=1) for n in ("mmlu", "bbh", "mgsm")]
    run_evaluation(engine, same, tmp_path / "e")
    assert len(engine.asked) == 9 - 6


def test_a_larger_limit_asks_only_what_is_new(settings: list[Setting], benchmarks: Path, tmp_path: Path):
    def limited(limit: int | None) -> list[Setting]:
        return [Setting(benchmark=BENCHMARKS["mgsm"], path=benchmarks / "mgsm", mode="cot", shots=1, limit=limit)]

    first, second = Oracle(), Oracle()
    run_evaluation(first, limited(1), tmp_path / "e")
    summary = run_evaluation(second, limited(None), tmp_path / "e")
    assert len(first.asked) == 2 and len(second.asked) == 1 and summary["results"][0]["items"] == 3


def test_a_folder_belongs_to_one_model_asked_in_one_way(settings: list[Setting], tmp_path: Path):
    run_evaluation(Oracle(), settings[:1], tmp_path / "e")
    before = files(tmp_path / "e")
    with pytest.raises(StateError, match="another model"):
        run_evaluation(Oracle(model="m2"), settings[:1], tmp_path / "e")
    other = Oracle(max_inputs=64)
    with pytest.raises(StateError, match="another max_inputs"):
        run_evaluation(other, settings[:1], tmp_path / "e")
    assert files(tmp_path / "e") == before
    (tmp_path / "e/header.json").unlink()
    with pytest.raises(StateError, match=r"no header\.json"):
        run_evaluation(Oracle(), settings[:1], tmp_path / "e")


def test_a_damaged_line_in_the_middle_is_named(settings: list[Setting], tmp_path: Path):
    run_evaluation(Oracle(), settings[:1], tmp_path / "e")
    lines = (tmp_path / "e/items.jsonl").read_bytes().split(b"\n")
    (tmp_path / "e/items.jsonl").write_bytes(b"\n".join([lines[0], b"{}", *lines[2:]]))
    with pytest.raises(StateError, match=r"items\.jsonl:2"):
        run_evaluation(Oracle(), settings[:1], tmp_path / "e")


def test_exemplars_dropped_and_prompts_cut_are_counted(settings: list[Setting], tmp_path: Path):
    engine = Oracle(max_inputs=150)
    entry = run_evaluation(engine, settings[3:4], tmp_path / "e")["results"][0]
    rows = read_items(tmp_path / "e/items.parquet")
    assert entry["shots_dropped"] == sum(r.shots_dropped for r in rows) > 0
    assert all(r.result.item.shots + r.shots_dropped == 1 for r in rows)


def test_a_recipes_entry_becomes_every_mode_and_number_of_shots(benchmarks: Path):
    spec = BenchmarkSpec(name="bbh", modes=("cot", "direct"), shots=(0, 3), limit=2)
    keys = [s.key for s in settings_of(spec, BENCHMARKS["bbh"], benchmarks / "bbh", seed=1)]
    assert keys == ["bbh/cot/0-shot", "bbh/cot/3-shot", "bbh/direct/0-shot", "bbh/direct/3-shot"]
    default = settings_of(BenchmarkSpec(name="mmlu"), BENCHMARKS["mmlu"], benchmarks / "mmlu", seed=1)
    assert [s.key for s in default] == ["mmlu/direct/5-shot", "mmlu/cot/5-shot"]
    with pytest.raises(RecipeError, match="no mode 'direct'"):
        settings_of(BenchmarkSpec(name="mgsm", modes=("direct",)), BENCHMARKS["mgsm"], benchmarks / "mgsm", seed=1)


def test_compare_pairs_items_and_says_what_rose_and_fell(settings: list[Setting], tmp_path: Path):
    class Right(Oracle):
        def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored]:
            for index in range(len(requests)):
                yield Scored(index, (0.0, -1.0, -1.0, -1.0), False)  # always A

    run_evaluation(Oracle(model="a"), settings[:2], tmp_path / "a")
    run_evaluation(Right(model="b"), settings[:1], tmp_path / "b")
    rows = compare(tmp_path / "a/items.parquet", tmp_path / "b/items.parquet")
    assert [(r.setting, r.task) for r in rows] == [("mmlu/direct/1-shot", None), ("mmlu/direct/1-shot", "pond_biology")]
    a, b = (
        {
            r.result.item.id: r.result.score
            for r in read_items(tmp_path / side / "items.parquet")
            if "direct" in r.setting
        }
        for side in ("a", "b")
    )
    whole = rows[0]
    assert whole.items == 3 and whole.unpaired == 0 and whole.prompts_differ == 0
    assert whole.difference == pytest.approx(whole.score_b - whole.score_a)
    assert (whole.rose, whole.fell) == (sum(b[i] > a[i] for i in a), sum(b[i] < a[i] for i in a))
    assert whole.interval[0] <= whole.difference <= whole.interval[1]
    same = compare(tmp_path / "a/items.parquet", tmp_path / "a/items.parquet")
    assert all((r.difference, r.rose, r.fell, r.p_value) == (0.0, 0, 0, 1.0) for r in same)
    write_comparison(rows, tmp_path / "compare.json")
    assert orjson.loads((tmp_path / "compare.json").read_bytes())["rows"][0]["interval"] == list(whole.interval)


def test_compare_refuses_what_shares_nothing_and_what_is_not_there(settings: list[Setting], tmp_path: Path):
    run_evaluation(Oracle(), settings[:1], tmp_path / "a")
    run_evaluation(Oracle(), settings[1:2], tmp_path / "b")
    with pytest.raises(RecipeError, match="share no setting"):
        compare(tmp_path / "a/items.parquet", tmp_path / "b/items.parquet")
    with pytest.raises(RecipeError, match="no such file"):
        compare(tmp_path / "a/items.parquet", tmp_path / "c/items.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "a/items.parquet").read_bytes()[:-20])
    with pytest.raises(StateError, match=r"torn\.parquet"):
        compare(tmp_path / "a/items.parquet", tmp_path / "torn.parquet")


def test_outputs_written_elsewhere_are_scored_by_id_or_by_input(settings: list[Setting], tmp_path: Path):
    setting = settings[3]
    posed = setting.pose(lambda prompt: True)
    lines = [
        {"id": posed[0].item.id, "output": "4 * 500. The answer is 2000."},
        {"input": posed[1].item.prompt + "\n", "output": "no idea"},
    ]
    file = tmp_path / "outputs.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    rows = score_outputs(setting, file)
    assert [r.result.score for r in rows] == [1.0, None]
    file.write_bytes(orjson.dumps(lines[0]) + b"\n")
    summary = score_file(setting, file, tmp_path / "scored")
    entry = summary["results"][0]
    assert (entry["items"], entry["missing"], entry["score"]) == (1, 1, 1.0)
    stored = read_items(tmp_path / "scored/items.parquet")
    assert [r.result.reason == MISSING for r in stored] == [False, True] and stored[1].result.score is None


def test_mmlu_letters_written_elsewhere_are_read_in_direct_mode_too(settings: list[Setting], tmp_path: Path):
    file = tmp_path / "outputs.jsonl"
    told = {"val/pond_biology/0": "A", "val/pond_biology/1": "(C)", "val/pond_biology/2": "The answer is A."}
    file.write_bytes(b"".join(orjson.dumps({"id": i, "output": o}) + b"\n" for i, o in told.items()))
    assert [r.result.score for r in score_outputs(settings[0], file)] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "test/7", "output": "4"}\n', "row 1: field 'id'"),
        (
            '{"id": "test/0", "output": "4"}\n{"id": "test/0", "output": "5"}\n',
            "row 2: field 'id': expected one output",
        ),
        ('{"input": "What?", "output": "4"}\n', "field 'input'"),
        ('{"id": "test/0"}\n', "field 'output'"),
        ('{"id": "test/0", "output": 4}\n', "field 'output'"),
        ("4\n", "expected a JSON object"),
        ("{\n", ":1: field"),
        ("", "at least one row"),
    ],
)
def test_a_file_of_outputs_that_is_not_one_is_an_error_with_its_place(
    settings: list[Setting], tmp_path: Path, lines: str, message: str
):
    (tmp_path / "o.jsonl").write_text(lines)
    with pytest.raises(Exception, match=message):
        score_outputs(settings[3], tmp_path / "o.jsonl")
