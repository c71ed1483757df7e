"""P3 (the T0 training set) already rendered: JSON lines of prompt and completion, one file per dataset and wording."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from flantune.recipe import CollectionSpec
from flantune.sources.reading import Draft, Record, TaskRows, examples_of, first_object, json_lines, stem, text_of
from flantune.sources.rejects import BadRow, Rejects
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


class P3Reader:
    name = "p3"
    mixture = "t0_sf"

    def matches(self, path: Path) -> bool:
        first = first_object(path)
        return (
            first is not None
            and set(first) == {"prompt", "completion"}
            and isinstance(first["completion"], str)
            and first["completion"].endswith(END)
        )

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        known = p3_dataset(stem(path))
        task = Task(
            name=f"t0/{stem(path)}",
            mixture=spec.mixture or self.mixture,
            dataset=known.dataset,
            category=known.category,
            templates="p3",
            fields=("prompt",),
            metric="rouge_l" if known.category in FREE_TEXT else "exact_match",
            source=self.name,
            path=str(path),
        )
        yield TaskRows(task, examples_of(task, path, json_lines(path), parse_row, rejects))


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
