"""Who is shown a run's figures while it trains, besides metrics.jsonl: the recipe's `train.watch`."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from flantune.errors import RecipeError
from flantune.whole import write_whole

PROJECT = "flantune"  # where WANDB_PROJECT or TRACKIO_PROJECT name no other


class Watcher(Protocol):
    """Shown every logged line of this process; `earlier` lines, of before a resume, once at the start."""

    def replay(self, earlier: Iterable[tuple[int, Mapping[str, float]]]) -> None: ...

    def show(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def open_watchers(names: Sequence[str], folder: Path) -> list[Watcher]:
    """Raises RecipeError for one whose package is not installed."""
    kinds: dict[str, Callable[[Path], Watcher]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "trackio": Trackio,
    }
    return [kinds[name](folder) for name in dict.fromkeys(names)]


class TensorBoard:
    """Events in `folder`/tensorboard, written anew from the lines that stay: its own way of taking steps back
    (`purge_step`) goes by file names, which hold whole seconds, and shows steps twice after a quick restart."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in (folder / "tensorboard").glob("events.out.tfevents.*"):
            old.unlink()
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def replay(self, earlier: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in earlier:
            self.show(step, values)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class WeightsAndBiases:
    """One run of Weights & Biases for the run's folder, gone on with after a resume; WANDB_MODE and its kin hold."""

    def __init__(self, folder: Path) -> None:
        self._wandb = _package("wandb")
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._wandb.init(
            project=project, name=folder.resolve().name, dir=str(folder), id=_run_id(folder, "wandb"), resume="allow"
        )

    def replay(self, earlier: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Nothing: the run there has them, and passes over a step that it has seen."""

    def show(self, step: int, values: Mapping[str, float]) -> None:
        self._wandb.log(dict(values), step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def close(self) -> None:
        self._wandb.finish()


class Trackio:
    """One run of Trackio for the run's folder, gone on with after a resume."""

    def __init__(self, folder: Path) -> None:
        self._trackio = _package("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._trackio.init(
            project=project, name=f"{folder.resolve().name}-{_run_id(folder, 'trackio')[:8]}", resume="allow"
        )

    def replay(self, earlier: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Nothing: the run there has them."""

    def show(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def flush(self) -> None:
        """It writes by itself."""

    def close(self) -> None:
        self._trackio.finish()


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise RecipeError(
            f"train.watch: expected the package '{name}' to be installed, got: {e}. Install it with 'pip install "
            f"{name}', or leave it out of train.watch; metrics.jsonl is written in any case."
        ) from e


def _run_id(folder: Path, name: str) -> str:
    """The same for a folder ever after."""
    path = folder / f"{name}.id"
    if not path.exists():
        write_whole(path, lambda file: file.write(uuid.uuid4().hex.encode()))
    return path.read_text(encoding="utf-8").strip()
