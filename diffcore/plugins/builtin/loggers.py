"""The loggers of the core, and their options."""

from collections.abc import Iterable

from pydantic import Field

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Settings, lazy


class TrackedOptions(Settings):
    """Options of the loggers `wandb` and `trackio`."""

    project: str = Field("diffcore", min_length=1, description="The project that the run belongs to.")


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
