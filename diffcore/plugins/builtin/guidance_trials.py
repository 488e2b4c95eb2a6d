"""Options with which `diffcore check-plugin` tries the guidances of the core that need some, as `Component.small`."""

from typing import Any

from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.records import Trial


def composed(trial: Trial) -> dict[str, Any]:
    """A weight for each condition."""
    if not (names := [condition.name for condition in trial.codec.conditions]):
        raise UserError("its data have no conditions")
    return {"weights": dict.fromkeys(names, 2.0)}


def prompts(trial: Trial) -> dict[str, Any]:
    """Two texts."""
    if not any(isinstance(condition, TextCondition) for condition in trial.codec.conditions):
        raise UserError("its data have no captions")
    return {"weights": {"one": 2.0, "another": -1.0}}


def classifier(trial: Trial) -> dict[str, Any]:
    """The name of a run, whose network the checks provide."""
    if not trial.modality.classifiers or not any(condition.head for condition in trial.codec.conditions):
        raise UserError("it has no noisy classifier")
    return {"run": "a classifier"}


def keep_elements(trial: Trial) -> dict[str, Any]:
    """A file with a whole sample."""
    reader: Any = None if trial.modality.reader is None else part_of(trial.modality, "reader", trial.codec)
    if not hasattr(reader, "read_part"):
        raise UserError(f"the plugin for {trial.modality.name} cannot read a file with a part of a sample")
    writer = part_of(trial.modality, "writer", trial.codec)
    file, *_ = writer.each(trial.samples[:1], trial.folder, ["part"])
    return {"file": str(file)}
