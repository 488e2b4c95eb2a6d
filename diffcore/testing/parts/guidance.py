"""The contract of guidance: a decorator of denoisers whose result is a denoiser again."""

import copy

import torch
from torch import nn

from diffcore.denoising.conditions import Conditions, nulls
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.plugins.guidance import GuidanceContext, as_guidance, guided_by
from diffcore.states.form import form_difference, shapes_of
from diffcore.states.level import Level
from diffcore.states.state import State
from diffcore.testing.checks.check import Check, Measurement
from diffcore.testing.checks.common import ROUNDING, combined, field_prefix, not_finite, relative_difference
from diffcore.testing.parts.part import PartUnderTest, built
from diffcore.testing.plugin import NoisyBatch, randomised


def builds(part: PartUnderTest) -> Measurement:
    """The builder takes the options and a context, and returns a decorator that returns a function."""
    measured = built(part, _context(part))
    _decorated(part)
    return measured


def _decorated(part: PartUnderTest) -> Denoise:
    return guided_by([as_guidance(part.build(_context(part)))], part.modality.randomised_denoiser)


def _context(part: PartUnderTest) -> GuidanceContext:
    plugin = part.modality

    def load(source: str, use: str) -> nn.Module:
        """In place of the network of another run, a random one of the same kind of data."""
        if use == "classifier":
            return randomised(plugin.with_task("classify").model.network)
        weak = copy.deepcopy(plugin.randomised_denoiser)
        with torch.no_grad():
            for parameter in weak.parameters():
                parameter.mul_(0.9)
        return weak

    return GuidanceContext(plugin.modality, plugin.codec, tuple(plugin.codec.conditions), load)


@torch.no_grad()
def _predicted(
    part: PartUnderTest, batch: NoisyBatch, conditions: Conditions | None, level: Level | None = None
) -> State:
    prediction = _decorated(part)(batch.x, batch.level if level is None else level, conditions, batch.mask)
    if not isinstance(prediction, Prediction):
        raise TypeError(f"the guided denoiser returns a {type(prediction).__name__}, not a Prediction")
    return part.modality.space.project(prediction.output, batch.mask)


def keeps_form(part: PartUnderTest) -> Measurement:
    """The guided denoiser returns finite predictions in the form of the state.

    It is called as sampling and training call denoisers: with conditions, with null values and with None, and with one
    level for all samples or one for each.
    """
    batch = part.modality.noisy_batch()
    count = batch.x.shape[0]
    cases: list[tuple[str, Conditions | None, Level | None]] = [
        ("with conditions", batch.conditions, None),
        ("with null values", nulls(part.modality.codec.conditions, count), None),
        ("without conditions", None, None),
        ("at one level for all", batch.conditions, Level(0.6, 0.8)),
    ]
    measurements = []
    for what, conditions, level in cases:
        output = _predicted(part, batch, conditions, level)
        difference = form_difference(output, shapes_of(batch.x))
        infinite = not_finite(output) if not difference else []
        measurements.append(
            Measurement(
                not difference and not infinite,
                f"{what}: {difference or ('nan or infinite' if infinite else 'finite')}",
                "finite predictions in the form of the state",
                part.where,
            )
        )
    return combined(*measurements)


def batch_changes_nothing(part: PartUnderTest) -> Measurement:
    """The guided prediction for a sample does not depend on the other samples of its batch."""
    batch = part.modality.noisy_batch()
    whole = _predicted(part, batch, batch.conditions)
    alone = batch[torch.tensor([0])]
    difference = relative_difference(_predicted(part, alone, alone.conditions), whole[:1])
    return Measurement(
        difference.value <= ROUNDING,
        f"{field_prefix(difference.field)}a batch of one changes the prediction by {difference.value:.2g}",
        f"at most {ROUNDING:g} of the largest entry",
        part.where,
    )


def repeats(part: PartUnderTest) -> Measurement:
    """The guided prediction is the same when it is computed again, and the inputs are not changed."""
    batch = part.modality.noisy_batch()
    before = batch.x.clone()
    first, again = (_predicted(part, batch, batch.conditions) for _ in range(2))
    changed, differ = relative_difference(batch.x, before), relative_difference(again, first)
    return combined(
        Measurement(changed.value == 0, f"the state changes by {changed.value:.2g}", "unchanged inputs", part.where),
        Measurement(
            differ.value <= ROUNDING, f"the second prediction differs by {differ.value:.2g}", "the same", part.where
        ),
    )


_NEEDS = ("builds", "keeps_form")

CHECKS = (
    Check("builds", "the builder returns a decorator of denoisers", builds),
    Check("keeps_form", "guided predictions have the form of the state", keeps_form, ("builds",)),
    Check("batch_changes_nothing", "a prediction does not depend on other samples", batch_changes_nothing, _NEEDS),
    Check("repeats", "a prediction is the same again, and inputs are unchanged", repeats, _NEEDS),
)
