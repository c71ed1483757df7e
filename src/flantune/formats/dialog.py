"""Printing a conversation before the turn to be predicted. Spec 2.8, 3.9.

dash     DIALOG:              marks    Convo:                 bullets    Dialog: + hi + hello +
         - hi                          Person A: hi;
         - hello                       Person B: hello;
         -                             Person A:

The strings are data of the recipe; `tests/formats/test_dialog.py` compares them with its table. Where the pattern ends
with the conversation, its last line is the next speaker's mark, so that the model speaks next.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from flantune.formats.delimiters import BULLETS, ENDS

TURNS_FIELD = "turns"  # one turn a line, oldest first; readers join a turn's own lines

# The recipe has the fifth and the sixth run together, where a comma is missing.
HEADS = (
    "",
    "DIALOG:",
    "Dialog:",
    "CONVERSATION:",
    "Conversation:",
    "Convo:",
    "Read the following conversation:",
    "A 2 person conversation:",
    "A 2 person dialog:",
    "A dialog between 2 people:",
    "See the 2 person dialog:",
    "Conversation transcript:",
    "Phone call:",
    "2-way dialog:",
)
HEADS_ZH = (
    "",
    "对话：",
    "【对话】",
    "会话：",
    "谈话内容：",
    "聊天记录：",
    "请阅读下面的对话：",
    "两个人的谈话：",
    "双人对话：",
    "两人之间的对话：",
    "请看这段双人对话：",
    "谈话记录：",
    "通话内容：",
    "双方对话：",
)
# What stands before the turns of the first and of the second speaker. [a]. is in the recipe's list twice.
_SPEAKERS = (
    ("\n  A. ", "\n  B. "), ("\nA. ", "\nB. "), ("\n[A]. ", "\n[B]. "), ("\n[1]. ", "\n[2]. "),
    ("\n[a]. ", "\n[b]. "), ("\n[a]. ", "\n[b]. "), ("\n(A) ", "\n(B) "), ("\n(1) ", "\n(2) "), ("\n[x]. ", "\n[y]. "),
    ("\nSpeaker 1: ", "\nSpeaker 2: "), ("\nSpeaker A: ", "\nSpeaker B: "), ("\nPerson 1: ", "\nPerson 2: "),
    ("\nPerson A: ", "\nPerson B: "), ("\nSpeaker 1) ", "\nSpeaker 2) "), ("\nSpeaker A) ", "\nSpeaker B) "),
    ("\nPerson 1) ", "\nPerson 2) "), ("\nPerson A) ", "\nPerson B) "), ("\nAnonymous 1) ", "\nAnonymous 2) "),
    ("\nAnonymous A) ", "\nAnonymous B) "), ("\n  Person 1) ", "\n  Person 2) "), ("\n Person A) ", "\n Person B) "),
    ("\n Anonymous 1) ", "\n Anonymous 2) "), ("\n  Anonymous A) ", "\n  Anonymous B) "),
    ("\nPerson X: ", "\nPerson Y: "), ("\nSpeaker X) ", "\nSpeaker Y) "), ("\nP1: ", "\nP2: "),
    ("\n P1) ", "\n P2) "),
)  # fmt: skip
MARKS: tuple[tuple[str, str], ...] = (*((b, b) for b in BULLETS), *_SPEAKERS)  # 50, of them 49 distinct


@dataclass(frozen=True, slots=True)
class DialogStyle:
    head: str
    marks: tuple[str, str]
    end: str


DASH_STYLE = DialogStyle("DIALOG:", ("\n- ", "\n- "), "")


def draw_dialog_style(rng: random.Random, language: str = "en") -> DialogStyle:
    """Head, marks and turn end, each uniform and independent."""
    return DialogStyle(rng.choice(HEADS_ZH if language == "zh" else HEADS), rng.choice(MARKS), rng.choice(ENDS))


def dash_style(language: str) -> DialogStyle:
    return DialogStyle("对话：", DASH_STYLE.marks, "") if language == "zh" else DASH_STYLE


def print_dialog(turns: Sequence[str], style: DialogStyle = DASH_STYLE, closing: bool = False) -> str:
    """The turns under their speakers' marks; `closing` adds the mark of the one who speaks next."""
    text = style.head + "".join(f"{style.marks[i % 2]}{turn}{style.end}" for i, turn in enumerate(turns))
    return text + (style.marks[len(turns) % 2] if closing else "")
