"""A dataset of the Hugging Face hub, or a local folder of one, through `datasets` (an optional package)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources.muffin_hub import HubSet, parser_of, sets_on_hub
from flantune.sources.reading import Record, TaskRows, examples_of
from flantune.sources.rejects import BadRow, Rejects
from flantune.sources.table import batch_records, check_header, checked_columns, mapped_parser, mapped_task

BATCH_ROWS = 1024  # in memory at once
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves


class HubReader:
    name = "hub"
    mixture = "hub"

    def matches(self, path: Path) -> bool:
        """A folder that `datasets` saved. A hub id is never guessed: name the reader."""
        return path.is_dir() and any((path / name).is_file() for name in SAVED)

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        if not spec.columns and (known := sets_on_hub(spec.path, spec.config, spec.split)):
            yield from read_known(known, spec, rejects)
            return
        columns = checked_columns(spec)
        data = load(spec)
        check_header(data.column_names, columns.values(), spec.path)
        mixture = spec.mixture or self.mixture
        dataset = Path(spec.path).name
        name = "/".join(filter(None, (mixture, dataset, spec.config)))
        task = mapped_task(name, dataset, mixture, columns, self.name, spec.path)
        rows = numbered(data.select_columns(list(dict.fromkeys(columns.values()))))
        yield TaskRows(task, examples_of(task, Path(spec.path), rows, mapped_parser(columns), rejects))


def read_known(known: Sequence[HubSet], spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
    """A set of Muffin's, whose columns are known: its tasks, which may share one set of rows."""
    data = load(spec)
    for k, hub_set in enumerate(known):
        check_header(data.column_names, hub_set.needed, spec.path)
        task = hub_set.task(spec.mixture or "muffin", spec.path)
        rows = numbered(data.select_columns(list(hub_set.needed)))
        counted = rejects if k == 0 else Rejects()
        yield TaskRows(task, examples_of(task, Path(spec.path), rows, parser_of(hub_set), counted))


def load(spec: CollectionSpec) -> Any:
    """The split asked for: from a folder that `datasets` saved, a folder of data files, or the hub."""
    try:
        import datasets
    except ImportError:
        raise RecipeError(
            f"collection '{spec.path}': reader 'hub' needs the package 'datasets': pip install 'flantune[hub]'."
        ) from None
    try:
        if HubReader().matches(Path(spec.path)):
            data = datasets.load_from_disk(spec.path)
        else:
            data = datasets.load_dataset(spec.path, spec.config, split=None)
    except Exception as e:  # `datasets` raises whatever its backends do: network, parser, file system
        raise DataError(
            spec.path,
            field="dataset",
            expected="a hub id that can be reached, or a folder of a dataset",
            got=f"{type(e).__name__}: {e}",
        ) from None
    if isinstance(data, dict):
        if spec.split not in data:
            raise RecipeError(f"collection '{spec.path}': split '{spec.split}' is not among {', '.join(data)}.")
        data = data[spec.split]
    return data


def numbered(data: Any) -> Iterator[tuple[str, Record | BadRow]]:
    """Rows from 1, their class labels as the names the dataset gives them. A row that cannot be read is one bad row."""
    names = {c: f.names for c, f in data.features.items() if type(f).__name__ == "ClassLabel"}
    number = 0
    # As Arrow tables: `datasets` itself would decode pictures and sound, and stop at a text that is no UTF-8.
    for table in data.with_format("arrow").iter(batch_size=BATCH_ROWS):
        for batch in table.to_batches():
            for record in batch_records(batch):
                number += 1
                yield str(number), record if isinstance(record, BadRow) else labelled(record, names)


def labelled(record: Record, names: Mapping[str, Sequence[str]]) -> Record:
    for column, words in names.items():
        label = record[column]
        # -1 marks a row without a label on the hub.
        record[column] = words[label] if isinstance(label, int) and 0 <= label < len(words) else None
    return record
