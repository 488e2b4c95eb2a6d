"""Networks of judges, which are trained once for the same data and then read from the cache."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from diffcore.system.cached_tensors import read_tensors_entry, write_tensors_entry


def entry(cache: Path, name: str, about: str, *data: Tensor) -> Path:
    """The file in the folder `cache` for a network called `name`, which is trained on `data`.

    Its name contains `name` and a SHA-256 of it, of `about`, such as the number of steps, and of the data.
    """
    digest = hashlib.sha256(f"{name} {about}".encode())
    for tensor in data:
        digest.update(tensor.contiguous().numpy().tobytes())
    return cache / f"{name}-{digest.hexdigest()[:24]}.safetensors"


def trained_once(network: nn.Module, path: Path, train: Callable[[], None]) -> None:
    """Give `network` the weights of the cache entry `path`; if there are none, call `train` and cache what it found.

    An entry that is damaged, belongs to another network or contains numbers that are not finite counts as missing.
    Weights that are not finite after `train` are not cached.
    """
    weights = read_tensors_entry(path)
    if weights is not None and _belong(network, weights):
        network.load_state_dict(weights)
        return
    train()
    state = network.state_dict()
    if _finite(state):
        write_tensors_entry(path, state)


def _belong(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are finite and have the names, shapes and types of those of the network."""

    def form(state: Mapping[str, Tensor]) -> dict[str, object]:
        return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}

    return form(weights) == form(network.state_dict()) and _finite(weights)


def _finite(state: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in state.values())
