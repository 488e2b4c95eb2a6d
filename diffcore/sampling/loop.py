"""Sampling: the one loop that every solver, guidance and modality shares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import UserError
from diffcore.process.schedules import Schedule
from diffcore.process.variances import in_space
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.sampling.timesteps import check_descending
from diffcore.states.level import CLEAN, Level
from diffcore.states.noise import SampleNoise
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the denoiser along a trajectory.

    Attributes:
        x: the solver's state that the denoiser received, `[B, ...]`.
        prediction: what it returned, projected onto the space; `prediction.level` is the level.
    """

    x: State
    prediction: Prediction


def levels_of(schedule: Schedule, log_snrs: Tensor) -> list[Level]:
    """The schedule's levels at `log_snrs` `[n]`, as floats, and the clean end. `[n + 1]` levels.

    The first may be -infinity, where alpha is 0. Raises `UserError` where the log-SNRs do not rise, or where the
    schedule has no finite level there.
    """
    check_descending(log_snrs)
    alphas, sigmas = schedule.level(log_snrs.double())
    if not sigmas.isfinite().all():
        raise UserError(
            f"{type(schedule).__name__} has no finite noise level at the log-SNR {log_snrs[0].item():g} that the grid "
            "begins with: take another grid or schedule"
        )
    return [Level(a, s) for a, s in zip(alphas.tolist(), sigmas.tolist(), strict=True)] + [CLEAN]  # type: ignore[union-attr]


def prior(space: Space, noise: SampleNoise, batch: int, level: Level, device: torch.device | str, mask: Mask) -> State:
    """Where trajectories start: noise of the space times the true sigma of the first level."""
    normal = noise.normal(space.empty(batch).to(device))
    return level.sigma * space.noise(normal, mask)


def integrate(
    step: Step,
    evaluate: Evaluate,
    x: State,
    levels: Sequence[Level],
    fresh: Callable[[], State],
    reached: Callable[[int, State], None] | None = None,
) -> State:
    """A trajectory from `x` at the first of `levels` to the last.

    `fresh()` draws noise of the state's space; `reached` is told each step and where it ended.
    """
    past: list[Any] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        x = step(evaluate, x, Move(now, then, fresh, past, index))
        if reached is not None:
            reached(index, x)
    return x


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
    watch: Callable[[Evaluation], None] | None = None,
) -> State:
    """Draw the samples `indices` of `seed`: a batch of states.

    Follows `levels` (from `levels_of`) with `step`, from `start`, a batch at the first level, or from the prior where
    it is None. `conditions` hold one value a sample; `mask` `[B, N]`. `watch` sees every evaluation of the denoiser.

    Raises `UserError` where the result is not finite. It is looked at once, so that no step waits for the device; what
    was the first to leave the numbers is found by drawing again.
    """

    def draw(watch: Callable[[Evaluation], None] | None, reached: Callable[[int, State], None] | None = None) -> State:
        noise = SampleNoise(seed, indices)

        def evaluate(x: State, level: Level) -> Prediction:
            prediction = denoise(x, level, conditions, mask)
            # x is in the space and every view is affine in the output, so this projects them all.
            prediction = replace(prediction, output=space.project(prediction.output, mask))
            if prediction.variance is not None:
                prediction = replace(prediction, variance=in_space(prediction.variance, space, mask))
            if watch is not None:
                watch(Evaluation(x, prediction))
            return prediction

        x = prior(space, noise, len(indices), levels[0], device, mask) if start is None else start

        def fresh() -> State:
            return space.noise(noise.normal(x), mask)

        return integrate(step, evaluate, x, levels, fresh, reached)

    x = draw(watch)
    if _strange(x):
        _explain(draw, levels)
    return x


def _strange(state: State) -> dict[str, Tensor]:
    """The fields with entries that are not finite."""
    finite = {name: field.isfinite().all() for name, field in fields(state).items()}
    if bool(torch.stack(list(finite.values())).all()):
        return {}
    return {name: field for name, field in fields(state).items() if not finite[name]}


def _explain(draw: Callable[..., State], levels: Sequence[Level]) -> NoReturn:
    """Raise a `UserError` that says where samples that are not finite left the numbers."""
    passed = 0

    def require(state: State, level: Level, what: str, advice: str) -> None:
        for name, field in _strange(state).items():
            count = int((~field.isfinite()).flatten(1).any(1).sum())
            raise UserError(
                f"sampling left the numbers in step {passed + 1} of {len(levels) - 1}, at log-SNR {level.log_snr:.4g}: "
                f"{what} {f'in the field {name!r} ' if name else ''}is nan or infinite in {count} of {len(field)} "
                f"samples; {advice}"
            )

    def watch(evaluation: Evaluation) -> None:
        level = evaluation.prediction.level
        require(evaluation.x, level, "the solver's state", "try more steps, or another solver")
        what = "what the network predicts, with its guidance,"
        require(evaluation.prediction.output, level, what, "try less guidance, or another checkpoint")

    def reached(index: int, x: State) -> None:
        nonlocal passed
        require(x, levels[index], "what the solver makes of it", "try more steps, or another solver")
        passed = index + 1

    draw(watch, reached)
    raise UserError(
        "samples are nan or infinite, but not when they are drawn again: the device or the network is at fault"
    )


def in_batches(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`indices` in runs of at most `size`."""
    return (indices[start : start + size] for start in range(0, len(indices), size))
