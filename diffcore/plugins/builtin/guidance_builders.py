"""The core's own guidances, built from their options."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffcore.denoising.conditions import Condition, Conditions, parsed
from diffcore.denoising.denoiser import Denoise, Denoiser
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.denoising.text import TextCondition, padded
from diffcore.errors import UserError
from diffcore.plugins.building import of_samples, part_of
from diffcore.plugins.builtin.guidance import (
    AutoOptions,
    ClassifierFreeOptions,
    ClassifierOptions,
    ComposedOptions,
    IntervalOptions,
    KeepElementsOptions,
    PromptsOptions,
    RescaleOptions,
)
from diffcore.plugins.guidance import Guidance, GuidanceContext
from diffcore.plugins.text import NAME
from diffcore.sampling import guidance
from diffcore.sampling.inverse.editing import METHODS, measured
from diffcore.sampling.inverse.operators import keep_elements as keep_elements_of
from diffcore.sampling.particles import Factor
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields


def classifier_free(options: ClassifierFreeOptions, context: GuidanceContext) -> Guidance:
    """Classifier-free guidance with all conditions of the model. With weight 0, the plain model has no conditions."""
    own = {condition.name: condition for condition in context.codec.conditions}
    _require_known("classifier-free", own, options.against)
    against = {name: parsed(own[name], text, range(1)) for name, text in options.against.items()}

    def decorate(denoise: Denoise, plain: Denoise) -> Denoise:
        return guidance.classifier_free(denoise, [*own.values()], options.weight, against)

    return Guidance(decorate, tuple(own.values()), options.weight == 0 and not against)


def composed(options: ComposedOptions, context: GuidanceContext) -> Guidance:
    """Conditions with a weight each."""
    own = {condition.name: condition for condition in context.codec.conditions}
    _require_known("composed", own, options.weights)
    return Guidance(
        lambda denoise, plain: guidance.composed(denoise, [*own.values()], options.weights),
        tuple(own[name] for name in options.weights),
    )


def prompts(options: PromptsOptions, context: GuidanceContext) -> Guidance:
    """Texts with a weight each. Where there is no guidance, as outside of an interval, all wanted ones are one text."""
    own = {condition.name: condition for condition in context.codec.conditions}
    if not isinstance(condition := own.get(NAME), TextCondition):
        raise UserError("the guide prompts: this model was trained without captions, so it takes no prompts")
    values = [parsed(condition, text, range(1)) for text in options.weights]
    weights = [*options.weights.values()]
    caption = ", ".join(f"{condition.caption(v[0])} {w:g}" for v, w in zip(values, weights, strict=True))
    wanted = [number for v, w in zip(values, weights, strict=True) if w > 0 for number in v[v > 0].tolist()]
    return Guidance(
        lambda denoise, plain: guidance.composed_values(denoise, condition, values, weights),
        asks={NAME: padded([wanted], condition.encoder.length)[0]},
        captions={NAME: caption},
    )


def _require_known(guide: str, own: Mapping[str, Condition], names: Iterable[str]) -> None:
    """Raise `UserError` for a name that no condition of the model has."""
    for name in names:
        if name not in own:
            known = ", ".join(own) or "none"
            raise UserError(f"the guide {guide}: this model has no condition {name!r}; there are: {known}")


def auto(options: AutoOptions, context: GuidanceContext) -> Guidance:
    """Autoguidance with a weaker denoiser of the same conditions."""
    weak = cast(Denoiser, context.load(options.weak, "weak"))
    own = {condition.name for condition in context.codec.conditions}
    if lacking := sorted({condition.name for condition in weak.conditions} - own):
        raise UserError(f"`weak` {options.weak} needs conditions that this model does not have: {', '.join(lacking)}")
    return Guidance(lambda denoise, plain: guidance.autoguidance(denoise, weak, options.weight))


def classifier(options: ClassifierOptions, context: GuidanceContext) -> Guidance:
    """The gradient of a noisy classifier, towards all conditions that it predicts."""
    network, space = cast(NoisyClassifier, context.load(options.run, "classifier")), context.codec.space

    def log_weight(x: State, level: Levels, conditions: Conditions | None, mask: Mask) -> Tensor:
        return options.weight * network.log_likelihood(x, level, conditions, mask)

    return Guidance(
        lambda denoise, plain: guidance.energy(denoise, space, network.log_likelihood, options.weight),
        network.conditions,
        factor=Factor(log_weight) if options.weight else None,
    )


def interval(options: IntervalOptions, context: GuidanceContext) -> Guidance:
    """The guidances before in the list only between two log-SNRs."""
    return Guidance(lambda denoise, plain: _if_guided(denoise, plain, guidance.interval, options.low, options.high))


def rescale(options: RescaleOptions, context: GuidanceContext) -> Guidance:
    """The guidances before in the list, rescaled to the standard deviation of the plain prediction."""
    space = context.codec.space
    return Guidance(lambda denoise, plain: _if_guided(denoise, plain, guidance.rescale, space, options.factor))


def _if_guided(denoise: Denoise, plain: Denoise, change: Any, *arguments: Any) -> Denoise:
    return denoise if denoise is plain else change(denoise, plain, *arguments)


def keep_elements(options: KeepElementsOptions, context: GuidanceContext) -> Guidance:
    """Elements of sets that a file gives, drawn by posterior sampling.

    A field of which the file says nothing stays free. What is kept of the others is what `KeepElements` describes.
    """
    if of_samples(context.codec) is not context.codec:
        raise UserError("the guide keep-elements: it needs a model of the samples themselves, not of their latents")
    made = context.modality.reader
    reader = None if made is None else part_of(context.modality, "reader", context.codec)
    if reader is None or not hasattr(reader, "read_part"):
        name = context.modality.name
        raise UserError(f"the guide keep-elements: the plugin for {name} cannot read a file with a part of a sample")
    values, known = reader.read_part(Path(options.file))
    operator = keep_elements_of(known, context.codec.space)
    given, method = operator(values), METHODS[options.method](options.noise_std)
    return Guidance(
        lambda denoise, plain: measured(denoise, operator, given, context.codec.space, method),
        least_size=int((operator.known[0] * torch.arange(1, operator.known.shape[1] + 1)).max()),
        tensors={options.file: {**fields(given), "known elements": operator.known}},
    )
