"""The solvers of the core, and their options."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from pydantic import Field, model_validator

from diffcore.names import Clock
from diffcore.plugins.builtin.values import require_rising
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, NoOptions, Settings


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
        require_rising(self.low, self.high, "low and high")
        return self


class LangevinOptions(Settings):
    """Options of the solver `langevin`."""

    corrections: int = Field(20, ge=1, description="Langevin steps at each level.")
    size: float = Field(0.05, gt=0, le=1, description="Size of a step, in units of sigma^2.")


class CorrectorOptions(Settings):
    """Options of the solver `pc`."""

    corrections: int = Field(1, ge=0, description="Langevin steps after each ancestral step.")
    snr: float = Field(0.16, gt=0, le=0.7, description="Ratio of a corrector step's noise to its drift.")


_LOG_SNR: dict[str, Any] = {"order": 3, "corrector": 0, "clock": "log-snr", "ending": 1}
"""What the published exponential multistep methods have in common."""


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


def _solver(name: str, summary: str, target: str, options: type[Settings] = NoOptions, **fixed: Any) -> Component:
    """A function of `diffcore.sampling.solvers`, called with the options and what is `fixed` under this name."""

    def build(options: Settings) -> Any:
        return getattr(import_module("diffcore.sampling.solvers"), target)(**fixed, **options.model_dump())

    return Component(name, summary, build, options)
