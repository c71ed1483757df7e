"""Trainings over several ranks, run under torchrun by the tests: each scenario leaves its figures in a folder.

The same scenarios run in one process too, which is what they are compared with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from flantune.models.adapt import add_adapter
from flantune.models.family import family_of
from flantune.models.load import scratch_model, without_weights
from flantune.recipe import AdapterSpec, ModelSize, OptimizerSpec, SelectionSpec, TrainSpec
from flantune.train.loop import TrainReport, train
from flantune.train.parallel import Objective, Ranks, local, open_ranks, shard
from flantune.train.selection import Selection, loss_measure
from models.packs import EOS, PAD, random_row
from train.runs import batches

ADAFACTOR = OptimizerSpec(lr=0.005, min_dim_factored=16)
# Odd sizes: 97 rows of an embedding and 72 of a layer over 2 or 4 ranks, and 2 heads' bias over 4, leave uneven and
# empty shards.
SIZE = ModelSize(d_model=40, layers=2, heads=2, d_kv=18, d_ff=72)


def model_of(family: str, tied: bool, dropout: float = 0.0) -> Any:
    model = scratch_model(
        family,  # type: ignore[arg-type]
        SIZE,
        vocab_size=97,
        eos_id=EOS,
        pad_id=PAD,
        dropout=dropout,
        seed=3,
    )
    if not tied:
        head = torch.nn.Linear(SIZE.d_model, 97, bias=False)
        generator = torch.Generator().manual_seed(4)
        head.weight = torch.nn.Parameter(torch.randn(97, SIZE.d_model, generator=generator) * 0.05)
        model.set_output_embeddings(head)
    return model


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """Called on all ranks."""
    return {
        name: (p.detach().full_tensor() if isinstance(p, DTensor) else p.detach()).contiguous().clone()
        for name, p in model.named_parameters()
    }


def trained(
    folder: Path, ranks: Ranks, spec: TrainSpec, model: Any, **more: Any
) -> tuple[dict[str, torch.Tensor], TrainReport]:
    """Final weights, whole, and the report; the loss of each step goes into `folder`/losses.json."""
    told = folder / "losses.json"
    losses = json.loads(told.read_text()) if told.exists() else {}
    report = train(
        model,
        family_of(model),
        batches(model, micro_rows=spec.micro_rows, batch_rows=spec.batch_rows),
        spec,
        folder,
        seed=7,
        on_step=lambda m: losses.update({str(m.step): m.loss}),
        ranks=ranks,
        **more,
    )
    if ranks.main:
        told.write_text(json.dumps(losses))
    return whole_weights(model), report


def fifty(folder: Path, ranks: Ranks, family: str, tied: str) -> dict[str, torch.Tensor]:
    """Fifty steps of Adafactor; three micro-batches a step, which neither two nor four ranks share evenly."""
    spec = TrainSpec(steps=50, micro_rows=1, batch_rows=3, checkpoint_every=50, precision="fp32", optimizer=ADAFACTOR)
    return trained(folder, ranks, spec, model_of(family, tied == "tied"))[0]


def until(folder: Path, ranks: Ranks, family: str, optimizer: str, step: str) -> dict[str, torch.Tensor]:
    """With dropout, from whatever checkpoint lies there to `step`."""
    chosen = ADAFACTOR if optimizer == "adafactor" else OptimizerSpec(name="adamw", lr=1e-3)
    spec = TrainSpec(
        steps=int(step), micro_rows=1, batch_rows=4, checkpoint_every=3, precision="fp32", optimizer=chosen, z_loss=1e-4
    )
    return trained(folder, ranks, spec, model_of(family, True, dropout=0.1))[0]


def hollow_elsewhere(ranks: Ranks, make: Callable[[], Any], otherwise: Callable[[], Any] | None = None) -> Any:
    """A model with weights on rank 0 and without any on the others, which may think it tied otherwise."""
    if ranks.main:
        return make()
    with without_weights():
        return (otherwise or make)()


def sent(folder: Path, ranks: Ranks, family: str, tied: str) -> dict[str, torch.Tensor]:
    """Rank 0's weights, put together from the parts that it sent; the other ranks think them tied otherwise."""
    untied = tied == "untied"
    model = hollow_elsewhere(ranks, lambda: model_of(family, not untied), lambda: model_of(family, untied))
    if ranks.size > 1:
        shard(Objective(model, family_of(model), 0.0), ranks)
        assert all(local(p).numel() < p.numel() for p in model.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    return whole_weights(model)


def adapted(folder: Path, ranks: Ranks, family: str, step: str) -> dict[str, torch.Tensor]:
    """Adapters alone, with dropout in them and beside them, from whatever checkpoint lies there to `step`."""
    adapter = AdapterSpec(rank=3, alpha=6, dropout=0.1)
    model = hollow_elsewhere(ranks, lambda: add_adapter(model_of(family, True, dropout=0.1), adapter, seed=5))
    spec = TrainSpec(
        # Two rows: their sum is the same in any order. Of gradients that nearly cancel Adam makes whole steps, and
        # which way those go would hang on the rounding of three.
        steps=int(step), micro_rows=1, batch_rows=2, checkpoint_every=3, precision="fp32",
        optimizer=OptimizerSpec(name="adamw", lr=3e-3),
    )  # fmt: skip
    return trained(folder, ranks, spec, model)[0]


def compiled(folder: Path, ranks: Ranks, family: str, compile: str) -> dict[str, torch.Tensor]:
    """Few steps: every other length is compiled anew."""
    spec = TrainSpec(
        steps=2, micro_rows=1, batch_rows=2, checkpoint_every=2, precision="fp32", optimizer=ADAFACTOR,
        compile=compile == "compile",
    )  # fmt: skip
    return trained(folder, ranks, spec, model_of(family, True, dropout=0.1))[0]


def held_out(folder: Path, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The loss on rows of their own, three micro-batches, and the step chosen by it."""
    model = model_of("t5", True)
    micros = [family_of(model).collate(model, [random_row(seed=900 + k)], 48, 32) for k in range(3)]
    selection = Selection(SelectionSpec(by="loss", every=2, tasks=("x",), patience=2), loss_measure(micros), {})
    spec = TrainSpec(
        steps=30, micro_rows=1, batch_rows=2, checkpoint_every=50, keep_checkpoints=1, precision="fp32",
        optimizer=OptimizerSpec(lr=0.3, min_dim_factored=16),
    )  # fmt: skip
    weights, report = trained(folder, ranks, spec, model, selection=selection)
    curve = torch.tensor([e.value for e in selection.evaluations], dtype=torch.float64)
    return {**weights, "curve": curve, "chosen": torch.tensor([report.chosen_step, report.steps])}


def failing(folder: Path, ranks: Ranks) -> dict[str, torch.Tensor]:
    """A disk that is full on the last rank alone, at the second checkpoint. Every rank must stop."""
    if ranks.rank == ranks.size - 1:
        import resource

        from flantune.train import loop

        real = loop.save_checkpoint

        def onto_a_full_disk(folder: Path, step: int, *rest: Any, **more: Any) -> Path:
            if step > 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            return real(folder, step, *rest, **more)

        loop.save_checkpoint = onto_a_full_disk  # type: ignore[assignment]
    return until(folder, ranks, "t5", "adafactor", "6")


SCENARIOS: dict[str, Callable[..., dict[str, torch.Tensor]]] = {
    "fifty": fifty,
    "until": until,
    "sent": sent,
    "adapted": adapted,
    "compiled": compiled,
    "held_out": held_out,
    "failing": failing,
}


def run(folder: Path, ranks: Ranks, names: Sequence[str]) -> None:
    """Each of the names is PLACE=SCENARIO:ARGUMENT:..., its files and result in `folder`/PLACE."""
    for name in names:
        place, _, told = name.partition("=")
        kind, *arguments = told.split(":")
        result = SCENARIOS[kind](folder / place, ranks, *arguments)
        if ranks.main:
            save_file(result, folder / place / "result.safetensors")


def result(folder: Path, place: str) -> dict[str, torch.Tensor]:
    return load_file(folder / place / "result.safetensors")


def losses(folder: Path, place: str) -> dict[str, float]:
    return dict(json.loads((folder / place / "losses.json").read_text()))


def launch(folder: Path, size: int, names: Sequence[str]) -> None:
    """The scenarios under torchrun on this machine; raises with what they printed where one fails."""
    started = begin(folder, size, names)
    out, err = started.communicate()
    if started.returncode != 0:
        raise AssertionError(f"{names} on {size} ranks:\n{out[-2000:]}\n{err[-6000:]}")


def begin(folder: Path, size: int, names: Sequence[str]) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    tests = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return subprocess.Popen(
        [*command, "-m", "train.ranks", str(folder), *names],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_ranks() as joined:
        run(Path(sys.argv[1]), joined, sys.argv[2:])
