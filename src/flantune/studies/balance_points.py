"""The points of a balance study, and what its sources hold: the recipe with other weights."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flantune.pipeline.data import Progress, quiet
from flantune.recipe import MixturePart, MixtureSpec, PhaseSpec, Recipe
from flantune.studies.balance_limits import Floats, Limits, Source, shares_of
from flantune.studies.balance_phases import PhasedLimits
from flantune.studies.balance_settings import Balance
from flantune.studies.point import Label, Layout, Point

SAMPLE = 256  # prompts of each source whose lengths are counted
_DIGITS = 4  # of a share: mixtures that differ by less are one


def weighed(mixture: MixtureSpec, weights: npt.ArrayLike) -> MixtureSpec:
    """The mixture with those weights of its top parts, as shares; of equal phases one after the other where there are
    as many times more, and phases that are all alike are none."""
    names = [part.name for part in mixture.parts]
    stated = np.asarray(weights, dtype=np.float64).reshape(-1, len(names))
    phases = [_rounded(own) for own in stated]
    if all(np.array_equal(own, phases[0]) for own in phases):
        return mixture.model_copy(update={"parts": _weighing(mixture, phases[0]), "phases": ()})
    told = tuple(
        PhaseSpec(until=number / len(phases), weights=dict(zip(names, map(float, own), strict=True)))
        for number, own in enumerate(phases, 1)
    )
    parts = _weighing(mixture, _rounded(np.mean(phases, axis=0)))
    return mixture.model_copy(update={"parts": parts, "phases": told})


def _rounded(weights: npt.ArrayLike) -> Floats:
    shares = np.maximum(np.round(shares_of(weights), _DIGITS), 10.0**-_DIGITS)
    return np.array([round(w, _DIGITS) for w in shares])


def _weighing(mixture: MixtureSpec, shares: Floats) -> tuple[MixturePart, ...]:
    return tuple(part.model_copy(update={"weight": float(w)}) for part, w in zip(mixture.parts, shares, strict=True))


def weights_of(recipe: Recipe, phases: int = 1) -> list[float]:
    """Shares of the mixture's top parts, in each of `phases` phases."""
    spec = recipe.mixture
    own = [part.weight for part in spec.parts]
    stated = [[phase.weights[part.name] for part in spec.parts] for phase in spec.phases] or [own] * phases
    return [float(w) for weights in stated for w in shares_of(weights)]


def point_of(balance: Balance, weights: npt.ArrayLike, stage: str, run: Label, *, seed: int, small: bool) -> Point:
    recipe = balance.small() if small else balance.recipe
    recipe = recipe.model_copy(update={"mixture": weighed(recipe.mixture, weights), "seed": seed})
    labels: dict[str, Label] = {"stage": stage, "mixture": run, "seed": seed}
    return Point(labels, recipe, asked_with=balance.study.spec.asked_with)


def limits_of(balance: Balance, root: Path, progress: Progress = quiet) -> Limits:
    """What the search may ask for. Reads the collections into the studies' shared store, where they are not yet, and
    counts the lengths of prompts of each source."""
    recipe, spec = balance.recipe, balance.spec
    inputs, targets = recipe.tokens.row_lens
    rows = recipe.train.steps * recipe.train.batch_rows
    sources, one_sided = _sources(balance, root, progress)
    slots = (
        (float(rows * (inputs + targets)), float("inf")) if one_sided else (float(rows * inputs), float(rows * targets))
    )
    if spec.phases > 1:
        return PhasedLimits(sources=sources, slots=slots, repeats=spec.repeats, least=spec.least, phases=spec.phases)
    return Limits(sources=sources, slots=slots, repeats=spec.repeats, least=spec.least)


def _sources(balance: Balance, root: Path, progress: Progress) -> tuple[tuple[Source, ...], bool]:
    from flantune.pipeline.data import is_one_sided, make_mixture, open_store, open_tokenizer
    from flantune.studies.work import locked
    from flantune.tasks import split_held_out
    from flantune.tokens.encode import encode_prompts

    point = point_of(balance, [1.0] * len(balance.sources), "", "", seed=balance.spec.search_seed, small=False)
    folder, recipe = Layout(root.resolve()).point(point), point.recipe
    with locked(folder.shared / "lock"):
        store = open_store(recipe, folder, progress)
    mixture = make_mixture(recipe, store, split_held_out(store.tasks, recipe.held_out), "draws")
    tokenizer = open_tokenizer(recipe, folder, None)  # type: ignore[arg-type]  # the model's own: no data is read
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    for leaf in mixture.leaves:
        rows[leaf.mixture][leaf.task] = mixture.sizes[leaf.task]
    lengths: dict[str, list[tuple[int, int]]] = defaultdict(list)
    prompts = list(mixture.prompts(range(SAMPLE * len(balance.sources)), store))
    places = {p.index: p.mixture for p in prompts}
    own = recipe.tokens
    encoded = encode_prompts(
        prompts,
        tokenizer,
        inputs_len=own.example_lens[0],
        targets_len=own.example_lens[1],
        few_shot_margin=own.few_shot_margin,
    )
    for example in encoded.examples:
        lengths[places[example.index]].append((len(example.inputs), len(example.targets)))
    one_sided = is_one_sided(recipe)
    found = []
    for name in balance.sources:
        means = np.mean(lengths[name], axis=0) if lengths[name] else np.array(own.example_lens)
        inputs, targets = (float(means.sum()), 0.0) if one_sided else (float(means[0]), float(means[1]))
        found.append(Source(name=name, rows=sum(rows[name].values()), inputs=inputs, targets=targets))
    return tuple(found), one_sided
