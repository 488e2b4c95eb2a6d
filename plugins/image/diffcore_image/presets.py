"""Presets, from a laptop to one GPU. One that is called like a data set is what that set is trained with by default."""

from diffcore.components import Preset

_DIGITS = {
    "data": {"name": "digits"},
    "denoiser": {"name": "unet", "width": 48, "patch": 1},
    "train": {"steps": 3000, "batch_size": 64},
}
_THIRTY_TWO = {
    "denoiser": {"name": "unet", "width": 64, "multipliers": (1, 2), "patch": 4},
    "train": {"minutes": 10, "batch_size": 32},
}

PRESETS = {
    "default": Preset("8x8 digits on a laptop in a few minutes", _DIGITS),
    "mnist": Preset("MNIST at 32x32 on a laptop in ten minutes", {"data": {"name": "mnist"}, **_THIRTY_TWO}),
}
