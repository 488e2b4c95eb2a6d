"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default.

Presets say steps, so that a seed gives the same model on every machine. Times of training are those of two cores of a
Xeon with AVX-512; where they are marked "about" they were scaled from a short run.

In minutes, a weighting and a schedule that care for high noise, where the layout of a picture is decided, draw better
pictures than the simple objective: tests/benchmarks/mnist_objectives.py compares them.
"""

from typing import Any

from diffcore.plugins.records import Preset

_DIGITS = {
    "data": {"name": "digits"},
    "denoiser": {"name": "unet", "width": 32, "multipliers": (1, 2), "patch": 1},
    "train": {"steps": 4500, "batch_size": 64, "learning_rate": 4e-3, "weighting": "v"},
}
_SMALL = {
    "denoiser": {"name": "unet", "width": 32, "multipliers": (1, 2, 4), "patch": 2},
    "schedule": {"name": "cosine", "shift": -1.0},
    "train": {"steps": 4250, "batch_size": 64, "learning_rate": 4e-3, "weighting": "x0", "evaluate": 1000},
}
_CLASSIFIER = {
    "task": "classify",
    "data": {"name": "digits"},
    "classifier": {"name": "encoder", "width": 32, "multipliers": (1, 2), "patch": 1, "dropout": 0.1},
    "train": {"steps": 2000, "batch_size": 128, "learning_rate": 2e-3},
}
_GPU = {
    "denoiser": {"name": "unet", "width": 128, "multipliers": (1, 2, 2), "patch": 1, "blocks": 2, "attention": True},
    "train": {
        "steps": 100_000,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "weighting": "v",
        "decay_after": 20_000,
        "sample_every": 5000,
        "checkpoint_every": 5000,
        "evaluate": 5000,
    },
}


def _of(data: dict[str, Any], recipe: dict[str, Any], **denoiser: Any) -> dict[str, Any]:
    return {"data": data, **recipe, "denoiser": {**recipe["denoiser"], **denoiser}}


PRESETS = {
    "default": Preset("8x8 digits on a laptop: 4,500 steps, 3 minutes", _DIGITS),
    "classifier": Preset("a classifier of noisy 8x8 digits for guidance, 2,000 steps, about 2 minutes", _CLASSIFIER),
    "mnist": Preset("MNIST at 32x32 on a laptop: 4,250 steps, 10 minutes", _of({"name": "mnist"}, _SMALL)),
    "fashion-mnist": Preset(
        "Fashion-MNIST at 32x32 on a laptop: 4,250 steps, 10 minutes", _of({"name": "fashion-mnist"}, _SMALL)
    ),
    "cifar10": Preset(
        "CIFAR-10 on a laptop, a first look: 4,250 steps, about 10 minutes",
        _of({"name": "cifar10", "flip": True}, _SMALL),
    ),
    "folder": Preset(
        "a folder of your own on a laptop: 4,250 steps, about 10 minutes", _of({"name": "folder"}, _SMALL)
    ),
    "mnist-gpu": Preset("MNIST on one GPU", _of({"name": "mnist"}, _GPU)),
    "cifar10-gpu": Preset("CIFAR-10 on one GPU", _of({"name": "cifar10", "flip": True}, _GPU, dropout=0.1)),
    "folder-gpu": Preset(
        "a folder of your own at 64x64 on one GPU", _of({"name": "folder", "size": 64}, _GPU, patch=2)
    ),
}
