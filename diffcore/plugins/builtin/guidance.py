"""The guidances of the core, and their options."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from diffcore.plugins.builtin.values import require_rising
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Settings, absolute, lazy


class ClassifierFreeOptions(Settings):
    """Options of the guidance `classifier-free`."""

    weight: float = Field(2.0, description="1: the conditional model; 0: without conditions; larger: follow them more.")
    against: dict[str, str] = Field(
        {}, description="Conditions that guidance compares with, in place of none: NAME=VALUE."
    )


class ComposedOptions(Settings):
    """Options of the guidance `composed`."""

    weights: dict[str, float] = Field(min_length=1, description="The weight of each condition: NAME=WEIGHT.")


class PromptsOptions(Settings):
    """Options of the guidance `prompts`."""

    weights: dict[str, float] = Field(min_length=1, description="The weight of each prompt: PROMPT=WEIGHT.")


class AutoOptions(Settings):
    """Options of the guidance `auto`."""

    weak: str = Field(description="A checkpoint of this run, or the folder of a run that was trained less.")
    weight: float = Field(2.0, description="1: this model alone; larger: further away from the weaker one.")


class ClassifierOptions(Settings):
    """Options of the guidance `classifier`."""

    run: str = Field(description="The folder of a run with the task classify.")
    weight: float = Field(1.0, description="Weight of its gradient.")


class IntervalOptions(Settings):
    """Options of the guidance `interval`."""

    low: float = Field(-100.0, description="Smallest log-SNR, -2 ln(sigma / alpha), at which there is guidance.")
    high: float = Field(100.0, description="Largest log-SNR at which there is guidance.")

    @model_validator(mode="after")
    def _ends(self) -> "IntervalOptions":
        require_rising(self.low, self.high, "low and high")
        return self


class RescaleOptions(Settings):
    """Options of the guidance `rescale`."""

    factor: float = Field(0.7, ge=0, le=1, description="0: not at all; 1: to the deviation of the plain prediction.")


class KeepElementsOptions(Settings):
    """Options of the guidance `keep-elements`."""

    file: Annotated[str, BeforeValidator(absolute)] = Field(
        description="A file with a part of a sample, as --inpaint reads it."
    )
    method: Literal["mmps", "dps"] = Field("mmps", description="How samples are made to agree with it.")
    noise_std: float = Field(0.0, ge=0, description="How far it may be off, in standard deviations of the data.")


@hookimpl
def diffcore_guidance() -> Iterable[Component]:
    return (
        _guidance("classifier-free", "enlarges the difference that conditions make", ClassifierFreeOptions),
        _guidance("composed", "each condition with a weight of its own", ComposedOptions, tried=True),
        _guidance("auto", "enlarges the difference to a weaker model", AutoOptions, {"weak": "a weaker run"}),
        _guidance("classifier", "the gradient of a noisy classifier", ClassifierOptions, tried=True),
        _guidance("interval", "those before it only in an interval of noise", IntervalOptions),
        _guidance("keep-elements", "keeps elements of a set", KeepElementsOptions, tried=True),
        _guidance("prompts", "several prompts with a weight each", PromptsOptions, tried=True),
        _guidance("rescale", "those before it, not overexposed", RescaleOptions),
    )


def _guidance(
    name: str, summary: str, options: type[Settings], small: Mapping[str, Any] | None = None, tried: bool = False
) -> Component:
    """The guidance that the function of this name, dashes as underscores, in `guidance_builders` builds.

    If it is `tried`, the function of this name in `guidance_trials` returns its options for a trial.
    """
    own, function = lazy("diffcore.plugins.builtin"), name.replace("-", "_")
    trial = own(f"guidance_trials:{function}") if tried else small or {}
    return Component(name, summary, own(f"guidance_builders:{function}"), options, small=trial)
