"""The configuration of a scheduler: its table, what the network predicts, and the levels of its steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.interop.weights import checked
from diffcore.names import Parameterisation
from diffcore_diffusers import tables
from diffcore_diffusers.options.scheduler import Deterministic
from diffcore_diffusers.options.tables import BetaTableOptions

Spacing = Literal["leading", "trailing", "linspace"]

SPACINGS: Mapping[str, Spacing] = {
    "DDPMScheduler": "leading",
    "DDIMScheduler": "leading",
    "PNDMScheduler": "leading",
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
    "DPMSolverMultistepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
    "UniPCMultistepScheduler": "linspace",
}
"""The schedulers that can be read, each with the spacing that it has where its configuration names none."""

SOLVERS: Mapping[str, str] = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "adams",
    "EulerDiscreteScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "ddpm",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "adams",
    "DPMSolverMultistepScheduler": "dpmpp-2m",
    "DEISMultistepScheduler": "deis",
    "UniPCMultistepScheduler": "unipc",
}
"""The solver with which a run draws by default in place of each scheduler.

Euler's method in sigma / alpha, as in `EulerDiscreteScheduler`, is `ddim`.
"""

_FRACTIONS = (
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
)
_MULTISTEP = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler")

VIEWS: Mapping[str, Parameterisation] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}

_HEUN_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


@dataclass(frozen=True)
class Scheduler:
    """What a configuration of a scheduler says.

    * `name`: its class. `table`: its noise levels. `parameterisation`: what the network predicts.
    * `spacing`, `offset`: which timesteps the steps are at. `variance`: the variances of ancestral steps.
    * `notes`: what the configuration asks for and a run does not do, in sentences.
    * `itself`: the solver that steps with the scheduler itself, and its options, where that was asked for.
    """

    name: str
    table: BetaTableOptions
    parameterisation: Parameterisation
    spacing: Spacing
    offset: int
    variance: str
    notes: tuple[str, ...] = ()
    itself: Mapping[str, Any] | None = None


def read(config: Mapping[str, Any], origin: str, as_diffusers: bool = False) -> Scheduler:
    """The scheduler of a configuration from the file `origin`; what is absent has the defaults of its class.

    With `as_diffusers`, it is the solver too, so that levels between those of the table can be used.

    Raises `UserError` for schedulers, and for values that change the noise levels, which are not known here, and with
    `as_diffusers` for schedulers that draw noise.
    """
    name = str(config.get("_class_name"))
    if name not in SPACINGS:
        raise UserError(f"{origin}: the scheduler {name[:80]!r} cannot be read; there are: {', '.join(SPACINGS)}")
    for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"):
        if config.get(key) and not as_diffusers:
            raise UserError(
                f"{origin}: {key} chooses levels between those of the table, which no grid of a run has; with "
                "`as_diffusers`, the run draws with the scheduler itself"
            )
    kept = {key: config[key] for key in BetaTableOptions.model_fields if config.get(key) is not None}
    if name == "HeunDiscreteScheduler":
        kept = _HEUN_BETAS | kept
    table: BetaTableOptions = checked(BetaTableOptions, kept, origin)
    predicted = config.get("prediction_type", "epsilon")
    if not isinstance(predicted, str) or predicted not in VIEWS:
        raise UserError(f"{origin}: prediction_type {str(predicted)[:80]!r} cannot be read; {', '.join(VIEWS)} can")
    spacing, offset = config.get("timestep_spacing", SPACINGS[name]), config.get("steps_offset", 0)
    if spacing not in ("leading", "trailing", "linspace"):
        raise UserError(
            f"{origin}: timestep_spacing is {str(spacing)[:80]!r}; it must be leading, trailing or linspace"
        )
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < tables.length(table):
        raise UserError(f"{origin}: steps_offset is {str(offset)[:80]}; it must be a timestep of the table")
    variance = str(config.get("variance_type", "fixed_small"))
    scheduler = Scheduler(name, table, VIEWS[predicted], spacing, offset, variance, tuple(_notes(name, config)))
    if not as_diffusers:
        return scheduler
    if name not in get_args(Deterministic) or str(config.get("algorithm_type")).startswith("sde"):
        raise UserError(
            f"{origin}: {name} draws noise, so it cannot step itself; leave out `as_diffusers`, and the run draws with "
            f"the solver {SOLVERS[name]}"
        )
    return replace(scheduler, notes=(), itself={"name": "hf-scheduler", "scheduler": name, "config": _own(config)})


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration that are not those of its class anyway."""
    import diffusers

    usual = getattr(diffusers, str(config["_class_name"]))().config
    given = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    return {key: value for key, value in given.items() if key not in usual or value != usual[key]}


def _notes(name: str, config: Mapping[str, Any]) -> list[str]:
    """What the configuration asks for that a run does not do."""
    notes = []
    if name in ("DDPMScheduler", "DDIMScheduler") and config.get("clip_sample", True):
        notes.append("clip_sample: the estimate of x0 is not clipped between steps")
    if config.get("thresholding"):
        notes.append("thresholding: the estimate of x0 is not scaled between steps")
    if name in ("DDIMScheduler", "PNDMScheduler") and not config.get("set_alpha_to_one", name == "DDIMScheduler"):
        notes.append("set_alpha_to_one false: sampling ends without noise, not at the first level of the table")
    if config.get("final_sigmas_type", "zero") != "zero":
        notes.append("final_sigmas_type: sampling ends without noise, not at the first level of the table")
    if name in _MULTISTEP:
        if name == "DPMSolverMultistepScheduler" and config.get("algorithm_type", "dpmsolver++") != "dpmsolver++":
            notes.append("algorithm_type: the solver is DPM-Solver++")
        if config.get("solver_order", 2) != 2:
            notes.append(f"solver_order: the solver {SOLVERS[name]} has its own order")
    if config.get("lambda_min_clipped") not in (None, -math.inf):
        notes.append("lambda_min_clipped: the levels begin at the end of the table")
    return notes


def timesteps(scheduler: Scheduler, steps: int) -> Tensor:
    """The timesteps of `steps` steps, from the noisiest, int64 `[steps]`.

    Raises `UserError` where the scheduler would use levels that are not in this list or not in the table:

    * DDIM goes from t to t - T // steps whatever the next timestep is, which is another one with `linspace`, and with
      `trailing` where `steps` does not divide T;
    * Euler's, Heun's and the linear multistep method have fractions of timesteps with `linspace`, unless `steps` - 1
      divides T - 1;
    * PNDM goes back to levels during its first steps.

    It raises `UserError` too for more steps than T, and for an offset beyond the table.
    """
    count, name, spacing = tables.length(scheduler.table), scheduler.name, scheduler.spacing
    if not 1 <= steps <= count:
        raise UserError(f"{steps} steps do not fit a table of {count} timesteps")
    if name == "PNDMScheduler":
        raise UserError("PNDMScheduler goes back to noisier levels during its first steps, so its levels are no grid")
    outside = f"{name} with timestep_spacing {spacing} steps to levels that are not in its list of timesteps"
    if name == "DDIMScheduler" and spacing == "linspace":
        raise UserError(f"{outside}: use leading or trailing")
    if name == "DDIMScheduler" and spacing == "trailing" and count % steps:
        raise UserError(f"{outside} unless the number of steps divides {count}; {steps} does not")
    if name in _FRACTIONS and spacing == "linspace" and steps > 1 and (count - 1) % (steps - 1):
        raise UserError(
            f"{name} with timestep_spacing linspace uses levels between those of its table, unless the number of steps "
            f"less one divides {count - 1}; {steps - 1} does not"
        )
    more = name in _MULTISTEP  # their list has one timestep more, which they leave out
    if spacing == "linspace":
        found = torch.linspace(0, count - 1, steps + more, dtype=torch.float64).round().flip(0).long()[:steps]
    elif spacing == "leading":
        found = (torch.arange(steps + more) * (count // (steps + more))).flip(0)[:steps] + scheduler.offset
    else:
        found = (count - torch.arange(steps, dtype=torch.float64) * (count / steps)).round().long() - 1
    if found.max() >= count:
        raise UserError(
            f"steps_offset {scheduler.offset} puts the first step beyond the {count} timesteps of the table"
        )
    return found


def log_snrs(scheduler: Scheduler, steps: int) -> Tensor:
    """The log-SNRs at these timesteps, float64 `[steps]`: a time grid of diffcore."""
    found = timesteps(scheduler, steps)
    times = found.double() / (tables.length(scheduler.table) - 1)
    return tables.schedule(scheduler.table).log_snr(times)
