"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default."""

from typing import Any

from diffcore.plugins.records import Preset

_SCHEDULE = {"name": "cosine", "shift": 2.0}
"""Elements and bonds are small beside places, so they are decided at lower noise than usual."""

_SMALL: dict[str, Any] = {
    "denoiser": {"name": "equivariant"},
    "schedule": _SCHEDULE,
    "train": {
        "minutes": 9,
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
    "train": {"minutes": 4, "batch_size": 64, "learning_rate": 2e-3, "evaluate": 500},
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
    "default": Preset("10,000 molecules of QM9 on a laptop, 9 minutes of training", _of(_SMALL, name="embedded")),
    "regressor": Preset("properties of noisy molecules, for guidance; 4 minutes on a laptop", _REGRESSOR),
    "qm9": Preset("QM9 on a laptop", _of(_SMALL, name="qm9")),
    "sdf": Preset("an SD file of your own on a laptop", _of(_SMALL, name="sdf")),
    "smiles": Preset("a list of SMILES on a laptop", _of(_SMALL, name="smiles")),
    "qm9-gpu": Preset("QM9 with its hydrogens on one GPU", _of(_GPU, name="qm9", hydrogens=True, properties=())),
}
