"""Which mixtures may be asked for: shares that sum to 1, and no source repeated more often than it bears.

A source of `rows` examples whose share of `draws` examples is w is repeated w * draws / rows times. How many examples
a run draws depends on the mixture itself: long examples fill the packed rows sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from flantune.errors import RecipeError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of the mixture: its name, its examples, and the mean tokens of one of them, inputs and targets."""

    name: str
    rows: int
    inputs: float
    targets: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`slots`: input and target tokens of all packed rows of a run. `repeats`: how often a source may be seen at most.
    `least`: the share no source falls below."""

    sources: tuple[Source, ...]
    slots: tuple[float, float]
    repeats: float
    least: float = 0.0
    phases: int = 1  # more are flantune.studies.balance_phases.PhasedLimits

    def shares(self, weights: npt.ArrayLike) -> Floats:
        """Divided by their sum, in each phase."""
        return shares_of(weights, self.phases)

    def draws(self, weights: npt.ArrayLike) -> Floats:
        """Examples a run of each mixture (..., k) draws, were its rows packed without a gap: it never draws more."""
        w = np.asarray(weights, dtype=np.float64)
        sides = ([s.inputs for s in self.sources], [s.targets for s in self.sources])
        with np.errstate(divide="ignore"):
            counts = [slots / (w @ np.array(lengths)) for slots, lengths in zip(self.slots, sides, strict=True)]
        return np.asarray(np.minimum(*counts))

    def exposed(self, weights: npt.ArrayLike) -> Floats:
        """Examples that a run sees of each source, (..., k), in units of all that a uniform mixture's run draws. What a
        model learns hangs on these rather than on shares: of short examples a run draws more."""
        w = np.asarray(weights, dtype=np.float64)
        k = len(self.sources)
        return np.asarray(w * self.draws(w)[..., None] / self.draws(np.full(k, 1 / k)))

    def repeated(self, weights: npt.ArrayLike) -> Floats:
        """How often each source is seen, (..., k)."""
        w = np.asarray(weights, dtype=np.float64)
        return np.asarray(w * self.draws(w)[..., None] / np.array([s.rows for s in self.sources], dtype=np.float64))

    def allowed(self, weights: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which of the mixtures (..., k) may be asked for."""
        w = np.asarray(weights, dtype=np.float64)
        shares = (np.abs(w.sum(axis=-1) - 1) < 1e-9) & (w >= self.least - 1e-9).all(axis=-1)
        return np.asarray(shares & (self.repeated(w) <= self.repeats * (1 + 1e-9)).all(axis=-1))

    def nearest_all(self, weights: npt.ArrayLike) -> Floats:
        """`nearest` of each row."""
        shares = self.shares(weights)
        for i in np.flatnonzero(~self.allowed(shares)):
            shares[i] = self.nearest(shares[i])
        return shares

    def nearest(self, weights: npt.ArrayLike) -> Floats:
        """The mixture asked for where it is allowed; else what of it is: sources over their limit are cut to it, and
        what they lose goes to the others in proportion. Raises RecipeError where no mixture is allowed.
        """
        asked = shares_of(weights)
        if self.allowed(asked):
            return asked
        draws: Floats = np.zeros(())
        for _ in range(_ROUNDS):
            # Caps for more draws than the mixture will have are strict enough; more draws mean tighter caps.
            caps = self._caps(draws)
            if caps.sum() < 1 or (caps < self.least).any():
                break
            found = capped(asked, caps, self.least)
            if self.draws(found) <= draws * (1 + 1e-12):
                return found
            draws = self.draws(found)
        return self._nearest_of_all(asked)

    def _nearest_of_all(self, asked: Floats) -> Floats:
        """Least in the sum of absolute differences. Rows are full when one side is, so the allowed mixtures are two
        polytopes, one for each side: two linear programmes over the shares and their distances from those asked."""
        k, best = len(self.sources), None
        rows = np.array([s.rows for s in self.sources], dtype=np.float64)
        sides = ([s.inputs for s in self.sources], [s.targets for s in self.sources])
        for slots, lengths in zip(self.slots, sides, strict=True):
            over = np.eye(k) * slots - self.repeats * (1 - 1e-9) * np.outer(rows, lengths)
            away = np.block([[np.eye(k), -np.eye(k)], [-np.eye(k), -np.eye(k)]])
            found = optimize.linprog(
                np.r_[np.zeros(k), np.ones(k)],
                A_ub=np.r_[np.c_[over / slots, np.zeros((k, k))], away],
                b_ub=np.r_[np.zeros(k), asked, -asked],
                A_eq=np.r_[np.ones(k), np.zeros(k)][None, :],
                b_eq=[1.0],
                bounds=[(self.least, 1.0)] * k + [(0.0, None)] * k,
            )
            if found.status == 0 and (best is None or found.fun < best.fun):
                best = found
        if best is None:
            raise RecipeError(self.too_little())
        return np.asarray(best.x[:k] / best.x[:k].sum())

    def _caps(self, draws: Floats) -> Floats:
        rows = np.array([s.rows for s in self.sources], dtype=np.float64)
        return np.minimum(1.0, self.repeats * rows / draws) if draws > 0 else np.ones(len(rows))

    def too_little(self) -> str:
        """What is said where no mixture is allowed."""
        told = ", ".join(f"{s.name} {s.rows:,}" for s in self.sources)
        least = float(self.draws(np.tile(np.eye(len(self.sources)), (1, self.phases))).min())
        return (
            f"study.repeats: no mixture repeats every source at most {self.repeats:g} times and gives each a share of "
            f"{self.least:g}: a run draws {least:,.0f} examples or more, of {told}. Raise study.repeats, or lower "
            "train.steps or train.batch_rows."
        )


_ROUNDS = 200


def capped(asked: Floats, caps: Floats, least: float) -> Floats:
    """Shares in proportion to `asked`, none over its cap or under `least`, sum 1."""
    wanted = np.maximum(asked, 1e-12)
    low, high = 0.0, 1.0
    while np.clip(high * wanted, least, caps).sum() < 1:
        high *= 2
        if high > 1e18:
            break
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * wanted, least, caps).sum() < 1 else (low, middle)
    found = np.clip(high * wanted, least, caps)
    return np.asarray(found / found.sum())


def spread_weights(count: int, sources: int, seed: int, phases: int = 1) -> Floats:
    """`count` mixtures (count, phases * sources) that cover the simplex (or the product of as many) evenly: Sobol's
    points as exponentials, normalised, which is Dirichlet's distribution with every parameter 1."""
    with np.errstate(all="ignore"):
        points = stats.qmc.Sobol(sources * phases, seed=seed).random_base2(max(1, int(np.ceil(np.log2(max(count, 2))))))
    waits = -np.log(np.clip(points[:count], 1e-9, 1 - 1e-9))
    return shares_of(waits, phases)


def shares_of(weights: npt.ArrayLike, phases: int = 1) -> Floats:
    """Divided by their sum, in each phase, (..., phases * k)."""
    w = np.asarray(weights, dtype=np.float64)
    if phases > 1:
        return shares_of(w.reshape(*w.shape[:-1], phases, -1)).reshape(w.shape)
    return np.asarray(w / w.sum(axis=-1, keepdims=True))
