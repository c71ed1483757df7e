"""Evaluate a model: every answer is on disk the moment it is known, and no question is asked twice.

folder/header.json      which model, asked how; a folder belongs to one model for good
folder/items.jsonl      raw answers, appended as they come: the state that a killed run goes on from
folder/unread.jsonl     the outputs in which no answer was found, to be looked at
folder/items.parquet    all items with prompt, output, extraction and score; written when all are done
folder/summary.json     the figures; written last
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import orjson

from flantune.errors import RecipeError, StateError
from flantune.evals.benchmark import Posed
from flantune.evals.presentation import chat_engine, template_of
from flantune.evals.results import Setting, judge, write_items, write_unread
from flantune.evals.suites import flan_average
from flantune.evals.summary import summarise
from flantune.types import Item
from flantune.whole import write_json

if TYPE_CHECKING:
    from flantune.inference.engine import Generated, GenerateRequest, Scored, ScoreRequest

FORMAT = 1
HEADER, ANSWERS, ITEMS, SUMMARY = "header.json", "items.jsonl", "items.parquet", "summary.json"
UNREAD_OUTPUTS = "unread.jsonl"


class Asker(Protocol):
    """What an evaluation needs of an engine; flantune.inference.Engine is one."""

    max_inputs: int
    prompt_eos: bool
    precision: Any

    def fits(self, prompt: str) -> bool: ...

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated]: ...

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored]: ...


@dataclass(frozen=True, slots=True)
class Question:
    setting: Setting
    posed: Posed
    key: str  # of the question's whole content: a reworded prompt is another question


@dataclass(frozen=True, slots=True)
class Answer:
    output: str
    option_scores: tuple[float, ...] | None
    truncated: bool


def run_evaluation(
    engine: Asker,
    settings: Sequence[Setting],
    folder: Path,
    *,
    model: str,
    on_progress: Callable[[int, int], None] | None = None,
    suite: str | None = None,
) -> dict[str, Any]:
    """Ask everything that has no answer in `folder` yet, then write items.parquet and summary.json; returns the latter.

    `suite`: the name under which the settings are asked together; "flan" adds the paper's normalised average.
    `model` is a fingerprint of the model's weights and tokenizer. Raises StateError where the folder holds answers of
    another model, or of the same one asked otherwise.
    """
    if len({s.key for s in settings}) < len(settings):
        raise RecipeError(f"a benchmark is asked twice in one way: {', '.join(s.key for s in settings)}.")
    folder.mkdir(parents=True, exist_ok=True)
    check_header(folder, model, engine)
    for stale in (SUMMARY, ITEMS, UNREAD_OUTPUTS):  # until this run is whole, nothing here may read as its result
        (folder / stale).unlink(missing_ok=True)
    questions = [ask for s in settings for ask in _questions(s, engine)]
    known = read_answers(folder / ANSWERS)
    remaining = list({q.key: q for q in questions if q.key not in known}.values())
    done = len(questions) - len(remaining)
    if on_progress:
        on_progress(done, len(questions))
    with (folder / ANSWERS).open("ab") as file:
        for question, answer in _ask(engine, remaining):
            _append(file, folder / ANSWERS, question, answer)
            known[question.key] = answer
            done += 1
            if on_progress:
                on_progress(done, len(questions))
    rows = []
    for q in questions:
        answer = known[q.key]
        rows.append(judge(q.setting, q.posed, answer.output, answer.option_scores, answer.truncated))
    write_items(folder / ITEMS, rows)
    write_unread(folder / UNREAD_OUTPUTS, rows)
    summary: dict[str, Any] = {"format": FORMAT, "model": model, "results": summarise(settings, rows)}
    if suite:
        summary["suite"] = {"name": suite} | (flan_average(summary["results"]) if suite == "flan" else {})
    write_json(folder / SUMMARY, summary)
    return summary


def check_header(folder: Path, model: str, engine: Asker) -> None:
    """Write the header of a new folder; refuse a folder that another model, or another way of asking it, began."""
    header = {
        "format": FORMAT,
        "model": model,
        "max_inputs": engine.max_inputs,
        "prompt_eos": engine.prompt_eos,
        "precision": engine.precision,
    }
    path = folder / HEADER
    if not path.exists():
        if (folder / ANSWERS).exists():
            raise StateError(f"{folder}: holds answers but no {HEADER} that says whose. Give another folder.")
        write_json(path, header)
        return
    try:
        there = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as e:
        raise StateError(f"{path}: not JSON: {e}. Remove the folder to evaluate anew.") from None
    if there != header:
        differing = [k for k in header if not isinstance(there, dict) or there.get(k) != header[k]]
        raise StateError(
            f"{folder}: began with another {', '.join(differing)}; its answers cannot be gone on from. "
            "Give another folder, or remove this one."
        )


def read_answers(path: Path) -> dict[str, Answer]:
    """Answers known so far, by question. A last line without its line end was torn by a kill and is cut off."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    answers = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            record = orjson.loads(line)
            scores = record["option_scores"]
            answer = Answer(record["output"], None if scores is None else tuple(scores), record["truncated"])
            answers[record["key"]] = answer
        except (orjson.JSONDecodeError, KeyError, TypeError) as e:
            raise StateError(
                f"{path}:{number}: not an answer of ours: {e}. Remove the folder to evaluate anew."
            ) from None
    return answers


def _questions(setting: Setting, engine: Asker) -> Iterator[Question]:
    asker = engine if setting.chat == "plain" else chat_engine(engine)
    for posed in setting.pose(asker.fits, template_of(engine)):
        item = posed.item
        content = [setting.asked_key, item.id, item.prompt, item.options, item.max_new_tokens, item.stop]
        yield Question(setting, posed, hashlib.blake2b(orjson.dumps(content), digest_size=12).hexdigest())


def _ask(engine: Asker, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
    """Scored items first: they are quick, and their results appear early."""
    for chat in (False, True):
        own = [q for q in questions if (q.setting.chat != "plain") == chat]
        if own:
            asker = chat_engine(engine) if chat else engine
            yield from _score(asker, [q for q in own if q.posed.item.options is not None])
            yield from _generate(asker, [q for q in own if q.posed.item.options is None])


def _score(engine: Asker, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
    from flantune.inference.engine import ScoreRequest  # which loads torch

    alone = _unconditional(engine, [q for q in questions if q.setting.normalise == "unconditional"])
    requests = [ScoreRequest(prompt=q.posed.item.prompt, options=_options(q.posed.item)) for q in questions]
    for s in engine.score(requests):
        question = questions[s.index]
        options, scores = _options(question.posed.item), s.scores
        if question.setting.normalise == "length":  # per byte: 1 where an option has none but blanks
            scores = tuple(v / max(1, len(o.strip().encode())) for v, o in zip(scores, options, strict=True))
        elif question.setting.normalise == "unconditional":
            scores = tuple(v - u for v, u in zip(scores, alone[_closing(question), options], strict=True))
        best = max(range(len(scores)), key=lambda i: scores[i])
        yield question, Answer(options[best].strip(), scores, s.truncated)


def _unconditional(
    engine: Asker, questions: Sequence[Question]
) -> dict[tuple[str, tuple[str, ...]], tuple[float, ...]]:
    """Log-probabilities of the options after the query's closing words ("A:") alone, each set of options once."""
    from flantune.inference.engine import ScoreRequest  # which loads torch

    wanted = list(dict.fromkeys((_closing(q), _options(q.posed.item)) for q in questions))
    requests = [ScoreRequest(prompt=closing, options=options) for closing, options in wanted]
    return {wanted[s.index]: s.scores for s in (engine.score(requests) if requests else ())}


def _closing(question: Question) -> str:
    return question.posed.asked.rsplit("\n", 1)[-1] or "Answer:"


def _generate(engine: Asker, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
    for g in engine.generate([_request(q.posed.item) for q in questions]):
        yield questions[g.index], Answer(g.text, None, g.truncated)


def _options(item: Item) -> tuple[str, ...]:
    assert item.options is not None
    return item.options


def _request(item: Item) -> GenerateRequest:
    from flantune.inference.engine import GenerateRequest  # which loads torch

    return GenerateRequest(prompt=item.prompt, max_new_tokens=item.max_new_tokens, stop=item.stop)


def _append(file: BinaryIO, path: Path, question: Question, answer: Answer) -> None:
    # One write and a flush per line: what the system has got survives the death of this process.
    record = {
        "key": question.key,
        "setting": question.setting.key,
        "id": question.posed.item.id,
        "output": answer.output,
        "option_scores": answer.option_scores,
        "truncated": answer.truncated,
    }
    try:
        file.write(orjson.dumps(record) + b"\n")
        file.flush()
    except OSError as e:
        raise StateError(f"{path}: cannot be written: {e.strerror or e}. What came before is kept.") from e
