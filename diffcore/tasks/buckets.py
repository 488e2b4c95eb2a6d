"""Batches of examples with similar numbers of elements, in which little is computed for elements that do not exist."""

from dataclasses import replace

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.data import Data, Encoded
from diffcore.runs.coding import encode
from diffcore.runs.model import Model
from diffcore.states.noise import generator_for
from diffcore.states.spaces import Space, SymmetricPairs, Whole, space_of
from diffcore.states.state import State, fields, from_fields

MULTIPLE = 4
"""Batches have a multiple of so many elements, or all: few different shapes, as compiled networks need."""

_AT_ONCE = 4096


def with_sizes(model: Model, data: Data) -> Data:
    """The data with `sizes`: the number of elements of each example, or rather the place of the last one.

    Raises `UserError` for data whose examples all have the same elements, and for conditions that have the form of the
    state, since they would have to be shortened too.
    """
    if shaped := [each.name for each in model.codec.conditions if each.inputs.like_state]:
        raise UserError(
            f"`train.buckets` cannot be used with the condition {shaped[0]!r}, which has the form of the data"
        )
    found = []
    for start in range(0, len(data.examples), _AT_ONCE):
        mask = encode(model, data.examples[start : start + _AT_ONCE]).mask
        if mask is None:
            raise UserError(f"`train.buckets`: all examples of {model.modality.name} have the same number of elements")
        found.append((mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).cpu())
    return replace(data, sizes=torch.cat(found))


def sorted_indices(indices: Tensor, sizes: Tensor, batch: int, seed: int, window: int) -> Tensor:
    """The examples `indices` of a window of K batches, `[K, batch]`, so that those of a batch have similar sizes.

    Both the order of the batches and that within a batch are random, so that neither the time of training nor the noise
    level of an example says how large it is.
    """
    groups = indices[sizes[indices].argsort(stable=True)].reshape(-1, batch)
    generator = generator_for(seed, "buckets", window)
    groups = groups[torch.randperm(len(groups), generator=generator)]
    return torch.stack([group[torch.randperm(batch, generator=generator)] for group in groups])


def trimmed(encoded: Encoded, space: Space, largest: int) -> Encoded:
    """The examples without places for elements beyond the first `largest`, rounded up to `MULTIPLE`."""
    assert encoded.mask is not None
    count = min(-(-largest // MULTIPLE) * MULTIPLE, encoded.mask.shape[1])
    return replace(encoded, state=_first(encoded.state, space, count), mask=encoded.mask[:, :count])


def _first(state: State, space: Space, count: int) -> State:
    """The first `count` elements of each field, and of both axes where elements are in pairs."""
    found = {}
    for name, value in fields(state).items():
        own = space_of(space, name)
        if isinstance(own, Whole):
            found[name] = value
        else:
            found[name] = value[:, :count, :count] if isinstance(own, SymmetricPairs) else value[:, :count]
    return from_fields(found)
