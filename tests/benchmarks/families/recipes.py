"""The trials of each family, and the recipe that was chosen among them.

The seconds of a step were measured on one thread by `--time`, all recipes in turn; a number of steps follows from them,
so that trainings do not depend on how busy the machine is.
"""

from dataclasses import dataclass
from typing import Any

BUDGET = 1000.0
"""Seconds of one thread for a training: ten minutes on two threads, which are 1.7 times as fast as one."""
TRIAL = 60.0
"""Seconds of one thread for a trial."""


@dataclass(frozen=True)
class Recipe:
    """The options of a family, and how many seconds of one thread a step takes."""

    name: str
    options: dict[str, Any]
    step: float = 0.3

    def steps(self, seconds: float) -> int:
        """The steps that take so many seconds."""
        return max(1, round(seconds / self.step))


def _unet(patch: int, width: int, multipliers: tuple[int, ...]) -> dict[str, Any]:
    return {"name": "unet", "patch": patch, "width": width, "multipliers": multipliers}


_PATCHES = _unet(4, 64, (1, 2))
_SMALL, _LARGE = {"widths": (24, 48, 104), "hidden": 128}, {"widths": (32, 64, 96), "hidden": 112}

RECIPES: dict[str, list[Recipe]] = {
    "diffusion": [
        Recipe("preset", {}),
        Recipe("preset, cool-down", {"train": {"cooldown": 0.4}}),
        Recipe("Muon 0.01, cool-down", {"train": {"optimizer": "muon", "learning_rate": 0.01, "cooldown": 0.4}}),
        Recipe("patch 4", {"denoiser": _PATCHES, "train": {"cooldown": 0.4}}),
        Recipe(
            "patch 4, Muon 0.01",
            {"denoiser": _PATCHES, "train": {"optimizer": "muon", "learning_rate": 0.01, "cooldown": 0.4}},
        ),
    ],
    "vae": [
        Recipe("latent 64", {**_SMALL, "latent": 64, "beta": 1.0, "batch": 64, "rate": 2e-3}),
        Recipe("latent 64, rate 0.004", {**_SMALL, "latent": 64, "beta": 1.0, "batch": 64, "rate": 4e-3}),
        Recipe("latent 64, batch 32", {**_SMALL, "latent": 64, "beta": 1.0, "batch": 32, "rate": 2e-3}),
        Recipe("latent 24, wider", {**_LARGE, "latent": 24, "beta": 1.0, "batch": 64, "rate": 2e-3}),
        Recipe("latent 64, beta 4", {**_SMALL, "latent": 64, "beta": 4.0, "batch": 64, "rate": 2e-3}),
    ],
    "gan": [
        Recipe("gamma 1", {**_SMALL, "gamma": 1.0, "batch": 32, "rate": 5e-4}),
        Recipe("gamma 0.1", {**_SMALL, "gamma": 0.1, "batch": 32, "rate": 5e-4}),
        Recipe("gamma 10", {**_SMALL, "gamma": 10.0, "batch": 32, "rate": 5e-4}),
        Recipe("gamma 1, rate 0.001", {**_SMALL, "gamma": 1.0, "batch": 32, "rate": 1e-3}),
        Recipe("gamma 1, batch 16", {**_SMALL, "gamma": 1.0, "batch": 16, "rate": 5e-4}),
    ],
    "pixelcnn": [
        Recipe("32 x 11, positions", {"width": 32, "depth": 11, "head": 96, "positions": True, "batch": 16, "rate": 2e-3}),
        Recipe("the same, rate 0.004", {"width": 32, "depth": 11, "head": 96, "positions": True, "batch": 16, "rate": 4e-3}),
        Recipe("the same, batch 8", {"width": 32, "depth": 11, "head": 96, "positions": True, "batch": 8, "rate": 2e-3}),
        Recipe("40 x 8, positions", {"width": 40, "depth": 8, "head": 96, "positions": True, "batch": 8, "rate": 2e-3}),
        Recipe("64 x 11", {"width": 64, "depth": 11, "head": 128, "positions": False, "batch": 8, "rate": 2e-3}),
    ],
}  # fmt: skip

CHOSEN = {"diffusion": 0, "vae": 0, "gan": 0, "pixelcnn": 0}
"""The recipe with the smallest Frechet distance in the trials."""

TIMED = {"diffusion": 24, "vae": 16, "gan": 16, "pixelcnn": 8}
"""How many more steps the longer of two trainings has, whose difference `--time` measures."""
