"""Checks of the network: the form of its output, its gradients, and that samples of a batch are independent."""

import copy
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.states.noise import generator_for
from diffcore.states.state import combine, fields, map_fields
from diffcore.tasks.objective import step_loss
from diffcore.tasks.random_state import seed_generators
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import (
    ROUNDING,
    batch_size,
    combined,
    field_prefix,
    name_list,
    not_finite,
    relative_difference,
    source_location,
)
from diffcore.testing.plugin import NoisyBatch, PluginUnderTest


def network_runs(plugin: PluginUnderTest) -> Measurement:
    """The network takes a noisy batch with its conditions and returns finite numbers in the form of the state.

    All checks of the network depend on this one.
    """
    batch = plugin.noisy_batch()
    output = plugin.predict(batch)
    where = source_location(plugin.backbone)
    form, expected = _form(output), _form(batch.x)
    infinite = [name or "the output" for name in not_finite(output)]
    return combined(
        Measurement(form == expected, f"the output is {form}", f"the form of the input, {expected}", where),
        Measurement(
            not infinite,
            f"nan or infinite numbers in {name_list(infinite)}" if infinite else "finite numbers",
            "finite numbers",
            where,
        ),
    )


def denoiser_keeps_form(plugin: PluginUnderTest) -> Measurement:
    """The output has the fields, shapes and dtypes of the input, which the network does not modify.

    This is checked in float32 and in float64. A network that creates tensors of the default dtype, or that computes in
    place, fails.
    """
    where = source_location(plugin.backbone)
    measurements = []
    for dtype in (torch.float32, torch.float64):
        batch = _to_dtype(plugin.noisy_batch(), dtype)
        before = _copy(batch)
        with torch.no_grad():
            denoiser = copy.deepcopy(plugin.randomised_denoiser).to(dtype)
            output = denoiser(batch.x, batch.level, batch.given, batch.mask).output
        form, expected, unmodified = _form(output), _form(batch.x), _same_inputs(before, batch)
        measurements += [
            Measurement(form == expected, f"the output is {form}", f"the form of the input, {expected}", where),
            Measurement(
                unmodified,
                "state and mask are not modified" if unmodified else "the network modifies its input state or mask",
                "inputs that are not modified",
                where,
            ),
        ]
    return combined(*measurements)


def _to_dtype(batch: NoisyBatch, dtype: torch.dtype) -> NoisyBatch:
    x, x0, noise = (map_fields(lambda f: f.to(dtype), state) for state in (batch.x, batch.x0, batch.noise))
    return replace(batch, x=x, x0=x0, noise=noise)


def _copy(batch: NoisyBatch) -> NoisyBatch:
    return replace(batch, x=batch.x.clone(), mask=None if batch.mask is None else batch.mask.clone())


def _same_inputs(first: NoisyBatch, second: NoisyBatch) -> bool:
    states = zip(fields(first.x).values(), fields(second.x).values(), strict=True)
    masks = first.mask is None or second.mask is None or torch.equal(first.mask, second.mask)
    return masks and all(torch.equal(a, b) for a, b in states)


def _form(state: Any) -> str:
    """The fields of a state with their shapes and dtypes, as a phrase for the report."""
    if not isinstance(state, Tensor | TensorDict):
        return f"a {type(state).__name__}"
    each = (
        f"{field_prefix(name)}{'x'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
        for name, value in sorted(fields(state).items())
    )
    return ", ".join(each)


def gradients_reach_all(plugin: PluginUnderTest) -> Measurement:
    """The losses of two training steps give each parameter a gradient that is finite and not zero.

    A parameter without a gradient is never trained. Parameters that are zero at first are random here
    (`PluginUnderTest.randomised_denoiser`), so no gradient is blocked by an initial weight of zero.
    """
    denoiser = copy.deepcopy(plugin.randomised_denoiser).train()
    model = plugin.model_with(denoiser)
    for step in range(2):
        step_loss(model, plugin.settings, plugin.data, step).backward()
    parameters = dict(denoiser.named_parameters())
    missing = [name for name, p in parameters.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    infinite = [name for name, p in parameters.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    count = len(parameters)
    where = source_location(plugin.backbone)
    return combined(
        Measurement(
            not infinite,
            f"nan or infinite gradients at {name_list(infinite)}" if infinite else "finite gradients",
            "finite gradients",
            where,
        ),
        Measurement(
            not missing,
            f"no gradient at {len(missing)} of {count} parameters: {name_list(missing)}"
            if missing
            else f"gradients at all {count} parameters",
            "a nonzero gradient at every parameter (weights that are zero at first are random here)",
            where,
        ),
    )


def batch_changes_nothing(plugin: PluginUnderTest) -> Measurement:
    """The output for a sample does not depend on the other samples of the batch, nor on its place among them.

    Sample 17 of seed 3 must be the same in every batch. In training mode, only the other samples are changed: batch
    normalisation uses them then, although it does not in evaluation mode, and the network would learn another function
    than the one that draws samples.
    """
    batch = plugin.noisy_batch()
    output = plugin.predict(batch)
    order = torch.randperm(batch_size(batch.x), generator=generator_for(0, "batch"))
    measurements = []
    for rows, change in ((order, "another order of the batch"), (torch.tensor([0]), "a batch of one")):
        difference = relative_difference(plugin.predict(batch[rows]), output[rows])
        measurements.append(
            Measurement(
                difference.value <= ROUNDING,
                f"{field_prefix(difference.field)}{change} changes the output by {difference.value:.2g}",
                f"at most {ROUNDING:g} of the largest entry: a sample does not depend on the others of its batch",
                source_location(plugin.backbone),
            )
        )
    return combined(*measurements, _alone_in_training(plugin, batch))


def _alone_in_training(plugin: PluginUnderTest, batch: NoisyBatch) -> Measurement:
    """Whether other samples change the output of the first half of a batch in training mode, with the same dropout."""
    count = batch_size(batch.x)
    half = count // 2
    factors = torch.where(torch.arange(count) < half, 1.0, 3.0)
    others = replace(batch, x=combine((factors, batch.x)))
    outputs = []
    for each in (batch, others):
        seed_generators(torch.device("cpu"), 0)
        outputs.append(plugin.predict(each, copy.deepcopy(plugin.randomised_denoiser).train())[:half])
    difference = relative_difference(*outputs)
    return Measurement(
        difference.value <= ROUNDING,
        f"{field_prefix(difference.field)}in training mode, other samples change the output by {difference.value:.2g}",
        f"at most {ROUNDING:g} of the largest entry: GroupNorm or LayerNorm instead of BatchNorm, for example",
        source_location(plugin.backbone),
    )
