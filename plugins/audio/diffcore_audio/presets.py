"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default.

Presets say steps, so that a seed gives the same model on every machine. Times of training are those of two cores of a
Xeon with AVX-512; where they are marked "about" they were scaled from a short run.

What was tried on the drums, one run a row and 180 samples each, so small differences mean little. Losses of different
weightings cannot be compared.

| | loss | of the class asked for | Frechet distance | RMS, dB (data: -26) |
|---|---|---|---|---|
| 3 minutes of half a core, batches of 32 (300 steps) | 0.50 | 94 % | 516 | -26.5 |
| the same, batches of 64 (150 steps) | 0.54 | 86 % | 704 | -27.7 |
| 500 steps of 32, turned over, patch 4, width 32 | 0.47 | 84 % | 637 | -27.2 |
| the same, patch 8, width 64, as costly | 0.53 | 91 % | 1540 | -26.1 |
| the same, patch 4, width 32, not turned over | 0.47 | 91 % | 527 | -25.7 |
| 700 steps of 32, turned over, weighting x0 | 0.46 | 91 % | 634 | -27.9 |
| the same, weighting v | | 81 % | 598 | -32.4 |

Drawn in other ways from one model of seven minutes (2,904 steps, learning rate 4e-3), by an evaluator that hears
nothing below -60 dB, 180 to 500 samples:

| | of the class asked for | Frechet ratio | RMS, dB |
|---|---|---|---|
| adams, 20 steps | 81 % | 79 | -28.2 |
| the same, guidance 2 | 85 % | 44 | -21.3 |
| ddpm, 50 steps | 87 % | 58 | -28.8 |
| edm, 25 steps | 96 % | 58 | -21.1 |
| dpmpp-2m-sde, 40 steps | 93 % | 40 | -24.9 |

Fresh noise in each step mends errors of the steps before, which are large where minutes are few.

Learning rates, 2,900 steps, dpmpp-2m-sde in 40 steps, one evaluator for all (another than above, so its ratios cannot
be compared with those):

| learning rate | guidance | samples | of the class asked for | Frechet ratio | RMS, dB |
|---|---|---|---|---|---|
| 4e-3 | 1 | 250 | 91 % | 96 | -25.4 |
| 1.5e-3 | 1 | 250 | 91 % | 81 | -26.5 |
| 1.5e-3 | 1 | 126 | 94 % | 68 | -26.4 |
| 1.5e-3 | 1.5 | 126 | 94 % | 47 | -24.5 |
| 1.5e-3 | 2, rescaled by 0.7 | 126 | 94 % | 49 | -25.0 |
| 1.5e-3 | 2 | 126 | 91 % | 37 | -22.6 |
| 1.5e-3 | 3 | 126 | 89 % | 43 | -19.7 |
| 1.5e-3 | 2, adams in 20 steps | 250 | 86 % | 36 | -22.2 |

Of 423 recorded drums in eleven classes, 2,350 steps (the first two at 4e-3, the others at 1.5e-3):

| | samples | of the class asked for | Frechet ratio |
|---|---|---|---|
| dpmpp-2m-sde, 40 steps, guidance 1 | 110 | 21 % | 17 |
| adams, 20 steps, guidance 2 | 110 | 57 % | 5.9 |
| dpmpp-2m-sde, 40 steps, guidance 2 | 150 | 64 % | 15 |
| adams, 20 steps, guidance 2 | 150 | 69 % | 9.0 |
| adams, 20 steps, guidance 3 | 500 | 76 % | 5.9 |
"""

from typing import Any

from diffcore.plugins.records import Preset

_SMALL = {
    "denoiser": {"name": "unet", "width": 32, "multipliers": (1, 2, 4), "patch": 4},
    "schedule": {"name": "cosine", "shift": -1.0},
    "train": {"steps": 2700, "batch_size": 32, "learning_rate": 1.5e-3, "weighting": "x0", "evaluate": 500},
}
_FRESH = {"sample": {"solver": "dpmpp-2m-sde", "steps": 40, "guidance": 1.5}}
_GUIDED = {"sample": {"guidance": 3.0}}
_CLASSIFIER = {
    "task": "classify",
    "data": {"name": "drums"},
    "classifier": {"name": "encoder", "width": 32, "multipliers": (1, 2), "patch": 4, "dropout": 0.1},
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
        "drums of half a second on a laptop: 2,700 steps, 7 minutes", {**_of({"name": "drums"}, _SMALL), **_FRESH}
    ),
    "classifier": Preset("a classifier of noisy drums for guidance, on a laptop", _CLASSIFIER),
    "mel": Preset(
        "drums as mel spectrograms on a laptop: 4,300 steps, about 7 minutes",
        _of({"name": "drums", "codec": "mel"}, _SMALL, steps=4300),
    ),
    "folder": Preset(
        "a folder of your own on a laptop: 2,400 steps, about 7 minutes",
        {**_of({"name": "folder"}, _SMALL, steps=2400), **_GUIDED},
    ),
    "sc09": Preset(
        "spoken digits on a laptop, a first look: 2,100 steps, about 10 minutes",
        _of({"name": "sc09"}, _SMALL, steps=2100),
    ),
    "speechcommands": Preset(
        "35 spoken words on a laptop, a first look: 2,100 steps, about 10 minutes",
        _of({"name": "speechcommands", "limit": 500}, _SMALL, steps=2100),
    ),
    "drums-gpu": Preset("drums of half a second on one GPU", _of({"name": "drums", "sounds": 5000}, _GPU)),
    "folder-gpu": Preset(
        "a folder of your own, a second each, on one GPU", _of({"name": "folder", "seconds": 1.0}, _GPU)
    ),
    "sc09-gpu": Preset("spoken digits on one GPU", _of({"name": "sc09"}, _GPU)),
    "speechcommands-gpu": Preset("35 spoken words on one GPU", _of({"name": "speechcommands"}, _GPU)),
}
