"""Presets for a laptop and for one GPU. A preset with the name of a data set is the default of that data set.

Presets set the number of steps, so that a seed gives the same model on every machine. The times of training are those
of two cores of a Xeon with AVX-512; a time with "about" was extrapolated from a short run.
"""

from typing import Any

from diffcore.plugins.records import Preset

_SCHEDULE = {"name": "cosine", "shift": 2.0}
"""Bonds have a small standard deviation in the state, so they are decided at lower noise than usual."""

_SAMPLE: dict[str, Any] = {"solver": {"name": "edm", "low": 0.005}, "steps": 50}
"""Fresh noise down to 0.006 A, and not to 0.06 A as EDM has it: it corrects centres that are flatter than real ones."""

_MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 3e-3, "cooldown": 0.5, "ema_width": 0.05}
"""97 % valid samples, and 93 % with Adam at 2e-3 without a cool-down, after as many steps (docs/figures.md)."""

_SMALL: dict[str, Any] = {
    "denoiser": {"name": "equivariant"},
    "schedule": _SCHEDULE,
    "train": {
        **_MUON,
        "steps": 3700,
        "batch_size": 64,
        "cuda_graphs": True,
        "weighting": "v",
        "condition_dropout": 0.5,
        "evaluate": 1000,
    },
    "sample": _SAMPLE,
}
_PARTS = {**_SMALL, "levels": {"known": 0.4}, "train": {**_SMALL["train"], "steps": 4500}}
"""As good without parts as the default, for a fifth more steps."""
_HANDED = {**_SMALL, "denoiser": {"name": "equivariant", "reflections": False}}
"""For molecules of users, which may all have one hand. Both hands of QM9's are equally frequent."""
_DRUGLIKE: dict[str, Any] = {
    "denoiser": {"name": "equivariant", "width": 96, "pair_width": 32, "depth": 4, "inner": 12},
    "schedule": _SCHEDULE,
    "train": {
        **_MUON,
        "steps": 1500,
        "batch_size": 32,
        "cuda_graphs": True,
        "weighting": "v",
        "evaluate": 500,
    },
    "sample": _SAMPLE,
}
"""Most of the time goes to pairs of atoms, of which these molecules have many: so there are few channels for pairs."""
_REGRESSOR: dict[str, Any] = {
    "task": "classify",
    "data": {"name": "embedded"},
    "classifier": {"name": "equivariant", "depth": 3},
    "schedule": _SCHEDULE,
    "train": {"steps": 3300, "batch_size": 64, "learning_rate": 2e-3, "evaluate": 500},
}
_GPU: dict[str, Any] = {
    "task": {"name": "denoise", "self_conditioning": 0.5},
    "denoiser": {"name": "equivariant", "width": 192, "pair_width": 64, "depth": 8, "heads": 16},
    "schedule": _SCHEDULE,
    "train": {
        "steps": 15_000,
        "batch_size": 1024,
        "learning_rate": 1e-3,
        "warmup_steps": 500,
        "decay_after": 15_000,
        "cooldown": 0.2,
        "weighting": "v",
        "field_weights": {"positions": 3.0, "atoms": 0.4, "charges": 1.0, "bonds": 2.0},
        "distorted": 0.2,
        "buckets": 16,
        "precision": "bfloat16",
        "compile": True,
        "condition_dropout": 0.5,
        "sample_every": 5000,
        "checkpoint_every": 1000,
        "evaluate": 10_000,
    },
    "sample": _SAMPLE,
}
"""The recipe of FlowMol3 and SemlaFlow, as far as it does not depend on the network: see docs/scaling.md."""


_ENCODE: dict[str, Any] = {
    "task": {"name": "encode"},
    "autoencoder": {"name": "atoms"},
    "train": {"steps": 1500, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 50, "evaluate": 1000},
}
_LATENT: dict[str, Any] = {
    "denoiser": {"name": "atoms"},
    "train": {"steps": 6000, "batch_size": 64, "learning_rate": 1e-3, "weighting": "v", "evaluate": 500},
}


def _of(values: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"data": data, **values}


PRESETS = {
    "default": Preset(
        "an equivariant denoiser of 10,000 QM9 molecules, on a laptop: 3,700 steps, about 10 minutes",
        _of(_SMALL, name="embedded"),
    ),
    "parts": Preset(
        "the default, which also learns molecules of which a part or the graph is known: 4,500 steps, about 11 minutes",
        _of(_PARTS, name="embedded"),
    ),
    "joint": Preset(
        "an equivariant denoiser of 10,000 QM9 molecules together with their logP, polar surface and drug-likeness, on "
        "a laptop: 3,000 steps, about 20 minutes",
        _of({**_SMALL, "train": {**_SMALL["train"], "steps": 3000}}, name="embedded", joint=("logp", "tpsa", "qed")),
    ),
    "captions": Preset(
        "an equivariant denoiser of 10,000 QM9 molecules that sentences describe, on a laptop: 3,700 steps; not timed",
        _of(
            {
                **_SMALL,
                "train": {**_SMALL["train"], "condition_dropout": 0.1},
                "sample": {**_SMALL["sample"], "guidance": 2.0},
            },
            name="embedded",
            captions=True,
            properties=(),
        ),
    ),
    "regressor": Preset(
        "a regressor of properties of noisy molecules, for guidance, on a laptop: 3,300 steps, about 4 minutes",
        _REGRESSOR,
    ),
    "encode": Preset(
        "an autoencoder of QM9 molecules, 8 numbers for each atom, on a laptop: 1,500 steps",
        _of(_ENCODE, name="embedded"),
    ),
    "latent": Preset("a transformer over latents of atoms, on a laptop: 6,000 steps, 10 minutes of one core", _LATENT),
    "qm9": Preset("an equivariant denoiser of QM9, on a laptop: 3,700 steps, about 9 minutes", _of(_SMALL, name="qm9")),
    "sdf": Preset(
        "an equivariant denoiser of your own SD file, on a laptop: 3,700 steps; the time depends on the molecules",
        _of(_HANDED, name="sdf"),
    ),
    "smiles": Preset(
        "an equivariant denoiser of your own SMILES, on a laptop: 3,700 steps; the time depends on the molecules",
        _of(_HANDED, name="smiles"),
    ),
    "druglike": Preset(
        "an equivariant denoiser of drug-like molecules, the first 10,000 of a list such as that of MOSES, on a "
        "laptop: 5 minutes of one core for conformers, and 1,500 steps, 11 minutes",
        _of(_DRUGLIKE, name="smiles", limit=10_000, properties=()),
    ),
    "druglike-gpu": Preset(
        "a larger equivariant denoiser of drug-like molecules, such as all of MOSES, on one GPU: 15,000 steps; not "
        "timed yet",
        _of(_GPU, name="smiles", properties=()),
    ),
    "qm9-gpu": Preset(
        "a larger equivariant denoiser of QM9 with hydrogens, on one GPU: 15,000 steps; target 40,000 molecules/s, not "
        "timed yet",
        _of(_GPU, name="qm9", hydrogens=True, properties=()),
    ),
}
