"""Several samples of an answer, end to end: drawn, chosen among, told of, and never asked for twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from flantune.errors import RecipeError
from flantune.evals import BENCHMARKS, Setting, file_settings, read_items, run_evaluation, settings_of
from flantune.evals.decoding import Decoding, decoding_of
from flantune.evals.dialogues import reworded
from flantune.evals.selection import majority_vote
from flantune.inference.answers import AnswerStore
from flantune.inference.mock import Mock
from flantune.inference.requests import GenerateRequest, Sampling, ScoreRequest
from flantune.recipe import BenchmarkSpec

# What a sample says by its number, gold being 2,000 and 4: voted, unread, wrong, and longer ways to another answer.
WAYS = [
    "The answer is 7.",
    "So first.\nThen second.\nThen third.\nThe answer is 9.",
    "no idea",
    "The answer is 2,000.",
    "Half.\nAnd again.\nThe answer is 9.",
    "The answer is 2000.",
    "The answer is $2000.",
]


def say_by_number(prompt: str, sample: int) -> str:
    return WAYS[sample % len(WAYS)]


def drawn(benchmarks: Path, name: str = "gsm8k", **spec: Any) -> Setting:
    (setting,) = settings_of(
        BenchmarkSpec(name=name, modes=("cot",), shots=1, **spec), BENCHMARKS[name], benchmarks / name, 0
    )
    return setting


def test_the_majority_stands_and_every_sample_is_told_of(benchmarks: Path, tmp_path: Path):
    mock = Mock(say=say_by_number)
    entry = run_evaluation(mock, [drawn(benchmarks, samples=7)], tmp_path / "e")["results"][0]
    assert entry["setting"] == "gsm8k/cot/1-shot+majority-7"
    assert [r.samples for r in mock.asked if isinstance(r, GenerateRequest)] == [7, 7]
    drawn_how = [r.sampling for r in mock.asked if isinstance(r, GenerateRequest)]
    assert {(s.temperature, s.top_k) for s in drawn_how} == {(0.7, 40)}
    assert len({s.seed for s in drawn_how}) == 2  # items that shared their random numbers would err together
    rows = read_items(tmp_path / "e/items.parquet")
    first = next(r for r in rows if "2000" in r.result.item.references[0].replace(",", ""))
    assert first.result.score == 1.0 and first.result.output == WAYS[3] and first.result.rule == "majority"
    assert first.samples is not None
    assert first.samples.texts == tuple(WAYS) and first.samples.answers.count(None) == 1
    assert (first.samples.votes, first.samples.voters, first.samples.chosen) == (3, 6, 3)
    assert first.samples.agreement == 0.5
    table = read_table(tmp_path / "e/items.parquet")
    assert table["votes"] == [3, 3] and table["voters"] == [6, 6] and table["agreement"] == [0.5, 0.5]
    told = entry["samples"]
    assert (told["select"], told["number"], told["drawn"]) == ("majority", 7, 14)
    assert told["extraction_rate"] == 12 / 14 and told["agreement"] == 0.5
    assert told["score_of_one"] == pytest.approx(3 / 14)  # three of the fourteen samples are right
    assert entry["readings"]["strict"]["score"] is not None and entry["score"] == 0.5


def read_table(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    return dict(pq.read_table(path).to_pydict())


def test_the_longest_ways_vote_under_complexity(benchmarks: Path, tmp_path: Path):
    setting = drawn(benchmarks, samples=7, select="complexity", keep=3)
    entry = run_evaluation(Mock(say=say_by_number), [setting], tmp_path / "e")["results"][0]
    row = read_items(tmp_path / "e/items.parquet")[0]
    assert entry["setting"] == "gsm8k/cot/1-shot+complexity-3-of-7"
    assert row.result.extracted == "9" and row.samples is not None
    assert (row.samples.votes, row.samples.voters, row.samples.chosen) == (2, 3, 1)


@pytest.mark.parametrize(("scorer", "told"), [("length", WAYS[1]), ("FILE", WAYS[6]), ("logprob", None)])
def test_the_scorers_favourite_stands_among_what_can_be_read(
    benchmarks: Path, tmp_path: Path, scorer: str, told: str | None
):
    (tmp_path / "likes.py").write_text("def score(prompt, output):\n    return output.count('$') if prompt else None\n")
    scorer = str(tmp_path / "likes.py") if scorer == "FILE" else scorer
    mock = Mock(say=say_by_number)
    setting = drawn(benchmarks, samples=7, select="best-of", scorer=scorer)
    run_evaluation(mock, [setting], tmp_path / "e")
    row = read_items(tmp_path / "e/items.parquet")[0]
    assert row.samples is not None and row.samples.chosen is not None and row.samples.votes is None
    if told is not None:
        assert row.result.output == told
        return
    asked = [r for r in mock.asked if isinstance(r, ScoreRequest)]
    assert len(asked) == 2 and all(r.options == tuple(dict.fromkeys(WAYS)) for r in asked)
    (scores,) = Mock().score([r for r in asked if r.prompt == row.result.item.prompt])
    means = [s / len(w.split()) for s, w in zip(scores.scores, WAYS, strict=True)]  # type: ignore[union-attr]
    assert row.samples.values == pytest.approx(tuple(means))
    readable = [m if a is not None else float("-inf") for m, a in zip(means, row.samples.answers, strict=True)]
    assert row.samples.chosen == readable.index(max(readable))


def test_a_question_is_asked_again_with_hints_until_two_agree(benchmarks: Path, tmp_path: Path):
    def say(prompt: str, sample: int) -> str:
        hints = prompt.rpartition("The answer is near to ")[2].partition(")")[0] if "near to" in prompt else ""
        return f"The answer is {min(3, len(hints.split(', ')) if hints else 0)}."

    mock = Mock(say=say)
    entry = run_evaluation(mock, [drawn(benchmarks, select="hints")], tmp_path / "e")["results"][0]
    assert entry["setting"] == "gsm8k/cot/1-shot+hints-5"
    row = read_items(tmp_path / "e/items.parquet")[0]
    assert row.samples is not None and row.samples.answers == ("0", "1", "2", "3", "3")
    assert row.result.extracted == "3" and row.samples.chosen == 4
    prompts = [r.prompt for r in mock.asked]
    assert len(prompts) == 2 * 5
    own = [p for p in prompts if p.startswith(row.result.item.prompt[:100]) and "near to 0, 1)" in p]
    assert own and all("(Hint: The answer is near to 0, 1).\nLet's think" in p for p in own)


def test_hints_go_behind_the_question_also_inside_a_chat(benchmarks: Path):
    setting = drawn(benchmarks)
    posed = setting.pose(lambda prompt: True)[0]
    asked = reworded(posed, f"{posed.question} (Hint: 3).")
    assert asked.replace(" (Hint: 3).", "") == posed.item.prompt and asked.count("(Hint: 3).") == 1
    chat = Setting(benchmark=setting.benchmark, path=setting.path, mode="cot", shots=1, chat="single")
    as_json = chat.pose(lambda prompt: True, lambda messages: orjson.dumps(messages).decode())[0]
    told = orjson.loads(reworded(as_json, f'{as_json.question} (Hint: "3").'))
    assert told[-1]["content"].count('(Hint: "3").') == 1


@pytest.mark.parametrize(("spec", "expected"), [
    ({}, Decoding()),
    ({"samples": 5}, Decoding(samples=5, select="majority", sampling=Sampling(temperature=0.7, top_k=40, seed=3))),
    ({"select": "majority"}, Decoding(samples=40, select="majority",
                                      sampling=Sampling(temperature=0.7, top_k=40, seed=3))),
    ({"temperature": 0.2, "top_k": 0, "top_p": 0.9},
     Decoding(sampling=Sampling(temperature=0.2, top_k=None, top_p=0.9, seed=3))),
    ({"select": "complexity", "samples": 5}, Decoding(samples=5, select="complexity", keep=3,
                                                      sampling=Sampling(temperature=0.7, top_k=40, seed=3))),
    ({"select": "hints"}, Decoding(select="hints")),
])  # fmt: skip
def test_what_is_left_open_is_the_specs(spec: dict[str, Any], expected: Decoding):
    assert decoding_of(BenchmarkSpec(name="gsm8k", **spec), 3) == expected


@pytest.mark.parametrize(("spec", "words"), [
    ({"select": "hints", "samples": 4}, "one answer at a time"),
    ({"select": "majority", "samples": 1}, "2 or more"),
    ({"samples": 4, "temperature": 0}, "would all be one"),
    ({"top_k": 5}, "temperature above 0"),
    ({"scorer": "length"}, "for select 'best-of'"),
    ({"samples": 4, "keep": 2}, "with select 'complexity' alone"),
    ({"select": "complexity", "samples": 4, "keep": 5}, "expected 1 to 4"),
    ({"select": "best-of", "scorer": "nothing.py"}, "a Python file that is there"),
    ({"select": "best-of", "scorer": "beauty"}, "expected logprob, length"),
])  # fmt: skip
def test_what_does_not_go_together_is_said(spec: dict[str, Any], words: str):
    with pytest.raises(RecipeError, match=words):
        decoding_of(BenchmarkSpec(name="gsm8k", **spec), 0)


@pytest.mark.parametrize(("text", "words"), [
    ("def other(): pass", "defines no function score"),
    ("import nothing_of_the_kind", "cannot be run: ModuleNotFoundError"),
])  # fmt: skip
def test_a_scorer_that_is_none_is_said_before_anything_is_asked(tmp_path: Path, text: str, words: str):
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(RecipeError, match=words):
        decoding_of(BenchmarkSpec(name="gsm8k", select="best-of", scorer=str(tmp_path / "s.py")), 0)


def test_samples_are_for_answers_that_are_written(benchmarks: Path):
    mmlu = BENCHMARKS["mmlu"]
    both = settings_of(BenchmarkSpec(name="mmlu", samples=3), mmlu, benchmarks / "mmlu", 0)
    assert [s.key for s in both] == ["mmlu/direct/5-shot", "mmlu/cot/5-shot+majority-3"]
    with pytest.raises(RecipeError, match="its options are scored"):
        file_settings(BenchmarkSpec(name="mmlu", modes=("direct",), samples=3), str(benchmarks), 0)
    (written,) = settings_of(
        BenchmarkSpec(name="mmlu", modes=("direct",), samples=3, generate=True), mmlu, benchmarks / "mmlu", 0
    )
    assert written.key == "mmlu/direct/5-shot+generate+majority-3"


def test_two_settings_that_share_samples_ask_for_them_once(benchmarks: Path, tmp_path: Path):
    mock = Mock(say=say_by_number)
    settings = [
        drawn(benchmarks, samples=7),
        drawn(benchmarks, samples=3),
        drawn(benchmarks, samples=7, select="complexity"),
    ]
    results = run_evaluation(mock, settings, tmp_path / "e")["results"]
    assert [r.samples for r in mock.asked if isinstance(r, GenerateRequest)] == [7, 7]
    rows = [r for r in read_items(tmp_path / "e/items.parquet") if r.setting == settings[1].key]
    assert all(r.samples is not None and len(r.samples.texts) == 3 for r in rows)
    assert results[1]["samples"]["drawn"] == 6


def test_scores_over_many_votes_are_those_of_a_slow_count(benchmarks: Path, tmp_path: Path):
    rng = random.Random(5)
    said: dict[tuple[str, int], str] = {}

    def say(prompt: str, sample: int) -> str:
        return said.setdefault((prompt, sample), rng.choice(["The answer is 4.", "The answer is 5.", "hm", "x 4"]))

    run_evaluation(Mock(say=say), [drawn(benchmarks, name="mgsm", samples=15)], tmp_path / "e")
    for row in read_items(tmp_path / "e/items.parquet"):
        texts = [said[row.result.item.prompt, n] for n in range(15)]
        answers = [BENCHMARKS["mgsm"].extract(row.result.item, t).answer for t in texts]
        assert row.samples is not None and row.samples.answers == tuple(answers)
        assert row.result.extracted == majority_vote(answers).answer


# Killed at any moment ------------------------------------------------------------------------------------------------

SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from test_samples import log_of, settings_for_kill
    from flantune.evals import run_evaluation
    from flantune.inference.answers import AnswerStore
    from flantune.inference.mock import Mock

    folder, dies_after = Path({folder!r}), {dies_after}
    answered = 0

    def heard(request):
        global answered
        if answered == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        answered += 1
        with (folder / "log").open("a") as log:
            log.write(log_of(request))

    store = AnswerStore(folder / "answers.sqlite")
    run_evaluation(Mock(on_answer=heard), settings_for_kill(Path({benchmarks!r})), folder / "e", store=store)
"""


def settings_for_kill(benchmarks: Path) -> list[Setting]:
    mmlu = Setting(benchmark=BENCHMARKS["mmlu"], path=benchmarks / "mmlu", mode="direct", normalise="unconditional")
    return [
        mmlu,
        drawn(benchmarks, samples=5),
        drawn(benchmarks, name="mgsm", samples=4, select="best-of"),
        drawn(benchmarks, name="bbh", select="hints"),
        drawn(benchmarks, name="mgsm"),
    ]


def log_of(request: GenerateRequest | ScoreRequest) -> str:
    """A line per sample asked for."""
    content: list[Any] = [request.prompt, getattr(request, "options", None), str(getattr(request, "sampling", ""))]
    samples = getattr(request, "samples", 1)
    return "".join(orjson.dumps([*content, n]).decode() + "\n" for n in range(samples))


def test_killed_again_and_again_it_ends_as_if_never_killed_and_asks_no_sample_twice(benchmarks: Path, tmp_path: Path):
    def killed(folder: Path, dies_after: int) -> int:
        folder.mkdir(exist_ok=True)
        script = textwrap.dedent(SCRIPT).format(
            tests=str(Path(__file__).parent), folder=str(folder), dies_after=dies_after, benchmarks=str(benchmarks)
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=300)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        return done.returncode

    whole = tmp_path / "whole"
    mock = Mock()
    run_evaluation(mock, settings_for_kill(benchmarks), whole / "e", store=AnswerStore(tmp_path / "answers.sqlite"))
    codes = [killed(tmp_path / "cut", moment) for moment in (5, 9, 10_000)]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    asked = Counter((tmp_path / "cut/log").read_text().splitlines())
    assert max(asked.values()) == 1 and asked == Counter("".join(map(log_of, mock.asked)).splitlines())
    for name in ("items.parquet", "summary.json", "unread.jsonl", "header.json"):
        assert (tmp_path / "cut/e" / name).read_bytes() == (tmp_path / "whole/e" / name).read_bytes()


def test_a_folder_that_is_gone_is_made_again_from_the_store_without_asking(benchmarks: Path, tmp_path: Path):
    store = AnswerStore(tmp_path / "answers.sqlite")
    settings = settings_for_kill(benchmarks)
    run_evaluation(Mock(), settings, tmp_path / "a", store=store)
    again = Mock()
    run_evaluation(again, settings, tmp_path / "b", store=store)
    assert again.asked == []
    assert (tmp_path / "a/items.parquet").read_bytes() == (tmp_path / "b/items.parquet").read_bytes()
