"""The noise schedules of the core, and their options."""

import math
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from pydantic import Field, model_validator

from diffcore.plugins.builtin.values import Positive, require_rising
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Settings


class ZeroTerminalOption(Settings):
    """The option of schedules that can be moved to end at zero SNR."""

    zero_terminal: bool = Field(
        False, description="Move the schedule so that time 1 is pure noise; not for the parameterisation eps."
    )


class Ends(Settings):
    """The log-SNR at both ends of time."""

    log_snr_min: float = Field(-10.0, ge=-40, le=40, description="log-SNR at time 1, the noisy end.")
    log_snr_max: float = Field(10.0, ge=-40, le=40, description="log-SNR at time 0, the clean end.")

    @model_validator(mode="after")
    def _in_order(self) -> "Ends":
        require_rising(self.log_snr_min, self.log_snr_max, "log_snr_min and log_snr_max")
        return self


class CosineOptions(Ends, ZeroTerminalOption):
    """Options of the schedule `cosine`."""

    shift: float = Field(
        0.0, ge=-10, le=10, description="Added to the log-SNR between the ends; negative: more time at high noise."
    )


class UniformOptions(Ends, ZeroTerminalOption):
    """Options of the schedule `uniform`."""


class RateOptions(Settings):
    """The rates of noise of the schedules `linear` and `sub-vp`."""

    beta_0: Positive = Field(0.1, description="beta at time 0.")
    beta_1: float = Field(20.0, gt=0, le=1000, description="beta at time 1.")
    epsilon: float = Field(1e-3, gt=0, lt=1, description="The smallest time that is used.")

    @model_validator(mode="after")
    def _ends(self) -> "RateOptions":
        require_rising(self.beta_0, self.beta_1, "beta_0 and beta_1")
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
        require_rising(self.start, self.end, "start and end")
        return self


class LaplaceOptions(Ends):
    """Options of the schedule `laplace`."""

    mu: float = Field(0.0, description="The log-SNR that is trained most.")
    b: float = Field(0.5, ge=0.1, le=100, description="Scale of the log-SNR around mu.")

    @model_validator(mode="after")
    def _mu_between(self) -> "LaplaceOptions":
        require_rising(self.log_snr_min, self.mu, "log_snr_min and mu")
        require_rising(self.mu, self.log_snr_max, "mu and log_snr_max")
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
        require_rising(low, self.p_mean, "log sigma_min and p_mean")
        require_rising(self.p_mean, high, "p_mean and log sigma_max")
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
        require_rising(self.sigma_min, self.sigma_max, "sigma_min and sigma_max")
        return self


class RectifiedOptions(Settings):
    """Options of the schedule `rectified`."""

    epsilon: float = Field(1e-3, gt=0, lt=0.5, description="Distance kept from both ends of time.")


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
        _schedule("uniform", "log-SNR along a straight line, for likelihoods", UniformOptions, "Uniform"),
        _schedule("edm", "noise levels with EDM's log-normal density", EdmOptions, "LogNormal"),
    )


def _schedule(name: str, summary: str, options: type[Settings], target: str) -> Component:
    def build(options: Settings) -> Any:
        schedules = import_module("diffcore.process.schedules")
        values = options.model_dump()
        zero_terminal = values.pop("zero_terminal", False)
        schedule = getattr(schedules, target)(**values)
        return schedules.ZeroTerminal(schedule) if zero_terminal else schedule

    return Component(name, summary, build, options)
