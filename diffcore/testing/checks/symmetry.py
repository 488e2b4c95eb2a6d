"""A check of the symmetries that a denoiser declares."""

from dataclasses import replace

from diffcore.plugins.contract import Transform
from diffcore.states.noise import generator_for
from diffcore.states.state import State
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import combined, field_prefix, relative_difference, source_location
from diffcore.testing.plugin import NoisyBatch, PluginUnderTest


def symmetries(plugin: PluginUnderTest) -> Measurement:
    """f(T x) = T f(x) for each symmetry T that the denoiser f declares in `Component.symmetries`.

    `Contract.symmetries` defines what the names mean. Each symmetry is tried with two random transforms, and the two
    sides may differ by `Contract.symmetry_tolerance`, relative to the largest entry.
    """
    names, contract = plugin.denoiser.symmetries, plugin.contract
    if not names:
        raise NotApplicableError(f"the denoiser {plugin.denoiser.name} declares no symmetries")
    where = source_location(plugin.backbone)
    batch = plugin.noisy_batch()
    output = plugin.predict(batch)
    measurements = []
    for name in names:
        if name not in contract.symmetries:
            defined = ", ".join(contract.symmetries) or "none"
            return Measurement(
                False,
                f"the denoiser declares {name!r}, which the contract does not define",
                f"symmetries that the modality's contract defines: {defined}",
                where,
            )
        for draw in range(2):
            transform = contract.symmetries[name](batch.x, batch.mask, generator_for(0, "symmetry", name, draw))
            transformed = _transformed(plugin, batch, transform)
            expected: State = plugin.space.project(transform.state(output), transformed.mask)
            difference = relative_difference(plugin.predict(transformed), expected)
            measurements.append(
                Measurement(
                    difference.value <= contract.symmetry_tolerance,
                    f"{name}: {field_prefix(difference.field)}f(T x) differs from T f(x) by {difference.value:.2g}",
                    f"at most {contract.symmetry_tolerance:g} of the largest entry",
                    where,
                )
            )
    return combined(*measurements)


def _transformed(plugin: PluginUnderTest, batch: NoisyBatch, transform: Transform) -> NoisyBatch:
    mask = None if batch.mask is None else transform.mask(batch.mask)
    estimate = None if batch.estimate is None else transform.state(batch.estimate)
    return replace(batch, x=plugin.space.project(transform.state(batch.x), mask), mask=mask, estimate=estimate)
