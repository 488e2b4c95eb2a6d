"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default.

Presets say steps, so that a seed gives the same model on every machine. Times of training are those of two cores of a
Xeon with AVX-512; where they are marked "about" they were scaled from a short run.
"""

from typing import Any

from diffcore.plugins.records import Preset

_SMALL: dict[str, Any] = {
    "denoiser": {"name": "latent"},
    "schedule": {"name": "cosine", "shift": 1.0},
    "train": {"steps": 3600, "batch_size": 16, "learning_rate": 1e-3, "weighting": "v", "evaluate": 150},
    "sample": {"solver": "dpmpp-2m-sde", "steps": 40},
}
"""Of networks for two cores the one of linear cost learns most: the transformer takes a quarter of its steps.

Fresh noise in each step mends errors of the steps before. One model of 1,975 steps: 1-NNA 0.66 by dpmpp-2m-sde in 40
steps (150 samples), 0.685 by edm in 25 (100), 0.73 by adams in 20 (250); another of 1,975 steps at the learning rate
2e-3 0.70, and one of 3,629 steps, what six and a half quiet minutes hold, 0.58, both by the first way. Error on held-
out shapes above what the points' own scatter explains, after 100 seconds of one core: 702 with gates that begin at
zero, 507 at one; 524 with the schedule shifted by -1, 345 by +1; learning rates of 4e-3 and 5e-4 are worse than
1e-3.
"""

_GPU_TRAIN = {
    "steps": 200_000,
    "batch_size": 128,
    "learning_rate": 1e-3,
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


def _of(recipe: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"data": data, **recipe}


PRESETS = {
    "default": Preset(
        "furniture, aeroplanes and solids of 512 points on a laptop: 3,600 steps, 6.5 minutes",
        _of(_SMALL, name="shapes"),
    ),
    "shapes-2048": Preset(
        "the same with 2,048 points: 1,000 steps, about 6.5 minutes",
        _of({**_SMALL, "train": {**_SMALL["train"], "steps": 1000}}, name="shapes", points=2048),
    ),
    "meshes": Preset("a folder of meshes on a laptop: 3,600 steps, about 6.5 minutes", _of(_SMALL, name="meshes")),
    "clouds": Preset(
        "a folder of point clouds on a laptop: 3,600 steps, about 6.5 minutes", _of(_SMALL, name="clouds")
    ),
    "shapes-gpu": Preset(
        "shapes of 2,048 points on one GPU", _of(_GPU, name="shapes", points=2048, shapes=20_000, held_out=500)
    ),
    "meshes-gpu": Preset("a folder of meshes, 2,048 points each, on one GPU", _of(_GPU, name="meshes", points=2048)),
    "clouds-gpu": Preset("a folder of clouds, 2,048 points each, on one GPU", _of(_GPU, name="clouds", points=2048)),
}
