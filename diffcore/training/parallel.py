"""Training one network in several processes: copies whose gradients are averaged (DDP), or shards (FSDP2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from diffcore.errors import UserError
from diffcore.names import OptimizerName, Parallel
from diffcore.system.distributed import world


def require_shards(batch_size: int, parallel: Parallel, compiled: bool, parts: int = 1) -> None:
    """Raise `UserError` if the processes cannot share the training, or a share has fewer examples than `parts`."""
    if parts > 1 and batch_size < world() * parts:
        several = f" for each of {world()} processes" if world() > 1 else ""
        raise UserError(
            f"a batch of {batch_size} has no {parts} parts{several}: lower `train.accumulate`, or raise "
            "`train.batch_size`"
        )
    if batch_size < world():
        raise UserError(f"a batch of {batch_size} cannot be shared by {world()} processes: raise `train.batch_size`")
    if world() > 1 and parallel == "fsdp" and compiled:
        raise UserError("`train.compile` works with `train.parallel` ddp, not with fsdp: leave one of them out")


def require_whole(optimizer: OptimizerName, parallel: Parallel) -> None:
    """Raise `UserError` if the optimiser needs whole matrices where each process has a part of them."""
    if world() > 1 and parallel == "fsdp" and optimizer == "muon":
        raise UserError(
            "`train.optimizer` muon needs whole matrices: use `train.parallel` ddp, or `train.optimizer` adam"
        )


def distribute(
    objective: nn.Module, backbone: nn.Module, parallel: Parallel, device: torch.device, parts: int = 1
) -> nn.Module:
    """Wrap `objective`, which contains `backbone` and returns a loss, so that gradients are the mean over processes.

    `parts` is the number of backward passes of a step; the context `averaging` says which of them averages.

    With `ddp` each process keeps all weights. With `fsdp` each keeps a shard of each weight, its gradient and its
    moments, and the weights of a block are gathered when the block is used; parameters are then `DTensor`s.
    """
    if world() == 1:
        return objective
    if parallel == "ddp":
        # A static graph allows parameters without a gradient, but no backward pass without averaging.
        return DistributedDataParallel(
            objective,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=parts == 1,
            find_unused_parameters=parts > 1,
        )
    for parameter in objective.parameters():  # shards are rows of contiguous tensors: no channels-last weights
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device.type, (world(),))
    for block in blocks(backbone):
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


@torch.no_grad()
def fill(objective: nn.Module, network: nn.Module, rows: dict[str, Tensor], device: torch.device) -> None:
    """Give the weights of a network in `objective`, which was built on the meta device and sharded, their `rows`.

    The rows are taken out of the dict, so that they are not in memory twice.
    """

    def empty(tensor: Tensor) -> Tensor:
        return sharded_as(tensor, torch.empty_like(local(tensor), device=device)) if tensor.is_meta else tensor

    objective._apply(empty)
    for name, parameter in network.named_parameters():
        if name in rows:
            local(parameter).copy_(rows.pop(name))


@contextmanager
def averaging(objective: nn.Module, active: bool) -> Iterator[None]:
    """A context for a backward pass of a module of `distribute`: unless `active`, gradients stay in their process."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(active)
    if isinstance(objective, DistributedDataParallel) and not active:
        with objective.no_sync():
            yield
    else:
        yield


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered together.

    They are the modules of the backbone's attribute `shards` if it has one, otherwise the elements of each
    `nn.ModuleList`; an element that is itself a list counts by its elements, and lists within elements are ignored.
    All other weights are gathered for the whole step. The backbone must call each module, not use its parts.
    """
    own = getattr(backbone, "shards", None)
    return list(_listed(backbone)) if own is None else list(own)


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            if next(child.parameters(), None) is not None:
                yield child
        else:
            yield from _listed(child)


def sharded_as(parameter: Tensor, rows: Tensor) -> Tensor:
    """Return the tensor of which this process has `rows`, if `parameter` is sharded; the rows themselves if it is not.

    It is not sent anything, and PyTorch need not find out how the result of an operation is sharded.
    """
    if not isinstance(parameter, DTensor):
        return rows
    place, shape, stride = (parameter.device_mesh, parameter.placements), parameter.shape, parameter.stride()
    return DTensor.from_local(rows, *place, run_check=False, shape=shape, stride=stride)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor. All processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
