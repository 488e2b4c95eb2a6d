"""Networks that several processes train: copies whose gradients are averaged (DDP), or shards of one (FSDP2)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from diffcore.errors import UserError
from diffcore.names import Parallel
from diffcore.system.distributed import leads, world


def require_shards(batch_size: int, parallel: Parallel, compiled: bool) -> None:
    """Raise `UserError` where training cannot be shared by as many processes as there are."""
    if batch_size < world():
        raise UserError(f"a batch of {batch_size} cannot be shared by {world()} processes: raise `train.batch_size`")
    if world() > 1 and parallel == "fsdp" and compiled:
        raise UserError("`train.compile` works with `train.parallel` ddp, not with fsdp: leave one of them out")


def distribute(objective: nn.Module, backbone: nn.Module, parallel: Parallel, device: torch.device) -> nn.Module:
    """`objective`, which holds `backbone` and gives a loss, so that gradients are the mean over processes.

    `ddp` keeps all weights in each process. `fsdp` keeps a share of each weight, of its gradient and of its moments in
    each and collects the weights of a block when it is its turn; parameters are then `DTensor`s.
    """
    if world() == 1:
        return objective
    if parallel == "ddp":
        return DistributedDataParallel(
            objective, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True
        )
    for parameter in objective.parameters():  # shards are rows of contiguous tensors: no channels-last weights
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device.type, (world(),))
    for block in blocks(backbone):
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The parts whose weights are collected together: what the backbone's `shards` lists, else all that its lists hold.

    Those are the elements of each `nn.ModuleList`, but for elements that are lists themselves, and lists within
    elements. What is in none is collected for the whole step. Each must be used by being called.
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


def shard(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What this process keeps of `tensor` where it keeps that of `parameter`; the tensor itself where it keeps all."""
    if not isinstance(parameter, DTensor):
        return tensor
    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """The numbers of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All numbers of a tensor. All processes must ask for them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors, on the CPU where they were spread, in the leader; nothing in the others.

    All processes must ask for them; one after the other they are whole.
    """
    kept = {}
    for name, tensor in sorted(tensors.items()):  # in one order everywhere: what was read from a file is in any
        full = whole(tensor)
        if leads():
            kept[name] = full if full is tensor else full.cpu()
    return kept
