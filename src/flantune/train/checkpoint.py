"""Checkpoints: a folder per step with weights, optimizer state and a manifest. Whole or not there.

checkpoints/step-500/  config.json model.safetensors     the model, as AutoModel...from_pretrained loads it
                       optimizer.safetensors state.json  what resuming needs
                       manifest.json                     size and sha256 of each file
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from flantune.errors import StateError
from flantune.whole import atomic_folder, remove_leftovers

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
) -> Path:
    """Write `folder`/step-N and then remove all but the newest `keep`. `extra` must be JSON.

    Raises StateError where the disk cannot take it; earlier checkpoints are then as they were.
    """
    final = folder / f"step-{step}"
    with atomic_folder(final) as temporary:
        model.config.save_pretrained(temporary)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(temporary)
        weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
        state = json.dumps({"step": step, "extra": dict(extra)}, sort_keys=True)
        (temporary / "state.json").write_text(state, encoding="utf-8")
        files = {p.name: _describe(p) for p in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(files, indent=1, sort_keys=True), encoding="utf-8")
    if keep is not None:
        for _, old in _steps(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are all there and unchanged; a broken one is passed over with a warning."""
    remove_leftovers(folder)
    for step, candidate in reversed(_steps(folder)):
        flaw = _flaw(candidate)
        if flaw is None:
            state = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(folder=candidate, step=step, extra=state["extra"])
        warnings.warn(f"{candidate}: not a whole checkpoint ({flaw}); looking for an earlier one.", stacklevel=2)
    return None


def restore_checkpoint(checkpoint: Checkpoint, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved numbers into `model` and `optimizer`, bit for bit. Raises StateError where they do not fit."""
    load_weights(checkpoint, model)
    tensors = load_file(checkpoint.folder / "optimizer.safetensors")
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        by_name.setdefault(name, {})[entry] = value
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            saved = by_name.get(names[parameter])
            if saved is not None:  # a parameter that never had a gradient has no state
                # Counters live where the optimizer made them: on the CPU for Adafactor, by the parameter for AdamW.
                optimizer.state[parameter] = {
                    k: v if v.dtype == torch.int64 else v.to(parameter.device) for k, v in saved.items()
                }


def load_weights(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    saved = load_file(checkpoint.folder / "model.safetensors")
    own = dict(model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in own.items()}
    if shapes != {name: tuple(t.shape) for name, t in saved.items()}:
        differing = sorted(set(shapes) ^ set(saved)) or [n for n in shapes if shapes[n] != tuple(saved[n].shape)]
        raise StateError(
            f"{checkpoint.folder}: expected the weights of this recipe's model, got another's ('{differing[0]}' "
            "differs). Give the run another name, or remove its checkpoints folder to start over."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    # By parameter name, not by position: a transformers update may reorder modules.
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[parameter]}/{entry}": value.detach().contiguous()
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


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
