"""The page's tables: figures out of the files, as text. What is missing is "–", never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flantune.reports.run_files import Record, RunFiles

MISSING = "–"
LOW_EXTRACTION = 0.9  # below it a score says as much about the reading of answers as about the model
HELD_OUT = "held_out"

CellKind = Literal["text", "number", "warning"]


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    kind: CellKind = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


def text(value: object) -> Cell:
    return Cell(MISSING if value is None or value == "" else str(value), "text")


def count(value: object) -> Cell:
    return Cell(MISSING if value is None else f"{value:,}")


def percent(value: float | None, digits: int = 1) -> Cell:
    """A share in [0, 1] in percent."""
    return Cell(MISSING if value is None else f"{100 * value:.{digits}f}")


def points(value: float | None) -> Cell:
    """A difference of two shares, in percentage points, with its sign."""
    return Cell(MISSING if value is None else f"{100 * value:+.1f}")


def interval(bounds: Sequence[float] | None, signed: bool = False) -> Cell:
    if bounds is None:
        return Cell(MISSING)
    low, high = (f"{100 * b:+.1f}" if signed else f"{100 * b:.1f}" for b in bounds)
    return Cell(f"{low} … {high}")


def extraction(rate: float | None) -> Cell:
    if rate is None:
        return Cell(MISSING)
    low = rate < LOW_EXTRACTION
    return Cell(f"{100 * rate:.1f}{' (low)' if low else ''}", "warning" if low else "number")


def facts(pairs: Iterable[tuple[str, Cell]]) -> Table:
    """A table of two columns: what, and its value."""
    return Table(columns=("", ""), rows=tuple((Cell(name, "text"), value) for name, value in pairs))


def settings_of(run: RunFiles) -> list[str]:
    """Settings that any side was asked, in the order of the files."""
    return list(dict.fromkeys(setting for side in run.summaries.values() for setting in side))


def whole_rows(run: RunFiles) -> dict[str, Record]:
    """Comparison rows of whole settings, by setting."""
    return {row["setting"]: row for row in run.comparison or () if row["task"] is None}


def before_after(run: RunFiles, settings: Sequence[str]) -> Table:
    """Base against tuned, one row per setting; where leaks were looked for, their number and the scores without."""
    compared = whole_rows(run)
    searched = {entry["setting"]: entry for entry in (run.contamination or {}).get("settings", ())}
    rows = []
    for setting in settings:
        base, tuned = (run.summaries.get(side, {}).get(setting, {}) for side in ("base", "tuned"))
        pair = compared.get(setting, {})
        either = tuned or base
        rows.append(
            (
                text(setting),
                count(len(either["tasks"]) if "tasks" in either else None),
                count(either.get("items")),
                percent(base.get("score")),
                interval(base.get("interval")),
                percent(tuned.get("score")),
                interval(tuned.get("interval")),
                points(pair.get("difference")),
                interval(pair.get("interval"), signed=True),
                count(pair.get("rose")),
                count(pair.get("fell")),
                *(_beside(searched.get(setting, {})) if searched else ()),
            )
        )
    return Table(
        columns=(
            "benchmark/mode/shots",
            "tasks",
            "items",
            "base",
            "95 % interval",
            "tuned",
            "95 % interval",
            "difference",
            "95 % interval, paired",
            "items rose",
            "items fell",
            *(("test-set leaks", "base, clean items", "tuned, clean items") if searched else ()),
        ),
        rows=tuple(rows),
        caption="Percent, strict: an output without a readable answer counts 0. Difference: tuned minus base, points.",
    )


def _beside(entry: Record) -> tuple[Cell, ...]:
    leaks = entry.get("verdicts", {}).get("test_leak")
    sides = entry.get("sides", {})
    return (
        Cell(count(leaks).text, "warning" if leaks else "number"),
        percent(sides.get("base", {}).get("clean_score")),
        percent(sides.get("tuned", {}).get("clean_score")),
    )


def readings(run: RunFiles, settings: Sequence[str]) -> Table:
    """How the answers were read, side by side: the share read, and the score over those alone."""
    rows = []
    for setting in settings:
        for side, entries in run.summaries.items():
            if (entry := entries.get(setting)) is None:
                continue
            rows.append(
                (
                    text(setting),
                    text(side),
                    count(entry.get("items")),
                    extraction(entry.get("extraction_rate")),
                    percent(entry.get("score")),
                    percent(entry.get("score_parsed")),
                    Cell(MISSING if entry.get("normalised") is None else f"{entry['normalised']:.1f}"),
                    count(entry.get("truncated")),
                    count(entry.get("items_with_shots_dropped", entry.get("shots_dropped"))),
                    count(entry.get("missing")),
                )
            )
    return Table(
        columns=(
            "benchmark/mode/shots",
            "model",
            "items",
            "answers read, %",
            "score, strict",
            "score of those read",
            "above chance, %",
            "prompts cut",
            "prompts with fewer exemplars",
            "unanswered",
        ),
        rows=tuple(rows),
    )


def leakage(run: RunFiles) -> Table | None:
    """Beside each score, what of it stands on items that were trained on, and the score without them."""
    if run.contamination is None:
        return None
    trained = {b["benchmark"]: b["in_distribution"] for b in run.contamination["benchmarks"]}
    rows = []
    for entry in run.contamination["settings"]:
        verdicts, own = entry["verdicts"], trained.get(entry["setting"].partition("/")[0])
        base, tuned = (entry["sides"].get(side, {}) for side in ("base", "tuned"))
        clean = entry.get("difference") or {}
        rows.append(
            (
                text(entry["setting"]),
                count(entry["items"]),
                Cell(f"{verdicts['test_leak']:,}", "warning" if verdicts["test_leak"] else "number"),
                count(verdicts["same_task_train"]),
                count(verdicts["none"]),
                count(verdicts["unchecked"]),
                text(", ".join(own) if own is not None and len(own) <= 3 else own and f"{len(own)} tasks"),
                percent(base.get("score")),
                percent(base.get("clean_score")),
                percent(tuned.get("score")),
                percent(tuned.get("clean_score")),
                interval(tuned.get("clean_interval")),
                points(clean.get("mean")),
                interval(clean.get("interval"), signed=True),
            )
        )
    spec = run.contamination
    return Table(
        columns=(
            "benchmark/mode/shots",
            "items",
            "test-set leaks",
            "same task, training split",
            "none",
            "too short to check",
            "trained on the same dataset",
            "base",
            "base, clean items",
            "tuned",
            "tuned, clean items",
            "95 % interval",
            "difference, clean items",
            "95 % interval, paired",
        ),
        rows=tuple(rows),
        caption=f"A leak: one training row holds at least {100 * spec['threshold']:.0f} % of an item's own "
        f"{spec['ngram']}-grams (normalised words). Clean items: those that are no leak. "
        f"Looked through: {spec['training']['what']}.",
    )


def leaked_items(run: RunFiles, most: int = 20) -> Table | None:
    """The items with most of their text in one training row."""
    worst = [item for b in (run.contamination or {}).get("benchmarks", ()) for item in b["worst"]]
    if not worst:
        return None
    rows = tuple(
        (
            text(item["benchmark"]),
            text(item["id"]),
            text(item["verdict"].replace("_", " ")),
            percent(item["overlap"], 0),
            text(item["training_task"]),
            count(item["training_row"]),
            text(item["text"]),
        )
        for item in sorted(worst, key=lambda item: -item["overlap"])[:most]
    )
    columns = ("benchmark", "item", "verdict", "of its n-grams, %", "training task", "row", "longest shared text")
    return Table(columns=columns, rows=rows)


def tasks_before_after(run: RunFiles, setting: str) -> Table:
    base, tuned = (run.summaries.get(side, {}).get(setting, {}).get("tasks", {}) for side in ("base", "tuned"))
    pairs = {row["task"]: row for row in run.comparison or () if row["setting"] == setting and row["task"] is not None}
    rows = []
    for task in sorted({*base, *tuned}):
        b, t, pair = base.get(task, {}), tuned.get(task, {}), pairs.get(task, {})
        rows.append(
            (
                text(task),
                text((t or b).get("metric")),
                count((t or b).get("items")),
                percent(b.get("score")),
                interval(b.get("interval")),
                percent(t.get("score")),
                interval(t.get("interval")),
                points(pair.get("difference")),
                interval(pair.get("interval"), signed=True),
                extraction(t.get("extraction_rate")),
            )
        )
    return Table(
        columns=(
            "task",
            "metric",
            "items",
            "base",
            "95 % interval",
            "tuned",
            "95 % interval",
            "difference",
            "95 % interval, paired",
            "tuned answers read, %",
        ),
        rows=tuple(rows),
    )


COUNTED = {
    "draws": "examples",
    "examples": "examples",
    "input_tokens": "input tokens",
    "target_tokens": "target tokens",
}  # what a mixture's weights count -> what its shares are of


def composition(parts: Mapping[str, Record], first: str, counts: str = "draws") -> Table:
    """Parts of the training data: by mixture or by task, the largest first. `counts` is what the recipe's weights
    count; where that is not draws, the share of the draws stands beside what was asked."""
    counted = COUNTED.get(counts, counts)
    also_drawn = counts != "draws"
    rows = []
    for name, part in sorted(parts.items(), key=lambda item: (-item[1]["examples"], item[0])):
        rows.append(
            (
                text(name),
                count(part["examples"]),
                percent(part.get("asked"), 2),
                percent(part.get("got"), 2),
                *((percent(part.get("drawn"), 2),) if also_drawn else ()),
                count(part["input_tokens"]),
                count(part["target_tokens"]),
                percent(part.get("target_token_share"), 2),
                count(part["inputs_cut"]),
                count(part["targets_cut"]),
                count(part["exemplars_lost"]),
            )
        )
    return Table(
        columns=(
            first,
            "examples",
            f"share of {counted} asked, %",
            f"share of {counted} got, %",
            *(("share of draws, %",) if also_drawn else ()),
            "input tokens",
            "target tokens",
            "share of target tokens, %",
            "inputs cut",
            "targets cut",
            "exemplars left out",
        ),
        rows=tuple(rows),
    )


def data_facts(card: Record) -> Table:
    total = card["total"]
    filled = [
        (f"padding, {side}, %", percent(None if fill is None else 1 - fill)) for side, fill in card["fill"].items()
    ]
    return facts(
        [
            ("packed rows", count(card["rows"])),
            ("examples", count(total["examples"])),
            ("row length, inputs / targets, tokens", Cell(f"{card['inputs_len']:,} / {card['targets_len']:,}")),
            ("input tokens", count(total["input_tokens"])),
            ("target tokens", count(total["target_tokens"])),
            *filled,
            ("inputs cut at the length limit", count(total["inputs_cut"])),
            ("tokens lost to that", count(total["input_tokens_lost"])),
            ("targets cut at the length limit", count(total["targets_cut"])),
            ("exemplars left out to fit", count(total["exemplars_lost"])),
            ("empty targets", count(total["empty_targets"])),
            *((f"left out: {reason}", count(number)) for reason, number in card["dropped"].items()),
        ]
    )


def counts(numbers: Mapping[str, int], first: str) -> Table:
    rows = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return Table(columns=(first, "examples"), rows=tuple((text(name), count(n)) for name, n in rows))


def reading_facts(store: Record) -> Table:
    return facts(
        [
            ("tasks read", count(store.get("tasks"))),
            ("rows seen", count(store.get("rows"))),
            ("examples kept", count(store.get("examples"))),
            ("rows set aside", count(store.get("rejected"))),
            ("malformed rows among them", count(store.get("malformed"))),
            *((f"set aside: {reason}", count(n)) for reason, n in (store.get("reasons") or {}).items()),
            *_left_out(store.get("duplicates")),
            *((f"task without examples: {e['task']}", text(e["reason"])) for e in store.get("empty_tasks") or ()),
            *((f"file left out: {file}", text(why)) for file, why in (store.get("skipped_files") or {}).items()),
        ]
    )


def _left_out(duplicates: Record | None) -> list[tuple[str, Cell]]:
    if duplicates is None:
        return []
    kind = "exact duplicates" if duplicates["similarity"] is None else f"near duplicates ({duplicates['similarity']:g})"
    return [
        (f"left out as {kind}", count(duplicates["left_out"])),
        ("tasks that lost rows so", count(len(duplicates["tasks"]))),
    ]


def rejected_rows(rejected: Sequence[Record]) -> Table:
    columns = ("file", "place", "field", "expected", "got")
    return Table(columns=columns, rows=tuple(tuple(text(row.get(c)) for c in columns) for row in rejected))


_METRICS = ("step", "loss", "accuracy", "learning_rate", "grad_norm", "tokens_per_second", "seconds", "target_tokens")


def training_steps(metrics: Sequence[Record], most: int = 12) -> Table:
    """Lines of metrics.jsonl, evenly chosen, the first and the last among them."""
    last = len(metrics) - 1
    places = sorted({round(i * last / (most - 1)) for i in range(most)}) if last >= 0 else []
    return Table(
        columns=tuple(name.replace("_", " ") for name in _METRICS),
        rows=tuple(tuple(_number(metrics[i].get(name)) for name in _METRICS) for i in places),
        caption="loss in nats per target token; accuracy of the next token, the right ones before it given",
    )


def selection(told: Record) -> Table:
    """Every measurement that the checkpoint was chosen by."""
    parts = sorted({part for point in told["evaluations"] for part in point["parts"]})
    names = {"target_tokens": "target tokens"}
    split = [*told["split"]["tasks"], *(b["name"] for b in told["split"]["benchmarks"])]
    better = "the lowest" if told["by"] == "loss" else "the highest"
    ended = "; training stopped early, nothing better came" if told["stopped"] else ""
    return Table(
        columns=("step", told["by"], *(names.get(part, part) for part in parts), "chosen"),
        rows=tuple(
            (
                count(point["step"]),
                _number(point["value"]),
                *(_number(point["parts"].get(part)) for part in parts),
                text("yes" if point["step"] == told["chosen"] else "no"),
            )
            for point in told["evaluations"]
        ),
        caption=f"Chosen by {better} {told['by']} on {', '.join(split)}, which are neither trained on nor "
        f"reported{ended}",
    )


def _number(value: Any) -> Cell:
    if value is None:
        return Cell(MISSING)
    return count(value) if isinstance(value, int) else Cell(f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}")
