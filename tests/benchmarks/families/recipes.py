"""The trials of each family, and the recipe that was chosen among them.

The seconds of processor time that a step takes were measured on one thread by `--time`, all recipes in turn. A number
of steps follows from them, so trainings do not depend on how busy the machine is.
"""

from dataclasses import dataclass
from typing import Any

BUDGET = 1000.0
"""Seconds of processor time for a training: ten minutes on two threads, which are 1.7 times as fast as one."""
TRIAL = 60.0
"""Seconds of processor time for a trial."""


@dataclass(frozen=True)
class Recipe:
    """The options of a family, and how many seconds of processor time a step takes."""

    name: str
    options: dict[str, Any]
    step: float

    def steps(self, seconds: float) -> int:
        """The steps that take so many seconds."""
        return max(1, round(seconds / self.step))


def _unet(patch: int, width: int, multipliers: tuple[int, ...]) -> dict[str, Any]:
    return {"name": "unet", "patch": patch, "width": width, "multipliers": multipliers}


_NARROW = {"width": 32, "depth": 11, "head": 96, "positions": True}
_WIDE = {"width": 64, "depth": 11, "head": 128, "positions": False}
_SMALL, _LARGE = {"widths": (24, 48, 104), "hidden": 128}, {"widths": (32, 64, 96), "hidden": 128}

_COOL = {"cooldown": 0.4}
_MUON = {"optimizer": "muon", "learning_rate": 0.01, **_COOL}
_VAE, _GAN = {**_SMALL, "latent": 64, "beta": 1.0, "batch": 64}, {**_SMALL, "batch": 32}

RECIPES: dict[str, list[Recipe]] = {
    "diffusion": [
        Recipe("preset", {}, 0.208),
        Recipe("cool-down", {"train": _COOL}, 0.242),
        Recipe("Muon 0.01, cool-down", {"train": _MUON}, 0.232),
        Recipe("patch 4, Muon 0.01, cool-down", {"denoiser": _unet(4, 64, (1, 2)), "train": _MUON}, 0.158),
    ],
    "vae": [
        Recipe("latent 64, rate 0.002", {**_VAE, "rate": 2e-3}, 0.151),
        Recipe("latent 64, rate 0.004", {**_VAE, "rate": 4e-3}, 0.151),
        Recipe("latent 24, wider, rate 0.002", {**_VAE, **_LARGE, "latent": 24, "rate": 2e-3}, 0.153),
        Recipe("latent 64, rate 0.002, beta 4", {**_VAE, "beta": 4.0, "rate": 2e-3}, 0.151),
    ],
    "gan": [
        Recipe("gamma 1, rate 0.001", {**_GAN, "gamma": 1.0, "rate": 1e-3}, 0.294),
        Recipe("gamma 10, rate 0.001", {**_GAN, "gamma": 10.0, "rate": 1e-3}, 0.294),
        Recipe("gamma 0.1, rate 0.001", {**_GAN, "gamma": 0.1, "rate": 1e-3}, 0.294),
        Recipe("gamma 1, rate 0.0005", {**_GAN, "gamma": 1.0, "rate": 5e-4}, 0.294),
    ],
    "pixelcnn": [
        Recipe("32 x 11, positions, batch 16, rate 0.002", {**_NARROW, "batch": 16, "rate": 2e-3}, 0.705),
        Recipe("32 x 11, positions, batch 8, rate 0.002", {**_NARROW, "batch": 8, "rate": 2e-3}, 0.388),
        Recipe("32 x 11, positions, batch 8, rate 0.004", {**_NARROW, "batch": 8, "rate": 4e-3}, 0.388),
        Recipe("64 x 11, batch 8, rate 0.002", {**_WIDE, "batch": 8, "rate": 2e-3}, 0.899),
    ],
}

CHOSEN = {"diffusion": 2, "vae": 1, "gan": 0, "pixelcnn": 2}
"""The recipe with the smallest Frechet distance in the trials."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a family that is trained by a recipe with the whole budget."""

    title: str
    family: str
    recipe: Recipe


UNIFORM = {"name": "uniform", "log_snr_max": 12.0}
_BITS = {"denoiser": {"octaves": 9}, "schedule": UNIFORM, "train": {**_MUON, "weighting": "eps"}}
_BOTH = {"preset": "mnist-likelihoods"}

_TITLES = {"diffusion": "diffcore", "vae": "VAE", "gan": "GAN", "pixelcnn": "PixelCNN"}
ROWS = {family: Row(_TITLES[family], family, RECIPES[family][number]) for family, number in CHOSEN.items()} | {
    "diffusion-bits": Row("diffcore, for likelihoods", "diffusion", Recipe("octaves, uniform, eps", _BITS, 0.246)),
    "diffusion-both": Row("diffcore, for both", "diffusion", Recipe("octaves, Laplace, v", _BOTH, 0.246)),
    "vae-second": Row("VAE, second recipe", "vae", RECIPES["vae"][0]),
    "gan-second": Row("GAN, second recipe", "gan", RECIPES["gan"][1]),
}
"""The chosen recipes, and others that were trained after these: two for likelihoods, by which no trial was judged, and
another one of each family whose chosen recipe collapsed with some seeds."""

TIMED = {"diffusion": 24, "vae": 12, "gan": 8, "pixelcnn": 5}
"""How many more steps the longer of two trainings has, whose difference `--time` measures."""
