from __future__ import annotations

import json
import random
from dataclasses import replace

from flantune.formats import chat_prompt, render, to_messages
from flantune.types import Example, Format, Task

from .nouns import BOATS, CLAIMS, FERRY, FOLLOWS, KILN

CHAT = Format(shots=2, options="none", chat=True)


def few_shot(**changes: object):  # type: ignore[no-untyped-def]
    format = replace(CHAT, **changes)  # type: ignore[arg-type]
    return render(CLAIMS, FERRY, FOLLOWS, format, [(KILN, FOLLOWS), (BOATS, FOLLOWS)], rng=random.Random(0))


def test_exemplars_are_turns_of_the_dialogue_each_asked_in_full_words():
    assert to_messages(few_shot()) == [
        {"role": "user", "content": "The kiln was cold.\n\nDoes this follow: The kiln was lit."},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "Ada owns two boats.\n\nDoes this follow: Ada owns a boat."},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "The ferry left at nine.\n\nDoes this follow: The ferry left before noon."},
    ]


def test_a_single_message_holds_exemplars_and_query_and_the_target_answers_it():
    user, assistant = to_messages(few_shot(), "single", with_target=True)
    assert user["content"].count("Does this follow") == 3 and user["role"] == "user"
    assert assistant == {"role": "assistant", "content": "yes"}


def test_turns_follow_pruning():
    assert len(to_messages(few_shot().keep_exemplars(1))) == 3
    assert len(to_messages(few_shot().keep_exemplars(0))) == 1


def test_an_instruction_opens_the_first_user_turn():
    template = replace(FOLLOWS, few_shot=replace(FOLLOWS.few_shot, instruction="Judge each claim."))
    format = replace(CHAT, chat=False)
    prompt = render(CLAIMS, FERRY, template, format, [(KILN, template), (BOATS, template)], rng=random.Random(0))
    assert to_messages(prompt)[0]["content"].startswith("Judge each claim.\n\nQ: The kiln was cold.")


def test_a_recorded_conversation_keeps_its_own_turns():
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Name a fruit."},
    ]
    task = Task(name="c", mixture="m", dataset="c", category="c", templates="chat",
                fields=("context", "question", "messages"))  # fmt: skip
    fields = {"context": "User: Hi\nAssistant: Hello.", "question": "Name a fruit.", "messages": json.dumps(turns)}
    example = Example(task="c", row=0, id="0", targets=("Pear.",), fields=fields)
    prompt = render(task, example, replace(FOLLOWS, inputs="{context}\nUser: {question}"),
                    Format(chat=True, options="none"), rng=random.Random(0))  # fmt: skip
    assert to_messages(prompt, with_target=True) == [*turns, {"role": "assistant", "content": "Pear."}]


def test_a_chat_template_words_the_input_and_leaves_the_target():
    def apply(messages: list[dict[str, str]]) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    prompt = chat_prompt(few_shot(), apply)
    assert prompt.inputs.startswith("<user>The kiln was cold.") and prompt.inputs.endswith("before noon.<assistant>")
    assert prompt.inputs.count("<user>") == 3 and prompt.target == "yes"
