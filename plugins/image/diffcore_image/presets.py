"""Presets, from a laptop to one GPU. A preset with the name of a data set is the default for that data set.

Training stops after a number of steps, so that a seed gives the same model on every machine. Times are those of
training on two cores of a Xeon with AVX-512; those marked "about" are extrapolated from a short run. The presets for
a GPU were not timed.

In a few minutes of training, a weighting and a schedule that emphasise high noise levels, where the layout of an image
is decided, give better images than the simple objective: tests/benchmarks/mnist_objectives.py compares them.

`mnist-likelihoods` gives less weight to high noise and more to levels with hardly any, which decide likelihoods:
docs/likelihoods.md.

For `scenes`, a transformer on patches of 4 x 4 pixels learns which words belong to which of two objects; a U-Net hardly
does. It predicts x0, because a network of 96 channels that predicts v would have to pass the noise of the 48 values of
each patch on to its output. Most of a picture is white, so objects lie far from the mean and are visible at high noise:
the schedule, the weighting, the time grid and the interval of guidance are for such data. docs/figures.md has the
trials.
"""

from typing import Any

from diffcore.plugins.records import Preset

_DIGITS = {
    "data": {"name": "digits"},
    "denoiser": {"name": "unet", "width": 32, "multipliers": (1, 2), "patch": 1},
    "train": {"steps": 4500, "batch_size": 64, "learning_rate": 4e-3, "cuda_graphs": True, "weighting": "v"},
}
_SMALL = {
    "denoiser": {"name": "unet", "width": 32, "multipliers": (1, 2, 4), "patch": 2},
    "schedule": {"name": "cosine", "shift": -1.0},
    "train": {
        "steps": 4250,
        "batch_size": 64,
        "learning_rate": 4e-3,
        "cuda_graphs": True,
        "weighting": "x0",
        "evaluate": 1000,
    },
}
_LIKELY = {
    "data": {"name": "mnist"},
    "denoiser": {**_SMALL["denoiser"], "octaves": 9},
    "schedule": {"name": "laplace", "mu": -1.0, "b": 4.0, "log_snr_max": 12.0},
    "train": {
        **_SMALL["train"],
        "steps": 4065,
        "optimizer": "muon",
        "learning_rate": 0.01,
        "cooldown": 0.4,
        "weighting": "v",
    },
}
_SCENES = {
    "data": {"name": "scenes"},
    "denoiser": {"name": "dit", "patch": 4, "width": 96, "depth": 6, "heads": 3, "mlp_ratio": 2.0},
    "parameterisation": "x0",
    "schedule": {"name": "cosine", "shift": -3.0},
    "train": {
        "steps": 5500,
        "batch_size": 64,
        "optimizer": "muon",
        "learning_rate": 3e-3,
        "cuda_graphs": True,
        "weighting": "sparse",
        "evaluate": 1000,
    },
    "sample": {"guidance": 5.0, "guidance_interval": (-4.5, -1.0), "grid": "time"},
}
_EMOJI = {
    "data": {"name": "emoji"},
    "denoiser": {"name": "unet", "width": 64, "multipliers": (1, 2), "patch": 4, "attention": True},
    "schedule": {"name": "cosine", "shift": -1.0},
    "train": {
        "steps": 4500,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "cuda_graphs": True,
        "weighting": "x0",
        "evaluate": 1000,
    },
    "sample": {"guidance": 3.0},
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
        "cuda_graphs": True,
        "weighting": "v",
        "decay_after": 20_000,
        "sample_every": 5000,
        "checkpoint_every": 5000,
        "evaluate": 5000,
    },
}


_LATENT = {
    "denoiser": {"name": "unet", "width": 64, "multipliers": (1, 2), "patch": 1},
    "schedule": {"name": "cosine", "shift": -1.0},
    "train": {
        "steps": 4000,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "cuda_graphs": True,
        "weighting": "v",
        "evaluate": 1000,
    },
}
_ENCODE: dict[str, Any] = {
    "task": {"name": "encode"},
    "train": {"steps": 1000, "batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 50, "evaluate": 500},
}


def _with_data(base: dict[str, Any], data: dict[str, Any], **denoiser: Any) -> dict[str, Any]:
    """The values of `base` with a data set, and with some options of the denoiser replaced."""
    return {"data": data, **base, "denoiser": {**base["denoiser"], **denoiser}}


PRESETS = {
    "default": Preset("U-Net on 8x8 digits, on a laptop: 4,500 steps, 3 minutes", _DIGITS),
    "classifier": Preset(
        "noisy classifier of 8x8 digits for guidance, on a laptop: 2,000 steps, about 2 minutes", _CLASSIFIER
    ),
    "mnist": Preset(
        "U-Net on MNIST at 32x32, on a laptop: 4,250 steps, 10 minutes", _with_data(_SMALL, {"name": "mnist"})
    ),
    "mnist-likelihoods": Preset(
        "U-Net on MNIST at 32x32 with small bits per dimension, on a laptop: 4,065 steps, about 11 minutes",
        _LIKELY,
    ),
    "fashion-mnist": Preset(
        "U-Net on Fashion-MNIST at 32x32, on a laptop: 4,250 steps, 10 minutes",
        _with_data(_SMALL, {"name": "fashion-mnist"}),
    ),
    "cifar10": Preset(
        "U-Net on CIFAR-10, a first impression, on a laptop: 4,250 steps, about 10 minutes",
        _with_data(_SMALL, {"name": "cifar10", "flip": True}),
    ),
    "folder": Preset(
        "U-Net on your own images at 32x32, on a laptop: 4,250 steps, about 10 minutes",
        _with_data(_SMALL, {"name": "folder"}),
    ),
    **{
        name: Preset(f"the same as folder, for images in {what}", _with_data(_SMALL, {"name": name}))
        for name, what in (("webdataset", "tar files of WebDataset"), ("parquet", "Parquet files"))
    },
    "scenes": Preset(
        "a transformer on rendered scenes at 32x32 with sentences, on a laptop: 5,500 steps, about 21 minutes",
        _SCENES,
    ),
    "emoji": Preset("U-Net on your emoji at 32x32, on a laptop: 4,500 steps, about 10 minutes", _EMOJI),
    "encode": Preset(
        "an autoencoder with latents of a quarter of the sides, of your own images at 64x64, on a laptop: 1,000 steps",
        {**_ENCODE, "data": {"name": "folder", "size": 64}, "autoencoder": {"name": "grid", "factor": 4, "latent": 4}},
    ),
    "encode-8": Preset(
        "an autoencoder with latents of an eighth of the sides, of your own images at 64x64, on a laptop: 1,200 steps",
        {
            **_ENCODE,
            "data": {"name": "folder", "size": 64},
            "autoencoder": {"name": "grid", "factor": 8, "latent": 8},
            "train": {**_ENCODE["train"], "steps": 1200},
        },
    ),
    "latent": Preset(
        "U-Net in latents of 8 to 16 cells a side, on a laptop: 4,000 steps, 8 minutes of one core with 8x8 cells",
        _LATENT,
    ),
    "mnist-gpu": Preset(
        "U-Net on MNIST at 32x32, on one GPU: 100,000 steps, not timed", _with_data(_GPU, {"name": "mnist"})
    ),
    "cifar10-gpu": Preset(
        "U-Net on CIFAR-10, on one GPU: 100,000 steps, not timed",
        # CUDA graphs were not tried with dropout.
        _with_data(
            {**_GPU, "train": {**_GPU["train"], "cuda_graphs": False}}, {"name": "cifar10", "flip": True}, dropout=0.1
        ),
    ),
    "emoji-gpu": Preset(
        "U-Net on your emoji at 64x64, on one GPU: 100,000 steps, not timed",
        {**_with_data(_GPU, {"name": "emoji", "size": 64}, patch=2, dropout=0.1), "sample": {"guidance": 3.0}},
    ),
    "folder-gpu": Preset(
        "U-Net on your own images at 64x64, on one GPU: 100,000 steps, not timed",
        _with_data(_GPU, {"name": "folder", "size": 64}, patch=2),
    ),
}
