"""Checkpoints: a folder per step with weights, optimizer state and a manifest. Whole or not there.

checkpoints/step-500/  config.json model.safetensors     the model, as AutoModel...from_pretrained loads it
                       optimizer.safetensors state.json  what resuming needs
                       manifest.json                     size and sha256 of each file

From several ranks the tensors of both files lie in shard-00001-model-....safetensors and so on instead, one file a
rank, as torch.distributed.checkpoint writes them (docs/decisions/0005-sharded-checkpoints.md). Either kind is read by
any number of ranks. Frozen weights are not written: they are those of the model that training began from.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as checkpointing
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers import PreTrainedModel

from flantune.errors import StateError
from flantune.train.adafactor import Adafactor
from flantune.train.parallel import ALONE, Ranks, shared_folder
from flantune.whole import remove_leftovers

_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk. `extra` is what the caller of `save_checkpoint` gave."""

    folder: Path
    step: int
    extra: Mapping[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Any],
    *,
    keep: int | None = None,
    protected: Collection[int] = (),
    ranks: Ranks = ALONE,
) -> Path:
    """Write `folder`/step-N and then remove all but the newest `keep` and those of the steps `protected`.

    `extra` must be JSON. Raises StateError where the disk cannot take it, on every rank; earlier checkpoints are then
    as they were.
    """
    final = folder / f"step-{step}"
    weights, state = _weights(model), _optimizer_tensors(model, optimizer)
    with shared_folder(final, ranks) as temporary:
        if ranks.size == 1:
            save_file(_contiguous(weights), temporary / "model.safetensors", metadata={"format": "pt"})
            save_file(_contiguous(state), temporary / "optimizer.safetensors")
        else:
            _write_shards({**weights, **state}, temporary)
        ranks.first(lambda: _write_rest(temporary, step, model, extra))
        names = sorted(p.name for p in temporary.iterdir())[ranks.rank :: ranks.size]
        parts = ranks.gather(ranks.together(lambda: {name: _describe(temporary / name) for name in names}))
        files = {name: told for part in parts for name, told in part.items()}
        text = json.dumps(files, indent=1, sort_keys=True)
        ranks.first(lambda: (temporary / "manifest.json").write_text(text, encoding="utf-8"))
    if keep is not None and ranks.main:
        for old_step, old in _steps(folder)[:-keep]:
            if old_step not in protected:
                shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path, ranks: Ranks = ALONE) -> Checkpoint | None:
    """The newest checkpoint whose files are all there and unchanged; a broken one is passed over with a warning."""
    return ranks.tell(ranks.first(lambda: _latest(folder)))


def checkpoint_of(folder: Path, step: int) -> Checkpoint:
    """The one of that step. Raises StateError where it is not whole."""
    path = folder / f"step-{step}"
    flaw = _flaw(path)
    if flaw is not None:
        raise StateError(
            f"{path}: not a whole checkpoint ({flaw}). Remove the steps from there on, or give --fresh to train anew."
        )
    return _opened(path, step)


def restore_checkpoint(
    checkpoint: Checkpoint, model: PreTrainedModel, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE
) -> None:
    """Put the saved numbers into `model` and `optimizer`, bit for bit, however many ranks wrote them and read them.

    Raises StateError where they do not fit.
    """
    saved = _saved_shapes(checkpoint)
    targets = _required_weights(checkpoint, model, saved)
    optimizer.state.clear()
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            entries = [key for key in saved if key.rpartition("/")[0] == names[parameter]]
            if entries:  # a parameter that never had a gradient has no state
                state = _empty_state(optimizer, parameter, entries)
                targets |= {f"{names[parameter]}/{entry}": value for entry, value in state.items()}
    _read(checkpoint, targets, saved, ranks)


def load_weights(checkpoint: Checkpoint, model: PreTrainedModel, ranks: Ranks = ALONE) -> None:
    saved = _saved_shapes(checkpoint)
    _read(checkpoint, _required_weights(checkpoint, model, saved), saved, ranks)


def _latest(folder: Path) -> Checkpoint | None:
    remove_leftovers(folder)
    for step, candidate in reversed(_steps(folder)):
        flaw = _flaw(candidate)
        if flaw is None:
            return _opened(candidate, step)
        warnings.warn(f"{candidate}: not a whole checkpoint ({flaw}); looking for an earlier one.", stacklevel=2)
    return None


def _opened(folder: Path, step: int) -> Checkpoint:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(folder=folder, step=step, extra=state["extra"])


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    # By parameter name, not by position: a transformers update may reorder modules.
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[parameter]}/{entry}": value.detach()
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def _empty_state(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor, keys: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Tensors to read the saved state of a parameter into, spread over the ranks as the optimizer would have."""
    if isinstance(optimizer, Adafactor):
        return optimizer.start(parameter)
    state = {}
    for entry in (key.rpartition("/")[2] for key in keys):
        counter = entry == "step"  # by the parameter, where fused AdamW makes it
        empty = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state[entry] = empty if counter else torch.zeros_like(parameter)
    optimizer.state[parameter] = state
    return state


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _write_rest(folder: Path, step: int, model: PreTrainedModel, extra: Mapping[str, Any]) -> None:
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    state = json.dumps({"step": step, "extra": dict(extra)}, sort_keys=True)
    (folder / "state.json").write_text(state, encoding="utf-8")


def _write_shards(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """One file of each rank's parts; called by all of them. An error on one is an error on all."""
    try:
        checkpointing.save(
            dict(tensors), storage_writer=checkpointing.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        )
    except checkpointing.CheckpointException as e:
        raise OSError(_first_failure(e)) from e  # the folder's own message says what to do


def _read(
    checkpoint: Checkpoint, targets: Mapping[str, torch.Tensor], saved: Mapping[str, tuple[int, ...]], ranks: Ranks
) -> None:
    """Into `targets`, in place; each rank reads its own parts, from whichever files hold them."""
    for name, target in targets.items():
        if tuple(target.shape) != saved.get(name):
            raise _another_model(checkpoint, name)
    reader = checkpointing.HuggingFaceStorageReader(str(checkpoint.folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
            checkpointing.load(dict(targets), storage_reader=reader, no_dist=ranks.size == 1)
    except checkpointing.CheckpointException as e:
        raise StateError(f"{checkpoint.folder}: cannot be read: {_first_failure(e)}.") from e


def _required_weights(
    checkpoint: Checkpoint, model: PreTrainedModel, saved: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    own = _weights(model)
    shapes = {name: tuple(p.shape) for name, p in own.items()}
    kept = {name: shape for name, shape in saved.items() if "/" not in name}
    if shapes != kept:
        differing = sorted(set(shapes) ^ set(kept)) or [n for n in shapes if shapes[n] != kept[n]]
        raise _another_model(checkpoint, differing[0])
    return own


def _another_model(checkpoint: Checkpoint, name: str) -> StateError:
    return StateError(
        f"{checkpoint.folder}: expected the weights of this recipe's model, got another's ('{name}' differs). Give the "
        "run another name, or remove its checkpoints folder to start over."
    )


def _saved_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Whole shapes by name, of weights ("NAME") and optimizer state ("NAME/ENTRY")."""
    found = checkpointing.HuggingFaceStorageReader(str(checkpoint.folder)).read_metadata().state_dict_metadata
    return {name: tuple(told.size) for name, told in found.items() if isinstance(told, TensorStorageMetadata)}


def _first_failure(error: checkpointing.CheckpointException) -> str:
    rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
    return f"rank {rank}: {type(cause).__name__}: {cause}"


def _steps(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = [(_STEP.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def _flaw(folder: Path) -> str | None:
    """Why `folder` is not a whole checkpoint."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        return f"manifest.json: {e}"
    for name, told in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != told["size"]:
            return f"{name} has {path.stat().st_size} bytes, not {told['size']}"
        if _describe(path) != told:
            return f"{name} is not what was written"
    return None


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
