"""The largest logits of rows without all the others.

A product with the output matrix in bfloat16 takes half the time of one in single precision, where the processor has
the instructions. What is rounded off in it can be bounded: by Cauchy and Schwarz a row's logit of a token is off by no
more than the length of the row's state times the length of what the token's weights lost, and the other way round.
So few tokens can be among a row's largest, and their logits are made in single precision, off the weights themselves.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from flantune.compiled import shared_threads
from flantune.inference import screen_loops
from flantune.inference.memory import free_memory
from flantune.inference.products import COPIES_AFTER, COPIES_SHARE, packed

_WORTH = 1 << 22  # weights; a smaller matrix stays in the processor's cache
_FEW = 8  # times `count` runs there must be, so that most of them can be left alone
_SLACK = 1.001  # for the rounding of lengths
_MANY = 256  # rows by which a screen is judged
_MOST_MISSING = 0.25  # of them, where it is not worth its while


class Screen:
    """Of an output matrix (vocabulary, width), float32 on a CPU."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        # Times to be asked before it is worth the copies; less than 0: it never is.
        self._left = COPIES_AFTER if weight.numel() >= _WORTH and rough_products_are_quick() else -1
        self._rows = self._missing = 0

    def takes(self, count: int, vocabulary: int) -> bool:
        """Whether `largest` is the quicker way. Asked for some time it lays out what it needs."""
        if _FEW * count > vocabulary // screen_loops.RUN or self._left < 0:
            return False
        if self._left > 0:
            self._left -= 1
            if self._left == 0 and not self._lay_out():
                self._left = -1
        return self._left == 0

    def _lay_out(self) -> bool:
        weight = self._weight.detach()
        wanted = weight.numel() * (2 if weight.is_contiguous() else 6)
        if not shared_threads() or wanted > COPIES_SHARE * free_memory(weight.device):
            return False
        rough = weight.bfloat16()
        narrowed, length = ((weight - rough).norm(dim=1), weight.norm(dim=1))
        if not bool((narrowed + length).isfinite().all()):
            return False
        self._wrong = _SLACK * narrowed, _SLACK * length
        self._wrong_in_runs = _of_runs(self._wrong[0]), _of_runs(self._wrong[1])
        self._rough, self._exact = packed(rough), weight.contiguous()
        return True

    def largest(self, states: Tensor, count: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `likeliest.largest`; and the numbers of the rows, if any, of which nothing is told: too many of their
        tokens are alike, or something is no number."""
        rough = states.bfloat16()
        made = torch.ops.mkldnn._linear_pointwise(rough, self._rough, None, "none", [], "")
        widened, per_term = rough.float(), states.shape[1] * 2**-23  # sums are rounded at every term, here and there
        lost = (states - widened).norm(dim=1) + per_term * states.norm(dim=1)
        doubt = _SLACK * torch.stack([widened.norm(dim=1), lost], 1)
        exact, states = self._exact[:vocabulary], states.contiguous()
        ids, logits, found = screen_loops.find(made, states, exact, self._wrong, self._wrong_in_runs, doubt, count)
        missing = found.logical_not_().nonzero()[:, 0]
        self._judge(len(states), len(missing))
        return ids, logits, missing

    def _judge(self, rows: int, missing: int) -> None:
        self._rows, self._missing = self._rows + rows, self._missing + missing
        if self._rows >= _MANY and self._missing > _MOST_MISSING * self._rows:
            self._left = -1


def _of_runs(values: Tensor) -> Tensor:
    run = screen_loops.RUN
    return functional.pad(values, (0, -len(values) % run)).view(-1, run).amax(1)


@cache
def rough_products_are_quick() -> bool:
    """The processor multiplies in bfloat16."""
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return has is not None and torch.backends.mkldnn.is_available() and bool(has())
