"""A student of a run: the settings of its training, which are those of its teacher but for a few."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.registry import Registry
from diffcore.runs.checkpoints import find_checkpoint, read_progress
from diffcore.runs.composing import ADDITIONS, compose, merge
from diffcore.runs.folder import open_run
from diffcore.runs.settings import RunSettings

SHARE_OF_STEPS = 7
"""A student is trained for a seventh of the steps of its teacher; a step costs about a third more."""

SHARE_OF_RATE = 2
"""The learning rate of a student is half of that of its teacher."""


def student_settings(
    registry: Registry,
    teacher: str | os.PathLike[str],
    steps: int = 4,
    guidance: float | None = None,
    checkpoint: str | None = None,
    over: Mapping[str, Any] = MappingProxyType({}),
) -> RunSettings:
    """The settings of a student of the run in the folder `teacher`, which draws in so many `steps`.

    Data, network, schedule and levels are those of the teacher. By default the student is trained for a seventh of the
    teacher's steps with half of its learning rate, which falls to zero over the second half. It learns the
    teacher's samples with the `guidance` of its settings, or with another weight. `over` are values of other settings,
    as in a configuration file.

    Raises `UserError` for a run that is not trained or is not a denoiser, and for values that do not fit.
    """
    run, description = open_run(Path(teacher), registry)
    settings, task = description.settings, registry.task(description.settings.task.name)  # type: ignore[attr-defined]
    if "teacher" not in task.helps:
        raise UserError(f"{run.path} has the task {task.name}, and cannot be a teacher: give a denoiser")
    source = find_checkpoint(run, checkpoint)
    done = read_progress(source).step
    values = settings.model_dump(mode="json", exclude=set(ADDITIONS))
    wanted = settings.sample.guidance if guidance is None else guidance
    values |= {
        "task": {
            "name": "distill",
            "teacher": str(run.path.absolute()),
            "checkpoint": source.name,
            "segments": steps,
            "teacher_guidance": wanted,
        },
        "levels": {**values["levels"], "given": 0.0},
        "train": {
            **values["train"],
            "steps": max(1, done // SHARE_OF_STEPS),
            "minutes": None,
            "learning_rate": settings.train.learning_rate / SHARE_OF_RATE,
            "warmup_steps": min(settings.train.warmup_steps, max(1, done // SHARE_OF_STEPS // 20)),
            "cooldown": 0.5,
            "weighting": "v",
            "cuda_graphs": False,
        },
        "sample": {
            **values["sample"],
            "solver": "ddim",
            "steps": steps,
            "grid": "segments",
            "guidance": 1.0,
            "guidance_interval": None,
            "guidance_rescale": 0.0,
        },
    }
    return compose(registry, settings.modality, file=merge(values, over), origin=f"the settings of {run.path}")
