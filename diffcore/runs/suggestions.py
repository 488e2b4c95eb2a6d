"""The option that a user perhaps meant, among those that there are."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from diffcore.plugins.records import Settings

_ALIKE = 0.75
"""Names that are less alike than this are not suggested."""

OTHER_NAMES: Mapping[str, str] = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "epochs": "steps",
    "max_steps": "steps",
    "num_steps": "steps",
    "num_inference_steps": "steps",
    "iterations": "steps",
    "cfg": "guidance",
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
    "sampler": "solver",
    "scheduler": "solver",
    "dataset": "data",
    "data_dir": "data.root",
    "data_path": "data.root",
    "path": "data.root",
    "model": "denoiser",
    "network": "denoiser",
    "num_samples": "n",
    "output": "out",
    "output_dir": "out",
    "outdir": "out",
    "fp16": "precision",
    "bf16": "precision",
    "class": "label",
    "prompt": "condition",
}
"""What other programs call an option that has another name here."""


def options_of(model: type[Settings], prefix: str = "") -> Iterator[str]:
    """The names of all options of a settings model: `train.steps` for the field `steps` of the table `train`."""
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield from options_of(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def closest(wrong: str, known: Iterable[str]) -> str | None:
    """The known option that is most like `wrong`, or None if none is.

    Names are compared in whole and by their last part, without regard to case, dashes, dots and underscores.
    """
    scored = [(_likeness(_plain(wrong), _plain(name)), -len(name), name) for name in known]
    score, _, name = max(scored, default=(0.0, 0, ""))
    return name if score >= _ALIKE else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _likeness(wrong: str, name: str) -> float:
    last, own = wrong.rpartition(".")[2], name.rpartition(".")[2]
    other = OTHER_NAMES.get(wrong, OTHER_NAMES.get(last, ""))
    if _letters(wrong) == _letters(name):
        return 1.0
    if other and other in (name, own):
        return 0.98
    if last == own:
        return 0.95
    whole = SequenceMatcher(None, wrong, name).ratio()
    return max(whole, 0.99 * SequenceMatcher(None, last, own).ratio())


def _letters(name: str) -> str:
    return name.replace("_", "").replace(".", "")
