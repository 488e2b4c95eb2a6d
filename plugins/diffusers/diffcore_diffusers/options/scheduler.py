"""Options of the solver `hf-scheduler`."""

from typing import Any, Literal

from pydantic import Field

from diffcore.plugins.records import Settings

Deterministic = Literal[
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
]


class SchedulerOptions(Settings):
    """Options of the solver `hf-scheduler`."""

    scheduler: Deterministic = Field("DDIMScheduler", description="Class of the scheduler; none that draws noise.")
    config: dict[str, Any] = Field(
        {}, description="Its configuration; what it leaves out has the scheduler's defaults."
    )
