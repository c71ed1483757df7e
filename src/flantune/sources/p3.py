"""P3 (the T0 training set), already rendered, one task per dataset and wording.

JSON lines:  NAME.jsonl                                    prompt and completion, which ends with a mark
the hub's:   NAME/train-00000-of-00002.parquet             inputs_pretokenized, targets_pretokenized, ...
             NAME/train/0000.parquet                       the same, as the hub's own conversion lays it out
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.hub_files import CONVERTED, SHARD, shard_rows, shards_of, split_of
from flantune.sources.reading import (
    Draft,
    Record,
    TaskRows,
    examples_of,
    first_object,
    json_lines,
    stem,
    suffix,
    text_of,
)
from flantune.sources.rejects import BadRow, Rejects
from flantune.sources.table import parquet_columns
from flantune.types import Task

END = "<|endoftext|>"


class Known(NamedTuple):
    dataset: str
    category: str


# The dataset is no field of the rows: it is the longest of these that begins the file's name. Configurations of one
# dataset share its name, so that holding out "duorc" holds out both.
PREFIXES: dict[str, Known] = {
    "adversarial_qa_dbert": Known("adversarial_qa", "Extractive QA"),
    "adversarial_qa_dbidaf": Known("adversarial_qa", "Extractive QA"),
    "adversarial_qa_droberta": Known("adversarial_qa", "Extractive QA"),
    "ag_news": Known("ag_news", "Topic Classification"),
    "amazon_polarity": Known("amazon_polarity", "Sentiment Analysis"),
    "app_reviews": Known("app_reviews", "Sentiment Analysis"),
    "cnn_dailymail_3_0_0": Known("cnn_dailymail", "Summarization"),
    "common_gen": Known("common_gen", "Structure-to-Text"),
    "commonsense_qa": Known("commonsense_qa", "Multiple-Choice QA"),
    "cos_e_v1.11": Known("cos_e", "Multiple-Choice QA"),
    "cosmos_qa": Known("cosmos_qa", "Multiple-Choice QA"),
    "dbpedia_14": Known("dbpedia_14", "Topic Classification"),
    "dream": Known("dream", "Multiple-Choice QA"),
    "duorc_ParaphraseRC": Known("duorc", "Extractive QA"),
    "duorc_SelfRC": Known("duorc", "Extractive QA"),
    "gigaword": Known("gigaword", "Summarization"),
    "glue_mrpc": Known("glue_mrpc", "Paraphrase Identification"),
    "glue_qqp": Known("glue_qqp", "Paraphrase Identification"),
    "imdb": Known("imdb", "Sentiment Analysis"),
    "kilt_tasks_hotpotqa": Known("hotpotqa", "Closed-Book QA"),
    "multi_news": Known("multi_news", "Summarization"),
    "paws_labeled_final": Known("paws", "Paraphrase Identification"),
    "qasc": Known("qasc", "Multiple-Choice QA"),
    "quail": Known("quail", "Multiple-Choice QA"),
    "quarel": Known("quarel", "Multiple-Choice QA"),
    "quartz": Known("quartz", "Multiple-Choice QA"),
    "quoref": Known("quoref", "Extractive QA"),
    "race_high": Known("race", "Multiple-Choice QA"),
    "race_middle": Known("race", "Multiple-Choice QA"),
    "ropes": Known("ropes", "Extractive QA"),
    "rotten_tomatoes": Known("rotten_tomatoes", "Sentiment Analysis"),
    "samsum": Known("samsum", "Summarization"),
    "sciq": Known("sciq", "Multiple-Choice QA"),
    "social_i_qa": Known("social_i_qa", "Multiple-Choice QA"),
    "squad_v2": Known("squad_v2", "Extractive QA"),
    "trec": Known("trec", "Question Classification"),
    "web_questions": Known("web_questions", "Closed-Book QA"),
    "wiki_bio": Known("wiki_bio", "Structure-to-Text"),
    "wiki_hop_original": Known("wiki_hop", "Multiple-Choice QA"),
    "wiki_qa": Known("wiki_qa", "Answer Sentence Selection"),
    "wiqa": Known("wiqa", "Multiple-Choice QA"),
    "xsum": Known("xsum", "Summarization"),
    "yelp_review_full": Known("yelp_review_full", "Sentiment Analysis"),
}

# Wordings that put their dataset to another use than the table says (glob on the file's stem, first match wins).
OTHER_USES: tuple[tuple[str, str], ...] = (
    ("*_generate_question*", "Question Generation"),
    ("web_questions_*", "Closed-Book QA"),
    ("social_i_qa_Generate_the_question_from_the_answer", "Question Generation"),
    ("wiki_qa_Jeopardy_style", "Question Generation"),
    ("wiki_qa_Generate_Question_from_Topic", "Question Generation"),
    ("wiki_qa_Topic_Prediction_*", "Topic Classification"),
    ("wiki_qa_Direct_Answer_to_Question", "Closed-Book QA"),
    ("duorc_*_title_generation", "Title Generation"),
    ("duorc_*_build_story_around_qa", "Story Generation"),
    ("quoref_Guess_Title_For_Context", "Title Generation"),
    ("gigaword_write_an_article", "Text Expansion"),
    ("gigaword_reverse_writing", "Text Expansion"),
    ("gigaword_*title*", "Title Generation"),
    ("cnn_dailymail_3_0_0_generate_story", "Text Expansion"),
    ("cnn_dailymail_3_0_0_spice_up_story", "Text Expansion"),
    ("multi_news_expand_reverse_task*", "Text Expansion"),
    ("app_reviews_generate_review", "Review Generation"),
    ("glue_mrpc_generate_*", "Paraphrase Generation"),
    ("common_gen_topics_from_the_sentence", "Keyword Extraction"),
    ("common_gen_sentence_to_concepts", "Keyword Extraction"),
    ("wiki_bio_guess_person", "Entity Identification"),
    ("wiki_hop_original_explain_relation", "Relation Extraction"),
    ("wiki_hop_original_generate_*", "Relation Extraction"),
)

FREE_TEXT = frozenset(
    {
        "Summarization", "Structure-to-Text", "Question Generation", "Story Generation", "Title Generation",
        "Text Expansion", "Review Generation", "Paraphrase Generation",
    }
)  # fmt: skip


INPUTS, TARGETS, CHOICES, CORRECT = "inputs_pretokenized", "targets_pretokenized", "answer_choices", "is_correct"


class P3Reader:
    name = "p3"
    mixture = "t0_sf"

    def matches(self, path: Path) -> bool:
        if suffix(path) == ".parquet":
            return {INPUTS, TARGETS} <= set(parquet_columns(path))
        first = first_object(path)
        return (
            first is not None
            and set(first) == {"prompt", "completion"}
            and isinstance(first["completion"], str)
            and first["completion"].endswith(END)
        )

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        if suffix(path) == ".parquet":
            yield from self._hub(path, spec, rejects)
        else:
            task = self._task(stem(path), path, spec)
            yield TaskRows(task, examples_of(task, path, json_lines(path), parse_row, rejects))

    def _hub(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        """The rows of a split, numbered through its shards; they stand under the first one's name. The others give
        nothing of their own. A file that is named by itself is read by itself, whatever it is part of."""
        if not self.matches(path):
            raise DataError(str(path), field="header", expected=f"{INPUTS} and {TARGETS}", got=parquet_columns(path))
        alone = path == Path(spec.path)
        if not alone and (split := split_of(path)) not in (None, spec.split):
            rejects.skip(path, f"split '{split}' is not the one asked for, '{spec.split}'")
            return
        shards = (path,) if alone else shards_of(path, spec)
        if path == shards[0]:
            task = self._task(hub_name(path), path, spec)
            rows = shard_rows(shards, (INPUTS, TARGETS), (CHOICES, CORRECT))
            yield TaskRows(task, examples_of(task, path, rows, parse_hub_row, rejects))

    def _task(self, name: str, path: Path, spec: CollectionSpec) -> Task:
        known = p3_dataset(name)
        return Task(
            name=f"t0/{name}",
            mixture=spec.mixture or self.mixture,
            dataset=known.dataset,
            category=known.category,
            templates="p3",
            fields=("prompt",),
            metric="rouge_l" if known.category in FREE_TEXT else "exact_match",
            source=self.name,
            path=str(path),
        )


def hub_name(path: Path) -> str:
    """The wording's name, which is a folder's on the hub; a file that lies elsewhere has its own."""
    name = stem(path)
    if SHARD.fullmatch(path.name) and path.parent.name:
        name = path.parent.name
    elif CONVERTED.fullmatch(path.name) and path.parent.parent.name:
        name = path.parent.parent.name
    return task_stem(name)


def task_stem(name: str) -> str:
    """A name of the hub's as files of rows have it: they spell one otherwise."""
    return name.replace("cnn_dailymail_3.0.0", "cnn_dailymail_3_0_0")


def parse_hub_row(record: Record) -> Iterator[Draft]:
    if record.get(CORRECT) is False:
        # Rank classification: a row for each choice, of which one is right.
        raise BadRow(CORRECT, "true", False, malformed=False)
    prompt, target = text_of(record, INPUTS), record.get(TARGETS)
    if not isinstance(target, str):
        raise BadRow(TARGETS, "text", target)
    if not target.strip():
        raise BadRow(TARGETS, "text that is not blank", target, malformed=False)  # as above: no wording for the row
    yield Draft({"prompt": prompt}, (target,), options=choices_of(record.get(CHOICES), target))


def choices_of(value: object, target: str) -> tuple[str, ...] | None:
    """The answers there are, where they are whole and the target is one of them."""
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        return None
    choices = tuple(dict.fromkeys(v.strip() for v in value))
    return choices if len(choices) > 1 and target.strip() in choices else None


def p3_dataset(name: str) -> Known:
    """Dataset and category of a file's stem: the longest known prefix that ends at an underscore.

    A name no prefix begins is a dataset of its own: where it ends and the wording's name begins, nothing tells.
    """
    prefix = max((p for p in PREFIXES if name == p or name.startswith(p + "_")), key=len, default="")
    if not prefix:
        return Known(name, "P3")
    use = next((category for glob, category in OTHER_USES if fnmatchcase(name, glob)), PREFIXES[prefix].category)
    return Known(PREFIXES[prefix].dataset, use)


def parse_row(record: Record) -> Iterator[Draft]:
    prompt, completion = text_of(record, "prompt"), text_of(record, "completion")
    target = completion.removesuffix(END)
    if not target.strip():
        # How P3 says that a wording does not apply to a row (7 trec files hold nothing else): nothing is broken.
        raise BadRow("completion", "a target before the end mark", completion, malformed=False)
    # The one line break every prompt ends with was added when the files were rendered; the delimiter is the format's.
    yield Draft({"prompt": prompt.removesuffix("\n")}, (target,))
