"""A balance study told: the recipe of the mixture found, balance.json, and findings for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from flantune.pipeline.folder import write_text
from flantune.studies.balance import FOUND, Confirmed, OneRun, Outcome
from flantune.studies.balance_intervals import Change
from flantune.studies.balance_points import weighed
from flantune.studies.balance_search import pareto
from flantune.studies.findings import Findings, Mark, Panel, Series, Table, interval, joined, percent
from flantune.whole import write_json

TITLE = "Balance: a mixture that lifts what is wanted and lowers nothing that is guarded"
_STAGES = {"design": "spread", "search": "proposed", "trial": "full, to correct", "confirm": "full, to confirm"}


def write_balance(outcome: Outcome, folder: Path) -> Findings:
    """balance.json and best.yaml in the study's folder; the findings, which the caller writes beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "balance.json", outcome_json(outcome))
    head = f"# The mixture that flantune study balance took ({outcome.verdict}); balance.json beside it says how.\n"
    recipe = outcome.balance.recipe
    best = recipe.model_copy(
        update={"name": f"{recipe.name}-best", "mixture": weighed(recipe.mixture, outcome.found.weights)}
    )
    stated = best.model_dump(mode="json", exclude_defaults=True)
    write_text(folder / "best.yaml", head + yaml.safe_dump(stated, sort_keys=False, allow_unicode=True, width=120))
    return findings_of(outcome)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    spec, sources = outcome.balance.spec, outcome.balance.sources
    goal = spec.goal

    def named(weights: Sequence[float]) -> dict[str, Any]:
        """By source; by phase first, where there are several."""
        told = [dict(zip(sources, map(float, own), strict=True)) for own in by_phase(outcome, weights)]
        return told[0] if len(told) == 1 else {f"phase {n}": own for n, own in enumerate(told, 1)}

    fronts = {tuple(r.weights) for r in _front(outcome)}
    return {
        "format": 1,
        "verdict": outcome.verdict,
        "targets": dict(spec.targets),
        "guards": dict(spec.guards),
        "base": dict(outcome.base),
        "mixture": named(outcome.found.weights),
        "expected": {
            "changes": dict(outcome.choice.expected),
            "surface_deviation": dict(outcome.choice.doubt),
            "keeps_guards": outcome.choice.possible,
        },
        "confirmed": [
            _confirmed_json(c, named, dict(zip(sources, c.repeated, strict=True)), goal.guards)
            for c in outcome.confirmed
        ],
        "surfaces": {a: {**asdict(fit), "tells": fit.tells} for a, fit in outcome.fits.items()},
        "runs": [
            {
                "stage": r.stage,
                "mixture": r.mixture,
                "seed": r.seed,
                "point": r.result.name,
                "weights": named(r.weights),
                "changes": {a: _change_json(c) for a, c in r.changes.items()},
                "gain": goal.gain(r.tried.changes) if r.changes else None,
                "slack": goal.slack(r.tried.changes) if r.changes else None,
                "on_front": r.stage in ("design", "search") and tuple(r.weights) in fronts,
                "reason": r.result.reason,
                "full_runs": r.full_runs,
                "seconds": r.result.wall_seconds,
            }
            for r in outcome.runs
        ],
        "limits": {
            "repeats": outcome.limits.repeats,
            "least": outcome.limits.least,
            "sources": [asdict(s) for s in outcome.limits.sources],
            "draws_of_the_mixture": float(outcome.limits.draws(outcome.found.weights)),
        },
        "full_runs": {
            "search_and_confirmation": outcome.spent,
            "at_most": spec.most_full_runs,
            "baselines_confirmed_besides": outcome.spent_on_baselines,
        },
        "notes": list(outcome.notes),
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {"mean": change.mean, "interval": [change.low, change.high], "items": change.items, "seeds": change.seeds}


def by_phase(outcome: Outcome, weights: Sequence[float]) -> list[tuple[float, ...]]:
    """The weights of each phase, in the order of the sources."""
    k = len(outcome.balance.sources)
    return [tuple(weights[at : at + k]) for at in range(0, len(weights), k)]


def _confirmed_json(
    c: Confirmed, named: Any, repeats: Mapping[str, float], guards: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "mixture": c.name,
        "weights": named(c.weights),
        "repeats": repeats,
        "seeds": c.seeds,
        "gain": _change_json(c.gain),
        "rises": c.gain.rises,
        "keeps_guards": c.keeps,
        "abilities": {
            a: {"score": c.scores[a], **_change_json(change)}
            | ({"keeps": change.keeps(guards[a]), "tolerance": guards[a]} if a in guards else {"rises": change.rises})
            for a, change in c.changes.items()
        },
        "found_gains_over_it": None if c.found_gains is None else _change_json(c.found_gains),
    }


def _front(outcome: Outcome) -> list[OneRun]:
    """Small runs that no other beats both in gain and in the guard nearest to its tolerance."""
    goal = outcome.balance.spec.goal
    small = [r for r in outcome.runs if r.stage in ("design", "search") and r.changes]
    pairs = [(goal.gain(r.tried.changes), goal.slack(r.tried.changes)) for r in small]
    return [small[i] for i in pareto(pairs)]


# ---- the page ------------------------------------------------------------------------------------------------------


def findings_of(outcome: Outcome) -> Findings:
    return Findings(
        study="balance",
        title=TITLE,
        recipe=outcome.balance.recipe.name,
        found=tuple(_sentences(outcome)),
        verdict=_verdict(outcome),
        notes=outcome.notes,
        panels=(*_ability_panels(outcome), _pareto_panel(outcome), *_weight_panels(outcome)),
        tables=(
            _confirmed_table(outcome),
            _guard_table(outcome),
            _mixture_table(outcome),
            _fit_table(outcome),
            _runs_table(outcome),
        ),
        data=outcome_json(outcome),
    )


def _verdict(outcome: Outcome) -> str:
    return {
        "balanced": "Balanced: the targets rise and every guarded ability stays within its tolerance.",
        "not balanced": "Not balanced: the mixture taken does not do what was asked.",
        "undecided": "Undecided: intervals leave open whether every guarded ability stays within its tolerance.",
        "impossible": "No mixture of these sources keeps every guarded ability within its tolerance.",
    }[outcome.verdict]


def _sentences(outcome: Outcome) -> list[str]:
    found, spec = outcome.found, outcome.balance.spec
    targets = joined(list(spec.targets))
    lines = [
        f"The mean of {targets} changes by {_said(found.gain)} points from the base, over {found.seeds} fresh seeds."
    ]
    if outcome.limits.phases > 1:
        lines.append(_phases_said(outcome))
    for ability, tolerance in spec.guards.items():
        change = found.changes[ability]
        told = {"yes": "stays within", "no": "falls below", "undecided": "may or may not stay within"}
        lines.append(
            f"{ability} changes by {_said(change)} and {told[change.keeps(tolerance)]} its tolerance of "
            f"{percent(tolerance)} points."
        )
    for other in outcome.confirmed[1:]:
        assert other.found_gains is not None
        sure = {"yes": "surely more", "no": "not more", "undecided": "not surely another amount"}[
            other.found_gains.rises
        ]
        kept = {"yes": "keeps every guard", "no": "loses a guarded ability", "undecided": "may lose a guarded ability"}
        lines.append(
            f"Over the {other.name} mixture it gains {_said(other.found_gains)} points in the targets, {sure}; that "
            f"mixture {kept[other.keeps]}."
        )
    lines.append(
        f"Search and confirmation took {outcome.spent:.1f} full runs' worth of training, of at most "
        f"{spec.most_full_runs:g}; confirming the baselines took {outcome.spent_on_baselines:.1f} more."
    )
    if blind := [a for a, fit in outcome.fits.items() if not fit.tells]:
        lines.append(f"The surface of {joined(blind)} predicts left-out runs no better than their mean does.")
    return lines


def _phases_said(outcome: Outcome) -> str:
    """What the mixture found shows first and what later."""
    told = []
    for number, own in enumerate(by_phase(outcome, outcome.found.weights), 1):
        pairs = sorted(zip(outcome.balance.sources, own, strict=True), key=lambda pair: -pair[1])
        told.append(f"phase {number}: {joined([f'{name} {percent(share)} %' for name, share in pairs])}")
    return f"Its {len(told)} phases are equally long; {'; '.join(told)}."


def _said(change: Change) -> str:
    return f"{100 * change.mean:+.1f} {interval(change.low, change.high, signed=True)}"


def _ability_panels(outcome: Outcome) -> list[Panel]:
    """Of each ability its change under every mixture that was confirmed."""
    spec, panels = outcome.balance.spec, []
    for ability in spec.goal.abilities:
        marks = [
            Mark(x=c.name, y=c.changes[ability].mean, low=c.changes[ability].low, high=c.changes[ability].high)
            for c in outcome.confirmed
        ]
        guarded = spec.guards.get(ability)
        panels.append(
            Panel(
                title=ability,
                x_title="mixture",
                y_title="change from the base, points",
                series=(Series(name=ability, marks=tuple(marks), joined=False),),
                group="Change by ability, fresh seeds",
                x_scale="category",
                levels=(("base", 0.0),) if guarded is None else (("base", 0.0), ("tolerance", -guarded)),
                note="to raise" if guarded is None else "to hold",
            )
        )
    return panels


def _pareto_panel(outcome: Outcome) -> Panel:
    goal, front = outcome.balance.spec.goal, _front(outcome)
    small = [r for r in outcome.runs if r.stage in ("design", "search") and r.changes]

    def mark(run: OneRun) -> Mark:
        return Mark(x=100 * goal.slack(run.tried.changes), y=goal.gain(run.tried.changes), label=run.mixture)

    others = [r for r in small if r not in front]
    full = [
        Mark(
            x=100 * goal.slack({a: v.mean for a, v in c.changes.items()}),
            y=c.gain.mean,
            low=c.gain.low,
            high=c.gain.high,
            label=c.name,
        )
        for c in outcome.confirmed
    ]
    series = [
        Series(
            name="small runs on the front",
            marks=tuple(mark(r) for r in sorted(front, key=lambda r: goal.slack(r.tried.changes))),
        ),
        Series(name="other small runs", marks=tuple(map(mark, others)), joined=False, reference=True),
        Series(name="confirmed at full budget", marks=tuple(full), joined=False),
    ]
    return Panel(
        title="Targets against the guard nearest to its tolerance",
        x_title="room above the tolerance, points",
        y_title="targets' mean change, points",
        series=tuple(s for s in series if s.marks),
        note="right of 0 every guard is kept, in the mean",
    )


def _weight_panels(outcome: Outcome) -> list[Panel]:
    """The composition of each mixture that was confirmed, in each phase."""
    sources = outcome.balance.sources
    return [
        Panel(
            title=c.name,
            x_title="source",
            y_title="share of the examples, %",
            series=tuple(
                Series(
                    name=f"phase {number}" if outcome.limits.phases > 1 else c.name,
                    marks=tuple(Mark(x=n, y=w) for n, w in zip(sources, own, strict=True)),
                    joined=False,
                )
                for number, own in enumerate(by_phase(outcome, c.weights), 1)
            ),
            group="Composition",
            x_scale="category",
        )
        for c in outcome.confirmed
    ]


def _confirmed_table(outcome: Outcome) -> Table:
    rows = []
    for c in outcome.confirmed:
        over = c.found_gains
        rows.append(
            (
                c.name,
                c.seeds,
                c.gain.mean,
                (c.gain.low, c.gain.high),
                c.keeps,
                None if over is None else over.mean,
                None if over is None else (over.low, over.high),
            )
        )
    return Table(
        title="Mixtures at full budget, fresh seeds",
        columns=(
            "mixture",
            "seeds",
            "targets' change",
            "95 % interval",
            "keeps guards",
            "found gains over it",
            "interval",
        ),
        kinds=("text", "count", "signed", "signed_interval", "text", "signed", "signed_interval"),
        rows=tuple(rows),
        note="Changes from the base over the same items; intervals over seeds and items together.",
    )


def _guard_table(outcome: Outcome) -> Table:
    spec, rows = outcome.balance.spec, []
    for ability in spec.goal.abilities:
        tolerance = spec.guards.get(ability)
        for c in outcome.confirmed:
            change = c.changes[ability]
            told = f"rises: {change.rises}" if tolerance is None else f"keeps: {change.keeps(tolerance)}"
            base = outcome.base[ability]
            rows.append(
                (ability, c.name, base, c.scores[ability], change.mean, (change.low, change.high), tolerance, told)
            )
    return Table(
        title="Every ability",
        columns=("ability", "mixture", "base", "tuned", "change", "95 % interval", "tolerance", "by its interval"),
        kinds=("text", "text", "percent", "percent", "signed", "signed_interval", "percent", "text"),
        rows=tuple(rows),
    )


def _mixture_table(outcome: Outcome) -> Table:
    rows: list[tuple[Any, ...]] = []
    for place, source in enumerate(outcome.limits.sources):
        cells: list[Any] = [source.name, source.rows]
        for c in outcome.confirmed:
            cells += [own[place] for own in by_phase(outcome, c.weights)]
            cells.append(round(c.repeated[place], 2))
        rows.append(tuple(cells))
    names = [n for c in outcome.confirmed for n in (*_phase_names(outcome, c.name), f"{c.name}, times seen")]
    shares: tuple[Literal["percent"], ...] = tuple("percent" for _ in range(outcome.limits.phases))
    own_kinds: tuple[Literal["percent", "plain"], ...] = (*shares, "plain")
    return Table(
        title="Composition of each mixture",
        columns=("source", "examples", *names),
        kinds=("text", "count", *(own_kinds * len(outcome.confirmed))),
        rows=tuple(rows),
        note=f"The search sees no source more than {outcome.limits.repeats:g} times; baselines are taken as they are.",
    )


def _phase_names(outcome: Outcome, name: str) -> list[str]:
    phases = outcome.limits.phases
    return [name] if phases == 1 else [f"{name}, phase {number}" for number in range(1, phases + 1)]


def _fit_table(outcome: Outcome) -> Table:
    rows = tuple(
        (a, f.kind, f.runs, f.error, f.spread, round(f.explained, 2), round(f.rank_correlation, 2), f.noise)
        for a, f in outcome.fits.items()
    )
    return Table(
        title="How well the surfaces predict small runs they have not seen",
        columns=("ability", "surface", "runs", "error", "spread", "explained", "rank correlation", "noise"),
        kinds=("text", "text", "count", "percent", "percent", "plain", "plain", "percent"),
        rows=rows,
        note="Every run predicted from all others. A surface tells something where 'explained' is above 0.",
    )


def _runs_table(outcome: Outcome) -> Table:
    goal = outcome.balance.spec.goal
    rows = []
    for r in outcome.runs:
        gain, slack = (goal.gain(r.tried.changes), goal.slack(r.tried.changes)) if r.changes else (None, None)
        what = _STAGES.get(r.stage, r.stage)
        rows.append(
            (r.mixture, what, r.seed, *r.weights, gain, slack, round(r.full_runs, 3), round(r.result.wall_seconds))
        )
    named = [_phase_names(outcome, source) for source in outcome.balance.sources]
    sources = [name for phase in zip(*named, strict=True) for name in phase]  # as weights stand
    shares: tuple[Literal["percent"], ...] = tuple("percent" for _ in sources)
    return Table(
        title="All runs",
        columns=("run", "stage", "seed", *sources, "targets' change", "least room", "full runs", "seconds"),
        kinds=("text", "text", "count", *shares, "signed", "signed", "plain", "count"),
        rows=tuple(rows),
    )


__all__ = ["FOUND", "findings_of", "outcome_json", "write_balance"]
