"""What hidden states say of the next token: logits, and log-probabilities of some tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flantune.inference.mapped import MappedDecoder
from flantune.models.family import softcap
from flantune.models.layout import Ints

LOGITS = 1 << 21  # logits held at once, numbers

# On a CPU a number of the output matrix is fetched from memory for a few rows in the time of so many multiplications of
# many rows; so much of all the time may go there.
_FETCH = 260
_SHARE = 0.01
_MOST = 8  # waves


class Pending:
    """Hidden states that wait for the output matrix. On a CPU it takes about as long for the few that a wave asks for
    as for those of several waves, and beside a small model that is a tenth of all the time."""

    def __init__(self, model: Any, tokens: int) -> None:
        """`tokens`: of a wave."""
        self._model, self._waves = model, waves_at_once(model, tokens)
        self._states: list[Tensor] = []
        self._asked: list[tuple[Ints, Ints, Ints]] = []

    def add(self, states: Tensor, places: Ints, tokens: Ints, options: Ints) -> None:
        """Of a wave: states (n, hidden), and of each token asked for the place of its state and its option."""
        before = sum(len(s) for s in self._states)
        self._states.append(states)
        self._asked.append((places + before, tokens, options))

    def finished(self, *, at_once: bool) -> list[tuple[Ints, npt.NDArray[np.float64]]]:
        """Options and log-probabilities, once enough waves are together, or `at_once`."""
        if not at_once and len(self._states) < self._waves:
            return []
        places, tokens, options = (np.concatenate(arrays) for arrays in zip(*self._asked, strict=True))
        values = log_probabilities(self._model, torch.cat(self._states), places, tokens)
        self._states.clear()
        self._asked.clear()
        return [(options, values)]


def waves_at_once(model: Any, tokens: int) -> int:
    """So many waves that no more than _SHARE of the time goes into the output matrix. The larger the model, the fewer,
    down to one: an answer then takes long, and must not wait."""
    if model.device.type != "cpu":
        return 1
    output, all_numbers = sizes(model)
    ratio = output * _FETCH / (2 * tokens * max(1, all_numbers - output))
    return max(1, min(_MOST, math.ceil(ratio / _SHARE)))


def sizes(model: Any) -> tuple[int, int]:
    """Numbers of the output matrix, and of all the model."""
    if isinstance(model, MappedDecoder):
        return model.shape.sizes()
    return int(model.get_output_embeddings().weight.numel()), sum(p.numel() for p in model.parameters())


def log_probabilities(model: Any, states: Tensor, places: Ints, tokens: Ints) -> npt.NDArray[np.float64]:
    """Of each token after the hidden state at its place, nats, float64. states (n, hidden); every place's logits are
    made once, however many tokens are asked of it."""
    unique, inverse = np.unique(places, return_inverse=True)
    found = np.empty(len(places))
    if isinstance(model, MappedDecoder):
        return _off_file(model, states[torch.from_numpy(unique)], inverse, tokens)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    step = max(1, LOGITS // vocabulary)
    for first in range(0, len(unique), step):
        rows = torch.from_numpy(unique[first : first + step]).to(states.device)
        logits = logits_of(model, states.index_select(0, rows))
        chosen = np.flatnonzero((inverse >= first) & (inverse < first + step))
        row = torch.from_numpy(inverse[chosen] - first).to(states.device)
        token = torch.from_numpy(tokens[chosen]).to(states.device)
        values = logits[row, token].double() - torch.logsumexp(logits, -1).double()[row]
        found[chosen] = values.cpu().numpy()
    return found


def _off_file(model: MappedDecoder, states: Tensor, places: Ints, tokens: Ints) -> npt.NDArray[np.float64]:
    """As `log_probabilities`, some tokens of the vocabulary after the other."""
    total = torch.full((len(states),), float("-inf"), dtype=torch.float64)
    chosen = torch.empty(len(places), dtype=torch.float64)
    row, token = torch.from_numpy(places), torch.from_numpy(tokens)
    for first, piece in model.output_pieces():
        step = max(1, LOGITS // len(piece))
        for top in range(0, len(states), step):
            logits = states[top : top + step] @ piece.T
            some = total[top : top + step]
            torch.logaddexp(some, torch.logsumexp(logits, -1).double(), out=some)
            here = (token >= first) & (token < first + len(piece)) & (row >= top) & (row < top + step)
            chosen[here] = logits[row[here] - top, token[here] - first].double()
    return np.asarray((chosen - total[row]).numpy())


def logits_of(model: Any, states: Tensor) -> Tensor:
    """float32 (or float64) logits of hidden states (n, hidden), as the stock model makes them."""
    return capped(model, model.get_output_embeddings()(states))


def capped(model: Any, logits: Tensor) -> Tensor:
    """What the output matrix gives, as wide as `logits_of` says, and as Gemma 2 caps it."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    cap = softcap(model)
    made: Tensor = logits if cap is None else cap * torch.tanh(logits / cap)
    return made
