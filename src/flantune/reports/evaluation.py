"""The doubts beside the scores: named averages, readings, samples, groups and abilities, what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flantune.reports.run_files import Record, RunFiles
from flantune.reports.tables import Cell, Table, count, extraction, interval, percent, points, text

READINGS = ("strict", "default", "loose")
MOST_UNREAD = 5  # outputs of one setting and side


def _entries(run: RunFiles, settings: Sequence[str]) -> Iterable[tuple[str, str, Record]]:
    """(setting, side, entry) of every side that was asked the setting."""
    for setting in settings:
        for side, entries in run.summaries.items():
            if setting in entries:
                yield setting, side, entries[setting]


def averages(run: RunFiles, settings: Sequence[str]) -> Table | None:
    """Each named average of a benchmark on every side; missing as soon as a task of its group is."""
    rows = []
    for setting in settings:
        sides = [run.summaries.get(side, {}).get(setting, {}) for side in ("base", "tuned")]
        names = list(dict.fromkeys(name for entry in sides for name in entry.get("averages") or {}))
        for name in names:
            plain = [(entry.get("averages") or {}).get(name) for entry in sides]
            strict = [
                ((entry.get("readings") or {}).get("strict") or {}).get("averages", {}).get(name) for entry in sides
            ]
            rows.append((text(setting), text(name), *(percent(v, 2) for v in (*plain, *strict))))
    if not rows:
        return None
    columns = ("benchmark/mode/shots", "average", "base", "tuned", "base, read strictly", "tuned, read strictly")
    caption = "Percent. An average is missing as soon as one of its tasks is."
    return Table(columns=columns, rows=tuple(rows), caption=caption)


def three_readings(run: RunFiles, settings: Sequence[str]) -> Table | None:
    """How every score moves under a stricter and a looser reading of the same outputs."""
    rows = []
    for setting, side, entry in _entries(run, settings):
        told = entry.get("readings") or {}
        if told:
            figures = [told.get(name) or {} for name in READINGS]
            scores = [percent(f.get("score"), 2) for f in figures]
            rows.append((text(setting), text(side), *scores, *(extraction(f.get("extraction_rate")) for f in figures)))
    if not rows:
        return None
    columns = ("benchmark/mode/shots", "model", *READINGS, *(f"read, % ({name})" for name in READINGS))
    caption = "Strict: the source's published rule. Default: bears what models do around an answer. Loose: any hint."
    return Table(columns=columns, rows=tuple(rows), caption=caption)


def samples(run: RunFiles, settings: Sequence[str]) -> Table | None:
    """Settings that drew several samples: how they agree, and what one alone would score."""
    rows = []
    for setting, side, entry in _entries(run, settings):
        if drawn := entry.get("samples"):
            rows.append(
                (
                    text(setting),
                    text(side),
                    text(drawn["select"]),
                    count(drawn["number"]),
                    extraction(drawn["extraction_rate"]),
                    percent(drawn["agreement"]),
                    percent(drawn["score_of_one"]),
                    percent(entry.get("score")),
                )
            )
    if not rows:
        return None
    columns = (
        "benchmark/mode/shots",
        "model",
        "chosen by",
        "samples",
        "samples read, %",
        "agreement, %",
        "one sample alone",
        "chosen",
    )
    return Table(columns=columns, rows=tuple(rows))


def groups(run: RunFiles) -> Table | None:
    """Paired differences over named groups of tasks, corrected for how many were looked at."""
    if not run.groups:
        return None
    rows = tuple((text(r["setting"]), text(r["group"]), count(r["num_tasks"]), *_paired(r)) for r in run.groups)
    columns = ("benchmark/mode/shots", "group", "tasks", *_PAIRED, "p, corrected")
    return Table(columns=columns, rows=tuple((*row, _p(r)) for row, r in zip(rows, run.groups, strict=True)))


def abilities(run: RunFiles) -> Table | None:
    """Paired differences by ability: the mean of its settings. Never one average of all."""
    if not run.abilities:
        return None
    rows = tuple((text(r["ability"]), text(", ".join(r["settings"])), *_paired(r)) for r in run.abilities)
    return Table(columns=("ability", "mean of", *_PAIRED), rows=rows)


_PAIRED = ("base", "tuned", "difference", "95 % interval, paired")


def _paired(row: Record) -> tuple[Cell, ...]:
    return (
        percent(row["score_a"]),
        percent(row["score_b"]),
        points(row["difference"]),
        interval(row["interval"], signed=True),
    )


def _p(row: Record) -> Cell:
    return Cell(f"{row['p_adjusted']:.3f}")


def warnings(run: RunFiles, settings: Sequence[str]) -> list[str]:
    return [f"{s} ({side}): {w}" for s, side, entry in _entries(run, settings) for w in entry.get("warnings") or ()]


def unread(run: RunFiles, settings: Sequence[str]) -> list[dict[str, Any]]:
    """Some outputs of every setting in which no answer was found, from their ends."""
    return [
        {"setting": setting, "side": side, "id": one["id"], "reason": one["reason"], "output": one["output"]}
        for setting, side, entry in _entries(run, settings)
        for one in (entry.get("unread") or ())[:MOST_UNREAD]
    ]


def suites(run: RunFiles) -> list[str]:
    """A sentence for each side's suite: the paper's average, or what is missing for it."""
    told = []
    for side, suite in run.suites.items():
        lines = [f"Suite {suite['name']}, {side}"]
        if suite.get("normalised_average") is not None:
            lines.append(f"normalised average {suite['normalised_average']:.1f}")
        elif "components" in suite:
            lines.append(f"no normalised average, missing are {'; '.join(suite['missing'])}")
        if suite.get("not_asked"):
            lines.append(f"not asked, no files: {', '.join(suite['not_asked'])}")
        told.append(": ".join([lines[0], "; ".join(lines[1:])]) if lines[1:] else lines[0])
    return told
