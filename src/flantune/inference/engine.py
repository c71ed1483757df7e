"""Ask a model many questions: greedy generation, and log-probabilities of given answers.

Requests are sorted by length and batched by a budget of padded tokens; answers come back batch by batch, each with the
index of its request, in no promised order. Neither batching nor padding changes an answer (up to float rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from flantune.errors import ModelError, shorten
from flantune.inference.decoding import Causal, Decoding, EncoderDecoder, PrefixLM, pad_right
from flantune.types import Tokens

if TYPE_CHECKING:
    from flantune.tokens.tokenizer import Tokenizer

FamilyName = Literal["encoder-decoder", "causal", "prefix"]
_DECODING: dict[FamilyName, type[Decoding]] = {
    "encoder-decoder": EncoderDecoder,
    "causal": Causal,
    "prefix": PrefixLM,
}
STOP_EVERY = 8  # tokens between two looks for stop strings; looking later only costs time, the cut is the same


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    prompt: str
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()  # the text ends before the first of these


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    prompt: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Generated:
    index: int  # of the request
    text: str
    truncated: bool  # the prompt was cut to `max_inputs`


@dataclass(frozen=True, slots=True)
class Scored:
    index: int
    scores: tuple[float, ...]  # summed log-probabilities of the options, nats; no EOS counted, no length division
    truncated: bool


class Engine:
    """A model and its tokenizer, asked as the model was taught.

    `prompt_eos`: the prompt ends in EOS and the answer starts after it, as in training (spec 4.1, 4.2). Encoder-decoder
    models always; causal models unless they were never tuned that way, then False: the answer continues the text.

    A prompt longer than `max_inputs` tokens is cut and the answer marked `truncated`: with EOS from the right, EOS
    kept, as in training (spec 3.6); without, from the left, since a continued text must keep its end. Dropping
    exemplars first is the caller's business: ask `fits`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        family: FamilyName,
        max_inputs: int,
        batch_tokens: int = 16_384,
        *,
        prompt_eos: bool = True,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        if family not in _DECODING:
            raise ValueError(f"family: expected one of {', '.join(_DECODING)}, got {family!r}")
        if max_inputs < 2 or batch_tokens < 1:
            raise ValueError(
                f"max_inputs ({max_inputs}) must be at least 2 and batch_tokens ({batch_tokens}) at least 1"
            )
        self.model, self.tokenizer, self.family = model, tokenizer, family
        self.max_inputs, self.batch_tokens = max_inputs, batch_tokens
        self.prompt_eos = prompt_eos or family == "encoder-decoder"
        self.precision = precision
        self.vocab_size = tokenizer.vocab_size
        self.eos_ids = _eos_ids(model, tokenizer)

    def num_tokens(self, prompt: str) -> int:
        """Tokens the prompt takes, EOS included where one is added."""
        return len(self.tokenizer.encode_batch([prompt])[0]) + self.prompt_eos

    def fits(self, prompt: str) -> bool:
        return self.num_tokens(prompt) <= self.max_inputs

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated]:
        """Greedy decoding. A text ends at EOS, before its first stop string, or after its `max_new_tokens`."""
        prompts, cut = self._encode_prompts([r.prompt for r in requests])
        lengths = [len(p) for p in prompts]
        self.model.eval()
        for batch in plan_batches(
            lengths, [1] * len(requests), [r.max_new_tokens for r in requests], self.batch_tokens
        ):
            texts = self._generate_batch([prompts[i] for i in batch], [requests[i] for i in batch])
            for index, text in zip(batch, texts, strict=True):
                yield Generated(index, text, cut[index])

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored]:
        """Log-probability of every option after its prompt; the prompt is read once for all its options."""
        for request in requests:
            if not request.options:
                raise ValueError(f"a request without options cannot be scored: {shorten(request.prompt)}")
        prompts, options, cut = self._encode_options(requests)
        # One-token options are read off the prompt's own logits; longer ones need a row of the decoder each.
        rows = [len(o) if max(map(len, o)) > 1 else 1 for o in options]
        self.model.eval()
        for batch in plan_batches(
            [len(p) for p in prompts], rows, [max(map(len, o)) for o in options], self.batch_tokens
        ):
            scores = self._score_batch([prompts[i] for i in batch], [options[i] for i in batch])
            for index, values in zip(batch, scores, strict=True):
                yield Scored(index, values, cut[index])

    def _decoding(self) -> Decoding:
        return _DECODING[self.family](self.model)

    def _autocast(self) -> Any:
        return torch.autocast(self.model.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    # inference_mode wraps whole batches and no generator: around a yield it would leak into the caller.
    @torch.inference_mode()
    def _generate_batch(self, prompts: list[Tokens], requests: list[GenerateRequest]) -> list[str]:
        with self._autocast():
            decoding = self._decoding()
            logits = decoding.start(prompts)
            told: list[list[int]] = [[] for _ in prompts]
            alive = [row for row, r in enumerate(requests) if r.max_new_tokens > 0]
            rows = list(range(len(prompts)))  # which request each row of the model's batch belongs to
            for step in range(max(r.max_new_tokens for r in requests)):
                # Ids past the tokenizer's are padding of the embedding table and spell nothing.
                best = logits[:, : self.vocab_size].argmax(-1)
                for row, token in zip(rows, best.tolist(), strict=True):
                    if row in alive:
                        told[row].append(token)
                look = step % STOP_EVERY == STOP_EVERY - 1
                alive = [row for row in alive if not self._is_done(told[row], requests[row], look)]
                if not alive:
                    break
                if len(alive) <= len(rows) // 2:  # half are done: go on without them
                    keep = torch.tensor([rows.index(row) for row in alive], device=best.device)
                    decoding.select(keep)
                    best, rows = best[keep], list(alive)
                logits = decoding.advance(best[:, None])[:, -1]
        return [self._text(tokens, request.stop) for tokens, request in zip(told, requests, strict=True)]

    def _is_done(self, tokens: list[int], request: GenerateRequest, look: bool) -> bool:
        if len(tokens) >= request.max_new_tokens or tokens[-1] in self.eos_ids:
            return True
        if not (look and request.stop):
            return False
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in request.stop)

    def _text(self, tokens: list[int], stop: Sequence[str]) -> str:
        end = next((i for i, token in enumerate(tokens) if token in self.eos_ids), len(tokens))
        return cut_at(self.tokenizer.decode(tokens[:end]), stop)

    @torch.inference_mode()
    def _score_batch(self, prompts: list[Tokens], options: list[list[Tokens]]) -> list[tuple[float, ...]]:
        owner = [row for row, given in enumerate(options) for _ in given]
        flat = [option for given in options for option in given]
        with self._autocast():
            decoding = self._decoding()
            first = torch.log_softmax(decoding.start(prompts), dim=-1)
            ids, mask = pad_right(flat, first.device)
            rows = torch.tensor(owner, device=first.device)
            total = first[rows, ids[:, 0]].double()
            if ids.shape[1] > 1:
                decoding.select(rows)
                total = total + _following(decoding.advance(ids[:, :-1]), ids, mask)
        if not bool(torch.isfinite(total).all()):
            raise ModelError("the model gives log-probabilities that are no finite numbers; its weights are broken.")
        values = iter(total.tolist())
        return [tuple(next(values) for _ in given) for given in options]

    def _encode_prompts(self, prompts: Sequence[str]) -> tuple[list[Tokens], list[bool]]:
        encoded = self.tokenizer.encode_batch(list(prompts)) if prompts else []
        pairs = [self._fit(tokens) for tokens in encoded]
        for text, (tokens, _) in zip(prompts, pairs, strict=True):
            if len(tokens) == 0:
                raise ModelError(
                    f"the prompt {shorten(text)} has no tokens, so a model without EOS has nothing to read."
                )
        return [tokens for tokens, _ in pairs], [cut for _, cut in pairs]

    def _fit(self, tokens: Tokens) -> tuple[Tokens, bool]:
        if not self.prompt_eos:
            return tokens[-self.max_inputs :], len(tokens) > self.max_inputs
        kept = tokens[: self.max_inputs - 1]
        return np.append(kept, self.tokenizer.eos_id).astype(np.int32), len(kept) < len(tokens)

    def _encode_options(self, requests: Sequence[ScoreRequest]) -> tuple[list[Tokens], list[list[Tokens]], list[bool]]:
        flat = [(r, option) for r, request in enumerate(requests) for option in request.options]
        if self.prompt_eos:
            # After EOS an answer starts as every target does: without the blank that would part it from a text.
            encoded = self.tokenizer.encode_batch([option.lstrip(" ") for _, option in flat])
            prompts, cut = self._encode_prompts([r.prompt for r in requests])
            grouped = _group(len(requests), flat, encoded)
        else:
            # Prompt and option are tokenised as one text, as the model would meet them. Tokens may span the seam:
            # the options are then scored from where their tokenisations part from the prompt's.
            encoded = self.tokenizer.encode_batch([requests[r].prompt + option for r, option in flat])
            alone = self.tokenizer.encode_batch([r.prompt for r in requests])
            prompts, grouped, cut = [], [], []
            for own, wholes in zip(alone, _group(len(requests), flat, encoded), strict=True):
                seam = min(_common_prefix(own, whole) for whole in wholes)
                if seam == 0:
                    raise ModelError("a prompt without tokens of its own: a model without EOS has nothing to read.")
                prompt, was_cut = self._fit(own[:seam])
                prompts.append(prompt)
                cut.append(was_cut)
                grouped.append([whole[seam:] for whole in wholes])
        for request, given in zip(requests, grouped, strict=True):
            if any(len(option) == 0 for option in given):
                raise ModelError(f"an option of {shorten(request.options)} has no tokens, so it cannot be scored.")
        return prompts, grouped, cut


def plan_batches(
    lengths: Sequence[int], rows: Sequence[int], new_tokens: Sequence[int], budget: int
) -> list[list[int]]:
    """Indices of the requests in each batch: at most `budget` padded tokens, rows x (longest prompt + longest answer).

    A request too large for the budget goes alone. The longest come first: what will not fit in memory fails at once.
    """
    batches: list[list[int]] = []
    widest = total_rows = 0
    longest_new = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        width, new = max(widest, lengths[index]), max(longest_new, new_tokens[index])
        if batches and (total_rows + rows[index]) * (width + new) <= budget:
            batches[-1].append(index)
            widest, longest_new, total_rows = width, new, total_rows + rows[index]
        else:
            batches.append([index])
            widest, longest_new, total_rows = lengths[index], new_tokens[index], rows[index]
    return batches


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of any stop string."""
    places = [text.find(s) for s in stop if s]
    return text[: min((p for p in places if p >= 0), default=len(text))]


def _following(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Summed log-probability of every option's second and later tokens. float64, (rows,)."""
    scores = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (scores.double() * mask[:, 1:]).sum(-1)


def _group(count: int, flat: Sequence[tuple[int, str]], encoded: Sequence[Tokens]) -> list[list[Tokens]]:
    grouped: list[list[Tokens]] = [[] for _ in range(count)]
    for (request, _), tokens in zip(flat, encoded, strict=True):
        grouped[request].append(tokens)
    return grouped


def _common_prefix(a: Tokens, b: Tokens) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    # At least one token must be left to score, even where the option adds none of its own.
    return min(int(different[0]) if len(different) else n, len(b) - 1)


def _eos_ids(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokenizer's EOS and whatever else the model's own generation settings stop at (chat models name several)."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = stated if isinstance(stated, (list, tuple)) else [stated]
    return frozenset({tokenizer.eos_id, *(i for i in more if i is not None)})
