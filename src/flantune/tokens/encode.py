"""Prompts to token ids: exemplars pruned to the few-shot budget, both sides cut from the right and ended with EOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jinja2
import numpy as np

from flantune.errors import ModelError
from flantune.formats.chat import Message, chat_prompt
from flantune.formats.few_shot import kept_exemplars
from flantune.recipe import SETTINGS
from flantune.tokens.tokenizer import Tokenizer
from flantune.types import Encoded, Format, Prompt, Tokens

NO_EXEMPLAR_FITS = "few-shot prompt: no exemplar fits the input length"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """What became of a batch of prompts: encoded examples, and for each one dropped its stream index and why."""

    examples: tuple[Encoded, ...]
    dropped: tuple[tuple[int, str], ...] = ()
    formats: tuple[str, ...] = ()  # (n,) the format of each example, by name; empty where nothing was formatted

    @property
    def empty_targets(self) -> int:
        """Examples whose target is EOS alone. Legal (the answer is to say nothing), but worth a look."""
        return sum(len(e.targets) <= 1 for e in self.examples)


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, *, inputs_len: int, targets_len: int, few_shot_margin: int
) -> EncodedBatch:
    """Encode prompts in their order. Query and exemplars get `inputs_len - few_shot_margin` tokens (1920).

    A few-shot prompt of which no exemplar fits is dropped, as the recipe does, and said so. A prompt in a chat format
    is worded by the tokenizer's chat template; ModelError where it has none.
    """
    kept_prompts: list[Prompt] = []
    exemplars_cut: list[int] = []
    dropped: list[tuple[int, str]] = []
    for prompt, kept in zip(prompts, _exemplars_kept(prompts, tokenizer, inputs_len - few_shot_margin), strict=True):
        if kept == 0:
            dropped.append((prompt.index, NO_EXEMPLAR_FITS))
            continue
        count = _num_exemplars(prompt)
        kept_prompts.append(prompt if kept is None or kept == count else prompt.keep_exemplars(kept))
        exemplars_cut.append(0 if kept is None else count - kept)

    inputs = _encode_inputs(kept_prompts, tokenizer)
    targets = tokenizer.encode_batch([p.target for p in kept_prompts])
    examples = []
    for prompt, ids, answer, cut in zip(kept_prompts, inputs, targets, exemplars_cut, strict=True):
        examples.append(
            Encoded(
                inputs=end_with_eos(ids, inputs_len, tokenizer.eos_id),
                targets=end_with_eos(answer, targets_len, tokenizer.eos_id),
                index=prompt.index,
                task=prompt.task,
                template=prompt.template,
                mixture=prompt.mixture,
                inputs_cut=max(0, len(ids) - (inputs_len - 1)),
                targets_cut=max(0, len(answer) - (targets_len - 1)),
                exemplars_cut=cut,
            )
        )
    formats = tuple(format_name(p.format) for p in kept_prompts)
    return EncodedBatch(examples=tuple(examples), dropped=tuple(dropped), formats=formats)


def chat_text(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """The prompt's input as the tokenizer's chat template words it, up to where the assistant begins to speak."""
    if not tokenizer.has_chat_template:
        raise ModelError(
            f"task '{prompt.task}': a chat format needs a tokenizer with a chat template, and this one has none. Set "
            "model.tokenizer.path to a chat model's tokenizer, or leave 'chat' out of the formats."
        )

    def apply(messages: list[Message]) -> str:
        return str(tokenizer.hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    try:
        return chat_prompt(prompt, apply).inputs
    except jinja2.TemplateError as e:  # some templates refuse a system turn, or two user turns in a row
        raise ModelError(f"task '{prompt.task}' row {prompt.row}: the tokenizer's chat template refuses it: {e}") from e


def _encode_inputs(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[Tokens]:
    plain = iter(tokenizer.encode_batch([p.inputs for p in prompts if not p.format.chat]))
    chat = iter(tokenizer.encode_batch([chat_text(p, tokenizer) for p in prompts if p.format.chat], parse_special=True))
    return [next(chat) if p.format.chat else next(plain) for p in prompts]


def end_with_eos(ids: Tokens, length: int, eos_id: int) -> Tokens:
    """The first `length` - 1 ids and EOS, int32."""
    return np.append(ids[: length - 1], np.int32(eos_id)).astype(np.int32, copy=False)


def format_name(format: Format) -> str:
    """A setting's name ("zs_opt"), else what differs from the defaults ("shots=2 inverted=True")."""
    for name, known in SETTINGS.items():
        if format == known:
            return name
    default = asdict(Format())
    changed = [f"{key}={value}" for key, value in asdict(format).items() if value != default[key]]
    return " ".join(changed) or "default"


def _num_exemplars(prompt: Prompt) -> int:
    return 1 + max((s.exemplar for s in prompt.segments if s.exemplar is not None), default=-1)


def _exemplars_kept(prompts: Sequence[Prompt], tokenizer: Tokenizer, budget: int) -> list[int | None]:
    """How many exemplars each prompt keeps; None where it has none to begin with.

    Counted as the recipe counts: what an exemplar asks and what it answers, each on its own and without EOS; the query
    with the instruction. Separators are paid from the margin.
    """
    pieces: list[str] = []
    counts: list[int] = []
    for prompt in prompts:
        counts.append(_num_exemplars(prompt))
        if counts[-1]:
            pieces.append(prompt.keep_exemplars(0).inputs)
            for j in range(counts[-1]):
                texts = [s.text for s in prompt.segments if s.exemplar == j]
                pieces += [texts[0], texts[1]]  # rendered as asked, answered, separator
    lengths = iter([len(ids) for ids in tokenizer.encode_batch(pieces)])
    kept: list[int | None] = []
    for count in counts:
        if not count:
            kept.append(None)
            continue
        query = next(lengths)
        kept.append(kept_exemplars(query, [next(lengths) + next(lengths) for _ in range(count)], budget))
    return kept
