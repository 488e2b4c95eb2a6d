"""Tensors on a device, without making the caller wait for it."""

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """`value` on `device`.

    A copy from pageable memory of the CPU makes the caller wait until a GPU has finished all earlier work. So a tensor
    of the CPU is copied to pinned memory first, from which the GPU copies it when it comes to it.
    """
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
