"""A check of the memory that training takes, before the other checks use the network."""

import copy

import torch
from torch import Tensor

from diffcore.system.files import memory
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import source_location
from diffcore.testing.plugin import PluginUnderTest

_BYTES = 20
"""Bytes that training takes for each weight: itself, gradient, two moments and average, 4 bytes each."""


class _TooMuchError(Exception):
    """One example takes more than the machine has."""


def network_memory(plugin: PluginUnderTest) -> Measurement:
    """Training with the preset's batch size fits into the memory of this machine.

    One example passes through the network, with the options of the checks, and the tensors that autograd keeps for the
    gradient are counted; a batch takes as many times as much. The options of a preset are usually larger, so this is a
    lower bound. A network that compares all pairs of many elements, for example, fails.
    """
    kept, seen, limit = 0, set(), memory()
    denoiser = copy.deepcopy(plugin.model.denoiser).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}
    batch = plugin.noisy_batch(1)

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in seen and place not in weights:
            seen.add(place)
            kept += storage.nbytes()
        if kept > limit / 4:
            raise _TooMuchError
        return tensor

    more = ""
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            denoiser(batch.x, batch.level, batch.given, batch.mask)
    except _TooMuchError:
        more = "more than "
    size = plugin.modality.presets["default"].values.get("train", {}).get("batch_size", 64)
    numbers = sum(parameter.numel() for parameter in denoiser.parameters())
    total = kept * size + _BYTES * numbers
    return Measurement(
        not more and total <= limit,
        f"training takes {more}{_amount(total)}: {more}{_amount(kept)} for each of {size} examples and "
        f"{_amount(_BYTES * numbers)} for the weights",
        f"at most the {_amount(limit)} of this machine",
        source_location(plugin.backbone),
    )


def _amount(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}" if size < 1000 or unit == "GiB" else f"{size:.4g} {unit}"
        size /= 1024
    raise AssertionError
