"""Encoder-decoders that are not of T5's make (T5Gemma), asked through their own modules and transformers' own caches.

A prompt is encoded once for all its options and samples, a row is a decoder call of its own: right, and slow. What
`encoded.py` and `writers.py` save on T5 is not saved here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from flantune.inference.logits import Given, Logits
from flantune.inference.scoring import Totals
from flantune.models.encdec import start_id
from flantune.types import Tokens


def is_t5s(model: Any) -> bool:
    """Whether the decoder is built of T5's blocks, which the fast ways know."""
    return hasattr(model.get_decoder(), "block")


def score_stock(
    model: Any, prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]]
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Index and sums of every request."""
    totals = Totals(options)
    start = start_id(model)
    for number, (prompt, given) in enumerate(zip(prompts, options, strict=True)):
        states = _encoded(model, prompt)
        values = []
        for option in given:
            told = torch.tensor([[start, *option[:-1].tolist()]], device=model.device)
            logits = model(encoder_outputs=states, decoder_input_ids=told, use_cache=False).logits[0]
            scores = torch.log_softmax(_wide(logits), -1)
            ids = torch.from_numpy(option.astype(np.int64)).to(model.device)
            values += scores.gather(1, ids[:, None])[:, 0].double().tolist()
        first = int(totals.first[number])
        owners = np.repeat(np.arange(first, first + len(given)), [len(option) for option in given])
        yield from totals.add(owners, np.array(values))


class StockWriter:
    """A `Writer`: every row has its prompt's encoder states and a cache of transformers' own."""

    splits = False

    def __init__(self, model: Any, prompts: Sequence[Tokens], rows: Sequence[int]) -> None:
        self.model, self.prompts = model, prompts
        self._start = start_id(model)
        self._states: dict[int, BaseModelOutput] = {}
        self._left = Counter(dict(enumerate(rows)))
        self._rows: list[tuple[int, Any]] = []  # prompt and cache

    def order(self) -> list[int]:
        return sorted(range(len(self.prompts)), key=lambda i: (-len(self.prompts[i]), i))

    def tokens_to_read(self, prompts: Sequence[int]) -> int:
        return sum(len(self.prompts[p]) for p in set(prompts) if p not in self._states)

    def tokens_held(self, prompt: int) -> int:
        return len(self.prompts[prompt])  # every row projects them for itself

    def add(self, prompts: Sequence[int]) -> None:
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._states:
                self._states[prompt] = _encoded(self.model, self.prompts[prompt])
        self._rows += [(prompt, None) for prompt in prompts]

    def step(self, tokens: Sequence[int | None]) -> Logits:
        made = []
        for row, token in enumerate(tokens):
            prompt, cache = self._rows[row]
            told = torch.tensor([[self._start if token is None else token]], device=self.model.device)
            out = self.model(
                encoder_outputs=self._states[prompt], decoder_input_ids=told, past_key_values=cache, use_cache=True
            )
            self._rows[row] = (prompt, out.past_key_values)
            made.append(_wide(out.logits[0, -1]))
        return Given(torch.stack(made))

    def drop(self, row: int) -> None:
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def finish(self, prompt: int) -> None:
        self._left[prompt] -= 1
        if self._left[prompt] == 0:
            self._states.pop(prompt, None)


def _encoded(model: Any, prompt: Tokens) -> BaseModelOutput:
    ids = torch.from_numpy(prompt.astype(np.int64)).to(model.device)[None]
    # The mask is stated: T5Gemma would make one out of the padding id, which a prompt may hold.
    states = model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return BaseModelOutput(last_hidden_state=states)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
