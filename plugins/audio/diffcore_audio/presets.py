"""Presets, from a laptop to one GPU. A preset with the name of a data set is the default for that data set.

Training stops after a number of steps, so that a seed gives the same model on every machine. Times are those of
training on two cores of a Xeon with AVX-512; those marked "about" are extrapolated from a short run. Presets that
state no time were not timed.

`mel` is the default codec because complex spectrograms need far more training. Both for seven minutes on the drums,
with 500 samples. "Ratio" is the Frechet distance of the samples divided by that of held-out sounds. It depends on the
classifier behind it, which was not the same for all rows:

| | agreement | ratio |
|---|---|---|
| mel, a floor of -72 dB, 4,300 steps with Muon and a cool-down, dpmpp-2m-sde in 50 steps | 99.8 % | 1.9 |
| mel, a floor of -72 dB, 4,300 steps with Adam, a linear path, dpmpp-2m-sde in 40 steps | 99.8 % | 4.0 |
| mel, a window of 512, a floor of -60 dB, 4,300 steps, adams in 20 steps | 99.8 % | 3.8 to 18.9 |
| mel, a window of 1024, a floor of -108 dB, 4,300 steps, adams in 20 steps | | 8.8 |
| complex, 2,700 steps, dpmpp-2m-sde in 40 steps, guidance 1.5 | | 40 |

The tables below show what was tried with complex spectrograms of the synthesised drums. Each row is one run with 180
samples unless stated otherwise, so small differences are within the noise. "Agreement" is the fraction of samples that
a classifier assigns to the requested class. The losses of different weightings cannot be compared. "Inverted" is
`data.polarity`.

| | loss | agreement | Frechet distance | RMS in dB (data: -26) |
|---|---|---|---|---|
| 3 minutes of half a core, batches of 32 (300 steps) | 0.50 | 94 % | 516 | -26.5 |
| the same, batches of 64 (150 steps) | 0.54 | 86 % | 704 | -27.7 |
| 500 steps of 32, inverted, patch 4, width 32 | 0.47 | 84 % | 637 | -27.2 |
| the same, patch 8, width 64, at equal cost | 0.53 | 91 % | 1540 | -26.1 |
| the same, patch 4, width 32, not inverted | 0.47 | 91 % | 527 | -25.7 |
| 700 steps of 32, inverted, weighting x0 | 0.46 | 91 % | 634 | -27.9 |
| the same, weighting v | | 81 % | 598 | -32.4 |

Ways of sampling from one model of seven minutes (2,904 steps, learning rate 4e-3), with an evaluator that treats levels
below -60 dB as silence, 180 to 500 samples:

| | agreement | Frechet ratio | RMS in dB |
|---|---|---|---|
| adams, 20 steps | 81 % | 79 | -28.2 |
| the same, guidance 2 | 85 % | 44 | -21.3 |
| ddpm, 50 steps | 87 % | 58 | -28.8 |
| edm, 25 steps | 96 % | 58 | -21.1 |
| dpmpp-2m-sde, 40 steps | 93 % | 40 | -24.9 |

Fresh noise in each step corrects errors of the previous steps, which are large after a short training.

Learning rates, with 2,900 steps, dpmpp-2m-sde in 40 steps and the same evaluator for all rows (not the one above, so
the ratios of the two tables cannot be compared):

| learning rate | guidance | samples | agreement | Frechet ratio | RMS in dB |
|---|---|---|---|---|---|
| 4e-3 | 1 | 250 | 91 % | 96 | -25.4 |
| 1.5e-3 | 1 | 250 | 91 % | 81 | -26.5 |
| 1.5e-3 | 1 | 126 | 94 % | 68 | -26.4 |
| 1.5e-3 | 1.5 | 126 | 94 % | 47 | -24.5 |
| 1.5e-3 | 2, rescaled by 0.7 | 126 | 94 % | 49 | -25.0 |
| 1.5e-3 | 2 | 126 | 91 % | 37 | -22.6 |
| 1.5e-3 | 3 | 126 | 89 % | 43 | -19.7 |
| 1.5e-3 | 2, adams in 20 steps | 250 | 86 % | 36 | -22.2 |

423 recorded drums in eleven classes, mel spectrograms, 4,300 steps, adams in 20 steps:

| guidance | samples | agreement | Frechet ratio | RMS in dB (data: -19.2) |
|---|---|---|---|---|
| 1 | 220 | 87 % | 2.5 | -20.2 |
| 1.5 | 220 | 98 % | 2.9 | -17.3 |
| 2 | 220 | 99 % | 5.4 | -14.9 |
| 3 | 500 | 98 % | 12.9 | -11.6 |

423 recorded drums in eleven classes, complex spectrograms, 2,350 steps (the first two rows with learning rate 4e-3, the
others with 1.5e-3):

| | samples | agreement | Frechet ratio |
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
    "train": {
        "steps": 4300,
        "batch_size": 32,
        "learning_rate": 1.5e-3,
        "cuda_graphs": True,
        "weighting": "x0",
        "evaluate": 500,
    },
}
_MUON = {"optimizer": "muon", "learning_rate": 3e-3, "cooldown": 0.5, "ema_width": 0.05}
_STOCHASTIC = {"sample": {"solver": "dpmpp-2m-sde", "steps": 40, "guidance": 1.5}}
_UNGUIDED = {"sample": {"solver": "dpmpp-2m-sde", "steps": 50, "grid": "log-snr"}}
_GUIDED = {"sample": {**_UNGUIDED["sample"], "guidance": 1.2}}
_PROMPTED = {"sample": {"guidance": 2.0}}
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
        "cuda_graphs": True,
        "weighting": "v",
        "decay_after": 20_000,
        "sample_every": 5000,
        "checkpoint_every": 5000,
        "evaluate": 2000,
    },
}


_ENCODE = {
    "task": {"name": "encode"},
    "autoencoder": {"name": "grid", "factor": 4, "latent": 4},
    "train": {"steps": 1000, "batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 50, "evaluate": 200},
}
_LATENT = {**_SMALL, "denoiser": {"name": "unet", "width": 64, "multipliers": (1, 2), "patch": 1}}
_LONG = {"seconds": 4.0, "rate": 22050, "window": 1024, "hop": 256, "bands": 80, "floor": -72.0}


def _with_data(base: dict[str, Any], data: dict[str, Any], **train: Any) -> dict[str, Any]:
    """The values of `base` with a data set, and with some options of training replaced."""
    return {"data": data, **base, "train": {**base["train"], **train}}


PRESETS = {
    "default": Preset(
        "U-Net on mel spectrograms of synthesised drums of half a second, on a laptop: 4,300 steps, about 5 minutes",
        {**_with_data(_SMALL, {"name": "drums", "floor": -72.0}, evaluate=1500, **_MUON), **_UNGUIDED},
    ),
    "drums-captions": Preset(
        "U-Net on synthesised drums that sentences describe, on a laptop: 3,500 steps, about 10 minutes of one core",
        {**_with_data(_SMALL, {"name": "drums", "captions": True, "sounds": 1000}, steps=3500), **_PROMPTED},
    ),
    "joint": Preset(
        "U-Net on synthesised drums and a network of their loudness over time, on a laptop: 3,000 steps; not timed",
        {
            **_with_data(
                _SMALL, {"name": "drums", "floor": -72.0, "joint": "envelope"}, steps=3000, evaluate=300, **_MUON
            ),
            **_UNGUIDED,
        },
    ),
    "complex": Preset(
        "U-Net on complex spectrograms of synthesised drums, on a laptop: 2,700 steps, 7 minutes",
        {**_with_data(_SMALL, {"name": "drums", "codec": "complex"}, steps=2700), **_STOCHASTIC},
    ),
    "classifier": Preset(
        "noisy classifier of synthesised drums for guidance, on a laptop: 1,500 steps, not timed", _CLASSIFIER
    ),
    "encode": Preset(
        "an autoencoder of mel spectrograms of synthesised drums, on a laptop: 1,000 steps, 4 minutes of one core",
        _with_data(_ENCODE, {"name": "drums"}),
    ),
    "latent": Preset("U-Net in latents of spectrograms, on a laptop: 4,300 steps, not timed", _LATENT),
    "folder": Preset(
        "U-Net on your own sounds of half a second, on a laptop: 4,300 steps, about 5 minutes",
        {**_with_data(_SMALL, {"name": "folder", "floor": -72.0}, **_MUON), **_GUIDED},
    ),
    "sc09": Preset(
        "U-Net on spoken digits, a first impression, on a laptop: 4,300 steps, about 14 minutes",
        _with_data(_SMALL, {"name": "sc09"}, **_MUON),
    ),
    "speechcommands": Preset(
        "U-Net on 35 spoken words, a first impression, on a laptop: 4,300 steps, about 14 minutes",
        _with_data(_SMALL, {"name": "speechcommands", "limit": 500}, **_MUON),
    ),
    "drums-gpu": Preset(
        "U-Net on synthesised drums of half a second, on one GPU: 100,000 steps, not timed",
        _with_data(_GPU, {"name": "drums", "sounds": 5000}),
    ),
    "folder-gpu": Preset(
        "U-Net on your own sounds of one second, on one GPU: 100,000 steps, not timed",
        _with_data(_GPU, {"name": "folder", "seconds": 1.0}),
    ),
    "folder-long-gpu": Preset(
        "U-Net on your own sounds of four seconds at 22.05 kHz, on one GPU: 100,000 steps, not timed",
        {**_with_data(_GPU, {"name": "folder", **_LONG}, batch_size=32), **_UNGUIDED},
    ),
    "sc09-gpu": Preset(
        "U-Net on spoken digits, on one GPU: 100,000 steps, not timed", _with_data(_GPU, {"name": "sc09"})
    ),
    "speechcommands-gpu": Preset(
        "U-Net on 35 spoken words, on one GPU: 100,000 steps, not timed", _with_data(_GPU, {"name": "speechcommands"})
    ),
}
