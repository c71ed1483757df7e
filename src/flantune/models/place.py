"""Where a model is and what its folder says of it, before anything of it is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from flantune import recipe
from flantune.errors import ModelError
from flantune.models.plain_shape import read_shape
from flantune.types import LookAhead

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ASKING = "flantune.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def embedded_base(name: str = recipe.DEMO) -> Path:
    """The folder of a base model that ships with the package: "demo", or the smaller "demo-small"."""
    return Path(__file__).resolve().parent.parent / "demo" / ("base" + name.removeprefix(recipe.DEMO))


def located(init: str) -> str:
    """A folder or hub id; "demo" and "demo-small" are the embedded bases."""
    return str(embedded_base(init)) if init in recipe.EMBEDDED else init


def model_type(init: str) -> str:
    """transformers' name of the architecture at `init`, from its configuration alone."""
    name = located(init)
    if (plain := read_shape(Path(name).expanduser())) is not None:
        return plain.kind
    return str(read_config(name, Path(name).expanduser().is_dir()).model_type)


def context_length(init: str) -> int | None:
    """Positions that a decoder's configuration states; None where it states none, or cannot be read: whoever opens the
    model says why."""
    name = located(init)
    plain = read_shape(Path(name).expanduser())
    stated = None if plain is None else getattr(plain.config, "max_position_embeddings", None)
    if stated is None:  # transformers has a number of its own for it
        try:
            config = read_config(name, Path(name).expanduser().is_dir())
        except ModelError:
            return None
        stated = getattr(config, "max_position_embeddings", None)
    return int(stated) if isinstance(stated, int) and stated > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a tuned model was taught to be asked; kept beside its weights in flantune.json.

    `prompt_eos`: prompts ended in EOS, the answer after it. `inputs_len`: tokens a prompt had at most. `attention`: of
    a decoder, whether a prompt's tokens saw each other both ways ("prefix").
    """

    prompt_eos: bool
    inputs_len: int | None
    attention: LookAhead = "causal"


def how_to_ask(init: str, one_sided: bool) -> Asking:
    """What the model's folder says; a decoder that was not tuned here continues the prompt's text."""
    path = Path(init).expanduser() / ASKING
    if not path.is_file():
        return Asking(prompt_eos=not one_sided, inputs_len=None)
    try:
        asking = Asking(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise ModelError(f"{path}: expected prompt_eos, inputs_len and attention, got: {e}") from e
    if asking.inputs_len is not None and not isinstance(asking.inputs_len, int):
        raise ModelError(f"{path}: inputs_len: expected a number of tokens or null, got {asking.inputs_len!r}")
    if asking.attention not in get_args(LookAhead):
        raise ModelError(f"{path}: attention: expected one of {get_args(LookAhead)}, got {asking.attention!r}")
    return asking


def require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(p.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(ending))
    if pickles:
        raise ModelError(
            f"{folder}: expected weights as *.safetensors, got only {pickles[0]}, a pickle, which can run code when it "
            "is read. Convert it once with save_pretrained on a machine where you trust the file."
        )
    raise ModelError(f"{folder}: expected weights as *.safetensors, found none.")


def read_config(name: str, local: bool) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except Exception as e:  # transformers raises OSError, ValueError, KeyError and its validators' own kinds
        raise ModelError(f"{name}: expected a model's config.json that transformers can read: {first_line(e)}") from e


def first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {line[:200]}"
