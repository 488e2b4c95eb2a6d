"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default."""

from typing import Any

from diffcore.components import Preset

_SMALL = {
    "denoiser": {"name": "unet", "width": 32, "multipliers": (1, 2, 4), "patch": 4},
    "schedule": {"name": "cosine", "shift": -1.0},
    "train": {"minutes": 10, "batch_size": 64, "learning_rate": 4e-3, "weighting": "x0", "evaluate": 500},
}
_CLASSIFIER = {
    "task": "predict",
    "data": {"name": "drums"},
    "predictor": {"name": "encoder", "width": 32, "multipliers": (1, 2), "patch": 4, "dropout": 0.1},
    "train": {"steps": 1500, "batch_size": 64, "learning_rate": 2e-3},
}
_GPU = {
    "denoiser": {"name": "unet", "width": 128, "multipliers": (1, 2, 2, 2), "patch": 2, "blocks": 2, "attention": True},
    "train": {
        "steps": 100_000,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "weighting": "v",
        "decay_after": 20_000,
        "sample_every": 5000,
        "checkpoint_every": 5000,
        "evaluate": 2000,
    },
}


def _of(data: dict[str, Any], recipe: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {"data": data, **recipe, "train": {**recipe["train"], **train}}


PRESETS = {
    "default": Preset(
        "drums of half a second on a laptop, 10 minutes in all", _of({"name": "drums"}, _SMALL, minutes=7)
    ),
    "classifier": Preset("a classifier of noisy drums for guidance, on a laptop", _CLASSIFIER),
    "mel": Preset(
        "drums as mel spectrograms on a laptop, 10 minutes in all",
        _of({"name": "drums", "codec": "mel"}, _SMALL, minutes=7),
    ),
    "folder": Preset("a folder of your own on a laptop, 10 minutes", _of({"name": "folder"}, _SMALL)),
    "sc09": Preset("spoken digits on a laptop, 10 minutes: a first look", _of({"name": "sc09"}, _SMALL)),
    "speechcommands": Preset(
        "35 spoken words on a laptop, 10 minutes: a first look",
        _of({"name": "speechcommands", "limit": 500}, _SMALL),
    ),
    "drums-gpu": Preset("drums of half a second on one GPU", _of({"name": "drums", "sounds": 5000}, _GPU)),
    "folder-gpu": Preset(
        "a folder of your own, a second each, on one GPU", _of({"name": "folder", "seconds": 1.0}, _GPU)
    ),
    "sc09-gpu": Preset("spoken digits on one GPU", _of({"name": "sc09"}, _GPU)),
    "speechcommands-gpu": Preset("35 spoken words on one GPU", _of({"name": "speechcommands"}, _GPU)),
}
