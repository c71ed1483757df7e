"""Small tasks, examples and templates to render, built anew by each test that names them."""

from __future__ import annotations

import random

from flantune.formats.options import OptionStyle
from flantune.types import Example, FewShotLayout, Task, Template

YES_NO = ("yes", "no")
CLAIMS = Task(name="x/claims", mixture="x", dataset="claims", category="nli", templates="generic",
              fields=("context", "claim"), has_options=True)  # fmt: skip
FERRY = Example(task="x/claims", row=0, id="0", options=YES_NO, targets=("yes",),
                fields={"context": "The ferry left at nine.", "claim": "The ferry left before noon."})  # fmt: skip
KILN = Example(task="x/claims", row=1, id="1", options=YES_NO, targets=("no",),
               fields={"context": "The kiln was cold.", "claim": "The kiln was lit."})  # fmt: skip
BOATS = Example(task="x/claims", row=2, id="2", options=YES_NO, targets=("yes",),
                fields={"context": "Ada owns two boats.", "claim": "Ada owns a boat."})  # fmt: skip
FOLLOWS = Template(
    name="follows/direct/0",
    kind="direct",
    inputs="{context}\n\nDoes this follow: {claim}\n\n{options_}",
    targets="{answer}",
    few_shot=FewShotLayout(
        inputs="{context}\nClaim: {claim}\n{options_}",
        targets="{answer}",
        inputs_prefix="Q: ",
        targets_prefix="A: ",
    ),
)
CRATES = Task(name="x/crates", mixture="cot", dataset="crates", category="cot", templates="cot_gsm8k",
              fields=("question",), has_rationale=True)  # fmt: skip
CRATE = Example(task="x/crates", row=0, id="0", targets=("24",), rationale="Each crate has 6 jars, and 4 * 6 = 24.",
                fields={"question": "A crate holds 6 jars. How many jars are in 4 crates?"})  # fmt: skip


class Loaded(random.Random):
    """A generator that draws the option style and the separator a test wants."""

    def __new__(cls, style: OptionStyle | None = None, separator: str = "\n\n") -> Loaded:
        return super().__new__(cls)

    def __init__(self, style: OptionStyle | None = None, separator: str = "\n\n") -> None:
        super().__init__(0)
        self._wanted = ([style.head, style.marks, style.end] if style else []) + [separator]

    def choice(self, seq):  # type: ignore[no-untyped-def]
        wanted = self._wanted.pop(0)
        assert wanted in seq
        return wanted
