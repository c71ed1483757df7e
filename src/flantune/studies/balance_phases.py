"""Limits of a curriculum: weights of every phase side by side, (..., phases * sources), and repeats over the whole run.

Phases are equally long in packed rows. How many examples one draws depends on its own weights, so how often a source
is repeated in all is a sum of ratios; in numbers of examples, whose tokens fill each phase's rows, it is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import optimize

from flantune.errors import RecipeError
from flantune.studies.balance_limits import Floats, Limits, capped

_ROUNDS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasedLimits(Limits):
    """`Limits` of a run in `phases` equal phases. `least` holds in each."""

    def draws(self, weights: npt.ArrayLike) -> Floats:
        """Examples of all phases together."""
        return np.asarray(self._draws_of_phases(self._parted(weights)).sum(axis=-1))

    def exposed(self, weights: npt.ArrayLike) -> Floats:
        """In units of all that a phase of a uniform mixture draws."""
        w, k = self._parted(weights), len(self.sources)
        seen = w * self._draws_of_phases(w)[..., None] / self._draws_of_phases(np.full((1, k), 1 / k))[0]
        return np.asarray(seen.reshape(np.shape(weights)))

    def repeated(self, weights: npt.ArrayLike) -> Floats:
        w = self._parted(weights)
        seen = (w * self._draws_of_phases(w)[..., None]).sum(axis=-2)
        return np.asarray(seen / np.array([s.rows for s in self.sources], dtype=np.float64))

    def allowed(self, weights: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        w = self._parted(weights)
        shares = (np.abs(w.sum(axis=-1) - 1) < 1e-9).all(axis=-1) & (w >= self.least - 1e-9).all(axis=(-1, -2))
        return np.asarray(shares & (self.repeated(weights) <= self.repeats * (1 + 1e-9)).all(axis=-1))

    def nearest(self, weights: npt.ArrayLike) -> Floats:
        """The weights asked for where they are allowed; else sources over their limit are scaled down alike in all
        phases, and what they lose goes to the others of the phase in proportion."""
        asked = self.shares(weights)
        if self.allowed(asked):
            return asked
        parted, factor, none = self._parted(asked), np.ones(len(self.sources)), np.ones(len(self.sources))
        for _ in range(_ROUNDS):
            found = np.concatenate([capped(own * factor, none, self.least) for own in parted])
            over = self.repeated(found) / self.repeats
            if (over <= 1 + 1e-9).all() and self.allowed(found):
                return found
            factor = np.where(over > 1, factor * (1 - 1e-6) / over, factor)
        return self._nearest_of_all(asked)

    def _parted(self, weights: npt.ArrayLike) -> Floats:
        w = np.asarray(weights, dtype=np.float64)
        return w.reshape(*w.shape[:-1], self.phases, len(self.sources))

    def _draws_of_phases(self, parted: Floats) -> Floats:
        """(..., phases)"""
        sides = ([s.inputs for s in self.sources], [s.targets for s in self.sources])
        with np.errstate(divide="ignore"):
            counts = [
                slots / self.phases / (parted @ np.array(lengths))
                for slots, lengths in zip(self.slots, sides, strict=True)
            ]
        return np.asarray(np.minimum(*counts))

    def _nearest_of_all(self, asked: Floats) -> Floats:
        """Least in the sum of absolute differences between the examples of each source and phase and its asked share
        of the phase's examples: a linear programme for each choice of the side that fills each phase's rows."""
        best = None
        sides = [side for side, slots in enumerate(self.slots) if np.isfinite(slots)]
        for filling in product(sides, repeat=self.phases):
            found = self._programme(asked, filling)
            if found.status == 0 and (best is None or found.fun < best.fun):
                best = found
        if best is None:
            raise RecipeError(self.too_little())
        return self.shares(best.x[: self.phases * len(self.sources)])

    def _programme(self, asked: Floats, filling: tuple[int, ...]) -> optimize.OptimizeResult:
        """Over the examples of each phase and source, in units of `scale`, and their distances from those asked."""
        k, count = len(self.sources), self.phases * len(self.sources)
        scale = float(self.draws(asked)) / self.phases
        lengths = np.array([[s.inputs for s in self.sources], [s.targets for s in self.sources]])
        of_phase = np.kron(np.eye(self.phases), np.ones((1, k)))  # (phases, count)
        full, room = np.zeros((self.phases, count)), []
        for phase, side in enumerate(filling):
            own = slice(phase * k, (phase + 1) * k)
            full[phase, own] = scale * lengths[side] / (self.slots[side] / self.phases)
            if np.isfinite(self.slots[1 - side]):
                row = np.zeros(count)
                row[own] = scale * lengths[1 - side] / (self.slots[1 - side] / self.phases)
                room.append(row)
        rows = np.array([s.rows for s in self.sources], dtype=np.float64)
        seen = np.tile(np.eye(k), (1, self.phases)) * scale / (self.repeats * (1 - 1e-9) * rows)[:, None]
        floor = self.least * np.repeat(of_phase, k, axis=0) - np.eye(count)
        away = np.eye(count) - asked[:, None] * np.repeat(of_phase, k, axis=0)
        bounded = np.concatenate([seen, *(row[None, :] for row in room), floor])
        none = np.zeros((len(bounded), count))
        above = np.concatenate([np.ones(k + len(room)), np.zeros(count)])
        return optimize.linprog(
            np.r_[np.zeros(count), np.ones(count)],
            A_ub=np.block([[bounded, none], [away, -np.eye(count)], [-away, -np.eye(count)]]),
            b_ub=np.r_[above, np.zeros(2 * count)],
            A_eq=np.c_[full, np.zeros((self.phases, count))],
            b_eq=np.ones(self.phases),
            bounds=[(0.0, None)] * (2 * count),
        )
