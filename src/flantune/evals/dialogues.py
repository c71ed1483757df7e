"""One question's dialogue with a backend, from its first request to everything that was said."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import orjson

from flantune.errors import RecipeError
from flantune.evals.asking import Dialogue
from flantune.evals.benchmark import Extraction, Posed, read
from flantune.evals.decoding import load_scorer
from flantune.evals.results import Setting, Told
from flantune.evals.selection import hinting, same_of
from flantune.inference.answers import Given, Request
from flantune.inference.backends import Backend
from flantune.inference.requests import GenerateRequest, ScoreRequest

Asked = Generator[Sequence[Request], Sequence[Given], Told]


@dataclass(frozen=True, slots=True)
class Question:
    setting: Setting
    posed: Posed

    @property
    def special(self) -> bool:
        """A chat template wrote the prompt."""
        return self.setting.chat != "plain"


def dialogue(question: Question, backend: Backend) -> Dialogue[Told]:
    item = question.posed.item
    if item.options is not None:
        return _scored(question)
    decoding = question.setting.decoding
    if decoding.select == "hints":
        return _hinted(question)
    return _best_of(question, backend) if decoding.select == "best-of" else _told(question, item.prompt)


def _scored(question: Question) -> Asked:
    item = question.posed.item
    assert item.options is not None
    requests = [ScoreRequest(prompt=item.prompt, options=item.options, special=question.special)]
    if question.setting.normalise == "unconditional":
        # The options after the query's closing words ("A:") alone.
        closing = question.posed.asked.rsplit("\n", 1)[-1] or "Answer:"
        requests.append(ScoreRequest(prompt=closing, options=item.options))
    answers = yield requests
    if refused := next((a for a in answers if a.refused), None):
        return Told(refused=refused.refused)
    scores = answers[0].scores
    if question.setting.normalise == "length":  # per byte: 1 where an option has none but blanks
        scores = tuple(v / max(1, len(o.strip().encode())) for v, o in zip(scores, item.options, strict=True))
    elif question.setting.normalise == "unconditional":
        scores = tuple(v - u for v, u in zip(scores, answers[1].scores, strict=True))
    best = max(range(len(scores)), key=lambda i: scores[i])
    return Told(texts=(item.options[best].strip(),), option_scores=scores, truncated=answers[0].truncated)


def _told(question: Question, prompt: str) -> Asked:
    item, decoding = question.posed.item, question.setting.decoding
    (given,) = yield [
        GenerateRequest(
            prompt=prompt,
            max_new_tokens=item.max_new_tokens,
            stop=item.stop,
            samples=decoding.samples,
            sampling=decoding.sampling_of(prompt),
            special=question.special,
        )
    ]
    return Told(texts=given.texts, truncated=given.truncated, refused=given.refused)


def _best_of(question: Question, backend: Backend) -> Asked:
    prompt = question.posed.item.prompt
    told = yield from _told(question, prompt)
    if told.refused:
        return told
    scorer = load_scorer(question.setting.decoding.scorer)
    if scorer is not None:
        return Told(told.texts, values=tuple(scorer(prompt, text) for text in told.texts), truncated=told.truncated)
    worded = tuple(dict.fromkeys(text for text in told.texts if text.strip()))
    by_text: dict[str, float] = {}
    if worded:
        (given,) = yield [ScoreRequest(prompt=prompt, options=worded, special=question.special)]
        if given.refused:
            return Told(refused=given.refused)
        by_text = {t: s / _length(t, backend) for t, s in zip(worded, given.scores, strict=True)}
    return Told(told.texts, values=tuple(by_text.get(text) for text in told.texts), truncated=told.truncated)


def _length(text: str, backend: Backend) -> int:
    """In tokens; where nobody here knows them, in bytes: the mean is then over bytes, for all samples alike."""
    tokens = backend.num_tokens(text)
    return max(1, len(text.encode()) if tokens is None else tokens)


def _hinted(question: Question) -> Asked:
    """Texts of every time it was asked; the last one that could be read stands."""
    posed, setting = question.posed, question.setting
    texts: list[str] = []
    truncated = False
    asking = hinting(posed.question.strip(), most=setting.decoding.hints, same=same_of(setting.benchmark))
    try:
        worded = next(asking)
        while True:
            told = yield from _told(question, reworded(posed, worded))
            if told.refused:
                return told
            texts.append(told.texts[0])
            truncated |= told.truncated
            worded = asking.send(_read(question, told.texts[0]))
    except StopIteration:
        return Told(texts=tuple(texts), truncated=truncated)


def _read(question: Question, text: str) -> Extraction:
    return read(question.setting.benchmark, question.posed.item, text, question.setting.reading)


def reworded(posed: Posed, question: str) -> str:
    """The item's prompt with its question, where it stands last, in other words; of a chat's messages in the last."""
    prompt, own = posed.item.prompt, posed.question.strip()
    if prompt.startswith('[{"role":'):  # messages, which a server words
        messages = orjson.loads(prompt)
        messages[-1]["content"] = _replaced(posed, messages[-1]["content"], own, question)
        return orjson.dumps(messages).decode()
    return _replaced(posed, prompt, own, question)


def _replaced(posed: Posed, text: str, own: str, question: str) -> str:
    place = text.rfind(own) if own else -1
    if place < 0:
        raise RecipeError(
            f"{posed.item.benchmark} {posed.item.id}: hints stand behind the question, which its prompt does not hold "
            "word for word. Ask this benchmark otherwise."
        )
    return text[:place] + question + text[place + len(own) :]
