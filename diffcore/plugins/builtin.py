"""The core's own parts, offered through the same hooks as everybody's."""

import math
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from diffcore.names import Clock
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import (
    API_VERSION,
    CLEAN_BATCH,
    Command,
    Component,
    NoOptions,
    Settings,
    Task,
    absolute,
    lazy,
)

__all__ = [
    "API_VERSION",
    "diffcore_commands",
    "diffcore_guidance",
    "diffcore_loggers",
    "diffcore_schedules",
    "diffcore_solvers",
    "diffcore_tasks",
    "diffcore_text_encoders",
]

Positive = Annotated[float, Field(gt=0)]


def _rises(low: float, high: float, names: str) -> None:
    if not low < high:
        raise ValueError(f"{names}: the first, {low:g}, must be smaller than the second, {high:g}")


class ZeroTerminalOption(Settings):
    """The option of schedules that can be moved to end at zero SNR."""

    zero_terminal: bool = Field(
        False, description="Move the schedule so that time 1 is pure noise; not for the parameterisation eps."
    )


class CosineOptions(ZeroTerminalOption):
    """Options of the schedule `cosine`."""

    log_snr_min: float = Field(-10.0, ge=-40, le=40, description="log-SNR at time 1, the noisy end.")
    log_snr_max: float = Field(10.0, ge=-40, le=40, description="log-SNR at time 0, the clean end.")
    shift: float = Field(
        0.0, ge=-10, le=10, description="Added to the log-SNR between the ends; negative: more time at high noise."
    )

    @model_validator(mode="after")
    def _ends(self) -> "CosineOptions":
        _rises(self.log_snr_min, self.log_snr_max, "log_snr_min and log_snr_max")
        return self


class RateOptions(Settings):
    """The rates of noise of the schedules `linear` and `sub-vp`."""

    beta_0: Positive = Field(0.1, description="beta at time 0.")
    beta_1: float = Field(20.0, gt=0, le=1000, description="beta at time 1.")
    epsilon: float = Field(1e-3, gt=0, lt=1, description="The smallest time that is used.")

    @model_validator(mode="after")
    def _ends(self) -> "RateOptions":
        _rises(self.beta_0, self.beta_1, "beta_0 and beta_1")
        return self


class LinearOptions(RateOptions, ZeroTerminalOption):
    """Options of the schedule `linear`."""


class DdpmOptions(ZeroTerminalOption):
    """Options of the schedule `ddpm`."""

    steps: int = Field(1000, ge=2, le=1_000_000, description="Length T of the chain.")
    beta_first: float = Field(1e-4, gt=0, lt=1, description="beta of the cleanest step.")
    beta_last: float = Field(0.02, gt=0, lt=1, description="beta of the noisiest step.")


class IddpmCosineOptions(ZeroTerminalOption):
    """Options of the schedule `iddpm-cosine`."""

    steps: int = Field(1000, ge=2, le=1_000_000, description="Length T of the chain.")
    offset: float = Field(0.008, ge=0, le=1, description="Keeps the first betas from being too small.")
    beta_max: float = Field(0.999, gt=0, lt=1, description="The largest beta.")


class SigmoidOptions(ZeroTerminalOption):
    """Options of the schedule `sigmoid`."""

    start: float = Field(-3.0, ge=-20, le=20, description="Where on the sigmoid time 0 lies, before tau.")
    end: float = Field(3.0, ge=-20, le=20, description="Where on the sigmoid time 1 lies, before tau.")
    tau: float = Field(1.0, ge=0.05, le=100, description="Temperature: larger is closer to a straight line.")
    epsilon: float = Field(1e-4, gt=0, lt=0.5, description="Distance kept from both ends of time.")

    @model_validator(mode="after")
    def _ends(self) -> "SigmoidOptions":
        _rises(self.start, self.end, "start and end")
        return self


class LaplaceOptions(Settings):
    """Options of the schedule `laplace`."""

    mu: float = Field(0.0, description="The log-SNR that is trained most.")
    b: float = Field(0.5, ge=0.1, le=100, description="Scale of the log-SNR around mu.")
    log_snr_min: float = Field(-10.0, ge=-40, le=40, description="log-SNR at time 1, the noisy end.")
    log_snr_max: float = Field(10.0, ge=-40, le=40, description="log-SNR at time 0, the clean end.")

    @model_validator(mode="after")
    def _ends(self) -> "LaplaceOptions":
        _rises(self.log_snr_min, self.mu, "log_snr_min and mu")
        _rises(self.mu, self.log_snr_max, "mu and log_snr_max")
        return self


class EdmOptions(Settings):
    """Options of the schedule `edm`."""

    p_mean: float = Field(-1.2, description="Mean of the logarithm of the noise level.")
    p_std: Positive = Field(1.2, description="Standard deviation of the logarithm of the noise level.")
    sigma_min: Positive = Field(0.002, description="Noise level at time 0.")
    sigma_max: Positive = Field(80.0, description="Noise level at time 1.")

    @model_validator(mode="after")
    def _ends(self) -> "EdmOptions":
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        _rises(low, self.p_mean, "log sigma_min and p_mean")
        _rises(self.p_mean, high, "p_mean and log sigma_max")
        # Further out the tails of the normal distribution are below the smallest float64.
        if max(self.p_mean - low, high - self.p_mean) > 35 * self.p_std:
            raise ValueError("p_std is too small: sigma_min and sigma_max must lie within 35 p_std of p_mean, in log")
        return self


class ExplodingOptions(Settings):
    """Options of the schedule `exploding`."""

    sigma_min: Positive = Field(0.005, description="Noise level at time 0.")
    sigma_max: Positive = Field(150.0, description="Noise level at time 1.")

    @model_validator(mode="after")
    def _ends(self) -> "ExplodingOptions":
        _rises(self.sigma_min, self.sigma_max, "sigma_min and sigma_max")
        return self


class RectifiedOptions(Settings):
    """Options of the schedule `rectified`."""

    epsilon: float = Field(1e-3, gt=0, lt=0.5, description="Distance kept from both ends of time.")


class AncestralOptions(Settings):
    """Options of the solver `ddpm`."""

    variance: float = Field(
        0.0, ge=0, le=1, description="0: the posterior's variance; 1: beta, the upper bound; between: in log."
    )


class DdimOptions(Settings):
    """Options of the solver `ddim`."""

    eta: float = Field(0.0, ge=0, le=1, description="0: deterministic; 1: as noisy as ancestral sampling.")


class NoiseOptions(Settings):
    """Options of the solver `euler`."""

    noise: float = Field(0.0, ge=0, le=4, description="0: the probability-flow ODE; 1: the reverse SDE.")


class NoisyOptions(Settings):
    """Options of the solver `dpmpp-2m-sde`."""

    noise: float = Field(1.0, ge=0, le=4, description="1: the reverse SDE; 0: dpmpp-2m.")


class AdamsOptions(Settings):
    """Options of the solver `adams`."""

    order: int = Field(3, ge=1, le=6, description="Values of x0 that a step is made from.")
    corrector: int = Field(4, ge=0, le=7, description="Values that a step is done again with; 0: it is not.")
    clock: Clock = Field("alpha", description="What x0 is taken to be a polynomial in.")
    ending: int = Field(
        2, ge=1, le=4, description="Values of x0 that the last step extrapolates; 1: the last as it is."
    )


class EdmSolverOptions(Settings):
    """Options of the solver `edm`."""

    churn: float = Field(0.4, ge=0, le=1, description="Relative rise of the noise before a step; 0: Heun's method.")
    low: float = Field(0.05, ge=0, description="Smallest sigma / alpha that is churned.")
    high: float = Field(50.0, gt=0, description="Largest sigma / alpha that is churned.")
    inflation: float = Field(1.003, gt=0, le=1.1, description="Standard deviation of the noise that is put back.")

    @model_validator(mode="after")
    def _range(self) -> "EdmSolverOptions":
        _rises(self.low, self.high, "low and high")
        return self


class LangevinOptions(Settings):
    """Options of the solver `langevin`."""

    corrections: int = Field(20, ge=1, description="Langevin steps at each level.")
    size: float = Field(0.05, gt=0, le=1, description="Size of a step, in units of sigma^2.")


class CorrectorOptions(Settings):
    """Options of the solver `pc`."""

    corrections: int = Field(1, ge=0, description="Langevin steps after each ancestral step.")
    snr: float = Field(0.16, gt=0, le=0.7, description="Ratio of a corrector step's noise to its drift.")


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
        _rises(self.low, self.high, "low and high")
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


class WordsOptions(Settings):
    """Options of the text encoder `words`."""

    channels: int = Field(64, ge=8, le=4096, description="Channels of each token.")
    layers: int = Field(2, ge=0, le=24, description="Blocks of self-attention.")
    heads: int = Field(4, ge=1, le=64, description="Heads of self-attention; they divide the channels.")
    length: int = Field(64, ge=1, le=512, description="Words of a text that are used, at most.")
    vocabulary: int = Field(20_000, ge=1, le=30_000, description="Words that are known, at most: the most frequent.")

    @model_validator(mode="after")
    def _divides(self) -> "WordsOptions":
        if self.channels % self.heads:
            raise ValueError(f"heads, {self.heads}, must divide channels, {self.channels}")
        return self


class LearnedWords(Settings):
    """What the text encoder `words` has learned of the captions of a data set."""

    vocabulary: tuple[Annotated[str, Field(min_length=1, max_length=10_000)], ...] = Field(max_length=30_000)
    length: int = Field(ge=1, le=512)


class EncodeOptions(Settings):
    """Options of the task `encode`."""

    regularisation: Literal["noise", "kl", "none"] = Field(
        "noise", description="noise: latents with noise at log_snr; kl: a Gaussian around each latent; none: neither."
    )
    log_snr: float = Field(
        5.0, ge=0, le=20, description="For noise: log-SNR of the latents that are decoded, where sampling will end."
    )
    kl_weight: float = Field(
        1e-6, ge=0, description="For kl: weight of the divergence from a standard normal, in nats per sample."
    )
    equivariance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the examples that are decoded from a transformed latent to the transformed state.",
    )


class TrackedOptions(Settings):
    """Options of the loggers `wandb` and `trackio`."""

    project: str = Field("diffcore", min_length=1, description="The project that the run belongs to.")


def _schedule(name: str, summary: str, options: type[Settings], target: str) -> Component:
    def build(options: Settings) -> Any:
        schedules = import_module("diffcore.process.schedules")
        values = options.model_dump()
        zero_terminal = values.pop("zero_terminal", False)
        schedule = getattr(schedules, target)(**values)
        return schedules.ZeroTerminal(schedule) if zero_terminal else schedule

    return Component(name, summary, build, options)


def _solver(name: str, summary: str, target: str, options: type[Settings] = NoOptions, **fixed: Any) -> Component:
    """A function of `diffcore.sampling.solvers`, called with the options and what is `fixed` under this name."""

    def build(options: Settings) -> Any:
        return getattr(import_module("diffcore.sampling.solvers"), target)(**fixed, **options.model_dump())

    return Component(name, summary, build, options)


_LOG_SNR: dict[str, Any] = {"order": 3, "corrector": 0, "clock": "log-snr", "ending": 1}
"""What the published exponential multistep methods have in common."""


@hookimpl
def diffcore_schedules() -> Iterable[Component]:
    return (
        _schedule("cosine", "alpha = cos(pi t / 2): even progress for eye and loss", CosineOptions, "Cosine"),
        _schedule("linear", "DDPM's linear betas in continuous time", LinearOptions, "LinearBeta"),
        _schedule("exploding", "variance-exploding noise ladder", ExplodingOptions, "Exploding"),
        _schedule("rectified", "straight lines from data to noise", RectifiedOptions, "Rectified"),
        _schedule("ddpm", "DDPM's table of linear betas, exactly", DdpmOptions, "ddpm"),
        _schedule("iddpm-cosine", "the table of cosine betas of improved DDPM", IddpmCosineOptions, "iddpm_cosine"),
        _schedule("sub-vp", "sub-variance-preserving, with linear beta", RateOptions, "SubVariancePreserving"),
        _schedule("sigmoid", "alpha^2 along a sigmoid", SigmoidOptions, "Sigmoid"),
        _schedule("laplace", "log-SNR with a Laplace density", LaplaceOptions, "Laplace"),
        _schedule("edm", "noise levels with EDM's log-normal density", EdmOptions, "LogNormal"),
    )


@hookimpl
def diffcore_solvers() -> Iterable[Component]:
    return (
        _solver("adams", "corrected multistep, exact for unit Gaussian data", "adams", AdamsOptions),
        _solver("dpmpp-2m", "DPM-Solver++ of order 2, multistep", "dpmpp_2m"),
        _solver("dpmpp-3m", "DPM-Solver++ of order 3, multistep", "adams", **_LOG_SNR),
        _solver("dpmpp-2m-sde", "DPM-Solver++ of order 2 for the reverse SDE", "dpmpp_2m", NoisyOptions),
        _solver(
            "unipc", "UniPC of order 3: DPM-Solver++ with corrected steps", "adams", **{**_LOG_SNR, "corrector": 4}
        ),
        _solver("deis", "DEIS of order 3: multistep in eps", "adams", **_LOG_SNR, view="eps"),
        _solver("ddim", "first order, deterministic or (eta) with fresh noise", "ddim", DdimOptions),
        _solver("euler", "Euler's method for the ODE or (noise) the reverse SDE", "euler", NoiseOptions),
        _solver("heun", "Heun's method, two evaluations a step", "heun"),
        _solver("edm", "Heun's method with churned noise", "edm", EdmSolverOptions),
        _solver("ddpm", "ancestral sampling from the posterior", "ddpm", AncestralOptions),
        _solver("langevin", "annealed Langevin dynamics", "langevin", LangevinOptions),
        _solver("pc", "ancestral steps with Langevin corrections", "pc", CorrectorOptions),
    )


@hookimpl
def diffcore_tasks() -> Iterable[Task]:
    """The first is the default."""
    task, evaluation = lazy("diffcore.tasks"), lazy("diffcore.evaluation")
    return (
        Task(
            "denoise",
            "a denoiser, which draws samples",
            task("denoise:network"),
            loss=task("denoise:loss"),
            losses_by_field=task("denoise:losses_by_field"),
            evaluate=evaluation("samples:evaluate"),
            pictures=evaluation("samples:pictures"),
            loss_label="loss per degree of freedom",
            draws=True,
            helps=("weak",),
        ),
        Task(
            "classify",
            "a classifier of noisy states, which guides a denoiser of the same data",
            task("classify:network"),
            network="classifier",
            loss=task("classify:loss"),
            losses_by_field=task("classify:losses_by_field"),
            evaluate=evaluation("noisy_classifier:evaluate"),
            loss_label="negative log-likelihood, nats",
            helps=("classifier",),
            advice="let it guide a model of the same data as `classifier` {run}",
        ),
        Task(
            "encode",
            "an autoencoder, in whose latents other runs diffuse",
            task("encode:network"),
            EncodeOptions,
            network="autoencoder",
            loss=task("encode:loss"),
            losses_by_field=task("encode:losses_by_field"),
            draw=CLEAN_BATCH,
            evaluate=evaluation("reconstruction:evaluate"),
            pictures=evaluation("reconstruction:pictures"),
            loss_label="loss of reconstruction",
            helps=("latent",),
            advice="train a model in its latents with `latent` {run}",
        ),
    )


@hookimpl
def diffcore_guidance() -> Iterable[Component]:
    of = lazy("diffcore.plugins")
    return (
        Component(
            "classifier-free",
            "enlarges the difference that conditions make",
            of("builtin_guidance:classifier_free"),
            ClassifierFreeOptions,
        ),
        Component(
            "composed",
            "each condition with a weight of its own",
            of("builtin_guidance:composed"),
            ComposedOptions,
        ),
        Component("auto", "enlarges the difference to a weaker model", of("builtin_guidance:auto"), AutoOptions),
        Component(
            "classifier", "the gradient of a noisy classifier", of("builtin_guidance:classifier"), ClassifierOptions
        ),
        Component(
            "interval", "those before it only in an interval of noise", of("builtin_guidance:interval"), IntervalOptions
        ),
        Component(
            "keep-elements",
            "keeps elements of a set",
            of("builtin_guidance:keep_elements"),
            KeepElementsOptions,
        ),
        Component("prompts", "several prompts with a weight each", of("builtin_guidance:prompts"), PromptsOptions),
        Component("rescale", "those before it, not overexposed", of("builtin_guidance:rescale"), RescaleOptions),
    )


@hookimpl
def diffcore_text_encoders() -> Iterable[Component]:
    of = lazy("diffcore.plugins")
    return (Component("words", "a small transformer over the words of the data", of("text:words"), WordsOptions),)


@hookimpl
def diffcore_loggers() -> Iterable[Component]:
    of = lazy("diffcore.training")
    return (
        Component(
            "tensorboard", "event files in the run's folder", of("loggers:tensorboard"), requires=("tensorboard",)
        ),
        Component("wandb", "Weights & Biases", of("loggers:wandb"), TrackedOptions, requires=("wandb",)),
        Component("trackio", "Trackio, on this machine", of("loggers:trackio"), TrackedOptions, requires=("trackio",)),
    )


@hookimpl
def diffcore_commands() -> Iterable[Command]:
    return (
        _command("train", "train a model: diffcore train --modality NAME"),
        _command("sample", "draw samples from a run: diffcore sample RUN"),
        _command("tune", "fit N steps to a run's own flow: diffcore tune RUN --steps N"),
        _command("evaluate", "metrics of a run's samples: diffcore evaluate RUN"),
        _command("resume", "go on training a run: diffcore resume RUN"),
        _command("plugins", "what is installed, and what cannot be used and why"),
        _command("new-plugin", "a package to write a plugin from: diffcore new-plugin NAME"),
        _command("check-plugin", "whether a plugin keeps the rules: diffcore check-plugin NAME"),
        _command("config", "what would run, as TOML: diffcore config RUN, or --modality NAME"),
    )


def _command(name: str, summary: str) -> Command:
    """The command whose words are those of the module of `diffcore.cli` of that name, dashes as underscores."""

    def main(arguments: Sequence[str]) -> int:
        return import_module(f"diffcore.cli.{name.replace('-', '_')}").main(arguments)

    return Command(name, summary, main)
