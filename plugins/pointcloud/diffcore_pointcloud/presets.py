"""Presets for a laptop and for one GPU. A preset with the name of a data set is the default of that data set.

Presets set the number of steps, so that a seed gives the same model on every machine. The times of training are those
of two cores of a Xeon with AVX-512; a time with "about" was extrapolated from a short run.
"""

from typing import Any

from diffcore.plugins.records import Preset

_SMALL: dict[str, Any] = {
    "denoiser": {"name": "latent"},
    "schedule": {"name": "cosine", "shift": 1.0},
    "train": {
        "steps": 3600,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "cuda_graphs": True,
        "weighting": "v",
        "evaluate": 150,
    },
    "sample": {"solver": "dpmpp-2m-sde", "steps": 40},
}
"""The reasons for these values.

Network: on two cores `latent` learns more in a given time, as `transformer` makes a quarter of its steps.
Sampling: fresh noise in each step corrects errors of earlier steps. 1-NNA of one model of 1,975 steps was 0.66 with
dpmpp-2m-sde in 40 steps (150 samples), 0.685 with edm in 25 steps (100 samples) and 0.73 with adams in 20 steps (250
samples). With dpmpp-2m-sde, another model of 1,975 steps at the learning rate 2e-3 had 0.70, and a model of 3,629
steps, which took six and a half minutes on an idle machine, 0.58.
Training: the error on held-out shapes in excess of that explained by the random positions of the points, after 100
seconds on one core, was 702 with gates initialised to zero and 507 with one; 524 with the schedule shifted by -1 and
345 by +1. Learning rates of 4e-3 and 5e-4 were worse than 1e-3.
"""

_MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 3e-3, "cooldown": 0.5, "ema_width": 0.05}
"""1-NNA 0.577, and 0.593 with Adam at 1e-3 without a cool-down, after as many steps (docs/figures.md)."""

_SMALLER: dict[str, Any] = {
    **_SMALL,
    "denoiser": {"name": "latent", "width": 32, "latents": 16, "latent_width": 96, "rounds": 1},
    "train": {**_SMALL["train"], "steps": 4000, "learning_rate": 3e-3},
}

_GPU_TRAIN = {
    "steps": 200_000,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "cuda_graphs": True,
    "weighting": "v",
    "decay_after": 40_000,
    "sample_every": 10_000,
    "checkpoint_every": 5000,
    "evaluate": 1000,
}
_GPU: dict[str, Any] = {
    "denoiser": {
        "name": "latent", "width": 128, "latents": 128, "latent_width": 512, "rounds": 4, "depth": 4, "heads": 8,
    },
    "train": _GPU_TRAIN,
}  # fmt: skip


_ENCODE: dict[str, Any] = {
    "task": {"name": "encode"},
    "autoencoder": {"name": "tokens"},
    "train": {"steps": 2000, "batch_size": 16, "learning_rate": 1e-3, "evaluate": 250},
}
_LATENT: dict[str, Any] = {
    "denoiser": {"name": "tokens"},
    "train": {"steps": 6000, "batch_size": 32, "learning_rate": 1e-3, "weighting": "v", "evaluate": 150},
}


def _of(values: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"data": data, **values}


PRESETS = {
    "default": Preset(
        "a denoiser of generated furniture, aeroplanes and solids, 512 points, on a laptop: 3,600 steps, 7.5 minutes",
        _of({**_SMALL, "train": {**_SMALL["train"], **_MUON}}, name="shapes"),
    ),
    "shapes-2048": Preset(
        "a denoiser of the same shapes, 2,048 points, on a laptop: 1,000 steps, about 6.5 minutes",
        _of({**_SMALL, "train": {**_SMALL["train"], "steps": 1000}}, name="shapes", points=2048),
    ),
    "shapes-normals": Preset(
        "a small denoiser of the same shapes with normals, for meshes, on a laptop: 4,000 steps, 5 minutes of one core",
        _of(_SMALLER, name="shapes", normals=True),
    ),
    "shapes-captions": Preset(
        "a small denoiser of chairs, stools and tables that sentences describe, on a laptop: 4,000 steps; not timed",
        _of(
            {**_SMALLER, "sample": {**_SMALL["sample"], "guidance": 2.0}},
            name="shapes",
            classes=("chair", "stool", "table"),
            captions=True,
        ),
    ),
    "joint": Preset(
        "a small denoiser of the same shapes and their parts, on a laptop: 8,000 steps, about 8.5 minutes of one core",
        _of({**_SMALLER, "train": {**_SMALLER["train"], **_MUON, "steps": 8000}}, name="shapes", joint="parts"),
    ),
    "encode": Preset(
        "an autoencoder of generated shapes, 512 points to 32 tokens, on a laptop: 2,000 steps, 6 minutes of one core",
        _of(_ENCODE, name="shapes"),
    ),
    "latent": Preset(
        "a transformer over the tokens of latents, on a laptop: 6,000 steps, 14 minutes of one core", _LATENT
    ),
    "meshes": Preset(
        "a denoiser of your own folder of meshes, 512 points, on a laptop: 3,600 steps, about 6.5 minutes",
        _of(_SMALL, name="meshes"),
    ),
    "clouds": Preset(
        "a denoiser of your own folder of clouds, 512 points, on a laptop: 3,600 steps, about 6.5 minutes",
        _of(_SMALL, name="clouds"),
    ),
    "shapes-gpu": Preset(
        "a larger denoiser of generated shapes, 2,048 points, on one GPU: 200,000 steps; not timed yet",
        _of(_GPU, name="shapes", points=2048, shapes=20_000, held_out=500),
    ),
    "meshes-gpu": Preset(
        "a larger denoiser of your own folder of meshes, 2,048 points, on one GPU: 200,000 steps; not timed yet",
        _of(_GPU, name="meshes", points=2048),
    ),
    "clouds-gpu": Preset(
        "a larger denoiser of your own folder of clouds, 2,048 points, on one GPU: 200,000 steps; not timed yet",
        _of(_GPU, name="clouds", points=2048),
    ),
}
