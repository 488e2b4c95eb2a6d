"""A check of the space of the encoded states, and of the noise in it."""

import math

import torch

from diffcore.plugins.data import Encoded
from diffcore.states.spaces import Product
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import (
    ROUNDING,
    Difference,
    batch_size,
    combined,
    field_prefix,
    relative_difference,
    source_location,
)
from diffcore.testing.plugin import BATCH_SIZE, PluginUnderTest, seeded_normal


def noise_in_space(plugin: PluginUnderTest) -> Measurement:
    """Encoded data and noise lie in the codec's space, and noise has unit variance in each direction of it.

    Solvers, losses and likelihoods work in the space: the first projection removes what lies outside, and noise with
    another variance belongs to another noise level.
    """
    encoded = plugin.encoded(BATCH_SIZE)
    data_outside = relative_difference(plugin.space.project(encoded.state, encoded.mask), encoded.state)
    return combined(
        _inside("encoded data", data_outside, source_location(plugin.codec.encode)),
        *_noise(plugin, encoded),
    )


def _noise(plugin: PluginUnderTest, encoded: Encoded) -> tuple[Measurement, Measurement]:
    space = plugin.space
    freedoms = space.degrees_of_freedom(encoded.state, encoded.mask).double().mean().item()
    # Samples with about 20,000 degrees of freedom in all: few numbers would give an imprecise variance.
    rows = torch.arange(round(min(max(20_000 / max(freedoms, 1), 16), 1024))) % batch_size(encoded.state)
    like, mask = encoded.state[rows], None if encoded.mask is None else encoded.mask[rows]
    noise = space.noise(seeded_normal(like, "space"), mask)
    outside = relative_difference(space.project(noise, mask), noise)
    all_freedoms = space.degrees_of_freedom(noise, mask).double().sum().item()
    variance = space.squared_norm(noise, mask).double().sum().item() / all_freedoms
    # A chi-squared of n degrees of freedom, divided by n, has the standard deviation sqrt(2 / n).
    allowed = 5 * math.sqrt(2 / all_freedoms) + 1e-4
    part = space.parts[outside.field] if isinstance(space, Product) and outside.field else space
    where = source_location(type(part))
    return (
        _inside("noise", outside, where),
        Measurement(
            abs(variance - 1) <= allowed,
            f"|noise|^2 is {variance:.4g} per degree of freedom",
            f"1 within {allowed:.2g}",
            where,
        ),
    )


def _inside(what: str, difference: Difference, where: str) -> Measurement:
    return Measurement(
        difference.value <= ROUNDING,
        f"{field_prefix(difference.field)}projection to the space changes {what} by {difference.value:.2g}",
        f"at most {ROUNDING:g} of the largest entry: project(x) = x",
        where,
    )
