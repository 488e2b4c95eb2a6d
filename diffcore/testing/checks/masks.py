"""A check of masks: absent elements have no effect."""

from dataclasses import replace

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.states.spaces import Product, Space, SymmetricPairs
from diffcore.states.state import State, fields, map_fields
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import (
    ROUNDING,
    batch_size,
    combined,
    field_prefix,
    relative_difference,
    source_location,
)
from diffcore.testing.plugin import NoisyBatch, PluginUnderTest, seeded_normal

_EXTRA = 2
"""How many absent elements are appended."""


def padding_changes_nothing(plugin: PluginUnderTest) -> Measurement:
    """Absent elements change no output: neither the numbers stored for them, nor how many of them there are.

    Sets of different sizes are padded to one shape, and `mask` is True where an element exists. A sample must not
    depend on how far it is padded. A network that accepts one number of elements only is not tried with more.
    """
    batch, mask = _batch_with_absent_elements(plugin)
    output = plugin.predict(batch)
    return combined(_stored_numbers(plugin, batch, mask, output), _more_padding(plugin, batch, mask, output))


def _batch_with_absent_elements(plugin: PluginUnderTest) -> tuple[NoisyBatch, Tensor]:
    batch = plugin.noisy_batch()
    if batch.mask is None:
        raise NotApplicableError("all elements exist: the codec returns no mask")
    if bool(batch.mask.all()):
        raise NotApplicableError(f"all elements exist in {batch_size(batch.x)} examples")
    return batch, batch.mask


def _stored_numbers(plugin: PluginUnderTest, batch: NoisyBatch, mask: Tensor, output: State) -> Measurement:
    """Replace the numbers that are stored for absent elements."""
    absent, variable = _absent_entries(plugin.space, batch.x, mask), plugin.entries_with_noise(batch.x, None)
    # The new numbers lie in the space too, taken without a mask: they are symmetric where the space is.
    stored = plugin.space.noise(seeded_normal(batch.x, "stored"), None)

    def replaced(state: State) -> State:
        return map_fields(lambda x, a, v, s: torch.where(a & v, 3 * s, x), state, absent, variable, stored)

    estimate = None if batch.estimate is None else replaced(batch.estimate)
    change = "other numbers stored for absent elements change"
    return _unchanged(plugin, plugin.predict(replace(batch, x=replaced(batch.x), estimate=estimate)), output, change)


def _more_padding(plugin: PluginUnderTest, batch: NoisyBatch, mask: Tensor, output: State) -> Measurement:
    """Append absent elements."""
    x = _pad(plugin.space, batch.x, _EXTRA)
    estimate = None if batch.estimate is None else _pad(plugin.space, batch.estimate, _EXTRA)
    padded = replace(batch, x=x, mask=torch.nn.functional.pad(mask, (0, _EXTRA)), estimate=estimate)
    try:
        padded_output = plugin.predict(padded)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        measured = f"the network accepts {mask.shape[1]} elements only"
        return Measurement(True, measured, _expected(), source_location(plugin.backbone))
    return _unchanged(
        plugin, padded_output, _pad(plugin.space, output, _EXTRA), f"{_EXTRA} more absent elements change"
    )


def _expected() -> str:
    return f"at most {ROUNDING:g} of the largest entry: absent elements have no effect"


def _unchanged(plugin: PluginUnderTest, found: State, output: State, change: str) -> Measurement:
    difference = relative_difference(found, output)
    return Measurement(
        difference.value <= ROUNDING,
        f"{field_prefix(difference.field)}{change} the output by {difference.value:.2g}",
        _expected(),
        source_location(plugin.backbone),
    )


def _absent_entries(space: Space, like: State, mask: Tensor) -> State:
    """Which entries belong to absent elements, as booleans; an entry of a pair does if either element is absent."""
    if isinstance(space, Product):
        parts = {name: _absent_entries(space.parts[name], value, mask) for name, value in fields(like).items()}
        return TensorDict(parts, batch_size=like.shape[:1])
    assert isinstance(like, Tensor)
    present = mask[:, :, None] & mask[:, None] if isinstance(space, SymmetricPairs) else mask
    return ~present.reshape(*present.shape, *[1] * (like.ndim - present.ndim)).expand_as(like)


def _pad(space: Space, state: State, extra: int) -> State:
    """Append zeros for `extra` more elements: along axis 1 of each field, and along axis 2 of pairs."""
    if isinstance(space, Product):
        parts = {name: _pad(space.parts[name], value, extra) for name, value in fields(state).items()}
        return TensorDict(parts, batch_size=state.shape[:1])
    assert isinstance(state, Tensor)
    pairs = isinstance(space, SymmetricPairs)
    after = [0, 0] * (state.ndim - 2 - pairs) + [0, extra] * (1 + pairs)
    return torch.nn.functional.pad(state, after)
