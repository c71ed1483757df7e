"""Item results into the figures of summary.json: one entry per benchmark, mode and number of shots.

Two scores stand side by side: `score` is strict, an output in which no answer could be read counts 0 in it;
`score_parsed` is over the read ones alone. Both are means over tasks of the tasks' means, in [0, 1].
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flantune.evals.benchmark import READINGS, Reading, TaskScore, read
from flantune.evals.decoding import choose
from flantune.evals.normalised import normalised_mean
from flantune.evals.results import REFUSED, Answered, Setting, was_answered
from flantune.evals.statistics import estimate_mean

ENOUGH_READ = 0.9  # share of outputs with an answer below which a score comes with a warning
UNREAD_SHOWN, SHOWN = 5, 300  # unread outputs in the summary, and characters of each from its end
SCORE_RULE = "strict: an output without a readable answer counts 0; score_parsed leaves it out"


def summarise(settings: Sequence[Setting], rows: Sequence[Answered]) -> list[dict[str, Any]]:
    by_setting: dict[str, list[Answered]] = defaultdict(list)
    for row in rows:
        by_setting[row.setting].append(row)
    return [
        {
            "setting": s.key,
            "benchmark": s.benchmark.name,
            "mode": s.mode,
            "shots": s.asked_shots,
            "split": s.split or s.benchmark.default_split,
            "limit": s.limit,
            "seed": s.seed,
            "ability": s.benchmark.ability,
            "reading": s.reading,
            **summarise_rows(by_setting[s.key]),
            **_readings(s, by_setting[s.key]),
            **_samples(s, by_setting[s.key]),
        }
        for s in settings
    ]


def _readings(setting: Setting, rows: Sequence[Answered]) -> dict[str, Any]:
    """Named averages; for generated answers also how the score moves under the other extractors, and a warning."""
    given = [row for row in rows if was_answered(row)]
    averages = setting.benchmark.averages
    found: dict[str, Any] = {"averages": dict(averages(_task_scores(given))), "readings": {}, "warnings": []}
    told = [row for row in given if row.result.option_scores is None]
    for reading in READINGS if told else ():
        own = [_read_again(setting, row, reading) for row in told]
        tasks = _task_scores(own)
        found["readings"][reading] = {
            "score": _mean([t.score for t in tasks.values()]),
            "extraction_rate": sum(row.result.extracted is not None for row in own) / len(own),
            "averages": dict(averages(tasks)),
        }
    unread = [row for row in told if row.result.extracted is None]
    if told and 1 - len(unread) / len(told) < ENOUGH_READ:
        scores = {r: found["readings"][r]["score"] for r in READINGS}
        found["warnings"].append(
            f"no answer could be read in {len(unread):,} of {len(told):,} outputs; the score is "
            f"{scores[setting.reading]:.3f}, read strictly {scores['strict']:.3f}, loosely {scores['loose']:.3f}. "
            "Look at some before believing it."
        )
    found["unread"] = [
        {"id": r.result.item.id, "reason": r.result.reason, "output": r.result.output[-SHOWN:]}
        for r in unread[:UNREAD_SHOWN]
    ]
    cut = sum(row.result.truncated for row in given)
    if cut:
        found["warnings"].append(f"{cut:,} prompts were longer than the model's input and were cut.")
    refused = [row for row in rows if row.result.reason.startswith(REFUSED)]
    if refused:
        why = refused[0].result.reason[:SHOWN].rstrip(".")
        found["warnings"].append(
            f"{len(refused):,} items were {why}. They are in no figure: the score is over the others."
        )
    return found


def _samples(setting: Setting, rows: Sequence[Answered]) -> dict[str, Any]:
    """Of several samples: how they were chosen among, how many could be read, how far they agree, one's own score."""
    several = [(row, row.samples) for row in rows if row.samples is not None]
    if not several:
        return {}
    answers = [answer for _, samples in several for answer in samples.answers]
    agreements = [samples.agreement for _, samples in several if samples.agreement is not None]
    by_task: dict[str, list[float]] = defaultdict(list)
    for row, samples in several:
        by_task[row.result.item.task] += [_score_of(setting, row, text) for text in samples.texts]
    return {
        "samples": {
            "select": setting.decoding.select,
            "number": setting.decoding.samples,
            "drawn": len(answers),
            "extraction_rate": sum(answer is not None for answer in answers) / len(answers),
            "agreement": _mean(agreements),
            "score_of_one": _mean([sum(own) / len(own) for own in by_task.values()]),
        }
    }


def _score_of(setting: Setting, row: Answered, text: str) -> float:
    extraction = read(setting.benchmark, row.result.item, text, setting.reading)
    return setting.benchmark.score(row.result.item, extraction) or 0.0


def _read_again(setting: Setting, row: Answered, reading: Reading) -> Answered:
    if reading == setting.reading:
        return row
    if row.samples is not None and setting.decoding.select != "hints":  # which samples were drawn was the reading's
        texts, values = row.samples.texts, row.samples.values
        _, extraction, _ = choose(setting.decoding, setting.benchmark, row.result.item, texts, values, reading)
    else:
        extraction = read(setting.benchmark, row.result.item, row.result.output, reading)
    score = setting.benchmark.score(row.result.item, extraction)
    return replace(row, result=replace(row.result, extracted=extraction.answer, rule=extraction.rule, score=score))


def _task_scores(rows: Sequence[Answered]) -> dict[str, TaskScore]:
    """Strict: an output without an answer counts 0."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_task[row.result.item.task].append(strict(row))
    return {task: TaskScore(sum(own) / len(own), len(own)) for task, own in sorted(by_task.items())}


def summarise_rows(rows: Sequence[Answered]) -> dict[str, Any]:
    """The figures of one setting. Scores are None where no item was answered."""
    given = [row for row in rows if was_answered(row)]
    by_task: dict[str, list[Answered]] = defaultdict(list)
    for row in given:
        by_task[row.result.item.task].append(row)
    sampled = any(row.sampled_tasks for row in rows)
    key = rows[0].setting if rows else ""
    tasks = {task: _figures({task: own}, f"{key}/{task}") | _kind(own) for task, own in sorted(by_task.items())}
    entry = _figures(by_task, key, sampled) | {
        "score_rule": SCORE_RULE,
        "score_micro": _mean([strict(row) for row in given]),
        "normalised": _normalised(given, tasks),
        "missing": len(rows) - len(given),
        "rules": dict(sorted(Counter(row.result.rule for row in given).items())),
    }
    metrics = {row.result.item.metric for row in given}
    if len(metrics) > 1:
        entry["by_metric"] = {m: _by_metric(m, by_task, key, sampled) for m in sorted(metrics)}
    return entry | {"tasks": tasks}


def strict(row: Answered) -> float:
    return 0.0 if row.result.score is None else row.result.score


def _figures(by_task: Mapping[str, Sequence[Answered]], key: str, sampled: bool = False) -> dict[str, Any]:
    rows = [row for own in by_task.values() for row in own]
    read = {task: [r.result.score for r in own if r.result.score is not None] for task, own in by_task.items()}
    means = [m for own in read.values() if (m := _mean(own)) is not None]
    extracted = sum(row.result.extracted is not None for row in rows)
    figures: dict[str, Any] = {"score": None, "interval": None, "interval_method": None}
    if rows:
        scores = {task: [strict(r) for r in own] for task, own in by_task.items()}
        estimate = estimate_mean(scores, "summary", key, sampled_tasks=sampled)
        figures = {
            "score": estimate.mean,
            "interval": [estimate.low, estimate.high],
            "interval_method": estimate.method,
        }
    return figures | {
        "score_parsed": _mean(means),
        "items": len(rows),
        "extracted": extracted,
        "extraction_rate": extracted / len(rows) if rows else None,
        "truncated": sum(row.result.truncated for row in rows),
        "shots_dropped": sum(row.shots_dropped for row in rows),
        "items_with_shots_dropped": sum(row.shots_dropped > 0 for row in rows),
    }


def _kind(own: Sequence[Answered]) -> dict[str, Any]:
    return {"metric": own[0].result.item.metric}


def _by_metric(metric: str, by_task: Mapping[str, Sequence[Answered]], key: str, sampled: bool) -> dict[str, Any]:
    own = {task: rows for task, rows in by_task.items() if rows[0].result.item.metric == metric}
    return _figures(own, f"{key}/{metric}", sampled) | {"num_tasks": len(own)}


def _normalised(given: Sequence[Answered], tasks: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Percent above chance (spec 6.7); None for benchmarks without stated lower bounds."""
    if not given:
        return None
    return normalised_mean(given[0].result.item.benchmark, {t: 100 * f["score"] for t, f in tasks.items()})


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
