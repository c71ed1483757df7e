"""A regression surface: from mixture weights to a score, with its own doubt and its error on mixtures it has not seen.

RegMix (arXiv 2407.01492) fits what small runs scored by the weights they were trained with. Here weights go in as
logarithms, since a share doubled is felt alike at 0.05 and at 0.4; the surface is the Gaussian process of one of three
kernels (linear and quadratic, which are ridge regressions, and a smooth one), whichever errs least when every run is
predicted from the others. That error has a closed form (Rasmussen and Williams 2006, 5.4.2), so nothing is refitted.
A source that is meant for what is scored may count for more than the others.

A few full runs correct the surface: their scores are the small runs' surface, a level that only they know, and a smooth
difference in shape (co-kriging after Kennedy and O'Hagan, Biometrika 2000). So near a full run its own score counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import linalg, stats

Floats = npt.NDArray[np.float64]
Kind = Literal["linear", "quadratic", "smooth"]

SHARE_FLOOR = 0.01  # shares well below it are told apart no more
MIN_RUNS = 4
_RATIOS = tuple(10.0 ** (e / 2) for e in range(-5, 8))  # variance of the surface to variance of one run's noise
# Of fewer runs than two for each source and one, some surface always errs next to nothing, and would be believed to a
# fraction of what another seed of the same mixture changes.
_FEW_RATIO = 25.0
_OTHERS = 0.3  # how much a source that is not an ability's own moves it beside one that is, where that errs less
# A surface that bends goes further astray where nothing was run: it has to err less by more than chance.
_BENDING: dict[Kind, float] = {"linear": 1.0, "quadratic": 1.15, "smooth": 1.1}
_LENGTHS = (0.7, 1.0, 1.5, 2.2, 3.3, 5.0)  # of the smooth kernel, in standard deviations of the features


@dataclass(frozen=True, slots=True)
class Fit:
    """How well left-out runs are predicted: root mean squared error, share of variance explained, rank correlation."""

    kind: Kind
    runs: int
    error: float
    spread: float  # standard deviation of the scores themselves, what `error` has to beat
    explained: float  # 1 - (error of the surface / error of the mean of the others)^2; below 0 it is worse than that
    rank_correlation: float
    noise: float  # standard deviation of one run around the surface

    @property
    def tells(self) -> bool:
        """Whether the surface says more of a new mixture than the mean of all runs does."""
        return self.explained > 0


@dataclass(frozen=True)
class Surface:
    """A fitted surface over the simplex of `sources` weights."""

    fit: Fit
    centre: float
    _shift: Floats
    _scale: Floats  # of each source; larger where it matters less
    _features: Floats  # of all runs, (n + f, k), the f full ones last
    _full: int  # how many of them are full runs
    _dual: Floats  # C^-1 (y - centre)
    _factor: tuple[Floats, bool]  # Cholesky of C
    _length: float
    _ratio: float

    def predict(self, weights: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean score at each row of `weights` (m, k), and the standard deviation of that mean: of full runs where the
        surface has any, else of small ones."""
        logs = _logs(np.atleast_2d(np.asarray(weights, dtype=np.float64)))
        asked = (logs - self._shift) / self._scale
        across = self._ratio * _kernel(self.fit.kind, asked, self._features, self._length) + _MEAN
        own = self._ratio * _diagonal(self.fit.kind, asked) + _MEAN
        if self._full:
            across[:, -self._full :] += _beyond(asked, self._features[-self._full :])
            own += _LEVEL + _SHAPE
        explained = np.einsum("mn,nm->m", across, linalg.cho_solve(self._factor, across.T))
        variance = np.maximum(own - explained, 0.0) * self.fit.noise**2
        return self.centre + across @ self._dual, np.sqrt(variance)


# Prior variances in units of one run's noise. Of the surface's level: wide, since `centre` is only the runs' mean.
_MEAN = 10.0
# Of what full runs have beyond small ones: a level of any size, and a shape that differs by twice a run's noise.
_LEVEL, _SHAPE = 1e6, 4.0


def fit_surface(
    weights: npt.ArrayLike,
    scores: Sequence[float] | Floats,
    full_weights: npt.ArrayLike | None = None,
    full_scores: Sequence[float] | Floats = (),
    own: Sequence[int] = (),
) -> Surface:
    """The kernel and its two constants that predict left-out small runs best. `weights` (n, k), or other
    amounts of each source above 0; `full_weights` (f, k) and their scores are the full runs, if any, that the surface
    is then of. `own`: sources that are meant for what is scored; the others may matter less.

    Raises ValueError for fewer than four small runs.
    """
    shares, y = np.asarray(weights, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if shares.ndim != 2 or len(shares) != len(y) or len(y) < MIN_RUNS:
        raise ValueError(f"a surface needs at least {MIN_RUNS} runs with their weights, got {len(y)}")
    logs = _logs(shares)
    shift, scale = logs.mean(axis=0), logs.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    centre = float(y.mean())
    best: tuple[float, Floats, Kind, float, float] | None = None
    for relevance in _relevances(shares.shape[1], own):
        features = relevance * (logs - shift) / scale
        for kind, length, ratio in _choices(len(y), shares.shape[1]):
            left_out, _ = _left_out(_covariance(kind, features, length, ratio), y - centre)
            error = float(np.sqrt(np.mean(left_out**2))) * _BENDING[kind]
            if best is None or error < best[0] * (1 - 1e-9):
                best = (error, relevance, kind, length, ratio)
    assert best is not None
    _, relevance, kind, length, ratio = best
    scale = scale / relevance
    features = (logs - shift) / scale
    fit = _told(kind, _covariance(kind, features, length, ratio), y, centre)
    if full := len(full_scores):
        full_features = (_logs(np.asarray(full_weights, dtype=np.float64)) - shift) / scale
        features, y = np.concatenate([features, full_features]), np.concatenate([y, full_scores])
    covariance = _covariance(kind, features, length, ratio)
    if full:
        covariance[-full:, -full:] += _beyond(full_features, full_features)
    factor = linalg.cho_factor(covariance, lower=True)
    dual = linalg.cho_solve(factor, y - centre)
    return Surface(
        fit=fit,
        centre=centre,
        _shift=shift,
        _scale=scale,
        _features=features,
        _full=full,
        _dual=dual,
        _factor=factor,
        _length=length,
        _ratio=ratio,
    )


def _relevances(sources: int, own: Sequence[int]) -> Iterator[Floats]:
    """All sources alike; and, where some are an ability's own, those before the others. Squares sum to the sources."""
    yield np.ones(sources)
    if 0 < len(own) < sources:
        relevance = np.full(sources, _OTHERS)
        relevance[list(own)] = 1.0
        yield relevance / np.sqrt(np.mean(relevance**2))


def _choices(runs: int, sources: int) -> Iterator[tuple[Kind, float, float]]:
    """Simple ones first: a surface that errs as little with a simpler kernel keeps that."""
    ratios = [r for r in _RATIOS if r <= _FEW_RATIO or runs >= 2 * (sources + 1)]
    for ratio in ratios:
        yield "linear", 1.0, ratio
    for ratio in ratios:
        yield "quadratic", 1.0, ratio
    for length in _LENGTHS:
        for ratio in ratios:
            yield "smooth", length, ratio


def _told(kind: Kind, covariance: Floats, y: Floats, centre: float) -> Fit:
    n = len(y)
    errors, shrunk = _left_out(covariance, y - centre)
    others = (y.sum() - y) / (n - 1)
    predicted = y - errors
    spread = float(np.sqrt(np.mean((y - others) ** 2)))
    error = float(np.sqrt(np.mean(errors**2)))
    alike = np.ptp(y) == 0 or np.ptp(predicted) == 0
    return Fit(
        kind=kind,
        runs=n,
        error=error,
        spread=float(y.std(ddof=1)),
        explained=1.0 - (error / spread) ** 2 if spread > 0 else 0.0,
        rank_correlation=0.0 if alike else float(stats.spearmanr(y, predicted).statistic),
        # Each left-out error has a variance of noise^2 / [C^-1]_ii.
        noise=float(np.sqrt(np.mean(errors**2 * shrunk))),
    )


def _left_out(covariance: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Of each run: its score less what the others predict, and [C^-1]_ii, where C is in units of the noise."""
    inverse = linalg.inv(covariance)
    diagonal = np.diag(inverse)
    return (inverse @ y) / diagonal, diagonal


def _covariance(kind: Kind, features: Floats, length: float, ratio: float) -> Floats:
    """Of the scores, in units of one run's noise."""
    return ratio * _kernel(kind, features, features, length) + _MEAN + np.eye(len(features))


def _beyond(a: Floats, b: Floats) -> Floats:
    """Covariance of what full runs have beyond small ones."""
    return _LEVEL + _SHAPE * _kernel("smooth", a, b, 1.0)


def _kernel(kind: Kind, a: Floats, b: Floats, length: float) -> Floats:
    """(m, n), about 1 on the diagonal."""
    k = a.shape[1]
    if kind == "linear":
        return np.asarray(a @ b.T / k)
    if kind == "quadratic":
        return np.asarray(((1.0 + a @ b.T / k) ** 2 - 1.0) / 3.0)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.exp(-np.maximum(squares, 0.0) / (2 * k * length**2)))


def _diagonal(kind: Kind, a: Floats) -> Floats:
    squares = (a**2).sum(axis=1) / a.shape[1]
    if kind == "linear":
        return np.asarray(squares)
    return np.asarray(((1.0 + squares) ** 2 - 1.0) / 3.0) if kind == "quadratic" else np.ones(len(a))


def _logs(shares: Floats) -> Floats:
    return np.asarray(np.log(shares + SHARE_FLOOR))
