"""Ask a model many questions: texts, greedy or drawn, and log-probabilities of given answers.

What requests have in common is read once, and rows that end make room for others. Answers come as they are finished,
each with the index of its request, in no promised order; neither batching nor order changes one, up to float rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import torch

from flantune.errors import ModelError, shorten
from flantune.inference.mapped import MappedDecoder
from flantune.inference.memory import Budget, automatic_budget, keep_freed_memory, tokens_that_fit
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest
from flantune.inference.scoring import score_in_tree
from flantune.inference.stops import StopStrings, cut_at
from flantune.types import Tokens

if TYPE_CHECKING:
    from flantune.inference.writers import Writer
    from flantune.tokens.tokenizer import Tokenizer

T = TypeVar("T")
_TEXTS = 32  # tokenised at once: what the tokenizer makes on the way is some hundred bytes a token
_SEAM = 64  # characters: no token is as long
FamilyName = Literal["encoder-decoder", "causal", "prefix"]


class Engine:
    """A model and its tokenizer, asked as the model was taught.

    `prompt_eos`: the prompt ends in EOS and the answer starts after it, as in training (spec 4.1, 4.2). Encoder-decoder
    models always; causal models unless they were never tuned that way, then False: the answer continues the text.

    `prompt_bos`: a token before every prompt of a decoder, where it was trained with one.

    A prompt longer than `max_inputs` tokens is cut and the answer marked `truncated`: with EOS from the right, EOS
    kept, as in training (spec 3.6); without, from the left, since a continued text must keep its end. Dropping
    exemplars first is the caller's business: ask `fits`.

    `trained_inputs`: tokens the prompts of training had at most; what the configuration says (`n_positions`) where it
    is not given. T5's relative positions go on beyond it; the first longer prompt is told of in a warning.

    `guesses`: of texts that repeat themselves several tokens are read in a step (`drafts.py`); the texts are the same.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        family: FamilyName,
        max_inputs: int,
        batch_tokens: int | None = None,
        *,
        prompt_eos: bool = True,
        precision: Literal["fp32", "bf16"] = "fp32",
        trained_inputs: int | None = None,
        guesses: bool = True,
        prompt_bos: int | None = None,
    ) -> None:
        if family not in get_args(FamilyName):
            raise ValueError(f"family: expected one of {', '.join(get_args(FamilyName))}, got {family!r}")
        if max_inputs < 2 or (batch_tokens is not None and batch_tokens < 1):
            raise ValueError(
                f"max_inputs ({max_inputs}) must be at least 2 and batch_tokens ({batch_tokens}) at least 1"
            )
        if family == "encoder-decoder":
            from flantune.models.attention import is_prepared, prepare

            if not is_prepared(model):
                prepare(model)
        if model.device.type == "cpu":
            keep_freed_memory()
        self.model, self.tokenizer, self.family = model, tokenizer, family
        self.max_inputs = max_inputs
        self.batch_tokens = batch_tokens
        self.prompt_eos = prompt_eos or family == "encoder-decoder"
        self.prompt_bos = prompt_bos
        self.precision, self.guesses = precision, guesses
        self.trained_inputs = trained_inputs or getattr(model.config, "n_positions", None)
        self._told_of_length = False
        self.vocab_size = tokenizer.vocab_size
        self.eos_ids = _eos_ids(model, tokenizer)

    @property
    def batch_tokens(self) -> int | None:
        """Tokens read at once, as asked for; None: as many as pay and fit into memory."""
        return self._batch_tokens

    @batch_tokens.setter
    def batch_tokens(self, value: int | None) -> None:
        self._batch_tokens = value
        self._budget: Budget | None = None

    @property
    def budget(self) -> Budget:
        """What is read and written at once by now. Smaller than asked for where memory ran out."""
        if self._budget is None:
            self._budget = automatic_budget(self.model, self._batch_tokens)
        return self._budget

    def whole_model(self) -> Any:
        """transformers' own, with every weight: what writes. One that was scored off its files is loaded now."""
        if isinstance(self.model, MappedDecoder):
            self.model = self.model.whole()
        return self.model

    def num_tokens(self, prompt: str) -> int:
        """Tokens the prompt takes, BOS and EOS included where they are added."""
        return len(self.tokenizer.encode_batch([prompt])[0]) + self.prompt_eos + (self.prompt_bos is not None)

    def fits(self, prompt: str) -> bool:
        return self.num_tokens(prompt) <= self.max_inputs

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated]:
        """Texts, as they are finished. A text ends at EOS, before its first stop string, or after its
        `max_new_tokens`."""
        prompts, cut = self._encode_prompts(requests)
        for index, told in self._write(requests, prompts):
            texts = tuple(self._text(tokens, requests[index].stop) for tokens in told)
            new = sum(map(len, told))
            yield Generated(index, texts, cut[index], prompt_tokens=len(prompts[index]), new_tokens=new)

    def generate_tokens(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, list[list[int]]]]:
        """As `generate`: the index of a request and the tokens of each sample, EOS and a stop string included."""
        return self._write(requests, self._encode_prompts(requests)[0])

    def _write(
        self, requests: Sequence[GenerateRequest], prompts: Sequence[Tokens]
    ) -> Iterator[tuple[int, list[list[int]]]]:
        if not requests:
            return
        self._tell_of_positions(max(len(p) + r.max_new_tokens for p, r in zip(prompts, requests, strict=True)))
        # Not above: what is loaded here, scores of a decoder can do without, and transformers is most of it.
        from flantune.inference.weights import lay_out_for_few_rows
        from flantune.inference.writing import Ending, Writing

        self.whole_model().eval()
        lay_out_for_few_rows(self.model)
        ending = Ending(self.eos_ids, StopStrings(self.tokenizer), self.vocab_size)
        held = self.batch_tokens or tokens_that_fit(self.model)
        make, device = partial(self._writer, prompts), self.model.device
        writing = Writing(make, requests, ending, self.budget, held, device, guesses=self.guesses)
        yield from self._with_precision(writing.run())

    def _writer(self, prompts: Sequence[Tokens], counts: Sequence[int]) -> Writer:
        from flantune.inference.stock import StockWriter, is_t5s
        from flantune.inference.writers import CausalWriter, EncodedWriter

        if self.family == "encoder-decoder":
            return (EncodedWriter if is_t5s(self.model) else StockWriter)(self.model, prompts, counts)
        return CausalWriter(self.model, prompts, counts, self.budget, both_ways=self.family == "prefix")

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored]:
        """Log-probability of every option after its prompt; what prompts have in common is read once."""
        prompts, options, cut = self._encode_options(requests)
        self.model.eval()
        scored = self._with_precision(self._scores(prompts, options))
        for index, values in scored:
            yield Scored(index, values, cut[index], prompt_tokens=len(prompts[index]))

    def _scores(self, prompts: list[Tokens], options: list[list[Tokens]]) -> Iterator[tuple[int, tuple[float, ...]]]:
        if self.family == "encoder-decoder":
            from flantune.inference.encoded import score_encoded
            from flantune.inference.stock import is_t5s, score_stock

            if not is_t5s(self.model):
                return score_stock(self.model, prompts, options)
            return score_encoded(self.model, prompts, options, self.budget)
        return score_in_tree(self.model, prompts, options, self.budget, both_ways=self.family == "prefix")

    def _with_precision(self, answers: Iterator[T]) -> Iterator[T]:
        """Each step of `answers` in the engine's precision, without gradients; around a yield both would leak into the
        caller."""
        while True:
            with torch.inference_mode(), self._autocast():
                answer = next(answers, None)
            if answer is None:
                return
            yield answer

    def _autocast(self) -> Any:
        return torch.autocast(self.model.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _text(self, tokens: list[int], stop: Sequence[str]) -> str:
        end = next((i for i, token in enumerate(tokens) if token in self.eos_ids), len(tokens))
        return cut_at(self.tokenizer.decode(tokens[:end]), stop)

    def _encode_texts(self, texts: Sequence[str], special: Sequence[bool]) -> list[Tokens]:
        """Ids of each text; where `special`, control tokens spelled in it are read as tokens."""
        found: list[Tokens] = [np.zeros(0, dtype=np.int32)] * len(texts)
        for kind in (False, True):
            chosen = [i for i, s in enumerate(special) if s is kind]
            for start in range(0, len(chosen), _TEXTS):
                few = chosen[start : start + _TEXTS]
                encoded = self.tokenizer.encode_batch([texts[i] for i in few], parse_special=kind)
                for i, tokens in zip(few, encoded, strict=True):
                    found[i] = tokens
        return found

    def _encode_prompts(self, requests: Sequence[GenerateRequest | ScoreRequest]) -> tuple[list[Tokens], list[bool]]:
        encoded = self._encode_texts([r.prompt for r in requests], [r.special for r in requests])
        pairs = [self._fit(tokens) for tokens in encoded]
        for request, (tokens, _) in zip(requests, pairs, strict=True):
            if len(tokens) == 0:
                raise ModelError(
                    f"the prompt {shorten(request.prompt)} has no tokens, so a model without EOS has nothing to read."
                )
        self._tell_of_length(max((len(tokens) for tokens, _ in pairs), default=0))
        return [tokens for tokens, _ in pairs], [was_cut for _, was_cut in pairs]

    def _tell_of_length(self, longest: int) -> None:
        known = self.trained_inputs
        if self._told_of_length or self.family != "encoder-decoder" or known is None or longest <= known:
            return
        self._told_of_length = True
        warnings.warn(
            f"prompts of up to {longest} tokens, more than the {known} this encoder was trained with: its relative "
            "positions go on, nothing is cut, but how well it reads so far is not known.",
            stacklevel=2,
        )

    def _tell_of_positions(self, longest: int) -> None:
        known = getattr(self.model.config, "max_position_embeddings", None)
        if self._told_of_length or self.family == "encoder-decoder" or known is None or longest <= known:
            return
        self._told_of_length = True
        warnings.warn(
            f"prompts and answers of up to {longest} tokens together, more than the {known} positions of this decoder: "
            "nothing is cut for it, but how well it writes so far is not known.",
            stacklevel=2,
        )

    def _fit(self, tokens: Tokens) -> tuple[Tokens, bool]:
        bos = self.prompt_bos
        if not self.prompt_eos and bos is not None and len(tokens) > 0:
            own = tokens[1:] if tokens[0] == bos else tokens  # a chat template may have spelled it
            kept = own[-(self.max_inputs - 1) :]
            return np.concatenate([[bos], kept]).astype(np.int32), len(kept) < len(own)
        if not self.prompt_eos:
            return tokens[-self.max_inputs :], len(tokens) > self.max_inputs
        kept = tokens[: self.max_inputs - 1]
        return np.append(kept, self.tokenizer.eos_id).astype(np.int32), len(kept) < len(tokens)

    def _encode_options(self, requests: Sequence[ScoreRequest]) -> tuple[list[Tokens], list[list[Tokens]], list[bool]]:
        if self.prompt_eos:
            # After EOS an answer starts as every target does: without the blank that would part it from a text.
            flat = [option.lstrip(" ") for request in requests for option in request.options]
            encoded = iter(self.tokenizer.encode_batch(flat))
            prompts, cut = self._encode_prompts(requests)
            grouped = [[next(encoded) for _ in request.options] for request in requests]
        else:
            prompts, grouped, cut = [], [], []
            alone = self._encode_texts([r.prompt for r in requests], [r.special for r in requests])
            for own, (seam, behind) in zip(alone, self._encode_behind(requests, alone), strict=True):
                if seam == 0:
                    raise ModelError("a prompt without tokens of its own: a model without EOS has nothing to read.")
                prompt, was_cut = self._fit(own[:seam])
                prompts.append(prompt)
                grouped.append(behind)
                cut.append(was_cut)
        for request, given in zip(requests, grouped, strict=True):
            if any(len(option) == 0 for option in given):
                raise ModelError(f"an option of {shorten(request.options)} has no tokens, so it cannot be scored.")
        return prompts, grouped, cut

    def _encode_behind(
        self, requests: Sequence[ScoreRequest], alone: Sequence[Tokens]
    ) -> Iterator[tuple[int, list[Tokens]]]:
        """How many of each prompt's own tokens stay, and the options' tokens behind them. Prompt and option are
        tokenised as one text, as the model would meet them. Tokens may span the seam: the options are then scored from
        where their tokenisations part from the prompt's."""
        for start in range(0, len(requests), _TEXTS // 4):
            few = requests[start : start + _TEXTS // 4]
            firsts = [_last_lines(request.prompt) for request in few]
            texts = [r.prompt[f:] + o for r, f in zip(few, firsts, strict=True) for o in ("", *r.options)]
            special = [r.special for r in few for _ in ("", *r.options)]
            encoded = iter(self._encode_texts(texts, special))
            for request, first, own in zip(few, firsts, alone[start:], strict=False):
                lines, *wholes = (next(encoded) for _ in ("", *request.options))
                head = len(own) - len(lines)
                seam = min(_common_prefix(lines, whole) for whole in wholes)
                if first and (seam == 0 or head < 1 or not np.array_equal(own[head:], lines)):
                    # This tokenizer reads the last lines differently behind the others: all of it once more.
                    head, texts = 0, [request.prompt + option for option in request.options]
                    wholes = self._encode_texts(texts, [request.special] * len(texts))
                    seam = min(_common_prefix(own, whole) for whole in wholes)
                yield head + seam, [whole[seam:].copy() for whole in wholes]  # no views, which would keep the whole


def _last_lines(prompt: str) -> int:
    """Where the last lines of a long prompt begin, so far before its end that no token reaches from there to an option;
    0: nowhere but at its start. Tokenising a few-shot prompt again for each option would take a tenth of all the
    time."""
    return prompt.rfind("\n", 0, max(0, len(prompt) - _SEAM)) + 1


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
