"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default.

Presets say steps, so that a seed gives the same model on every machine. Times of training are those of two cores of a
Xeon with AVX-512; where they are marked "about" they were scaled from a short run.
"""

from typing import Any

from diffcore.plugins.records import Preset

_SCHEDULE = {"name": "cosine", "shift": 2.0}
"""Elements and bonds are small beside places, so they are decided at lower noise than usual."""

_SMALL: dict[str, Any] = {
    "denoiser": {"name": "equivariant"},
    "schedule": _SCHEDULE,
    "train": {
        "steps": 3700,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "weighting": "v",
        "condition_dropout": 0.5,
        "evaluate": 1000,
    },
    "sample": {"solver": "edm", "steps": 50},
}
_REGRESSOR: dict[str, Any] = {
    "task": "classify",
    "data": {"name": "embedded"},
    "classifier": {"name": "equivariant", "depth": 3},
    "schedule": _SCHEDULE,
    "train": {"steps": 3300, "batch_size": 64, "learning_rate": 2e-3, "evaluate": 500},
}
_GPU: dict[str, Any] = {
    "denoiser": {"name": "equivariant", "width": 128, "pair_width": 128, "depth": 8, "heads": 16},
    "schedule": _SCHEDULE,
    "train": {
        "steps": 300_000,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "weighting": "v",
        "condition_dropout": 0.5,
        "decay_after": 50_000,
        "sample_every": 10_000,
        "checkpoint_every": 5000,
        "evaluate": 10_000,
    },
    "sample": {"solver": "edm", "steps": 50},
}


def _of(recipe: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"data": data, **recipe}


PRESETS = {
    "default": Preset("10,000 molecules of QM9 on a laptop: 3,700 steps, 9 minutes", _of(_SMALL, name="embedded")),
    "regressor": Preset("properties of noisy molecules, for guidance: 3,300 steps, about 4 minutes", _REGRESSOR),
    "qm9": Preset("QM9 on a laptop: 3,700 steps, about 9 minutes", _of(_SMALL, name="qm9")),
    "sdf": Preset("an SD file of your own on a laptop: 3,700 steps", _of(_SMALL, name="sdf")),
    "smiles": Preset("a list of SMILES on a laptop: 3,700 steps", _of(_SMALL, name="smiles")),
    "qm9-gpu": Preset("QM9 with its hydrogens on one GPU", _of(_GPU, name="qm9", hydrogens=True, properties=())),
}
