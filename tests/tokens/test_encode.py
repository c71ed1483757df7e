from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import ModelError
from flantune.recipe import FORMATS
from flantune.tokens.encode import encode_prompts, format_name
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer
from flantune.types import Format, Prompt, Segment

SEPARATOR = "\n\n"


def prompt(
    query: str, target: str, exemplars: tuple[str, ...] = (), index: int = 0, format: Format | None = None
) -> Prompt:
    segments = [Segment("instruction", "Answer. ")]
    for j, text in enumerate(exemplars):  # as formats.render lays them out: asked, answered, separator
        half = len(text) // 2
        segments += [Segment("exemplar", t, exemplar=j) for t in (text[:half], text[half:], SEPARATOR)]
    segments += [Segment("query", query), Segment("rationale", ""), Segment("target", target)]
    return Prompt(
        segments=tuple(segments),
        task="t",
        row=0,
        template="t/0",
        format=format or Format(),
        exemplars=tuple(range(len(exemplars))),
        mixture="m",
        index=index,
    )


def digits(count: int) -> str:
    """Exactly `count` tokens: the tokenizer splits digits."""
    return "7" * count


ROOM = {"inputs_len": 60, "targets_len": 20, "few_shot_margin": 10}


def test_both_sides_end_in_eos_and_say_where_they_come_from(tokenizer: Tokenizer) -> None:
    (got,) = encode_prompts([prompt("Where is 北京?", "中国", index=41)], tokenizer, **ROOM).examples
    assert got.inputs.dtype == got.targets.dtype == np.int32
    assert got.inputs[-1] == got.targets[-1] == tokenizer.eos_id
    assert tokenizer.decode(got.inputs[:-1]) == "Answer. Where is 北京?"
    assert tokenizer.decode(got.targets[:-1]) == "中国"
    assert (got.index, got.task, got.template, got.mixture) == (41, "t", "t/0", "m")
    assert (got.inputs_cut, got.targets_cut, got.exemplars_cut) == (0, 0, 0)


@settings(deadline=None)
@given(extra=st.integers(-3, 5), more=st.integers(-3, 5))
def test_a_side_is_cut_to_its_length_less_one_and_the_cut_is_counted(
    tokenizer: Tokenizer, extra: int, more: int
) -> None:
    instruction = len(tokenizer.encode("Answer. "))
    asked = prompt(digits(59 - instruction + extra), digits(19 + more))
    (got,) = encode_prompts([asked], tokenizer, **ROOM).examples
    assert len(got.inputs) == 60 + min(extra, 0) and len(got.targets) == 20 + min(more, 0)
    assert (got.inputs_cut, got.targets_cut) == (max(extra, 0), max(more, 0))
    assert got.inputs.tolist()[:-1] == tokenizer.encode(asked.inputs).tolist()[:59]  # what goes is the end
    assert got.inputs[-1] == tokenizer.eos_id


def test_an_empty_target_is_legal_and_counted(tokenizer: Tokenizer) -> None:
    batch = encode_prompts([prompt("a", ""), prompt("a", "b")], tokenizer, **ROOM)
    assert batch.examples[0].targets.tolist() == [tokenizer.eos_id]
    assert batch.empty_targets == 1


def spec_cases(spec_dir: Path) -> list[dict[str, object]]:
    cases: list[dict[str, object]] = json.loads((spec_dir / "test_vectors.json").read_text())[
        "few_shot_length_pruning"
    ]["cases"]
    return cases


@pytest.mark.parametrize("case", range(3))
def test_pruning_is_the_specs(tokenizer: Tokenizer, spec_dir: Path, case: int) -> None:
    vector = spec_cases(spec_dir)[case]
    instruction = len(tokenizer.encode("Answer. "))
    query, exemplars = vector["query_tokens"], vector["exemplar_tokens"]
    assert isinstance(query, int) and isinstance(exemplars, list)
    asked = prompt(digits(query - instruction), "1", tuple(digits(n) for n in exemplars), index=5)
    batch = encode_prompts([asked], tokenizer, inputs_len=2048, targets_len=512, few_shot_margin=128)
    if not vector["kept"]:
        assert batch.examples == () and [i for i, _ in batch.dropped] == [5]
        return
    (got,) = batch.examples
    kept = len(vector["kept"])  # type: ignore[arg-type]
    separators = kept * len(tokenizer.encode(SEPARATOR))  # not counted by the rule, paid from the margin
    assert len(got.inputs) == query + sum(exemplars[:kept]) + separators + 1
    assert got.exemplars_cut == len(exemplars) - kept
    assert got.inputs_cut == 0


def test_after_the_first_overflow_a_short_exemplar_goes_too(tokenizer: Tokenizer) -> None:
    asked = prompt("q", "a", ("1 first. ", digits(60), "2"))
    (got,) = encode_prompts([asked], tokenizer, **ROOM).examples
    assert tokenizer.decode(got.inputs[:-1]) == "Answer. 1 first. \n\nq"
    assert got.exemplars_cut == 2


def test_a_zero_shot_prompt_is_cut_never_dropped(tokenizer: Tokenizer) -> None:
    batch = encode_prompts([prompt(digits(500), "a")], tokenizer, **ROOM)
    assert len(batch.examples) == 1 and batch.dropped == ()
    assert batch.examples[0].inputs_cut > 0


def test_drops_do_not_shift_their_neighbours(tokenizer: Tokenizer) -> None:
    prompts = [
        prompt("one", "1", index=10, format=FORMATS["zs_opt"]),
        prompt("two", "2", (digits(90),), index=11, format=FORMATS["fs_opt"]),
        prompt("three", "3", ("e. ",), index=12, format=FORMATS["fs_noopt"]),
    ]
    batch = encode_prompts(prompts, tokenizer, **ROOM)
    assert [e.index for e in batch.examples] == [10, 12]
    assert batch.formats == ("zs_opt", "fs_noopt")
    assert [i for i, _ in batch.dropped] == [11]
    alone = [encode_prompts([p], tokenizer, **ROOM).examples for p in prompts]
    together = [(e.inputs.tolist(), e.targets.tolist()) for e in batch.examples]
    assert together == [(e.inputs.tolist(), e.targets.tolist()) for one in alone for e in one]


CHAT = "{% for m in messages %}<pad>{{ m.role }}: {{ m.content }}</s>{% endfor %}<pad>assistant: "


def test_a_chat_format_is_worded_by_the_tokenizers_template(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    chat = load_tokenizer(tmp_path)
    chat.hf.chat_template = CHAT
    talk = prompt("Where?", "There", ("Who?Mine", digits(60)), format=Format(shots=2, chat=True))
    plain = prompt("Where?", "There")
    chatted, unchanged = encode_prompts([talk, plain], chat, **ROOM).examples
    asked = chat.decode(chatted.inputs[:-1], skip_special=False)
    assert asked == ("<pad>user: Answer.\n\nWho?</s><pad>assistant: Mine</s><pad>user: Where?</s><pad>assistant:")
    assert chatted.inputs.tolist().count(chat.eos_id) == 4  # the turns' own are control tokens, not letters
    assert chatted.exemplars_cut == 1 and chat.decode(chatted.targets[:-1]) == "There"
    assert unchanged.inputs.tolist() == encode_prompts([plain], tokenizer, **ROOM).examples[0].inputs.tolist()


def test_a_chat_format_without_a_chat_template_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="none"):
        encode_prompts([prompt("a", "b", format=Format(chat=True))], tokenizer, **ROOM)


def test_a_chat_template_that_refuses_is_an_error_of_ours(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    chat = load_tokenizer(tmp_path)
    chat.hf.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelError, match=r"task 't' row 0: .*roles must alternate"):
        encode_prompts([prompt("a", "b", format=Format(chat=True))], chat, **ROOM)


def test_formats_have_names() -> None:
    assert {name: format_name(f) for name, f in FORMATS.items()} == {name: name for name in FORMATS}
    assert format_name(Format()) == "default"
    assert format_name(Format(shots=2, demonstrations=True)) == "shots=2 demonstrations=True"
