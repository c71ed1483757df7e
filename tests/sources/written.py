"""Valid files of every format, invented by hypothesis, each with what a reader must give back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

from flantune.sources.p3 import END

characters = st.characters(exclude_categories=("Cs",))
texts = st.text(characters, max_size=12)
filled = texts.filter(lambda t: bool(t.strip()))
trimmed = filled.map(str.strip).filter(bool)
plain = st.text("ab c,\"'\\{}<>é中🙂", min_size=1, max_size=10).filter(lambda t: bool(t.strip()))


class Row(NamedTuple):
    """An example without its task's name and its place."""

    fields: dict[str, str]
    targets: tuple[str, ...]
    options: tuple[str, ...] | None = None
    rationale: str | None = None


@dataclass(frozen=True)
class Written:
    name: str
    content: bytes
    rows: list[Row]
    reader: str
    columns: dict[str, str] = field(default_factory=dict)
    beside: dict[str, bytes] = field(default_factory=dict)


def answers(targets: list[str]) -> tuple[str, ...]:
    """Trimmed, none blank, none twice: said here the slow way."""
    kept: list[str] = []
    for target in targets:
        if target.strip() and target.strip() not in kept:
            kept.append(target.strip())
    return tuple(kept)


target_lists = st.lists(texts, min_size=1, max_size=4).filter(lambda ts: any(t.strip() for t in ts))
choices = st.lists(trimmed, min_size=2, max_size=4, unique=True)


def json_lines(records: list[Any], ascii_only: bool) -> bytes:
    return b"".join(json.dumps(r, ensure_ascii=ascii_only).encode() + b"\n" for r in records)


def json_file(records: list[Any], array: bool, ascii_only: bool) -> bytes:
    return json.dumps(records, ensure_ascii=ascii_only).encode() if array else json_lines(records, ascii_only)


Pairs = list[tuple[Any, Row]]


def lists_of(pair: st.SearchStrategy[tuple[Any, Row]]) -> st.SearchStrategy[Pairs]:
    return st.lists(pair, min_size=1, max_size=5)


def lined(reader: str, name: str, pair: st.SearchStrategy[tuple[Any, Row]], arrays: bool = False, **more: Any):  # type: ignore[no-untyped-def]
    """Files of JSON lines (or of one array, where the reader takes both) of such records."""

    def write(pairs: Pairs, array: bool, ascii_only: bool) -> Written:
        content = json_file([r for r, _ in pairs], array and arrays, ascii_only)
        return Written(name, content, [row for _, row in pairs], reader, **more)

    return st.builds(write, lists_of(pair), st.booleans(), st.booleans())


@st.composite
def native(draw: st.DrawFn) -> Written:
    pairs = []
    for _ in range(draw(st.integers(1, 4))):
        fields = {"passage": draw(texts), "question": draw(filled)}
        targets = draw(target_lists)
        record: dict[str, Any] = {"fields": fields, "targets": targets}
        options = rationale = None
        if draw(st.booleans()):
            options = tuple(dict.fromkeys([*answers(targets), *draw(choices)]))
            record["options"] = list(options)
        if draw(st.booleans()):
            record["rationale"] = draw(filled)
            rationale = record["rationale"].strip()
        pairs.append(
            (record, Row(fields, answers(targets), options if options and len(options) > 1 else None, rationale))
        )
    pairs = [p for p in pairs if p[1].options is not None or "options" not in p[0]] or [
        ({"fields": {"passage": "", "question": "q"}, "target": "a"}, Row({"passage": "", "question": "q"}, ("a",)))
    ]
    keys = {"name": "own/x", "dataset": "x", "category": "c", "fields": ["passage", "question"]}
    content = json_lines([r for r, _ in pairs], draw(st.booleans()))
    return Written(
        "x.task.yaml", yaml.safe_dump(keys).encode(), [r for _, r in pairs], "native", {}, {"x.jsonl": content}
    )


@st.composite
def niv2(draw: st.DrawFn) -> Written:
    rows = [(draw(filled), draw(target_lists)) for _ in range(draw(st.integers(1, 5)))]
    task = {
        "Source": [draw(plain)],
        "Categories": ["Question Answering"],
        "Definition": draw(st.sampled_from(["Answer.", ["Answer."]])),
        "Positive Examples": [{"input": "p", "output": "y", "explanation": "e"}],
        "Instances": [{"id": f"i{k}", "input": i, "output": o} for k, (i, o) in enumerate(rows)],
    }
    if draw(st.booleans()):
        task["Input_language"] = ["English"]
    content = json.dumps(task, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode()
    return Written("task7_x.json", content, [Row({"input": i}, answers(o)) for i, o in rows], "niv2")


# Cells of the chain-of-thought files: no tab, and of the two characters backslash and n only those that mean a break.
cot_cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\\\r\ufeff"), max_size=12).filter(
    lambda t: bool(t.strip())
)


@st.composite
def flan_cot(draw: st.DrawFn) -> Written:
    rows = [(draw(cot_cells), draw(cot_cells), draw(cot_cells)) for _ in range(draw(st.integers(1, 5)))]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    content = "".join("\t".join(c.replace("\n", "\\n") for c in row) + end for row in rows).encode()
    expected = [Row({"question": q.strip()}, (a.strip(),), None, r.strip()) for q, a, r in rows]
    return Written("gsm8k_train.tsv", content, expected, "flan_cot")


@st.composite
def qed_pair(draw: st.DrawFn) -> tuple[Any, Row]:
    title, passage, question, sentence = (draw(filled) for _ in range(4))
    found = draw(st.lists(filled, min_size=1, max_size=3))
    record = {
        "example_id": 3,
        "title_text": title,
        "question_text": question,
        "paragraph_text": passage,
        "original_nq_answers": [],
        "annotation": {
            "explanation_type": "single_sentence",
            "selected_sentence": {"string": sentence},
            "answer": [{"paragraph_reference": {"string": a}} for a in found],
            "referential_equalities": [],
        },
    }
    asked = f"Passage ({title}): {passage}\nQuestion: {question}"
    answer = " and ".join(answers(found))
    return record, Row({"question": asked}, (answer,), None, f"The passage says: {sentence.strip()}".strip())


p3_pairs = st.tuples(filled, filled).map(
    lambda t: ({"prompt": t[0] + "\n", "completion": t[1] + END}, Row({"prompt": t[0]}, (t[1].strip(),)))
)
nq_pairs = st.tuples(filled, target_lists).map(
    lambda t: ({"question": t[0], "answer": t[1]}, Row({"question": t[0]}, answers(t[1])))
)
boolq_pairs = st.tuples(filled, filled, st.booleans()).map(
    lambda t: (
        {"passage": t[0], "question": t[1], "label": t[2], "idx": 1},
        Row({"passage": t[0], "question": t[1]}, ("yes" if t[2] else "no",), ("yes", "no")),
    )
)
dart_pairs = st.tuples(
    st.lists(st.tuples(filled, filled, filled), min_size=1, max_size=3), st.lists(filled, min_size=1)
).map(
    lambda t: (
        {"tripleset": [list(x) for x in t[0]], "annotations": [{"source": "s", "text": x} for x in t[1]]},
        Row({"triples": "\n".join(" | ".join(x) for x in t[0])}, answers(t[1])),
    )
)


@st.composite
def choice_pair(draw: st.DrawFn) -> tuple[Any, Row]:
    options, query = draw(choices), draw(trimmed.filter(lambda t: not t.startswith("Question: ")))
    gold = draw(st.integers(0, len(options) - 1))
    asked = draw(st.sampled_from([query, f"Question: {query}\n"]))
    record = {"query": asked, "choices": options, "gold": gold}
    return record, Row({"goal": query}, (options[gold],), tuple(options))


def csv_text(rows: list[list[str]], delimiter: str, end: str) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return sink.getvalue().encode()


@st.composite
def cosmos(draw: st.DrawFn) -> Written:
    header = ["id", "context", "question", "answer0", "answer1", "answer2", "answer3", "label"]
    rows, expected = [], []
    for k in range(draw(st.integers(1, 4))):
        context, question = draw(filled), draw(filled)
        options = draw(st.lists(trimmed, min_size=4, max_size=4))
        label = draw(st.integers(0, 3))
        rows.append([str(k), context, question, *options, str(label)])
        expected.append(Row({"context": context, "question": question}, (options[label],), tuple(options)))
    content = csv_text([header, *rows], ",", draw(st.sampled_from(["\n", "\r\n"])))
    return Written("valid.csv", content, expected, "muffin")


@st.composite
def e2e(draw: st.DrawFn) -> Written:
    meanings = draw(st.lists(filled, min_size=1, max_size=3))
    rows = [(draw(st.sampled_from(meanings)), draw(filled)) for _ in range(draw(st.integers(1, 6)))]
    expected = [Row({"mr": m}, answers([r for mr, r in rows if mr == m])) for m in dict.fromkeys(m for m, _ in rows)]
    return Written("devset.csv", csv_text([["mr", "ref"], *map(list, rows)], ",", "\r\n"), expected, "muffin")


prompt_pairs = st.tuples(filled, filled).map(
    lambda t: ({"inputs": t[0], "targets": t[1]}, Row({"prompt": t[0]}, (t[1].strip(),)))
)
alpaca_pairs = st.tuples(filled, texts, filled).map(
    lambda t: (
        {"instruction": t[0], "input": t[1], "output": t[2]},
        Row({"instruction": t[0], "input": t[1].strip()}, (t[2].strip(),)),
    )
)


@st.composite
def chat(draw: st.DrawFn) -> Written:
    sharegpt, array = draw(st.booleans()), draw(st.booleans())
    records, expected = [], []
    for _ in range(draw(st.integers(1, 3))):
        turns = [("user" if k % 2 == 0 else "assistant", draw(filled)) for k in range(2 * draw(st.integers(1, 3)))]
        if sharegpt:
            records.append(
                {"conversations": [{"from": "human" if r == "user" else "gpt", "value": t} for r, t in turns]}
            )
        else:
            records.append({"messages": [{"role": r, "content": t} for r, t in turns]})
        for k in range(1, len(turns), 2):
            before = "\n".join(f"{'User' if r == 'user' else 'Assistant'}: {t.strip()}" for r, t in turns[: k - 1])
            expected.append(Row({"context": before, "question": turns[k - 1][1].strip()}, (turns[k][1].strip(),)))
    return Written("talk.json", json_file(records, array, draw(st.booleans())), expected, "chat")


COLUMNS = {"passage": "text", "answer": "label", "rationale": "why", "options": "choices"}


@st.composite
def table_rows(draw: st.DrawFn) -> Pairs:
    pairs = []
    for _ in range(draw(st.integers(1, 4))):
        options, why, text = draw(choices), draw(texts), draw(filled)
        answer = draw(st.sampled_from(options))
        record = {"text": text, "label": answer, "why": why, "choices": json.dumps(options), "unused": "x"}
        pairs.append((record, Row({"passage": text}, (answer,), tuple(options), why.strip() or None)))
    return pairs


@st.composite
def table(draw: st.DrawFn) -> Written:
    pairs, kind = draw(table_rows()), draw(st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet"]))
    records = [r for r, _ in pairs]
    if kind in ("csv", "tsv"):
        rows = [list(records[0]), *(list(r.values()) for r in records)]
        content = csv_text(rows, "," if kind == "csv" else "\t", draw(st.sampled_from(["\n", "\r\n"])))
    elif kind == "parquet":
        content = parquet(records)
    else:
        content = json_file(records, kind == "json", draw(st.booleans()))
    return Written(f"t.{kind}", content, [row for _, row in pairs], "table", COLUMNS)


@st.composite
def p3_hub(draw: st.DrawFn) -> Written:
    """Rows as the hub has them, token ids and all; every other one says what answers there are."""
    records, expected = [], []
    for number in range(draw(st.integers(1, 4))):
        options, prompt = draw(choices), draw(filled)
        target = draw(st.sampled_from(options)) if number % 2 else draw(trimmed)
        records.append(
            {
                "answer_choices": options,
                "inputs": [5, 1],
                "inputs_pretokenized": prompt,
                "targets": [7, 1],
                "targets_pretokenized": f"\n{target}",
            }
        )
        expected.append(Row({"prompt": prompt}, (target,), tuple(options) if target in options else None))
    return Written("train-00000-of-00001.parquet", parquet(records), expected, "p3")


def parquet(records: list[Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


FILES: dict[str, Callable[[], st.SearchStrategy[Written]]] = {
    "native": native,
    "niv2": niv2,
    "flan_cot": flan_cot,
    "qed": lambda: lined("qed", "qed.jsonlines", qed_pair()),
    "p3": lambda: lined("p3", "trec_x.jsonl", p3_pairs),
    "p3_hub": p3_hub,
    "nq_open": lambda: lined("muffin", "nq.jsonl", nq_pairs),
    "boolq": lambda: lined("muffin", "train.jsonl", boolq_pairs),
    "dart": lambda: lined("muffin", "dart.json", dart_pairs, arrays=True),
    "piqa": lambda: lined("muffin", "piqa.jsonl", choice_pair()),
    "cosmos": cosmos,
    "e2e": e2e,
    "prompts": lambda: lined("prompts", "p.json", prompt_pairs, arrays=True),
    "alpaca": lambda: lined("alpaca", "a.json", alpaca_pairs, arrays=True),
    "chat": chat,
    "table": table,
}
