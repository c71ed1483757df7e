from __future__ import annotations

import json

import pytest

TURNS = [
    ("system", "Be brief."),
    ("user", "One?"),
    ("assistant", "1"),
    ("user", "Two?"),
    ("assistant", "2"),
    ("assistant", "2, I said"),
    ("user", "Three?"),
]
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def messages(turns: list[tuple[str, object]]) -> str:
    return json.dumps({"id": "c1", "messages": [{"role": r, "content": t} for r, t in turns]})


def sharegpt(turns: list[tuple[str, object]]) -> str:
    return json.dumps({"id": "c1", "conversations": [{"from": SHAREGPT[str(r)], "value": t} for r, t in turns]})


@pytest.mark.parametrize("layout", [messages, sharegpt])
def test_every_answered_user_turn_is_an_example(read, layout):
    got = read("talk.jsonl", layout(TURNS))
    assert [(e.id, e.fields["question"], e.targets) for e in got.examples] == [
        ("c1-2", "One?", ("1",)),
        ("c1-4", "Two?", ("2",)),
    ]
    assert got.examples[1].fields["context"] == "System: Be brief.\nUser: One?\nAssistant: 1"


def test_messages_are_the_turns_up_to_the_question_and_never_the_answer(read):
    for example in read("talk.jsonl", messages(TURNS)).examples:
        turns = json.loads(example.fields["messages"])
        assert turns == [{"role": r, "content": t} for r, t in TURNS[: len(turns)]]
        assert turns[-1] == {"role": "user", "content": example.fields["question"]}


def test_text_parts_are_joined_and_other_parts_refused(read):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    image = [{"type": "image_url", "image_url": {}}]
    got = read("talk.jsonl", "\n".join(messages([("user", p), ("assistant", "x")]) for p in (parts, image)))
    assert [e.fields["question"] for e in got.examples] == ["a\nb"]
    assert got.rejects.malformed.total() == 1


@pytest.mark.parametrize(
    "turns",
    [
        [("assistant", "hello")],
        [("user", "hello")],
        [("user", ""), ("assistant", "x")],
        [("user", "x"), ("assistant", None)],
        [("user", "x"), ("narrator", "y")],
    ],
)
def test_a_conversation_that_answers_nothing_is_set_aside(read, turns):
    got = read("talk.jsonl", messages(TURNS) + "\n" + messages(turns))
    assert got.rejects.malformed.total() == 1
