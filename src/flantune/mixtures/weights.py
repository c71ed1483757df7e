"""Weights: the recipe's nested parts to leaves, each a task with its share of the stream and its formats' shares.

Shares are intervals of [0, 2**64), cut exactly: a part's interval is split among its children, a task's among nothing.

    muffin 0.6 |---- rte ----|-- boolq --|  niv2 0.4 |- task1 -|- task2 -|
    0                                                                  2**64
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import accumulate

from flantune.errors import RecipeError
from flantune.recipe import MixturePart, MixtureSpec, WeightedFormat, make_format
from flantune.types import Format, Task

WHOLE = 1 << 64

# Spec 2.1: cap per task, proportion A, proportion B. B sums to 99.9; only the ratios count.
PAPER_MIXTURES: Mapping[str, tuple[int, float, float]] = {
    "muffin": (30_000, 52.0, 46.0),
    "t0_sf": (20_000, 15.0, 27.9),
    "cot": (100_000, 3.0, 1.8),
    "niv2": (5_000, 30.0, 24.2),
}
# Spec 2.2 and 2.4: these two exist only with their options, so the presets' default formats leave out "noopt".
ONLY_WITH_OPTIONS = ("cot", "niv2")

FormatApplies = Callable[[Task, Format], bool]
Rate = Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A task where one part of the mixture names it. A task that two parts name has two leaves (and one row order)."""

    path: str  # names of the parts from the top, "/" between
    mixture: str  # the top part's name; the task's own mixture where the recipe states no parts
    task: str
    start: int  # [start, stop) out of 2**64
    stop: int
    formats: tuple[tuple[Format, float], ...]  # probabilities, sum 1

    @property
    def probability(self) -> float:
        return (self.stop - self.start) / WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaves:
    leaves: tuple[Leaf, ...]  # ascending, without gaps, from 0 to 2**64; never one that is empty
    left_out: tuple[tuple[str, str], ...]  # (task, why) of tasks a part names and the mixture cannot draw


@dataclass(frozen=True, slots=True)
class _Collection:
    tasks: Mapping[str, Task]
    sizes: Mapping[str, int]
    held_out: frozenset[str]
    applies: FormatApplies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A part with its tasks found and its formats known; `rates` of a part with children is empty."""

    path: str
    mixture: str
    weight: Fraction
    rates: tuple[tuple[str, int, tuple[tuple[Format, float], ...]], ...] = ()  # (task, rate, formats)
    children: tuple[_Node, ...] = ()


def find_leaves(
    spec: MixtureSpec,
    tasks: Mapping[str, Task],
    sizes: Mapping[str, int],
    *,
    held_out: Collection[str] = (),
    template_kinds: FormatApplies | None = None,
) -> Leaves:
    """The mixture's leaves. `sizes` in examples; `held_out` are names that must not be drawn, wherever they stand.

    `template_kinds` says whether a task has wording for a format (inverted ones, say); without it all have.
    Rates follow spec 2.3: in a part, min(cap, size); a part against its siblings, its weight.
    Raises RecipeError naming the part: a pattern that matches nothing, nothing left to draw from.
    """
    world = _Collection(tasks, sizes, frozenset(held_out), _applies(sizes, template_kinds))
    left_out: dict[str, str] = {}
    nodes = _top_nodes(spec, world, left_out)
    leaves: list[Leaf] = []
    _cut(nodes, 0, WHOLE, leaves)
    drawn = {leaf.task for leaf in leaves}
    return Leaves(
        leaves=tuple(leaves), left_out=tuple((task, why) for task, why in sorted(left_out.items()) if task not in drawn)
    )


def cut_interval(start: int, stop: int, weights: Sequence[Fraction | int]) -> list[int]:
    """Boundaries (n + 1) that split [start, stop) in proportion to the weights, each rounded down once, exactly."""
    sums = list(accumulate((Fraction(w) for w in weights), initial=Fraction(0)))
    total = sums[-1]
    if not total > 0:
        raise RecipeError("mixture: the weights sum to nothing.")
    return [start + int((stop - start) * s / total) for s in sums]


def _top_nodes(spec: MixtureSpec, world: _Collection, left_out: dict[str, str]) -> tuple[_Node, ...]:
    if spec.parts:
        return _nodes(spec.parts, world, left_out, parent="", mixture=None, cap=spec.cap, formats=spec.formats)
    if spec.preset in ("paper-a", "paper-b"):
        if spec.cap is not None:
            raise RecipeError(f"mixture.cap: preset '{spec.preset}' has its own caps; state 'parts' to change them.")
        parts = _paper_parts(spec, world)
        return _nodes(parts, world, left_out, parent="", mixture=None, cap=None, formats=spec.formats)
    uniform = spec.preset == "uniform"
    if uniform and spec.cap is not None:
        raise RecipeError("mixture.cap: preset 'uniform' gives every task the same share, a cap changes nothing.")
    rate: Rate = (lambda size: 1) if uniform else _capped(spec.cap)
    where = f"preset '{spec.preset or 'proportional'}'"
    rates = _rates(where, sorted(world.tasks), world, left_out, rate, spec.formats)
    nodes = []
    for mixture in sorted({world.tasks[task].mixture for task, _, _ in rates}):
        own = tuple(r for r in rates if world.tasks[r[0]].mixture == mixture)
        weight = Fraction(sum(rate for _, rate, _ in own))
        nodes.append(_Node(path=mixture, mixture=mixture, weight=weight, rates=own))
    return tuple(nodes)


def _paper_parts(spec: MixtureSpec, world: _Collection) -> tuple[MixturePart, ...]:
    """The paper's four parts, those that have a task to draw from."""
    default = spec.formats == MixtureSpec.model_fields["formats"].default
    with_options = tuple(f for f in spec.formats if make_format(f).options != "none")
    parts = []
    for name, (cap, a, b) in PAPER_MIXTURES.items():
        if not any(_why_not(t.name, world) is None for t in world.tasks.values() if t.mixture == name):
            continue
        formats = with_options if default and name in ONLY_WITH_OPTIONS else spec.formats
        weight = a if spec.preset == "paper-a" else b
        parts.append(MixturePart(name=name, tasks=(), mixture=name, cap=cap, weight=weight, formats=formats))
    if not parts:
        known = ", ".join(sorted({t.mixture for t in world.tasks.values()})) or "none"
        raise RecipeError(
            f"preset '{spec.preset}': no task of {', '.join(PAPER_MIXTURES)} to draw from. Mixtures read: {known}."
        )
    return tuple(parts)


def _nodes(
    parts: Sequence[MixturePart],
    world: _Collection,
    left_out: dict[str, str],
    *,
    parent: str,
    mixture: str | None,
    cap: int | None,
    formats: tuple[WeightedFormat, ...],
) -> tuple[_Node, ...]:
    """`cap` and `formats` are the nearest ancestor's, for parts that state none."""
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"mixture: two parts are named '{parent}{name}'; rename one.")
    nodes = []
    for part in parts:
        path = parent + part.name
        node = _Node(path=path, mixture=mixture or part.name, weight=Fraction(part.weight))
        own_cap, own_formats = part.cap or cap, part.formats or formats
        if part.parts:
            children = _nodes(
                part.parts,
                world,
                left_out,
                parent=path + "/",
                mixture=node.mixture,
                cap=own_cap,
                formats=own_formats,
            )
            nodes.append(replace(node, children=children))
        else:
            names_found = _matching(part, f"part '{path}'", world)
            rates = _rates(f"part '{path}'", names_found, world, left_out, _capped(own_cap), own_formats)
            nodes.append(replace(node, rates=rates))
    return tuple(nodes)


def _matching(part: MixturePart, where: str, world: _Collection) -> list[str]:
    """Names of the tasks a part asks for, sorted, each once, whether they can be drawn or not."""
    known = set(world.tasks) | world.held_out
    if part.mixture is not None:
        found = {t.name for t in world.tasks.values() if t.mixture == part.mixture}
        if not found:
            mixtures = ", ".join(sorted({t.mixture for t in world.tasks.values()})) or "none"
            raise RecipeError(f"mixture: {where}: no task of mixture '{part.mixture}'. Mixtures read: {mixtures}.")
        return sorted(found)
    found = set()
    for pattern in part.tasks:
        matched = {name for name in known if fnmatchcase(name, pattern)}
        if not matched:
            raise RecipeError(
                f"mixture: {where}: '{pattern}' matches none of {len(known)} tasks.{_near(pattern, known)}"
            )
        found |= matched
    return sorted(found)


def _near(pattern: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(pattern, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else " 'flantune tasks list' shows the names."


def _rates(
    where: str,
    names: Sequence[str],
    world: _Collection,
    left_out: dict[str, str],
    rate: Rate,
    formats: tuple[WeightedFormat, ...],
) -> tuple[tuple[str, int, tuple[tuple[Format, float], ...]], ...]:
    """(task, rate, formats) of every task that can be drawn; the rest go to `left_out` with the reason."""
    rates = []
    reasons: dict[str, int] = {}
    for name in names:
        why = _why_not(name, world)
        shares = _format_shares(world.tasks[name], formats, world.applies) if why is None else ()
        if why is None and not shares:
            why = "none of the part's formats applies to it"
        if why is not None:
            left_out[name] = why
            reasons[why] = reasons.get(why, 0) + 1
            continue
        rates.append((name, rate(world.sizes[name]), shares))
    if not rates:
        said = "; ".join(f"{count} {why}" for why, count in reasons.items()) or "no tasks at all"
        raise RecipeError(f"mixture: {where}: nothing to draw from: {said}.")
    return tuple(rates)


def _why_not(name: str, world: _Collection) -> str | None:
    if name in world.held_out:
        return "held out"
    if name not in world.tasks:
        return "not read"
    return None if world.sizes.get(name, 0) > 0 else "without examples"


def _capped(cap: int | None) -> Rate:
    return (lambda size: size) if cap is None else (lambda size: min(cap, size))


def _format_shares(
    task: Task, formats: Sequence[WeightedFormat], applies: FormatApplies
) -> tuple[tuple[Format, float], ...]:
    """The formats that suit a task, equal ones joined, weights renormalised."""
    weights: dict[Format, float] = {}
    for entry in formats:
        format = make_format(entry)
        if applies(task, format):
            weights[format] = weights.get(format, 0.0) + entry.weight
    total = sum(weights.values())
    return tuple((format, weight / total) for format, weight in weights.items())


def _applies(sizes: Mapping[str, int], template_kinds: FormatApplies | None) -> FormatApplies:
    def applies(task: Task, format: Format) -> bool:
        if format.demonstrations and not task.demonstrations:
            return False
        # An exemplar is another row than the query.
        if format.shots > 0 and not format.demonstrations and sizes[task.name] < 2:
            return False
        if format.rationale == "with" and not task.has_rationale:
            return False
        return template_kinds is None or template_kinds(task, format)

    return applies


def _cut(nodes: Sequence[_Node], start: int, stop: int, leaves: list[Leaf]) -> None:
    """Give each node its interval, in order, and each of a node's tasks its part of that."""
    bounds = cut_interval(start, stop, [node.weight for node in nodes])
    for node, lower, upper in zip(nodes, bounds[:-1], bounds[1:], strict=True):
        if node.children:
            _cut(node.children, lower, upper, leaves)
            continue
        inner = cut_interval(lower, upper, [rate for _, rate, _ in node.rates])
        for (task, _, formats), a, b in zip(node.rates, inner[:-1], inner[1:], strict=True):
            if a < b:
                leaves.append(Leaf(path=node.path, mixture=node.mixture, task=task, start=a, stop=b, formats=formats))
