"""Sampling: the one loop that every solver, guidance and modality shares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffcore.conditions import Conditions
from diffcore.denoiser import Denoise, Prediction
from diffcore.grids import check_descending
from diffcore.levels import CLEAN, Level
from diffcore.noise import SampleNoise
from diffcore.schedules import Schedule
from diffcore.solvers.step import Move, Step
from diffcore.spaces import Mask, Space
from diffcore.state import State
from diffcore.variances import in_space


@dataclass(frozen=True)
class Moment:
    """A step of a running trajectory: the state before it, its level, and what the denoiser said there."""

    x: State
    prediction: Prediction


def levels_of(schedule: Schedule, log_snrs: Tensor) -> list[Level]:
    """The schedule's levels at `log_snrs` `[n]`, as floats, and the clean end. `[n + 1]` levels.

    The first may be -infinity, where alpha is 0. Raises `UserError` where the log-SNRs do not rise.
    """
    check_descending(log_snrs)
    alphas, sigmas = schedule.level(log_snrs.double())
    return [Level(a, s) for a, s in zip(alphas.tolist(), sigmas.tolist(), strict=True)] + [CLEAN]  # type: ignore[union-attr]


def prior(space: Space, noise: SampleNoise, batch: int, level: Level, device: torch.device | str, mask: Mask) -> State:
    """Where trajectories start: noise of the space times the true sigma of the first level."""
    normal = noise.normal(space.empty(batch).to(device))
    return level.sigma * space.noise(normal, mask)


@torch.no_grad()
def sample(
    denoise: Denoise,
    space: Space,
    step: Step,
    levels: Sequence[Level],
    *,
    indices: Sequence[int],
    seed: int = 0,
    conditions: Conditions | None = None,
    mask: Mask = None,
    start: State | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[[Moment], None] | None = None,
) -> State:
    """Draw the samples `indices` of `seed`: a batch of states.

    Follows `levels` (from `levels_of`) with `step`, from `start`, a batch at the first level, or from the prior where
    it is None. `conditions` hold one value a sample; `mask` `[B, N]`. `watch` sees every evaluation of the denoiser.
    """
    noise = SampleNoise(seed, indices)

    def evaluate(x: State, level: Level) -> Prediction:
        prediction = denoise(x, level, conditions, mask)
        # x is in the space and every view is affine in the output, so this projects them all.
        prediction = replace(prediction, output=space.project(prediction.output, mask))
        if prediction.variance is not None:
            prediction = replace(prediction, variance=in_space(prediction.variance, space, mask))
        if watch is not None:
            watch(Moment(x, prediction))
        return prediction

    x = prior(space, noise, len(indices), levels[0], device, mask) if start is None else start

    def fresh() -> State:
        return space.noise(noise.normal(x), mask)

    past: list[Any] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        x = step(evaluate, x, Move(now, then, fresh, past, index))
    return x


def in_batches(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`indices` in runs of at most `size`."""
    return (indices[start : start + size] for start in range(0, len(indices), size))
