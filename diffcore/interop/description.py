"""What a caller has to know of an exported run to draw with it, as values of JSON."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition, ScalarCondition
from diffcore.denoising.estimate import self_conditioned
from diffcore.denoising.text import TextCondition
from diffcore.plugins.registry import metadata_version
from diffcore.process.schedules import ByField
from diffcore.runs.loading import LoadedRun
from diffcore.runs.model import last_log_snr
from diffcore.sampling.timesteps import grid

FAR = 1e4
"""An infinite log-SNR is written as this number, since JSON has no infinity; the scales are the same."""

MOST_STEPS = 10_000
"""The levels of longer default grids are left out."""

SCALES = "alpha^2 = 1 / (1 + exp(-log_snr)), sigma^2 = 1 / (1 + exp(log_snr)), x = alpha x0 + sigma eps"


def described(
    loaded: LoadedRun,
    facts: Mapping[str, Any],
    conditions: Mapping[str, str],
    names: Mapping[str, str],
    levels: Mapping[str, str],
) -> dict[str, Any]:
    """The description of the denoiser of a run.

    `conditions`, `names` and `levels` are the names of the inputs for the conditions, the fields and the log-SNRs.
    """
    model, settings = loaded.model, loaded.settings
    found = {
        **origin(loaded),
        "part": "denoiser",
        "scales": SCALES,
        "parameterisation": settings.parameterisation,
        "conditions": {conditions[each.name]: of_condition(each) for each in model.codec.conditions},
        "schedule": {**_named(settings, "schedule"), "log_snr": _ends(model.schedule)},
        "sampling": _sampling(loaded),
        "data": dict(facts),
        "notes": _notes(loaded),
    }
    if isinstance(model.schedule, ByField):
        shifts = model.schedule.shifts
        found["shifts"] = {levels.get(name, names[name]): shift for name, shift in shifts.items()}
    if model.codec.sizes is not None:
        counts = model.codec.sizes.counts
        found["sizes"] = {"largest": model.codec.sizes.largest, "counts": {str(n): k for n, k in counts.items()}}
    return found


def origin(loaded: LoadedRun) -> dict[str, Any]:
    """What made the file, and of which run."""
    settings = loaded.settings
    return {
        "made_by": f"diffcore {metadata_version('diffcore')}",
        "modality": settings.modality,
        "task": _named(settings, "task"),
        "denoiser": _named(settings, loaded.model.task.network),
        "checkpoint": loaded.checkpoint.name,
    }


def of_condition(condition: Condition) -> dict[str, Any]:
    """The kind of a condition, the value that means that it is not given, and what its other values mean."""
    null = {"null": _null(condition.null(1)[0])}
    if isinstance(condition, ClassCondition):
        return {"kind": "class", "classes": list(condition.classes), **null}
    if isinstance(condition, ScalarCondition):
        ends = {"least": condition.quantiles[0], "largest": condition.quantiles[-1]}
        return {"kind": "number", "unit": condition.unit, "mean": condition.mean, "std": condition.std, **ends, **null}
    if isinstance(condition, TextCondition):
        encoder = condition.encoder
        words = list(getattr(encoder, "vocabulary", ()))
        if encoder.largest == len(words):  # ids count from 1, after that of the padding
            words = ["", *words]
        return {"kind": "text", "length": encoder.length, "vocabulary": words, **null}
    return {"kind": type(condition).__name__, **null}


def _null(value: Tensor) -> Any:
    """The number that all entries of the null value have, `"nan"` for nan."""
    first = value.flatten()[0].item()
    return "nan" if math.isnan(first) else first


def _ends(schedule: Any) -> list[float]:
    """The log-SNRs at the noisy and at the clean end."""
    return _finite(schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)))


def _finite(log_snrs: Tensor) -> list[float]:
    return log_snrs.clamp(-FAR, FAR).tolist()  # type: ignore[no-any-return]


def _sampling(loaded: LoadedRun) -> dict[str, Any]:
    """How the run draws by default: its solver, and the log-SNRs of the steps, from the noisiest to the cleanest.

    The last step ends without noise, or at `last_log_snr` where there is one.
    """
    sample, model = loaded.settings.sample, loaded.model
    last = last_log_snr(model.codec)
    found = sample.model_dump(mode="json", include={"solver", "steps", "grid", "guidance", "guidance_interval"})
    if sample.steps <= MOST_STEPS:
        found["log_snrs"] = _finite(grid(sample.grid, model.schedule, sample.steps, last))
    return {**found, "last_log_snr": last}


def _notes(loaded: LoadedRun) -> list[str]:
    """What the function leaves out."""
    model = loaded.model
    accepts = getattr(model.denoiser.backbone, "accepts", ())
    notes = ["guidance is no part of the function: evaluate it with and without conditions and mix the results"]
    if "known" in accepts:
        notes.append("the network can be told which entries are known, and the function does not tell it")
    if self_conditioned(model.denoiser):
        notes.append("the network can be given an earlier estimate of x0, and the function gives it none")
    if not model.task.flow:
        notes.append("x0 is where a step of the student leads, not the mean of x0 given x")
    return notes


def _named(settings: Any, kind: str) -> dict[str, Any]:
    return getattr(settings, kind).model_dump(mode="json")  # type: ignore[no-any-return]
