"""One process or many under torchrun: who is who, sums over all, and the model's weights in shards (FSDP2).

Every rank runs the same loop. What must happen once (building, writing, telling the user) happens on rank 0, and an
error on any rank stops all of them: no rank waits for one that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from flantune.errors import FlantuneError, StateError
from flantune.models.family import Family
from flantune.train.precision import best_device
from flantune.whole import atomic_folder

T = TypeVar("T")

# For rank 0's long work (a build, a benchmark, a large file): the others wait, and torchrun ends them if rank 0 dies.
_LONG = timedelta(days=7)


class StoppedElsewhere(FlantuneError):
    """Another rank met an error and has told of it."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a training; alone by default. `waiting` is a group of its own for long waits."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    waiting: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Of each number over all ranks, in float64: whole numbers stay exact. Equal on every rank."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def agree(self, error: BaseException | None) -> None:
        """Waits for all ranks; raises this one's error, or StoppedElsewhere where only another had one."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        flag = torch.tensor([float(error is not None)])
        dist.all_reduce(flag, group=self.waiting)
        if error is not None:
            raise error
        if float(flag) > 0:
            raise StoppedElsewhere("another rank met an error; its message says which.")

    def together(self, work: Callable[[], T]) -> T:
        """Run on every rank; all go on, or none does."""
        result, error = None, None
        try:
            result = work()
        except Exception as e:
            error = e
        self.agree(error)
        return result  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T | None:
        """Run on rank 0 while the others wait; None on them."""
        return self.together(work if self.main else lambda: None)

    def tell(self, value: T) -> T:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        carried = [value]
        dist.broadcast_object_list(carried, src=0, group=self.waiting)
        return carried[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.waiting)
        return found


ALONE = Ranks()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun (or anything that sets its variables) started, joined; alone where there are none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise StateError(
                f"rank {os.environ.get('RANK')}: expected a GPU for each process of a machine, got {local_size} "
                f"processes and {gpus} GPUs. Start torchrun with --nproc-per-node {gpus}."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        waiting = dist.new_group(backend="gloo", timeout=_LONG)
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_rank, local_size, waiting)
    finally:
        dist.destroy_process_group()


class Objective(nn.Module):
    """A packed batch to what is differentiated and what is told: the root of the shards, so that embedding, output
    matrix and last norm are gathered once for a whole forward pass, whichever of the model's parts is called."""

    def __init__(self, model: nn.Module, family: Family, z_loss: float) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.z_loss = z_loss

    def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum to differentiate, and (3,) without gradient: loss sum, z-loss sum, tokens predicted right."""
        sums = self.family.loss(self.model, batch, self.z_loss)  # type: ignore[arg-type]
        return sums.total, torch.stack([sums.loss_sum.detach(), sums.z_sum.detach(), sums.correct.detach()])


def shard(objective: Objective, ranks: Ranks) -> Objective:
    """Spread the weights over the ranks in place: every block a unit, all the rest one, gradients summed.

    The rest is one unit because torch 2.13 refuses a tied matrix in two. From the CPU weights go to the GPU in shards,
    so that a model larger than a GPU can be trained. Every rank must hold the same weights; or all but rank 0 hold none
    (`models.load.without_weights`), and are sent their parts by it: a machine then holds one whole model, not one for
    each of its ranks. Raises StateError.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    formats = sorted({str(p.dtype).removeprefix("torch.") for p in objective.parameters()})
    if len(formats) > 1:
        raise StateError(
            f"expected weights of one number format to spread over {ranks.size} ranks, got {', '.join(formats)}. Set "
            "model.adapter.load: fp32, or train in one process."
        )
    sent = _agree_on_hollow(objective, ranks)
    mesh = init_device_mesh(best_device().type, (ranks.size,))
    if sent and ranks.main:
        _send_parts(objective, ranks)  # before it keeps its own part alone
    for block in blocks_of(objective.model):
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the global batch's tokens already: the sum, not the mean over ranks.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if sent and not ranks.main:
        _receive_parts(objective)
    return objective


def _agree_on_hollow(objective: Objective, ranks: Ranks) -> bool:
    """Whether rank 0 alone has weights. Then buffers become rank 0's, and hollow models are tied as its is."""
    hollow = any(p.is_meta for p in objective.parameters())
    if not any(ranks.gather(hollow)):
        return False
    ranks.agree(StateError("expected rank 0 to hold the weights, got none.") if ranks.main and hollow else None)
    told = ranks.tell(_account(objective))
    ranks.together(lambda: _tie_alike(objective, told))
    buffers = ranks.tell({name: b.detach().cpu() for name, b in objective.named_buffers()})
    for name, buffer in objective.named_buffers():
        buffer.copy_(buffers[name])
    return True


_Account = dict[str, tuple[str, tuple[int, ...], str]]


def _account(model: nn.Module) -> _Account:
    """Name -> (the first name of the same matrix, its shape, its number format)."""
    first: dict[int, str] = {}
    return {
        name: (first.setdefault(id(p), name), tuple(p.shape), str(p.dtype))
        for name, p in model.named_parameters(remove_duplicate=False)
    }


def _tie_alike(model: nn.Module, told: _Account) -> None:
    """Matrices of a hollow model tied and untied as `told`: where a file holds an output matrix of its own, loading
    unties what the configuration alone would tie."""
    own = dict(model.named_parameters(remove_duplicate=False))
    shapes = {name: (tuple(p.shape), str(p.dtype)) for name, p in own.items()}
    differing = sorted(k for k in {*own, *told} if k not in own or k not in told or shapes[k] != told[k][1:])
    if differing:
        raise StateError(
            f"expected the weights of rank 0's model on every rank, got others ('{differing[0]}' differs). All "
            "machines must have the same model folder and the same versions of torch and transformers."
        )
    made: dict[str, nn.Parameter] = {}
    taken: set[int] = set()
    for name, (first, shape, _) in told.items():
        if first not in made:
            mine = own[first]
            if id(mine) in taken:  # tied here and not there
                empty = torch.empty(shape, dtype=mine.dtype, device="meta")
                mine = nn.Parameter(empty, requires_grad=mine.requires_grad)
            taken.add(id(mine))
            made[first] = mine
        if own[name] is not made[first]:
            path, _, leaf = name.rpartition(".")
            model.get_submodule(path)._parameters[leaf] = made[first]


def _send_parts(objective: Objective, ranks: Ranks) -> None:
    """To each rank its rows of every weight, as FSDP2 cuts them; ranks that get none are sent nothing."""
    for parameter in objective.parameters():
        for rank, piece in enumerate(parameter.detach().chunk(ranks.size)[1:], 1):
            dist.send(piece.contiguous(), dst=rank)


def _receive_parts(objective: Objective) -> None:
    """What `_send_parts` sends, in its order, into shards that have no numbers yet."""
    device = best_device()
    objective._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t)
    for parameter in objective.parameters():
        mine = local(parameter.detach())
        if mine.numel():
            came = torch.empty(mine.shape, dtype=mine.dtype)
            dist.recv(came, src=0)
            mine.copy_(came)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated layers, as transformers names them for splitting a model over devices."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    return found or [m for stack in model.modules() if isinstance(stack, nn.ModuleList) for m in stack]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor, the same memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradient_norm(parameters: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
    """Of all gradients together, scalar; the same on every rank."""
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if ranks.size == 1:
        return norm
    squared = norm.double().square()
    dist.all_reduce(squared)
    return squared.sqrt().to(norm.dtype)


def sharded_dim(tensor: torch.Tensor) -> tuple[int, Any] | None:
    """(dim, group) of the one dim that is spread over a group of ranks; None for a tensor that is whole on each."""
    if not isinstance(tensor, DTensor):
        return None
    spread = [(place.dim, at) for at, place in enumerate(tensor.placements) if isinstance(place, Shard)]
    if not spread:
        return None
    if len(spread) > 1:
        raise StateError(f"expected a tensor spread over one dim, got placements {tensor.placements}.")
    dim, mesh_dim = spread[0]
    return dim, tensor.device_mesh.get_group(mesh_dim)


@contextmanager
def shared_folder(final: Path, ranks: Ranks) -> Iterator[Path]:
    """`atomic_folder` for all ranks: one folder they all write in, `final` once every one has left without an error.

    Inside, anything that may fail on one rank alone goes through `ranks.together`.
    """
    with ExitStack() as stack:
        made = ranks.first(lambda: stack.enter_context(atomic_folder(final)))
        temporary = Path(ranks.tell(str(made)))
        ranks.together(lambda: _require_seen(temporary))
        yield temporary
        closing = stack.pop_all()
        ranks.first(closing.close)


def _require_seen(folder: Path) -> None:
    if not folder.is_dir():
        raise StateError(
            f"{folder}: rank 0 made this folder and this machine does not see it. 'runs' must be on a file system that "
            "all machines share."
        )
