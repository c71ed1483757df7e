"""What was asked and answered, on disk: one Parquet row per item, complete enough to score it again without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flantune.errors import RecipeError, StateError
from flantune.evals.benchmark import Benchmark, Extraction, Fits, Posed, Present, Reading, read
from flantune.evals.decoding import ONE_ANSWER, Decoding, Samples, choose, decoding_of
from flantune.evals.extract import SEVERAL
from flantune.formats.chat import Message, to_messages
from flantune.recipe import BenchmarkSpec
from flantune.types import Item, Prompt, Result
from flantune.whole import write_whole

# What begins a chain of thought without exemplars: Kojima et al. (2022), the Flan paper (spec 6.9), and in Chinese.
TRIGGERS = {"kojima": "Let's think step by step.", "flan": "let's think step-by-step", "zh": "让我们一步一步地思考。"}
EMPTY = "empty output"
MISSING = "no output"  # the reason of a result whose item nobody answered
REFUSED = "refused"  # begins the reason of one that the backend would not take
WRITTEN_OPTIONS = 64  # tokens for an answer that is written where its options could be scored
SPOKEN = 1_024  # tokens at the least for an answer in a conversation, which ends by itself
PARAGRAPH = "\n\n"  # ends an answer that goes on from exemplars; models that were shown none write several

Layout = Literal["plain", "single", "dialogue"]
Normalise = Literal["none", "length", "unconditional"]
ApplyTemplate = Callable[[list[Message]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A benchmark asked in one way. `shots` None: the benchmark's own number for the mode."""

    benchmark: Benchmark
    path: Path
    mode: str
    shots: int | None = None
    split: str | None = None
    limit: int | None = None  # items per task
    seed: int = 0
    chat: Layout = "plain"  # through the model's chat template: all in one message, or exemplars as turns
    trigger: str | None = None  # begins a zero-shot chain of thought in place of the benchmark's own words
    normalise: Normalise = "none"  # of scored options: by their bytes, or against the options' own likelihood
    reading: Reading = "default"
    generate: bool = False  # options are not scored: the answer is written and read
    decoding: Decoding = ONE_ANSWER  # of answers that are written

    @property
    def asked_shots(self) -> int:
        return self.benchmark.default_shots.get(self.mode, 0) if self.shots is None else self.shots

    @property
    def asked_key(self) -> str:
        """ "mmlu/direct/5-shot": how it is asked. What is not the usual is told after a +."""
        unusual = [f"chat-{self.chat}"] * (self.chat != "plain") + ["trigger"] * (self.trigger is not None)
        unusual += [self.normalise] * (self.normalise != "none") + ["generate"] * self.generate + self.decoding.told
        return "+".join([f"{self.benchmark.name}/{self.mode}/{self.asked_shots}-shot", *unusual])

    @property
    def key(self) -> str:
        """One entry of the summary: how it is asked, and how the answers are read where not as usual."""
        return self.asked_key if self.reading == "default" else f"{self.asked_key}+{self.reading}"

    def pose(self, fits: Fits, apply_template: ApplyTemplate | None = None) -> list[Posed]:
        present: Present | None = None
        if self.chat != "plain":
            if apply_template is None:
                raise RecipeError(f"{self.key}: the model's tokenizer has no chat template. Ask it in plain text.")
            present = _Chat(self.chat, apply_template)
        posed = [
            self._as_asked(p)
            for p in self.benchmark.items(
                self.path,
                self.mode,
                shots=self.shots,
                split=self.split,
                limit=self.limit,
                seed=self.seed,
                fits=fits,
                present=present,
                trigger=self.trigger,
            )
        ]
        if not posed:
            raise RecipeError(f"{self.key}: no items in {self.path}.")
        ids = {p.item.id for p in posed}
        if len(ids) < len(posed):
            raise ValueError(f"{self.key}: {len(posed) - len(ids)} item ids repeat")  # a fault of the benchmark's code
        return posed

    def _as_asked(self, posed: Posed) -> Posed:
        """The item as this setting has it answered: what ends a written answer, and how options are spelled."""
        item = posed.item
        if self.generate and item.options is not None:
            item = replace(item, options=None, max_new_tokens=WRITTEN_OPTIONS, stop=(PARAGRAPH, "Q:"))
        if self.trigger is not None:
            item = replace(item, stop=tuple(s for s in item.stop if s != PARAGRAPH))
        if self.chat != "plain" and item.options is not None:
            item = replace(item, options=tuple(option.strip() for option in item.options))
        elif self.chat != "plain":
            item = replace(item, max_new_tokens=max(item.max_new_tokens, SPOKEN), stop=())
        return replace(posed, item=item)


@dataclass(frozen=True, slots=True)
class _Chat:
    layout: Literal["single", "dialogue"]
    apply_template: ApplyTemplate

    def __call__(self, prompt: Prompt) -> str:
        # Exemplars' answers without the blank that parts them from "A:", as the model's own will be.
        messages = to_messages(prompt, self.layout)
        return self.apply_template([{**m, "content": m["content"].strip()} for m in messages])


def settings_of(spec: BenchmarkSpec, benchmark: Benchmark, path: Path, seed: int) -> list[Setting]:
    """Every mode and number of shots a recipe's entry asks for; without modes, all the benchmark has."""
    shots: Sequence[int | None] = spec.shots if isinstance(spec.shots, tuple) else (spec.shots,)
    for mode in spec.modes:
        if mode not in benchmark.modes:
            raise RecipeError(f"benchmark {spec.name}: no mode '{mode}'; it has {', '.join(benchmark.modes)}.")
    decodings = {m: _decoding(spec, benchmark, path, m, seed) for m in spec.modes or benchmark.modes}
    return [
        Setting(
            benchmark=benchmark,
            path=path,
            mode=m,
            shots=n,
            split=spec.split,
            limit=spec.limit,
            seed=seed,
            chat=spec.chat,
            trigger=TRIGGERS.get(spec.trigger, spec.trigger) if spec.trigger and m == "cot" else None,
            normalise=_normalise(spec, benchmark, path, m),
            reading=spec.reading,
            generate=spec.generate and m == "direct",
            decoding=decoding,
        )
        for m, decoding in decodings.items()
        for n in shots
    ]


def _normalise(spec: BenchmarkSpec, benchmark: Benchmark, path: Path, mode: str) -> Normalise:
    """As asked where options are scored; elsewhere there is nothing to normalise."""
    if spec.normalise == "none" or mode != "direct" or spec.generate:
        return "none"
    return spec.normalise if _are_scored(spec, benchmark, path, mode) else "none"


def _decoding(spec: BenchmarkSpec, benchmark: Benchmark, path: Path, mode: str, seed: int) -> Decoding:
    """What the entry asks for where the mode's answers are written; nothing is drawn where options are scored."""
    asked = decoding_of(spec, seed)
    if asked == ONE_ANSWER or spec.generate:
        return asked
    return ONE_ANSWER if _are_scored(spec, benchmark, path, mode) else asked


def _are_scored(spec: BenchmarkSpec, benchmark: Benchmark, path: Path, mode: str) -> bool:
    """The mode's items have options."""
    first = next(iter(benchmark.items(path, mode, shots=0, split=spec.split, limit=1)), None)
    return first is not None and first.item.options is not None


@dataclass(frozen=True, slots=True)
class Answered:
    """One row of items.parquet."""

    setting: str  # Setting.key
    asked_shots: int
    shots_dropped: int
    sampled_tasks: bool
    result: Result
    samples: Samples | None = None  # where several were drawn
    ability: str | None = None  # what the benchmark tells of; None in files that did not keep it


@dataclass(frozen=True, slots=True)
class Told:
    """Everything a backend said to one item. For scored options the best one's text, the first of equal ones."""

    texts: tuple[str, ...] = ()
    option_scores: tuple[float, ...] | None = None
    values: tuple[float | None, ...] = ()  # of the texts, by the scorer of best-of
    truncated: bool = False
    refused: str = ""


def was_answered(row: Answered) -> bool:
    return row.result.reason != MISSING and not row.result.reason.startswith(REFUSED)


def judge_told(setting: Setting, posed: Posed, told: Told) -> Answered:
    """Choose among the samples, extract and score. What was refused is missing, and says so."""
    if told.refused:
        nothing = Result(
            item=posed.item, output="", extracted=None, score=None, reason=f"{REFUSED}: {told.refused}", truncated=False
        )
        return answered(setting, posed, nothing)
    if told.option_scores is not None or setting.decoding.select == "one":
        return judge(setting, posed, told.texts[0], told.option_scores, told.truncated)
    chosen = choose(setting.decoding, setting.benchmark, posed.item, told.texts, told.values, setting.reading)
    output, extraction, samples = chosen
    row = _scored(setting, posed, output, extraction, None, told.truncated)
    return replace(row, samples=samples)


def judge(
    setting: Setting,
    posed: Posed,
    output: str,
    option_scores: tuple[float, ...] | None = None,
    truncated: bool = False,
) -> Answered:
    """Extract and score one output. For scored items `output` is the best option, the first of equal ones."""
    extraction = read(setting.benchmark, posed.item, output, setting.reading)
    return _scored(setting, posed, output, extraction, option_scores, truncated)


def _scored(
    setting: Setting,
    posed: Posed,
    output: str,
    extraction: Extraction,
    option_scores: tuple[float, ...] | None,
    truncated: bool,
) -> Answered:
    score = setting.benchmark.score(posed.item, extraction)
    reason = ""
    if extraction.answer is None:
        reason = "several answers in it" if extraction.rule == SEVERAL else "no answer found in it"
        reason = reason if output.strip() else EMPTY
    rule = "highest log-probability" if option_scores is not None and extraction.answer is not None else extraction.rule
    result = Result(
        item=posed.item,
        output=output,
        extracted=extraction.answer,
        score=score,
        rule=rule,
        reason=reason,
        option_scores=option_scores,
        truncated=truncated,
    )
    return answered(setting, posed, result)


def unanswered(setting: Setting, posed: Posed) -> Answered:
    return answered(setting, posed, Result(item=posed.item, output="", extracted=None, score=None, reason=MISSING))


def answered(setting: Setting, posed: Posed, result: Result) -> Answered:
    benchmark = setting.benchmark
    asked = (setting.key, setting.asked_shots, posed.shots_dropped, benchmark.sampled_tasks)
    return Answered(*asked, result, ability=benchmark.ability)


_SCHEMA = pa.schema(
    [
        ("setting", pa.string()),
        ("benchmark", pa.string()),
        ("mode", pa.string()),
        ("task", pa.string()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("references", pa.list_(pa.string())),
        ("options", pa.list_(pa.string())),
        ("max_new_tokens", pa.int32()),
        ("stop", pa.list_(pa.string())),
        ("metric", pa.string()),
        ("asked_shots", pa.int32()),
        ("shots", pa.int32()),
        ("shots_dropped", pa.int32()),
        ("sampled_tasks", pa.bool_()),
        ("output", pa.string()),
        ("option_scores", pa.list_(pa.float64())),
        ("truncated", pa.bool_()),
        ("extracted", pa.string()),
        ("rule", pa.string()),
        ("score", pa.float64()),  # null where nothing could be read
        ("reason", pa.string()),
        # Of several samples; null where one answer was asked for.
        ("samples", pa.list_(pa.string())),
        ("sample_answers", pa.list_(pa.string())),  # null where nothing could be read
        ("sample_values", pa.list_(pa.float64())),
        ("votes", pa.int32()),
        ("voters", pa.int32()),
        ("agreement", pa.float64()),
        ("chosen", pa.int32()),
        ("ability", pa.string()),
    ]
)
_OF_SAMPLES = ("samples", "sample_answers", "sample_values", "votes", "voters", "agreement", "chosen")
_LATER = (*_OF_SAMPLES, "ability")  # than the others


def write_items(path: Path, rows: Iterable[Answered]) -> None:
    """items.parquet, whole or not at all."""
    records = [_record(row) for row in rows]
    table = pa.Table.from_pylist(records, schema=_SCHEMA)
    write_whole(path, lambda file: pq.write_table(table, file))


def write_unread(path: Path, rows: Iterable[Answered]) -> None:
    """The outputs in which no answer was found, one JSON line each; the file is there also when it is empty."""
    unread = [r for r in rows if r.result.extracted is None and was_answered(r)]
    lines = [
        {"setting": r.setting, "id": r.result.item.id, "reason": r.result.reason, "output": r.result.output}
        for r in unread
    ]
    write_whole(path, lambda file: file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines)))


def read_items(path: Path) -> list[Answered]:
    """Rows of an items.parquet, in their order. Raises StateError where it is none."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file. An evaluation writes it when all its items are done.") from None
    except (OSError, pa.ArrowException) as e:
        raise StateError(f"{path}: not a readable items.parquet: {e}") from None
    lacking = [name for name in _SCHEMA.names if name not in (*table.column_names, *_LATER)]
    if lacking:
        raise StateError(f"{path}: not an items.parquet of this version: no column {', '.join(lacking)}.")
    return [_answered(record) for record in table.to_pylist()]


def _record(row: Answered) -> dict[str, Any]:
    result, item = row.result, row.result.item
    return {
        "setting": row.setting,
        "benchmark": item.benchmark,
        "mode": item.mode,
        "task": item.task,
        "id": item.id,
        "prompt": item.prompt,
        "references": list(item.references),
        "options": None if item.options is None else list(item.options),
        "max_new_tokens": item.max_new_tokens,
        "stop": list(item.stop),
        "metric": item.metric,
        "asked_shots": row.asked_shots,
        "shots": item.shots,
        "shots_dropped": row.shots_dropped,
        "sampled_tasks": row.sampled_tasks,
        "output": result.output,
        "option_scores": None if result.option_scores is None else list(result.option_scores),
        "truncated": result.truncated,
        "extracted": result.extracted,
        "rule": result.rule,
        "score": result.score,
        "reason": result.reason,
        **_sample_columns(row.samples),
        "ability": row.ability,
    }


def _sample_columns(samples: Samples | None) -> dict[str, Any]:
    if samples is None:
        return dict.fromkeys(_OF_SAMPLES)
    return {
        "samples": list(samples.texts),
        "sample_answers": list(samples.answers),
        "sample_values": list(samples.values) or None,
        "votes": samples.votes,
        "voters": samples.voters,
        "agreement": samples.agreement,
        "chosen": samples.chosen,
    }


def _samples(record: dict[str, Any]) -> Samples | None:
    if record.get("samples") is None:
        return None
    return Samples(
        texts=tuple(record["samples"]),
        answers=tuple(record["sample_answers"]),
        values=tuple(record["sample_values"] or ()),
        votes=record["votes"],
        voters=record["voters"],
        chosen=record["chosen"],
    )


def _answered(record: dict[str, Any]) -> Answered:
    item = Item(
        benchmark=record["benchmark"],
        mode=record["mode"],
        task=record["task"],
        id=record["id"],
        prompt=record["prompt"],
        references=tuple(record["references"]),
        options=None if record["options"] is None else tuple(record["options"]),
        max_new_tokens=record["max_new_tokens"],
        stop=tuple(record["stop"]),
        metric=record["metric"],
        shots=record["shots"],
    )
    result = Result(
        item=item,
        output=record["output"],
        extracted=record["extracted"],
        score=record["score"],
        rule=record["rule"],
        reason=record["reason"],
        option_scores=None if record["option_scores"] is None else tuple(record["option_scores"]),
        truncated=record["truncated"],
    )
    asked = (record["setting"], record["asked_shots"], record["shots_dropped"], record["sampled_tasks"])
    return Answered(*asked, result, _samples(record), record.get("ability"))
