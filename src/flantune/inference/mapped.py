"""A decoder scored off its files: no more of its weights is in memory than the layer that reads.

The files are mapped; a layer's pages are let go when it has read, and come back from the system's page cache, or from
the disk where memory is short. So a model larger than memory can be scored, and a small one takes little more than the
batch. Neither transformers nor its modules are loaded; the arithmetic is `plain_decoder`'s, the same as over them.
"""

from __future__ import annotations

import json
import mmap
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flantune.models.plain_shape import Shape, read_shape

_PIECE = 4 << 20  # bytes of a large matrix at once
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class MappedDecoder:
    """Stands where a model of transformers stands, for scoring alone; `whole` is that model."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, folder: Path, shape: Shape, files: Files) -> None:
        self.folder, self.shape, self._files = folder, shape, files
        self.config = shape.config
        self.generation_config = SimpleNamespace(eos_token_id=_ends(folder / "generation_config.json", shape.config))

    def whole(self) -> Any:
        """As transformers has it, with every weight."""
        from flantune.models.load import load_model

        return load_model(str(self.folder), dropout=0.0)

    @property
    def base_model(self) -> MappedDecoder:
        return self

    def eval(self) -> MappedDecoder:
        return self

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """ids (T,) -> (T, hidden)"""
        made = torch.empty(len(ids), self.shape.hidden)
        ascending, order = ids.sort()
        for first, piece in self._files.pieces(self.shape.embedding):
            start, stop = torch.searchsorted(ascending, torch.tensor([first, first + len(piece)])).tolist()
            if start < stop:
                made[order[start:stop]] = piece[ascending[start:stop] - first].float()
        return made

    def rotary_emb(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (1, T, d) at positions (1, T)."""
        angles = positions[..., None].float() * self._frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    def layer(self, number: int) -> Any:
        """One with the attributes of transformers' own that a `PlainDecoder` looks at, until `let_go`."""
        shape = self.shape
        parts: dict[str, dict[str, Any]] = {"self_attn": {}, "mlp": {}, "": {}}
        for name, stated in shape.layer(number).items():
            bias = None if stated.bias is None else self._files.read(stated.bias)
            weight = self._files.read(stated.weight)
            parts[stated.part][name] = SimpleNamespace(weight=weight, bias=bias, variance_epsilon=shape.eps)
        attention = SimpleNamespace(
            layer_idx=number,
            head_dim=shape.head_dim,
            scaling=shape.head_dim**-0.5,
            sliding_window=shape.window,
            **parts["self_attn"],
        )
        forward = SimpleNamespace(act_fn=nn.SiLU(inplace=True), **parts["mlp"])
        return SimpleNamespace(self_attn=attention, mlp=forward, **parts[""])

    def let_go(self) -> None:
        """Of the layers read so far."""
        self._files.let_go()

    @cached_property
    def norm(self) -> Any:
        return SimpleNamespace(weight=self._files.read("model.norm.weight").clone(), variance_epsilon=self.shape.eps)

    def output_pieces(self) -> Iterator[tuple[int, Tensor]]:
        """The output matrix, so many tokens at a time: the first token's id, (tokens, hidden)."""
        for first, piece in self._files.pieces(self.shape.output):
            yield first, piece.float()

    @cached_property
    def _frequencies(self) -> Tensor:
        width = self.shape.head_dim
        return 1.0 / (self.shape.theta ** (torch.arange(0, width, 2, dtype=torch.float) / width))


def open_mapped(folder: Path, vocab_size: int = 0) -> MappedDecoder | None:
    """None where the folder holds another kind of model, or anything that transformers should see to or complain of."""
    shape = read_shape(folder)
    if shape is None or shape.vocabulary < vocab_size:
        return None
    try:
        files = Files(folder)
    except (OSError, SafetensorError, RuntimeError):  # the last where numbers stand between two places of their size
        return None
    if files.twice or (folder / "adapter_config.json").exists():  # transformers chooses, and adds the adapter
        return None
    if any(files.shapes.get(name) != expected for name, expected in shape.expected().items()):
        return None
    if (shape.output == shape.embedding) == ("lm_head.weight" in files.shapes):
        return None
    try:
        return MappedDecoder(folder, shape, files)
    except (ValueError, AttributeError):  # of generation_config.json
        return None


class Files:
    """Tensors of a folder's safetensors files, mapped for reading. Raises SafetensorError where one is not whole."""

    def __init__(self, folder: Path) -> None:
        files = [_File(path) for path in sorted(folder.glob("*.safetensors"))]
        self._where = {name: file for file in files for name in file.tensors}
        self.twice = len(self._where) < sum(len(file.tensors) for file in files)
        self.shapes = {name: tuple(file.tensors[name].shape) for name, file in self._where.items()}
        self._read: list[str] = []

    def read(self, name: str) -> Tensor:
        """In single precision; until `let_go`."""
        self._read.append(name)
        return self._where[name].tensors[name].float()

    def let_go(self) -> None:
        for name in self._read:
            file = self._where[name]
            file.let_go(file.tensors[name])
        self._read.clear()

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Some rows of a matrix at a time, as they are in the file: the first one's number, (rows, columns)."""
        file = self._where[name]
        matrix = file.tensors[name]
        rows = max(1, _PIECE // (matrix.shape[1] * matrix.element_size()))
        for first in range(0, len(matrix), rows):
            piece = matrix[first : first + rows]
            yield first, piece
            file.let_go(piece)


class _File:
    """Its floating-point tensors. Not the library's own mapping: that one can be written to, so that the system refuses
    it for a file larger than memory."""

    def __init__(self, path: Path) -> None:
        safe_open(str(path), framework="pt")  # which looks whether the file is whole
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(self._map[:8], "little")
        header = json.loads(self._map[8:start])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # and nobody writes
            whole = torch.frombuffer(self._map, dtype=torch.uint8)
        self._first = whole.data_ptr()
        self.tensors = {}
        for name, stated in header.items():
            if name != "__metadata__" and (dtype := _DTYPES.get(stated["dtype"])) is not None:
                begin, end = stated["data_offsets"]
                self.tensors[name] = whole[start + begin : start + end].view(dtype).view(stated["shape"])

    def let_go(self, tensor: Tensor) -> None:
        """Its pages are the system's to take; who looks again gets the file's bytes again."""
        first = -(-(tensor.data_ptr() - self._first) // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() - self._first + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, end - first)


def _ends(path: Path, config: Any) -> int | list[int] | None:
    """What texts end with."""
    stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else vars(config)
    ends: int | list[int] | None = stated.get("eos_token_id")
    return ends
