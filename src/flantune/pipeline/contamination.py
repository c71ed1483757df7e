"""Leakage of a run: its training rows against its evaluation items, and the scores over the items that are clean.

runs/NAME/evals/contamination.json      counts by benchmark, the worst items, clean scores of base and tuned
          evals/contamination.parquet   one row per evaluation item
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flantune.evals import asked_specs
from flantune.evals.own_text import own_texts
from flantune.evals.results import Answered, Setting, read_items
from flantune.evals.statistics import estimate_difference
from flantune.evals.summary import strict, summarise_rows
from flantune.mixtures.contamination import (
    Finding,
    OwnText,
    TrainingRow,
    count_verdicts,
    dataset_key,
    find_contamination,
    in_distribution,
)
from flantune.pipeline.data import Data, Progress, quiet
from flantune.pipeline.evaluation import HELD_OUT, file_settings, run_settings
from flantune.pipeline.folder import RunFolder
from flantune.pipeline.text import map_text, paragraphs
from flantune.recipe import BenchmarkSpec, ContaminationSpec, Recipe
from flantune.tasks import ExampleStore, is_mmlu
from flantune.tokens.shards import ShardReader
from flantune.types import Example
from flantune.whole import write_json, write_whole

FORMAT = 1
WORST = 20  # items named in contamination.json; the Parquet file has all
SAID = 400  # characters of a shared text that are shown
_DEFINITION = -1_000_000  # rows below 0 are a task's own: demonstrations from -1 down, and its definition
_FILES = "pretrain.files"  # stands for a task's name where the text is a file's


class TrainedRows:
    """Every row of the store that training shows, as a query or an exemplar, each once; definitions and demonstrations.

    `chosen` names the rows of each task; None: all of them.
    """

    def __init__(
        self,
        store: ExampleStore,
        chosen: Mapping[str, Sequence[int] | None],
        files: Sequence[str] = (),
    ) -> None:
        self._store, self._chosen = store, chosen
        self._documents = FileDocuments(files)
        self._datasets: dict[str, frozenset[str]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._chosen)

    @property
    def num_rows(self) -> int:
        own = (self._store.size(t) if rows is None else len(rows) for t, rows in self._chosen.items())
        return sum(own) + len(self._documents)

    def rows(self) -> Iterator[TrainingRow]:
        for name, chosen in self._chosen.items():
            task = self._store.tasks[name]
            if task.definition:
                yield TrainingRow(name, _DEFINITION, task.definition)
            for place, shown in enumerate(task.demonstrations):
                yield TrainingRow(name, -1 - place, row_text(shown))
            wanted = None if chosen is None else set(chosen)
            for example in self._store.examples(name):
                if wanted is None or example.row in wanted:
                    yield TrainingRow(name, example.row, row_text(example))
        for number, document in enumerate(self._documents):
            yield TrainingRow(_FILES, number, document)

    def text(self, task: str, row: int) -> str:
        if task == _FILES:
            return self._documents[row]
        noun = self._store.tasks[task]
        if row == _DEFINITION:
            return noun.definition or ""
        return row_text(noun.demonstrations[-1 - row] if row < 0 else self._store.example(task, row))

    def datasets(self, task: str) -> frozenset[str]:
        if task not in self._datasets:
            names: set[str] = set()
            if task != _FILES:
                noun = self._store.tasks[task]
                names = {dataset_key(name) for name in noun.dataset.split("+")}
                if is_mmlu(noun):
                    names.add("mmlu")
            self._datasets[task] = frozenset(names)
        return self._datasets[task]


def row_text(example: Example) -> str:
    """All words that a row can bring into a prompt or its target; wordings may show fewer of them."""
    return "\n".join((*example.fields.values(), *(example.options or ()), example.rationale or "", *example.targets))


class FileDocuments(Sequence[str]):
    """The documents of text files, in file order; their places alone are held in memory."""

    def __init__(self, files: Sequence[str]) -> None:
        self._maps = [map_text(Path(file)) for file in files]
        self._places = [(k, *place) for k, text in enumerate(self._maps) for place in paragraphs(text)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        which, start, stop = self._places[number]
        return self._maps[which][start:stop].decode("utf-8", errors="replace")


def trained_rows(recipe: Recipe, data: Data, folder: RunFolder, *, everything: bool = False) -> tuple[TrainedRows, str]:
    """What the run trains on, and that in words.

    Built shards tell how far the stream is read; before that, or with `everything`, every row that the mixture may draw
    counts. Pretraining on the collections' text may draw any row too; pretraining on files adds their documents.
    """
    tasks = sorted(data.mixture.sizes)
    spec = recipe.pretrain
    files = spec.paths if spec is not None and spec.text == "files" else ()
    beside = f", and {len(files)} files of pretraining text" if files else ""
    places = None if everything else stream_length(folder, recipe.tokens.block)
    if places is None or (spec is not None and spec.text == "collections"):
        return TrainedRows(data.store, dict.fromkeys(tasks), files), f"every row of {len(tasks)} tasks{beside}"
    chosen: dict[str, set[int]] = defaultdict(set)
    for draw in data.mixture.draws(0, places):
        chosen[draw.task].add(draw.row)
        # As drawn: the few that blanks or repeats exchange when the prompt is made are not looked up.
        chosen[draw.task].update(row for row, _ in draw.exemplars if row >= 0)
    shown = {task: sorted(chosen[task]) for task in tasks if task in chosen}
    words = f"rows shown in the stream's first {places:,} examples{beside}"
    return TrainedRows(data.store, shown, files), words


def stream_length(folder: RunFolder, block: int) -> int | None:
    """Examples of the stream that the built shards were packed from, in whole blocks; None where nothing is built."""
    if not (folder.shards / "index.json").exists():
        return None
    shards = ShardReader(folder.shards)
    # Blocks come in order, but rows of one block may lie in two shards: the last shard's largest place names the block.
    first = len(shards) - shards.index.shards[-1].rows
    last = max(int(row.indices.max()) for row in shards.rows(range(first, len(shards))))
    return (last // block + 1) * block


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFindings:
    """One benchmark and split against the training rows."""

    name: str
    split: str
    findings: list[Finding]
    in_distribution: list[str]  # trained tasks of the same datasets

    def as_json(self) -> dict[str, Any]:
        tasks: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            tasks[finding.item.task].append(finding)
        worst = sorted(
            (f for f in self.findings if f.overlap), key=lambda f: (-(f.overlap or 0), f.item.task, f.item.id)
        )
        return {
            "benchmark": self.name,
            "split": self.split,
            "items": len(self.findings),
            "verdicts": count_verdicts(self.findings),
            # Foreign overlap below the threshold is no verdict of its own, but it is told.
            "partial": sum(f.verdict == "none" and bool(f.overlap) for f in self.findings),
            "in_distribution": self.in_distribution,
            "tasks": {task: count_verdicts(own) for task, own in sorted(tasks.items())},
            "worst": [finding_json(f) for f in worst[:WORST]],
        }


def finding_json(finding: Finding) -> dict[str, Any]:
    item = finding.item
    return {
        "benchmark": item.benchmark,
        "task": item.task,
        "id": item.id,
        "verdict": finding.verdict,
        "overlap": finding.overlap,
        "rule": finding.rule,
        "training_task": finding.training_task,
        "training_row": None if finding.training_row == _DEFINITION else finding.training_row,
        "text": finding.text[:SAID],
        "options_found": finding.options_found,
    }


Texts = dict[tuple[str, str], list[OwnText]]  # by benchmark and split


def find_leaks(
    training: TrainedRows, texts: Texts, spec: ContaminationSpec, progress: Progress = quiet
) -> list[BenchmarkFindings]:
    """All benchmarks in one pass over the training rows."""
    total = training.num_rows
    findings = find_contamination(
        [text for own in texts.values() for text in own],
        training,
        ngram=spec.ngram,
        threshold=spec.threshold,
        min_words=spec.min_words,
        on_progress=lambda seen: progress("contamination", min(seen, total), total),
    )
    datasets = {task: training.datasets(task) for task in training.tasks}
    rest = iter(findings)
    return [
        BenchmarkFindings(
            name=name,
            split=split,
            findings=list(islice(rest, len(own))),
            in_distribution=in_distribution(own, datasets),
        )
        for (name, split), own in texts.items()
    ]


def texts_of(settings: Sequence[Setting]) -> Texts:
    """Own texts of the settings' benchmarks and splits, each once."""
    texts: Texts = {}
    for setting in settings:
        key = (setting.benchmark.name, setting.split or setting.benchmark.default_split)
        if key not in texts:
            texts[key] = own_texts(setting.benchmark, setting.path, key[1])
    return texts


def settings_against(recipe: Recipe, data: Data, names: Sequence[str]) -> list[Setting]:
    """Settings of the named benchmarks: as the recipe asks them where it does, else with their own defaults."""
    asked = {spec.name: spec for spec in asked_specs(recipe)}
    settings: list[Setting] = []
    for name in dict.fromkeys(names):
        if name == HELD_OUT and name not in asked:
            chosen = BenchmarkSpec(name=name)
            only = recipe.eval.model_copy(update={"benchmarks": (chosen,), "suite": None})
            part = recipe.model_copy(update={"eval": only})
            settings += run_settings(part, data)
        elif name in asked:
            only = recipe.eval.model_copy(update={"benchmarks": (asked[name],), "suite": None})
            part = recipe.model_copy(update={"eval": only})
            settings += run_settings(part, data)
        else:
            settings += file_settings(BenchmarkSpec(name=name), recipe.vars.get("data"), recipe.seed)
    return settings


def check_run(recipe: Recipe, folder: RunFolder, data: Data, progress: Progress = quiet) -> dict[str, Any] | None:
    """contamination.json of an evaluated run, made where it is not there already; None where not asked for."""
    spec = recipe.eval.contamination
    if not spec.check or not asked_specs(recipe):
        return None
    items = {side: folder.evals / side / "items.parquet" for side in ("base", "tuned")}
    items = {side: path for side, path in items.items() if path.exists()}
    path = folder.evals / "contamination.json"
    stamp = _stamp(recipe, folder, data, items)
    if path.exists() and (folder.evals / "contamination.parquet").exists():
        known = orjson.loads(path.read_bytes())
        if known.get("stamp") == stamp:
            return dict(known)
    training, described = trained_rows(recipe, data, folder)
    found = find_leaks(training, texts_of(run_settings(recipe, data)), spec, progress)
    write_findings(folder.evals / "contamination.parquet", [f for b in found for f in b.findings])
    result = {
        "format": FORMAT,
        "stamp": stamp,
        **result_json(found, training, described, spec),
        "settings": clean_scores(found, {side: read_items(p) for side, p in items.items()}),
    }
    write_json(path, result)
    return result


def result_json(
    found: Sequence[BenchmarkFindings], training: TrainedRows, described: str, spec: ContaminationSpec
) -> dict[str, Any]:
    return {
        "ngram": spec.ngram,
        "threshold": spec.threshold,
        "min_words": spec.min_words,
        "training": {"what": described, "rows": training.num_rows, "tasks": len(training.tasks)},
        "benchmarks": [b.as_json() for b in found],
    }


def clean_scores(found: Sequence[BenchmarkFindings], sides: Mapping[str, Sequence[Answered]]) -> list[dict[str, Any]]:
    """By setting: the verdicts of the items asked, and each side's score over those that are no leak; with both sides,
    the paired difference over them."""
    verdicts = {(f.item.benchmark, f.item.id): f for b in found for f in b.findings}
    settings = list(dict.fromkeys(row.setting for rows in sides.values() for row in rows))
    entries = []
    for setting in settings:
        own = {side: [row for row in rows if row.setting == setting] for side, rows in sides.items()}
        clean = {side: [row for row in rows if not _leaked(row, verdicts)] for side, rows in own.items()}
        asked = {(r.result.item.benchmark, r.result.item.id) for rows in own.values() for r in rows}
        entry: dict[str, Any] = {
            "setting": setting,
            "items": len(asked),
            "verdicts": count_verdicts(verdicts[key] for key in sorted(asked)),
            "sides": {side: _scores(own[side], clean[side]) for side in own if own[side]},
        }
        if clean.get("base") and clean.get("tuned"):
            entry["difference"] = _difference(clean["base"], clean["tuned"])
        entries.append(entry)
    return entries


def _leaked(row: Answered, verdicts: Mapping[tuple[str, str], Finding]) -> bool:
    item = row.result.item
    return verdicts[item.benchmark, item.id].verdict == "test_leak"


def _scores(rows: Sequence[Answered], clean: Sequence[Answered]) -> dict[str, Any]:
    whole, left = summarise_rows(rows), summarise_rows(clean)
    return {
        "score": whole["score"],
        "clean_items": len(clean),
        "clean_score": left["score"],
        "clean_interval": left["interval"],
    }


def _difference(base: Sequence[Answered], tuned: Sequence[Answered]) -> dict[str, Any] | None:
    before = {row.result.item.id: row for row in base}
    by_task: dict[str, list[float]] = defaultdict(list)
    for row in tuned:
        if row.result.item.id in before:
            by_task[row.result.item.task].append(strict(row) - strict(before[row.result.item.id]))
    if not by_task:
        return None
    first = tuned[0]
    estimate = estimate_difference(by_task, "clean", first.setting, sampled_tasks=first.sampled_tasks)
    return {"mean": estimate.mean, "interval": [estimate.low, estimate.high]}


_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("task", pa.string()),
        ("id", pa.string()),
        ("verdict", pa.string()),
        ("overlap", pa.float64()),  # null where the item was not checked
        ("rule", pa.string()),
        ("training_task", pa.string()),
        ("training_row", pa.int64()),
        ("text", pa.string()),
        ("options_found", pa.int32()),
    ]
)


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """One row per item: Parquet, or JSON lines where the file's name ends in .jsonl."""
    records = [finding_json(f) for f in findings]
    if path.suffix == ".jsonl":
        write_whole(path, lambda file: file.write(b"".join(orjson.dumps(r) + b"\n" for r in records)))
        return
    table = pa.Table.from_pylist(records, schema=_SCHEMA)
    write_whole(path, lambda file: pq.write_table(table, file))


def _stamp(recipe: Recipe, folder: RunFolder, data: Data, items: Mapping[str, Path]) -> str:
    """Of all that decides contamination.json."""
    digest = hashlib.blake2b(digest_size=8)
    stated = recipe.model_dump(mode="json", include={"eval", "vars", "pretrain", "tokens"})
    digest.update(orjson.dumps([FORMAT, stated, data.mixture.fingerprint(), data.store.fingerprint]))
    digest.update(str(stream_length(folder, recipe.tokens.block)).encode())
    for side, path in items.items():
        digest.update(side.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
