"""Evaluate a model: every answer is on disk the moment it is known, and no question is asked twice.

folder/header.json      which model, asked how; a folder belongs to one model for good
folder/items.jsonl      raw answers, appended as they come: the state that a killed run goes on from
folder/unread.jsonl     the outputs in which no answer was found, to be looked at
folder/items.parquet    all items with prompt, output, extraction and score; written when all are done
folder/summary.json     the figures; written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from flantune.errors import RecipeError, StateError
from flantune.evals.asking import converse
from flantune.evals.dialogues import Question, dialogue
from flantune.evals.journal import Journal, read_journal
from flantune.evals.results import Setting, judge_told, write_items, write_unread
from flantune.evals.suites import flan_average
from flantune.evals.summary import summarise
from flantune.whole import write_json

if TYPE_CHECKING:
    from flantune.inference.answers import AnswerStore
    from flantune.inference.backends import Backend

FORMAT = 2
HEADER, ANSWERS, ITEMS, SUMMARY = "header.json", "items.jsonl", "items.parquet", "summary.json"
UNREAD_OUTPUTS = "unread.jsonl"


def run_evaluation(
    backend: Backend,
    settings: Sequence[Setting],
    folder: Path,
    *,
    store: AnswerStore | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    suite: str | None = None,
    not_asked: Sequence[str] = (),
) -> dict[str, Any]:
    """Ask everything that has no answer yet, then write items.parquet and summary.json; returns the latter.

    An answer is looked for in `folder`, then in `store`, where other runs left theirs. `suite`: the name under which
    the settings are asked together; "flan" adds the paper's normalised average; `not_asked`: the suite's benchmarks
    whose files are not there. Raises StateError where the folder
    holds answers of another model, or of the same one asked otherwise.
    """
    keys = [s.key for s in settings]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise RecipeError(f"a benchmark is asked twice in one way: {', '.join(twice)}.")
    folder.mkdir(parents=True, exist_ok=True)
    check_header(folder, backend)
    for stale in (SUMMARY, ITEMS, UNREAD_OUTPUTS):  # until this run is whole, nothing here may read as its result
        (folder / stale).unlink(missing_ok=True)
    questions = [q for s in settings for q in _questions(s, backend)]
    progress = _Progress(len(questions), on_progress)
    with Journal(folder / ANSWERS, backend.identity) as journal:
        told = converse(backend, [dialogue(q, backend) for q in questions], journal, store, progress.ended)
    rows = [judge_told(q.setting, q.posed, t) for q, t in zip(questions, told, strict=True)]
    write_items(folder / ITEMS, rows)
    write_unread(folder / UNREAD_OUTPUTS, rows)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "model": backend.identity.get("model"),
        "backend": dict(backend.identity),
        "usage": usage(folder / ANSWERS, backend),
        "results": summarise(settings, rows),
    }
    if suite:
        summary["suite"] = {"name": suite, "not_asked": list(not_asked)} | (
            flan_average(summary["results"]) if suite == "flan" else {}
        )
    write_json(folder / SUMMARY, summary)
    return summary


def check_header(folder: Path, backend: Backend) -> None:
    """Write the header of a new folder; refuse a folder that another model, or another way of asking it, began."""
    header = {"format": FORMAT, **backend.identity}
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
        told = there if isinstance(there, dict) else {}
        differing = [k for k in dict.fromkeys((*header, *told)) if told.get(k) != header.get(k)]
        raise StateError(
            f"{folder}: began with another {', '.join(differing)}; its answers cannot be gone on from. "
            "Give another folder, or remove this one."
        )


def usage(answers: Path, backend: Backend) -> dict[str, Any]:
    """Of all answers in the folder: how many were asked for it and how many found, tokens, and cost where known."""
    known = read_journal(answers).values()
    asked = [given for given in known if not given.reused]
    prompt, new = sum(g.prompt_tokens for g in asked), sum(g.new_tokens for g in asked)
    told = {"asked": len(asked), "reused": len(known) - len(asked), "prompt_tokens": prompt, "new_tokens": new}
    return told if backend.prices is None else told | {"cost": backend.prices.cost(prompt, new)}


def _questions(setting: Setting, backend: Backend) -> list[Question]:
    fits = partial(backend.fits, special=setting.chat != "plain")
    return [Question(setting, posed) for posed in setting.pose(fits, backend.chat_template)]


class _Progress:
    """Items done of all items, at most one call per item."""

    def __init__(self, total: int, told: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._told = 0, total, told
        if told:
            told(0, total)

    def ended(self, index: int) -> None:
        self._done += 1
        if self._told:
            self._told(self._done, self._total)
