"""Writes runs in the layout of diffusers."""

import os
from pathlib import Path
from typing import Any

from diffusers import DDPMPipeline, DDPMScheduler

from diffcore.errors import UserError
from diffcore.interop.weights import drawing_run
from diffcore.plugins.registry import Registry
from diffcore_diffusers.networks import HfUNet

_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def export_run(run: Path, out: Path, registry: Registry) -> Path:
    """Write the run as a `DDPMPipeline` to the new folder `out`, with averaged weights, and return the folder.

    The scheduler has the table that belongs to the weights, and clips nothing. Raises `UserError` if `out` exists and
    is not empty, and for runs that a `DDPMPipeline` cannot hold: of other networks than `hf-unet`, with conditions, and
    with states that are not pixels between -1 and 1.
    """
    loaded = drawing_run(run, registry)
    model, backbone = loaded.model, loaded.model.denoiser.backbone
    if not isinstance(backbone, HfUNet):
        name = getattr(loaded.settings, "denoiser").name  # noqa: B009
        raise UserError(f"{run} has the denoiser {name}, which diffusers does not have; hf-unet can be exported")
    if model.codec.conditions:
        names = ", ".join(condition.name for condition in model.codec.conditions)
        raise UserError(f"{run} takes conditions ({names}), and DDPMPipeline takes none")
    facts: Any = model.codec.facts  # type: ignore[attr-defined]
    if {*facts.mean, *facts.std} != {0.5}:
        raise UserError(
            f"{run} has states with the mean {facts.mean} and the standard deviation {facts.std} of its data; "
            "DDPMPipeline draws pixels from -1 to 1: train with `data` hf-folder"
        )
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already: choose another `out`")
    options = backbone.options
    table = options.table.model_dump()
    scheduler = DDPMScheduler(
        **{**table, "trained_betas": list(options.table.trained_betas) or None},
        prediction_type=_PREDICTIONS[loaded.settings.parameterisation],
        variance_type="learned_range" if options.learns_variances else "fixed_small",
        clip_sample=False,
    )
    DDPMPipeline(backbone.net, scheduler).save_pretrained(out, safe_serialization=True)
    return out
