from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flantune.errors import RecipeError, StateError
from flantune.reports import write_report
from flantune.reports.figures import script, smooth
from flantune.reports.outputs import pick_outputs, shorten_middle
from flantune.reports.run_files import read_run

from .invented_run import HELD, HOSTILE, MMLU, TASK, write_run

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """The page as a browser sees it: tags with attributes, text outside scripts and styles, tables as rows of cells."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.pre: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "pre":
            self.pre.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.text.append(data)
        if inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if "pre" in self.open:
            self.pre[-1] += data

    def whole_text(self) -> str:
        return " ".join("".join(self.text).split())

    def table(self, first: str) -> list[list[str]]:
        """The first table with that first column, without its head."""
        return next(rows[1:] for rows in self.tables if rows and rows[0] and rows[0][0] == first)

    def fact(self, name: str) -> str:
        return next(row[1] for rows in self.tables for row in rows if len(row) == 2 and row[0] == name)


def page_of(root: Path) -> tuple[str, Page]:
    source = write_report(root, root / "report.html").read_text(encoding="utf-8")
    return source, Page(source)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return page_of(write_run(tmp_path_factory.mktemp("run")))


def test_text_of_the_users_data_is_text_and_never_markup(whole: tuple[str, Page]) -> None:
    source, page = whole
    assert not any(tag == "img" for tag, _ in page.tags)
    # plotly.js, one per figure, the page's own: what the hostile texts bring along is none of them.
    assert sum(tag == "script" for tag, _ in page.tags) == len(page.scripts)
    assert not any("alert(1)" in s and "<script>alert" in s for s in page.scripts)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in "".join(page.text)  # shown in full, `{{ 7 * 7 }}` included
    assert "<script>alert(1)" not in source


def test_nothing_is_loaded_from_anywhere(whole: tuple[str, Page]) -> None:
    source, page = whole
    loading = [
        a for _, attrs in page.tags for k, a in attrs.items() if k in ("src", "href", "srcset", "action", "data")
    ]
    assert all(a is not None and a.startswith("#") for a in loading)
    assert not any(tag in ("link", "iframe", "object", "embed", "base", "form") for tag, _ in page.tags)
    style = "".join(re.findall(r"<style>(.*?)</style>", source, flags=re.DOTALL))
    assert style and "url(" not in style and "@import" not in style
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy


def test_plotly_is_embedded_once_and_every_figure_has_its_data(whole: tuple[str, Page]) -> None:
    source, page = whole
    assert source.count(script()[:2000]) == 1
    drawn = [s for s in page.scripts if "Plotly.newPlot" in s and len(s) < 500_000]
    names = {re.search(r'Plotly\.newPlot\(\s*"([^"]+)"', s)[1] for s in drawn}  # type: ignore[index]
    assert names == {
        "figure-shares", "figure-lengths", "figure-pretrain", "figure-train", "figure-scores", "figure-tasks-0",
    }  # fmt: skip
    assert {attrs.get("id") for _, attrs in page.tags} >= names


def test_every_link_of_the_page_leads_somewhere(whole: tuple[str, Page]) -> None:
    _, page = whole
    ids = {attrs.get("id") for _, attrs in page.tags}
    targets = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert len(targets) == 8 and all(t is not None and t[1:] in ids for t in targets)


def test_the_headline_says_what_the_files_say(whole: tuple[str, Page]) -> None:
    _, page = whole
    text = page.whole_text()
    assert f"{HELD}: 10.0 → 25.0 %, difference +15.0 points, 95 % interval +8.0 … +22.0; better than the base" in text
    held, others = (t[1:] for t in page.tables if t[0][:2] == ["benchmark/mode/shots", "tasks"])
    assert held == [[HELD, "2", "100", "10.0", "5.0 … 15.0", "25.0", "20.0 … 30.0", "+15.0", "+8.0 … +22.0", "17", "2"]]
    assert others[0][0] == MMLU and others[0][7:9] == ["+0.0", "-3.0 … +3.0"]


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [([0.01, 0.3], "better than the base"), ([-0.3, -0.01], "worse than the base"), ([-0.1, 0.1], "no clear change")],
)
def test_the_verdict_follows_the_interval(tmp_path: Path, bounds: list[float], verdict: str) -> None:
    import json

    root = write_run(tmp_path)
    row = {"setting": HELD, "task": None, "difference": 0.0, "interval": bounds, "rose": 1, "fell": 1}
    (root / "compare.json").write_text(json.dumps({"rows": [row]}))
    assert verdict in page_of(root)[1].whole_text()


def test_a_missing_figure_is_a_dash_and_a_zero_is_a_zero(whole: tuple[str, Page]) -> None:
    _, page = whole
    shares = {row[0]: row for rows in page.tables if rows[0][:2] == ["task", "examples"] for row in rows[1:]}
    scores = {row[0]: row for rows in page.tables if rows[0][:2] == ["task", "metric"] for row in rows[1:]}
    assert shares["t0/x"][2] == "–" and shares[TASK][2] == "70.00"
    assert scores["niv2/none"][3:9] == ["–"] * 6
    assert scores[TASK][3:9] == ["10.0", "5.0 … 15.0", "25.0", "20.0 … 30.0", "+15.0", "+5.0 … +25.0"]
    assert page.fact("padding, inputs, %") == "2.5" and page.fact("padding, targets, %") == "–"
    assert page.fact("inputs cut at the length limit") == "0"


def test_what_was_trained_on_is_counted_as_the_card_counts_it(whole: tuple[str, Page]) -> None:
    _, page = whole
    assert page.fact("packed rows") == "77" and page.fact("left out: no exemplar fits") == "4"
    assert page.table("mixture")[0][:4] == ["niv2", "30", "70.00", "75.00"]
    assert page.table("format") == [["zs_opt", "25"], ["fs_opt", "15"]]
    assert page.fact("rows set aside") == "30" and page.fact("set aside: blank target") == "30"
    assert page.fact("task without examples: t0/empty") == "no row was kept"
    set_aside = page.table("file")
    assert len(set_aside) == 12 and set_aside[3] == ["rows-3.jsonl", "3", "target", "text", HOSTILE]


def test_shares_are_of_what_the_recipes_weights_count(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    path = root / "data" / "shards" / "card.json"
    card = json.loads(path.read_text())
    card["count"] = "target_tokens"
    for name, part in card["mixtures"].items():
        part["drawn"] = {"niv2": 0.125, "t0_sf": 0.875}[name]
    path.write_text(json.dumps(card))
    source, page = page_of(root)
    rows = page.table("mixture")
    assert [row[2:5] for row in rows] == [["70.00", "75.00", "12.50"], ["30.00", "25.00", "87.50"]]
    heads = next(t[0] for t in page.tables if t[0][0] == "mixture")
    assert heads[2:5] == ["share of target tokens asked, %", "share of target tokens got, %", "share of draws, %"]
    assert "share of the target tokens, %" in source


def test_low_extraction_is_said_in_words(whole: tuple[str, Page]) -> None:
    _, page = whole
    text = page.whole_text()
    assert "Fewer than 90 % of the answers could be read" in text
    assert f"{HELD} (base: 40.0 %)" in text and "(tuned: 95.0 %)" not in text
    readings = next(t[1:] for t in page.tables if t[0][:2] == ["benchmark/mode/shots", "model"])
    assert [row[3] for row in readings] == ["40.0 (low)", "95.0", "40.0 (low)", "95.0"]


def test_samples_keep_their_text_and_name_their_roles(whole: tuple[str, Page]) -> None:
    _, page = whole
    wanted = f"Answer this.\nQ: one\nA: 1\n\n  Q: {HOSTILE}\n\n↳ Because so. The answer is 七."
    assert wanted in page.pre
    roles = {attrs["title"] for tag, attrs in page.tags if tag == "span" and "title" in attrs}
    assert roles == {"instruction", "exemplar", "query", "rationale", "target"}


def test_outputs_show_right_wrong_partly_right_and_unread_ones_of_both_models(whole: tuple[str, Page]) -> None:
    _, page = whole
    text = page.whole_text()
    assert all(f"{side} says" in text for side in ("base", "tuned"))
    assert "no answer found in it" in text and "read as: tuned-extract-" in text and "partly right 0.50" in text
    # A browser drops one line break after <pre>: the template's own, so that the prompt's first one stays.
    assert any(p.startswith("\n\n" + HOSTILE) for p in page.pre)
    assert any(p == f"\nreference-{i}\n{HOSTILE}" for p in page.pre for i in range(12))
    assert "characters left out" in text and "end-of-prompt-0" in text


def test_the_choice_of_outputs_is_blind_and_the_same_each_time(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path))
    picked = pick_outputs(run, per_verdict=1)
    assert picked == pick_outputs(run, per_verdict=1)
    assert [s.verdict for s in picked[HELD]] == ["right", "partly right", "wrong", "unread"]
    assert {side: s.verdict for side, s in picked[HELD][3].said.items()} == {"base": "unread", "tuned": "unread"}
    assert len(pick_outputs(run)[HELD]) == 8


def test_the_whole_recipe_and_its_versions_are_there(whole: tuple[str, Page]) -> None:
    _, page = whole
    assert page.fact("torch") == "2.13"
    recipe = page.pre[-1]
    assert "name: invented" in recipe and "steps: 200" in recipe


def test_equal_runs_give_equal_bytes(tmp_path: Path, whole: tuple[str, Page]) -> None:
    assert page_of(write_run(tmp_path))[0] == whole[0]


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (("compare.json",), "Paired comparison of base and tuned: not run."),
        (("data/shards/card.json",), "Building of the training data: not run."),
        (("data/samples.jsonl",), "Rendering of samples: not run."),
        (("pretrain/metrics.jsonl",), "Pretraining: not run."),
        (("metrics.jsonl",), "Finetuning: not run."),
        (("data/examples/store.json", "data/examples/rejected.jsonl"), "Reading of the collections: not run."),
        (("evals/base/summary.json", "evals/base/items.parquet", "compare.json"), "– → 25.0 %"),
        (("evals/tuned/summary.json", "evals/tuned/items.parquet", "compare.json"), "10.0 → – %"),
    ],
)
def test_what_was_not_run_is_said_so(tmp_path: Path, without: tuple[str, ...], said: str) -> None:
    assert said in page_of(write_run(tmp_path, without))[1].whole_text()


def test_a_run_that_only_has_its_recipe_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: bare\n", encoding="utf-8")
    text = page_of(tmp_path)[1].whole_text()
    assert text.count("not run.") >= 7 and "Pretraining" not in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not a run's folder"):
        write_report(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize("name", ["compare.json", "data/shards/card.json", "evals/base/summary.json", "metrics.jsonl"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    root = write_run(tmp_path)
    (root / name).write_text('{"half": \n{}\n', encoding="utf-8")
    with pytest.raises(StateError, match=name):
        write_report(root, root / "report.html")
    (root / name).unlink()
    (root / "evals/tuned/items.parquet").write_bytes(b"no parquet")
    with pytest.raises(StateError, match=r"items\.parquet"):
        write_report(root, root / "report.html")
    assert not (root / "report.html").exists()


def test_a_last_line_torn_by_a_kill_is_left_out(tmp_path: Path) -> None:
    root = write_run(tmp_path)
    whole = read_run(root).metrics
    with (root / "metrics.jsonl").open("a") as file:
        file.write('{"step": 510, "lo')
    assert read_run(root).metrics == whole


def test_an_unwritable_place_is_an_error_of_ours(tmp_path: Path) -> None:
    root = write_run(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        write_report(root, tmp_path / "taken")
    assert list(tmp_path.glob("*.tmp")) == []


def test_smoothing_starts_at_the_data_keeps_constants_and_leaves_gaps() -> None:
    assert smooth([4.0, None, 4.0, 4.0], 5) == pytest.approx([4.0, None, 4.0, 4.0])
    assert smooth([1.0, 3.0], 3) == [1.0, pytest.approx((0.5 * 1 + 3) / 1.5)]


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    assert shorten_middle("a" * 20, most=30) == "a" * 20
    assert shorten_middle("a" * 50 + "b" * 50, most=20) == "a" * 10 + "\n[… 80 characters left out …]\n" + "b" * 10
