"""A Prompt as chat messages, and as one text by a tokenizer's chat template.

Exemplars become earlier turns of the dialogue ("dialogue") or stand with the query in one user turn ("single"). The
instruction goes to the first user turn: not every chat template knows a system turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from flantune.types import Prompt, Segment

Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": text}


def to_messages(
    prompt: Prompt, layout: Literal["dialogue", "single"] = "dialogue", with_target: bool = False
) -> list[Message]:
    """The prompt's turns, the last of them the user's, or the assistant's with `with_target`.

    A prompt made from a recorded conversation (metadata "messages") keeps that conversation's own turns.
    """
    if "messages" in prompt.metadata:
        messages = [{"role": m["role"], "content": m["content"]} for m in json.loads(prompt.metadata["messages"])]
    elif layout == "single" or not prompt.exemplars:
        messages = [{"role": "user", "content": prompt.inputs.strip()}]
    else:
        messages = _dialogue(prompt)
    if with_target:
        messages.append({"role": "assistant", "content": prompt.target})
    return messages


def _dialogue(prompt: Prompt) -> list[Message]:
    head = "".join(s.text for s in prompt.segments[: _first_exemplar(prompt)])
    query = "".join(
        s.text
        for s in prompt.segments[_first_exemplar(prompt) :]
        if s.exemplar is None and s.role not in ("rationale", "target")
    )
    messages: list[Message] = []
    for number in range(len(prompt.exemplars)):
        asked, answered, _ = (s.text for s in prompt.segments if s.exemplar == number)
        messages.append({"role": "user", "content": asked.strip()})
        messages.append({"role": "assistant", "content": answered})
    messages.append({"role": "user", "content": query.strip()})
    if head.strip():
        messages[0]["content"] = f"{head.strip()}\n\n{messages[0]['content']}"
    return messages


def _first_exemplar(prompt: Prompt) -> int:
    return next(i for i, s in enumerate(prompt.segments) if s.exemplar is not None)


def chat_prompt(prompt: Prompt, apply_template: Callable[[list[Message]], str]) -> Prompt:
    """The prompt with its input worded by a chat template, for a tokenizer that has one.

    `apply_template` turns messages that end with the user's turn into text that ends where the assistant speaks, e.g.
    `lambda m: hf.apply_chat_template(m, tokenize=False, add_generation_prompt=True)`. Prune exemplars before: in the
    result they are part of the one query segment.
    """
    text = apply_template(to_messages(prompt))
    target = tuple(s for s in prompt.segments if s.role in ("rationale", "target"))
    return replace(prompt, segments=(Segment("query", text), *target))
