"""diffcore: an ordinary run of the plugin for images, trained and sampled through the public functions."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import diffcore as dc
from diffcore.denoising.denoiser import Denoise, Prediction, from_v, velocity
from diffcore.likelihood.flow import bits_per_dimension, log_likelihood
from diffcore.plugins.data import Encoded
from diffcore.states.level import Level
from diffcore.states.state import combine

from .model import LEVELS, SIDE, Model, Task, size_of

BOUND_LEVELS, FLOW_STEPS = 500, 20
LEAST, MOST = -10.0, 12.0
"""The log-SNRs of the noisy and of the clean end of the schedule, and of the likelihoods."""
SCHEDULE = {"name": "cosine", "shift": -1.0, "log_snr_max": MOST}
"""That of the preset, with a cleaner end (the preset has 10), where the noise is a fifth of a bin of the bytes; for
recipes without a preset or a schedule of their own."""
GUIDANCE = 1.5
"""The weight of the guided samples: of 1, 1.25, 1.5 and 2 the one with the smallest Frechet distance of 500 samples."""
NOISE_IN_BINS = 0.3
"""The noise that images keep in the likelihood by the flow, as a part of a bin; uniform noise in a bin has 0.29."""


def train(task: Task, options: dict, steps: int, seed: int, folder: Path) -> Model:
    length = {"steps": steps, "evaluate": 0, "checkpoint_every": 10**6, "sample_every": 10**6}
    own = {} if "preset" in options else {"preset": "mnist", "schedule": SCHEDULE}
    parts = {**own, **options, "train": {**options.get("train", {}), **length}}
    shutil.rmtree(folder / "run", ignore_errors=True)  # of a training that was interrupted
    run = dc.train("image", data={"root": task.root}, out=folder / "run", seed=seed, **parts)
    return model_of(run)


def load(options: dict, folder: Path) -> Model:
    return model_of(dc.load(folder / "run"))


def blurred(denoise: Denoise, std: float) -> Denoise:
    """The denoiser of y = x0 + std n, with normal numbers n, that follows from a denoiser of x0.

    x = alpha y + sigma eps has noise of variance s^2 = sigma^2 + alpha^2 std^2 in total. If the denoiser predicts e for
    all of it, in units of s, then E[eps | x] = sigma e / s, and E[n | x] = alpha std e / s.
    """

    def predict(x: Tensor, level: Level, conditions: dict | None = None, mask: None = None) -> Prediction:
        alpha, sigma = level
        total = (sigma**2 + (alpha * std) ** 2) ** 0.5
        found = denoise(x, Level(alpha, total), conditions, mask)
        y = combine((1.0, found.x0), (alpha * std**2 / total, found.eps))
        return from_v(velocity(y, combine((sigma / total, found.eps)), level), x, level)

    return predict


def model_of(run: dc.Run) -> Model:
    """What the judge needs."""
    model = run.model
    facts, dimensions = model.codec.facts, float(SIDE * SIDE)
    width = 1 / (LEVELS - 1) / facts.std[0]

    def draw(labels: Tensor, seed: int, guidance: float = 1.0) -> Tensor:
        asked = {"label": [facts.classes[label] for label in labels.tolist()]}
        return run.sample(len(labels), conditions=asked, seed=seed, batch_size=250, guidance=guidance).decoded

    def states(pixels: Tensor) -> Tensor:
        return (pixels.float() / (LEVELS - 1) - facts.mean[0]) / facts.std[0]

    def in_parts(function: Callable[..., Tensor], pixels: Tensor, labels: Tensor) -> Tensor:
        parts = zip(pixels.split(100), labels.split(100), range(len(pixels)), strict=False)
        return torch.cat([function(*part) for part in parts])

    def bound(pixels: Tensor, labels: Tensor) -> Tensor:
        """The variational bound of the bytes themselves, with many levels."""
        return run.bits_per_dimension(Encoded(states(pixels), {"label": labels}), levels=BOUND_LEVELS)

    def flow(pixels: Tensor, labels: Tensor, part: int) -> Tensor:
        """Uniform noise is added to the bytes, and the likelihood is that of the flow from a little noise on."""
        uniform = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(part)) - 0.5
        nats = log_likelihood(
            blurred(model.denoiser, NOISE_IN_BINS * width), states(pixels + uniform), model.codec.space,
            model.schedule, conditions={"label": labels}, divergence="hutchinson", steps=FLOW_STEPS, seed=part,
            log_snrs=(LEAST, 18.0),
        )  # fmt: skip
        volume = dimensions * torch.tensor(width).log().item()
        return bits_per_dimension(nats, torch.full((len(pixels),), dimensions), volume)

    return Model(
        {"all": size_of(model.denoiser)},
        {"samples": draw, f"guidance {GUIDANCE}": partial(draw, guidance=GUIDANCE)},
        {
            "bound": bound,
            "flow": lambda *given: in_parts(flow, *given),
        },
    )
