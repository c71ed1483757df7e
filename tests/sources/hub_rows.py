"""A few rows of every Muffin set as its dataset card states columns and classes, and the examples they must give.

Each: set, file below the hub folder, class names (or none), rows, and per example (fields, target, options).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NLI = ["entailment", "neutral", "contradiction"]
TELL = ("yes", "it is not possible to tell", "no")
BOOL = ["False", "True"]
YES_NO, NO_YES = ("yes", "no"), ("no", "yes")


class Case(NamedTuple):
    name: str
    file: str
    rows: list[dict[str, Any]]
    expected: list[tuple[dict[str, str], str, tuple[str, ...] | None]]
    classes: Mapping[str, list[str]] = MappingProxyType({})
    set_aside: int = 0  # rows without a label


def nli(name: str, file: str) -> Case:
    rows = [{"premise": f"p{k}", "hypothesis": "h", "label": k} for k in (0, 1, 2, -1)]
    expected = [({"premise": f"p{k}", "hypothesis": "h"}, TELL[k], TELL) for k in range(3)]
    return Case(name, file, rows, expected, {"label": NLI}, 1)


def two_way(name: str, file: str, columns: str, classes: list[str], words: tuple[str, str], label: str = "label",
            fields: str = "") -> Case:  # fmt: skip
    names, asked = columns.split(), (fields or columns).split()
    rows = [{**{c: f"{c} {k}" for c in names}, label: k} for k in (1, 0)]
    expected = [({f: f"{c} {k}" for f, c in zip(asked, names, strict=True)}, words[k], words) for k in (1, 0)]
    return Case(name, file, rows, expected, {label: classes} if classes else {})


def plain(name: str, file: str, column: str, target: str, field: str, **more: Any) -> Case:
    rows = [{column: "a text", target: "short", **more}, {column: "another", target: "shorter", **more}]
    return Case(name, file, rows, [({field: "a text"}, "short", None), ({field: "another"}, "shorter", None)])


def translated(name: str, file: str, source: str, target: str) -> Case:
    languages = {"cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French",
                 "ro": "Romanian", "ru": "Russian", "tr": "Turkish"}  # fmt: skip
    fields = {"text": "one", "language": languages[source], "other_language": languages[target]}
    return Case(name, file, [{"translation": {source: "one", target: "two"}}], [(fields, "two", None)])


def science(name: str, file: str, column: str, keys: list[str], right: str) -> Case:
    choices = {"text": ["salt", "water", "air"], "label": keys}
    row = {"id": "i", column: "What is wet?", "choices": choices, "answerKey": right}
    return Case(name, file, [row], [({"question": "What is wet?"}, "water", ("salt", "water", "air"))])


TRAIN = "train-00000-of-00001.parquet"
SQUAD = {"id": "i", "title": "T", "context": "It is red.", "question": "What colour?"}
SQUAD_FIELDS = {"title": "T", "context": "It is red.", "question": "What colour?"}
CASES: tuple[Case, ...] = (
    two_way("cola", f"glue/cola/{TRAIN}", "sentence", ["unacceptable", "acceptable"], ("unacceptable", "acceptable")),
    two_way("sst2", f"glue/sst2/{TRAIN}", "sentence", ["negative", "positive"], ("negative", "positive")),
    two_way("glue_mrpc", f"glue/mrpc/{TRAIN}", "sentence1 sentence2", ["not_equivalent", "equivalent"], NO_YES),
    two_way("glue_qqp", f"glue/qqp/{TRAIN}", "question1 question2", ["not_duplicate", "duplicate"], NO_YES),
    two_way("qnli", f"glue/qnli/{TRAIN}", "question sentence", ["entailment", "not_entailment"], YES_NO),
    two_way("wnli", f"glue/wnli/{TRAIN}", "sentence1 sentence2", ["not_entailment", "entailment"], NO_YES),
    Case(
        "stsb",
        f"glue/stsb/{TRAIN}",
        [{"sentence1": "a", "sentence2": "b", "label": x} for x in (4.6, 0.2, -1.0)],
        [({"sentence1": "a", "sentence2": "b"}, x, tuple("012345")) for x in ("5", "0")],
        set_aside=1,
    ),
    two_way("boolq", f"superglue/boolq/{TRAIN}", "passage question", BOOL, NO_YES),
    Case(
        "cb",
        f"superglue/cb/{TRAIN}",
        [{"premise": "p", "hypothesis": "h", "label": 1}],
        [({"premise": "p", "hypothesis": "h"}, "contradiction", ("entailment", "contradiction", "neutral"))],
        {"label": ["entailment", "contradiction", "neutral"]},
    ),
    Case(
        "copa",
        f"superglue/copa/{TRAIN}",
        [{"premise": "p", "question": "cause", "choice1": "x", "choice2": "y", "label": 1}],
        [({"premise": "p", "question": "cause"}, "y", ("x", "y"))],
        {"label": ["choice1", "choice2"]},
    ),
    two_way("multirc", f"superglue/multirc/{TRAIN}", "paragraph question answer", BOOL, NO_YES,
            fields="paragraph question candidate"),
    Case(
        "record",
        f"superglue/record/{TRAIN}",
        [{"passage": "Ann met Bob.", "query": "@placeholder left", "entities": ["Ann", "Bob"], "answers": ["Bob"]}],
        [({"passage": "Ann met Bob.", "query": "@placeholder left"}, "Bob", ("Ann", "Bob"))],
    ),
    two_way("rte", f"superglue/rte/{TRAIN}", "premise hypothesis", ["entailment", "not_entailment"],
            ("entailment", "not entailment")),
    two_way("wic", f"superglue/wic/{TRAIN}", "sentence1 sentence2 word", BOOL, NO_YES),
    two_way("wsc", f"superglue/wsc.fixed/{TRAIN}", "text span1_text span2_text", BOOL, NO_YES,
            fields="text span1 span2"),
    nli("anli_r1", "anli/plain_text/train_r1-00000-of-00001.parquet"),
    nli("anli_r2", "anli/plain_text/train_r2-00000-of-00001.parquet"),
    nli("anli_r3", "anli/plain_text/train_r3-00000-of-00001.parquet"),
    nli("snli", f"snli/plain_text/{TRAIN}"),
    science("arc_challenge", f"arc/ARC-Challenge/{TRAIN}", "question", ["A", "B", "C"], "B"),
    science("arc_easy", f"arc/ARC-Easy/{TRAIN}", "question", ["1", "2", "3"], "2"),
    science("openbook_qa", f"openbookqa/main/{TRAIN}", "question_stem", ["A", "B", "C"], "B"),
    Case("piqa", f"piqa/plain_text/{TRAIN}", [{"goal": "g", "sol1": "x", "sol2": "y", "label": 1}],
         [({"goal": "g"}, "y", ("x", "y"))], {"label": ["0", "1"]}),
    Case(
        "winogrande",
        f"winogrande/winogrande_xl/{TRAIN}",
        [{"sentence": "So _ won.", "option1": "Ann", "option2": "Bob", "answer": a} for a in ("1", "2", "")],
        [({"sentence": "So _ won."}, a, ("Ann", "Bob")) for a in ("Ann", "Bob")],
        set_aside=1,
    ),
    Case(
        "hellaswag",
        f"hellaswag/data/{TRAIN}",
        [{"ctx": "He sits", "ctx_a": "He", "endings": ["down.", "up.", "by.", "in."], "label": "2"}],
        [({"context": "He sits"}, "by.", ("down.", "up.", "by.", "in."))],
    ),
    Case(
        "definite_pronoun_resolution",
        f"definite_pronoun_resolution/plain_text/{TRAIN}",
        [{"sentence": "Ann saw it.", "pronoun": "it", "candidates": ["Ann", "the sea"], "label": 1}],
        [({"sentence": "Ann saw it.", "pronoun": "it"}, "the sea", ("Ann", "the sea"))],
        {"label": ["0", "1"]},
    ),
    Case("lambada", "lambada/plain_text/validation-00000-of-00001.parquet",
         [{"text": "she opened the door", "domain": None}], [({"passage": "she opened the"}, "door", None)]),
    two_way("imdb_reviews", f"imdb/plain_text/{TRAIN}", "text", ["neg", "pos"], ("negative", "positive")),
    two_way("yelp_polarity_reviews", f"yelp_polarity/plain_text/{TRAIN}", "text", ["1", "2"], ("negative", "positive")),
    Case(
        "sentiment140",
        f"sentiment140/sentiment140/{TRAIN}",
        [{"text": "a", "sentiment": 4, "user": "u"}, {"text": "b", "sentiment": 0, "user": "u"}],
        [({"text": "a"}, "positive", ("negative", "positive")), ({"text": "b"}, "negative", ("negative", "positive"))],
    ),
    Case(
        "ag_news_subset",
        f"ag_news/data/{TRAIN}",
        [{"text": "a", "label": 3}],
        [({"text": "a"}, "Science and technology", ("World", "Sports", "Business", "Science and technology"))],
        {"label": ["World", "Sports", "Business", "Sci/Tech"]},
    ),
    Case(
        "trec",
        f"trec/default/{TRAIN}",
        [{"text": "Who?", "coarse_label": 3, "fine_label": 29}],
        [({"text": "Who?"}, "human", ("abbreviation", "entity", "description", "human", "location", "numeric"))],
        {"coarse_label": ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]},
    ),
    two_way("paws_wiki", f"paws/labeled_final/{TRAIN}", "sentence1 sentence2", ["0", "1"], NO_YES),
    Case("squad_v1", f"squad/plain_text/{TRAIN}", [{**SQUAD, "answers": {"text": ["red"], "answer_start": [6]}}],
         [(SQUAD_FIELDS, "red", None)]),
    Case(
        "squad_v2",
        f"squad_v2/squad_v2/{TRAIN}",
        [{**SQUAD, "answers": {"text": t, "answer_start": [0] * len(t)}} for t in (["red"], [])],
        [(SQUAD_FIELDS, a, None) for a in ("red", "unanswerable")],
    ),
    Case(
        "drop",
        f"drop/data/{TRAIN}",
        [{"passage": "p", "question": "q", "answers_spans": {"spans": ["Ann", "Bob"], "types": ["span", "span"]}}],
        [({"passage": "p", "question": "q"}, "Ann, Bob", None)],
    ),
    Case(
        "quac",
        f"quac/plain_text/{TRAIN}",
        [{"background": "", "context": "c", "questions": ["q1", "q2"],
          "orig_answers": {"texts": ["a1", "CANNOTANSWER"], "answer_starts": [0, 9]}}],
        [({"background": "", "context": "c", "question": "q1"}, "a1", None),
         ({"background": "", "context": "c", "question": "q2"}, "CANNOTANSWER", None)],
    ),
    Case(
        "coqa",
        f"coqa/data/{TRAIN}",
        [{"source": "s", "story": "t", "questions": ["q", "r"],
          "answers": {"input_text": ["a", "b"], "answer_start": [0, 0], "answer_end": [1, 1]}}],
        [({"story": "t", "questions": "1. q\n2. r"}, "1. a\n2. b", None)],
    ),
    Case(
        "trivia_qa",
        f"trivia_qa/rc.nocontext/{TRAIN}",
        [{"question": "q", "answer": {"value": "Rome", "aliases": ["Roma", "Rome"], "type": "x"}}],
        [({"question": "q"}, "Rome", None)],
    ),
    Case(
        "math_dataset",
        f"math_dataset/arithmetic__mul/{TRAIN}",
        [
            {"question": "b'Multiply 2 and 3.\\n'", "answer": "b'6\\n'"},
            {"question": "b' is 2. What is b?", "answer": "2"},
        ],
        [({"question": "Multiply 2 and 3."}, "6", None), ({"question": "b' is 2. What is b?"}, "2", None)],
    ),
    plain("aeslc", f"aeslc/data/{TRAIN}", "email_body", "subject_line", "body"),
    plain("cnn_dailymail", f"cnn_dailymail/3.0.0/{TRAIN}", "article", "highlights", "article", id="i"),
    plain("gigaword", f"gigaword/data/{TRAIN}", "document", "summary", "text"),
    Case("multi_news", f"multi_news/data/{TRAIN}", [{"document": "one ||||| two |||||", "summary": "s"}],
         [({"text": "one\n\ntwo"}, "s", None)]),
    plain("samsum", "samsum/train.csv", "dialogue", "summary", "dialogue", id="1"),
    plain("wiki_lingua_english_en", f"wiki_lingua/en/{TRAIN}", "source", "target", "text", source_language="en"),
    plain("xsum", f"xsum/data/{TRAIN}", "document", "summary", "text", id="1"),
    Case("common_gen", f"common_gen/data/{TRAIN}", [{"concepts": ["dog", "run"], "target": "It ran."}],
         [({"concepts": "dog, run"}, "It ran.", None)]),
    Case("web_nlg_en", f"web_nlg/en/{TRAIN}", [{"input": ["A | in | B", "B | has | 1"], "target": "t"}],
         [({"triples": "A | in | B\nB | has | 1"}, "t", None)]),
    translated("para_crawl_enes", f"paracrawl/en-es/{TRAIN}", "en", "es"),
    translated("wmt14_enfr", f"wmt14/fr-en/{TRAIN}", "en", "fr"),
    *(translated(f"wmt16_translate_{c}en", f"wmt16/{c}-en/{TRAIN}", c, "en")
      for c in ("cs", "de", "fi", "ro", "ru", "tr")),
    Case(
        "dmcc_python",
        f"code_contests/data/{TRAIN}",
        [{"name": "n", "description": "Add.", "solutions": {"language": [2, 3], "solution": ["int", "print(1)"]}}],
        [({"problem": "Add."}, "print(1)", None)],
    ),
)  # fmt: skip
MNLI = nli("mnli_matched", f"glue/mnli/{TRAIN}")  # two tasks from one file
