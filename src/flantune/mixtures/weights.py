"""Weights: the recipe's nested parts to leaves, each a task with its share of the stream and its formats' shares.

Shares are intervals of [0, 2**64), cut exactly: a part's interval is split among its children, a task's among nothing.

    muffin 0.6 |---- rte ----|-- boolq --|  niv2 0.4 |- task1 -|- task2 -|
    0                                                                  2**64
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import accumulate

from flantune.errors import RecipeError
from flantune.mixtures.presets import NO_SUB_MIXTURE, PAPER_MIXTURES, paper_parts, public_parts, public_sub_mixture
from flantune.recipe import MixturePart, MixtureSpec, WeightedFormat, make_format
from flantune.templates import language_code
from flantune.types import Format, Task

WHOLE = 1 << 64

FormatApplies = Callable[[Task, Format], bool]
InvertedShare = Callable[[Task, Format], float]  # inverted templates for each one that the format has
Rate = Callable[[int], int]
OTHER_LANGUAGES = "*"


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
    inverted_share: InvertedShare
    languages: Mapping[str, float] = field(default_factory=dict)  # of the wording; empty: any
    task_language: Callable[[str], bool] | None = None  # which languages of inputs are asked for
    may_be_empty: bool = False  # a part whose tasks are all in other languages goes


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
    inverted_share: InvertedShare | None = None,
) -> Leaves:
    """The mixture's leaves. `sizes` in examples; `held_out` are names that must not be drawn, wherever they stand.

    `template_kinds` says whether a task has wording for a format (inverted ones, say); without it all have.
    `inverted_share` is what `inversion: templates` weighs the inverted twin with; without it there is none.
    Rates follow spec 2.3: in a part, min(cap, size); a part against its siblings, its weight.
    Raises RecipeError naming the part: a pattern that matches nothing, nothing left to draw from.
    """
    world = _Collection(
        tasks,
        sizes,
        frozenset(held_out),
        _applies(sizes, template_kinds),
        inverted_share or (lambda task, format: 0.0),
        spec.languages,
    )
    left_out: dict[str, str] = {}
    nodes = _by_task_language(spec, world, left_out) if spec.task_languages else _top_nodes(spec, world, left_out)
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


def _by_task_language(spec: MixtureSpec, world: _Collection, left_out: dict[str, str]) -> tuple[_Node, ...]:
    """The mixture once for each language of the inputs, over the tasks that are in it."""
    named = {language_code(code) for code in spec.task_languages}
    nodes = []
    for code, weight in spec.task_languages.items():
        wanted = _none_of(named) if code == OTHER_LANGUAGES else _just(language_code(code))
        own = replace(world, task_language=wanted, may_be_empty=True)
        if not any(_why_not(name, own) is None for name in world.tasks):
            known = ", ".join(sorted({language_code(t.language) for t in world.tasks.values()})) or "none"
            raise RecipeError(
                f"mixture.task_languages: no task in language '{code}' to draw from. Languages read: {known}."
            )
        nodes.append(_Node(path=code, mixture="", weight=_written(weight), children=_top_nodes(spec, own, left_out)))
    return tuple(nodes)


def _just(code: str) -> Callable[[str], bool]:
    return lambda language: language_code(language) == code


def _none_of(codes: Collection[str]) -> Callable[[str], bool]:
    return lambda language: language_code(language) not in codes


def _written(weight: float) -> Fraction:
    """The decimal that the recipe states: 0.3 is 3/10 and not the binary number nearest to it."""
    return Fraction(str(weight))


def _top_nodes(spec: MixtureSpec, world: _Collection, left_out: dict[str, str]) -> tuple[_Node, ...]:
    if spec.parts:
        return _nodes(spec.parts, world, left_out, parent="", mixture=None, cap=spec.cap, formats=spec.formats)
    if (spec.preset or "").startswith("flan2022-"):
        parts = _preset_parts(spec, world, left_out)
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


def _preset_parts(spec: MixtureSpec, world: _Collection, left_out: dict[str, str]) -> tuple[MixturePart, ...]:
    """A Flan 2022 preset as parts; the tasks it has no place for go to `left_out`."""
    if spec.cap is not None:
        raise RecipeError(f"mixture.cap: preset '{spec.preset}' has its own caps; state 'parts' to change them.")
    drawable = {name: task for name, task in world.tasks.items() if _why_not(name, world) is None}
    if spec.preset != "flan2022-public":
        for name, task in drawable.items():
            if task.mixture not in PAPER_MIXTURES:
                left_out[name] = f"the preset has no mixture '{task.mixture}'"
        return paper_parts(spec, world.tasks, drawable.__contains__)
    if spec.formats != MixtureSpec.model_fields["formats"].default:
        raise RecipeError(f"mixture.formats: preset '{spec.preset}' has its own formats; state 'parts' to change them.")
    for name, task in drawable.items():
        if public_sub_mixture(task) is None:
            left_out[name] = NO_SUB_MIXTURE
    return public_parts(spec, drawable, lambda name, formats: bool(_format_shares(drawable[name], formats, world)))


def _nodes(
    parts: Sequence[MixturePart],
    outer: _Collection,
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
        node = _Node(path=path, mixture=mixture or part.name, weight=_written(part.weight))
        world = replace(
            outer,
            languages=part.languages or outer.languages,
            task_language=_both(outer.task_language, _just(language_code(part.language)) if part.language else None),
        )
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
            if children:
                nodes.append(replace(node, children=children))
        else:
            names_found = _matching(part, f"part '{path}'", world)
            rates = _rates(f"part '{path}'", names_found, world, left_out, _capped(own_cap), own_formats)
            if rates:
                nodes.append(replace(node, rates=rates))
    return tuple(nodes)


def _both(a: Callable[[str], bool] | None, b: Callable[[str], bool] | None) -> Callable[[str], bool] | None:
    if a is None or b is None:
        return a or b
    first, second = a, b
    return lambda language: first(language) and second(language)


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
        if pattern in known:  # a name, whatever signs it holds
            found.add(pattern)
            continue
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
    """(task, rate, formats) of every task that can be drawn; the rest go to `left_out` with the reason.

    None at all is an error, but for a part of a mixture by task languages that has none in this one.
    """
    rates = []
    reasons: dict[str, int] = {}
    for name in names:
        why = _why_not(name, world)
        shares = _format_shares(world.tasks[name], formats, world) if why is None else ()
        if why is None and not shares:
            why = "none of the part's formats applies to it"
        if why is not None:
            left_out[name] = why
            reasons[why] = reasons.get(why, 0) + 1
            continue
        rates.append((name, rate(world.sizes[name]), shares))
    if not rates and not (world.may_be_empty and OTHER_LANGUAGE in reasons):
        said = "; ".join(f"{count} {why}" for why, count in reasons.items()) or "no tasks at all"
        raise RecipeError(f"mixture: {where}: nothing to draw from: {said}.")
    return tuple(rates)


OTHER_LANGUAGE = "in another language"


def _why_not(name: str, world: _Collection) -> str | None:
    if name in world.held_out:
        return "held out"
    if name not in world.tasks:
        return "not read"
    if world.task_language is not None and not world.task_language(world.tasks[name].language):
        return OTHER_LANGUAGE
    return None if world.sizes.get(name, 0) > 0 else "without examples"


def _capped(cap: int | None) -> Rate:
    return (lambda size: size) if cap is None else (lambda size: min(cap, size))


def _format_shares(
    task: Task, formats: Sequence[WeightedFormat], world: _Collection
) -> tuple[tuple[Format, float], ...]:
    """The formats that suit a task, equal ones joined, weights renormalised; within each language of the wording."""
    if not world.languages:
        return _normalised(_format_weights(task, formats, "any", world))
    shares: list[tuple[Format, float]] = []
    whole = sum(world.languages.values())
    for language, weight in world.languages.items():
        own = _normalised(_format_weights(task, formats, language, world))
        if not own and _format_weights(task, formats, "any", world):
            raise RecipeError(
                f"mixture.languages: task '{task.name}' has no wording in '{language}' for the formats asked. Give it "
                "such templates, or state other languages on the part that names it."
            )
        shares += [(format, share * weight / whole) for format, share in own]
    return tuple(shares)


def _format_weights(
    task: Task, formats: Sequence[WeightedFormat], language: str, world: _Collection
) -> dict[Format, float]:
    weights: dict[Format, float] = {}

    def add(format: Format, weight: float) -> None:
        if weight > 0 and world.applies(task, format):
            weights[format] = weights.get(format, 0.0) + weight

    for entry in formats:
        format = replace(make_format(entry), language=language)
        add(format, entry.weight)
        if entry.inversion is None or not world.applies(task, format):
            continue
        twin = replace(format, inverted=True, rationale="auto")
        relative = world.inverted_share(task, format) if entry.inversion == "templates" else entry.inversion
        add(twin, entry.weight * relative)
    return weights


def _normalised(weights: Mapping[Format, float]) -> tuple[tuple[Format, float], ...]:
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
