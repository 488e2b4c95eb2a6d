"""The core's own parts, offered through the same hooks as everybody's."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Annotated, Any

from pydantic import Field, model_validator

from diffcore.components import Component, NoOptions, Settings
from diffcore.hookspecs import hookimpl

Positive = Annotated[float, Field(gt=0)]


def _rises(low: float, high: float, names: str) -> None:
    if not low < high:
        raise ValueError(f"{names}: the first must be smaller than the second")


class CosineOptions(Settings):
    log_snr_min: float = Field(-10.0, ge=-40, le=40, description="log-SNR at time 1, the noisy end.")
    log_snr_max: float = Field(10.0, ge=-40, le=40, description="log-SNR at time 0, the clean end.")
    shift: float = Field(
        0.0, ge=-10, le=10, description="Added to the log-SNR between the ends; negative: more time at high noise."
    )

    @model_validator(mode="after")
    def _ends(self) -> "CosineOptions":
        _rises(self.log_snr_min, self.log_snr_max, "log_snr_min and log_snr_max")
        return self


class LinearOptions(Settings):
    beta_0: Positive = Field(0.1, description="beta at time 0.")
    beta_1: Positive = Field(20.0, description="beta at time 1.")
    epsilon: float = Field(1e-3, gt=0, lt=1, description="The smallest time that is used.")

    @model_validator(mode="after")
    def _ends(self) -> "LinearOptions":
        _rises(self.beta_0, self.beta_1, "beta_0 and beta_1")
        return self


class GeometricOptions(Settings):
    sigma_min: Positive = Field(0.005, description="Noise level at time 0.")
    sigma_max: Positive = Field(150.0, description="Noise level at time 1.")

    @model_validator(mode="after")
    def _ends(self) -> "GeometricOptions":
        _rises(self.sigma_min, self.sigma_max, "sigma_min and sigma_max")
        return self


class RectifiedOptions(Settings):
    epsilon: float = Field(1e-3, gt=0, lt=0.5, description="Distance kept from both ends of time.")


class AncestralOptions(Settings):
    variance: float = Field(
        0.0, ge=0, le=1, description="0: the posterior's variance; 1: beta, the upper bound; between: in log."
    )


class DdimOptions(Settings):
    eta: float = Field(0.0, ge=0, le=1, description="0: deterministic; 1: as noisy as ancestral sampling.")


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """A builder that imports `module` when it is called and passes the options on as keywords."""

    def build(options: Settings) -> Any:
        return getattr(import_module(module), name)(**options.model_dump())

    return build


def _schedule(name: str, summary: str, options: type[Settings], target: str) -> Component:
    return Component(name, summary, _lazy("diffcore.schedules", target), options)


def _solver(name: str, summary: str, target: str, options: type[Settings] = NoOptions) -> Component:
    return Component(name, summary, _lazy("diffcore.solvers", target), options)


@hookimpl
def diffcore_schedules() -> Iterable[Component]:
    return (
        _schedule("cosine", "alpha = cos(pi t / 2): even progress for eye and loss", CosineOptions, "Cosine"),
        _schedule("linear", "DDPM's linear betas in continuous time", LinearOptions, "LinearBeta"),
        _schedule("geometric", "variance-exploding noise ladder", GeometricOptions, "Geometric"),
        _schedule("rectified", "straight lines from data to noise", RectifiedOptions, "Rectified"),
    )


@hookimpl
def diffcore_solvers() -> Iterable[Component]:
    return (
        _solver("dpmpp-2m", "second-order multistep, one evaluation a step", "dpmpp_2m"),
        _solver("ddim", "first order, deterministic or (eta) with fresh noise", "ddim", DdimOptions),
        _solver("ddpm", "ancestral sampling from the posterior", "ddpm", AncestralOptions),
    )
