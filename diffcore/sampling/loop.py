"""The sampling loop, which all solvers, guidances and kinds of data share."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.denoising.given import require_one_each
from diffcore.errors import UserError
from diffcore.process.schedules import Schedule
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.sampling.timesteps import check_descending
from diffcore.states.form import form_difference, shapes_of
from diffcore.states.level import CLEAN, Level
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the denoiser along a trajectory.

    * `x`: the state that the solver passed to the denoiser, `[B, ...]`.
    * `prediction`: what the denoiser returned, projected onto the space; `prediction.level` is the level.
    """

    x: State
    prediction: Prediction


def levels_of(schedule: Schedule, log_snrs: Tensor) -> list[Level]:
    """The schedule's levels at `log_snrs` `[n]`, as floats, followed by the clean end: n + 1 levels.

    The first log-SNR may be -infinity, where alpha is 0. Raises `UserError` if the log-SNRs do not increase, or if the
    schedule has no finite level at one of them.
    """
    check_descending(log_snrs)
    alphas, sigmas = schedule.level(log_snrs.double())
    if not sigmas.isfinite().all():
        raise UserError(
            f"{type(schedule).__name__} has no finite noise level at the log-SNR {log_snrs[0].item():g}, with which "
            "the time grid begins: use another grid or schedule"
        )
    return [Level(alpha, sigma) for alpha, sigma in zip(alphas.tolist(), sigmas.tolist(), strict=True)] + [CLEAN]


def prior(space: Space, draws: Draws, level: Level, mask: Mask = None) -> State:
    """The start of the trajectories of `draws`, `[B, ...]`: noise of the space times sigma of the first level."""
    like = space.empty(len(draws.samples)).to(draws.samples.device)
    return level.sigma * space.noise(draws.normal("prior", like), mask)


def integrate(
    step: Step,
    evaluate: Evaluate,
    x: State,
    levels: Sequence[Level],
    fresh: Callable[[], State],
    reached: Callable[[int, State], None] | None = None,
) -> State:
    """Follow a trajectory from `x` at the first of `levels` to the last, and return the state there.

    `fresh()` draws noise of the state's space; `reached(index, x)` is called after each step with the state it reached.
    Raises `UserError` if a step returns anything else than a state of the same form.
    """
    history: list[Any] = []
    for index, (now, following) in enumerate(pairwise(levels)):
        moved = step(evaluate, x, Move(now, following, fresh, history, index))
        if difference := form_difference(moved, shapes_of(x)):
            raise UserError(
                f"step {index + 1} of the solver has not returned a state like the one it got: {difference}"
            )
        x = moved
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
    keep_noise: bool = False,
) -> State:
    """Draw the samples `indices` of `seed`: a batch of B = len(indices) states `[B, ...]`.

    Sample i depends on `seed`, i and its own condition and mask alone, not on the batch.

    * `denoise`, `space`: the denoiser, with its guidance, and the space of its states.
    * `step`, `levels`: the solver, and the noise levels that it passes (`levels_of`).
    * `conditions`: one value for each sample; None for no conditions.
    * `mask`: `[B, N]`, True where an element exists; None if all do.
    * `start`: a batch of states at the first level; None to draw it from the prior.
    * `watch`: called with every evaluation of the denoiser.
    * `keep_noise`: allow levels that do not end at sigma = 0; the result is then a noisy state at the last of them.

    Raises `UserError` if the levels do not end with the clean end, if conditions or mask do not fit the batch, if the
    denoiser or the solver returns anything of another form than the state, and if a sample is not finite. Finiteness is
    checked in the result only, so that no step waits for the device; if it fails, the samples are drawn again to find
    the step at which they became non-finite.
    """
    _require_ends(levels, keep_noise)
    for name, value in (conditions or {}).items():
        require_one_each(name, value, len(indices))
    if mask is not None and (mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != len(indices)):
        raise UserError(
            f"`mask` is {str(mask.dtype).removeprefix('torch.')} {[*mask.shape]}; give booleans [{len(indices)}, N]"
        )

    draws = Draws.of(seed, indices, device)

    def draw(watch: Callable[[Evaluation], None] | None, reached: Callable[[int, State], None] | None = None) -> State:
        number = itertools.count()

        def evaluate(x: State, level: Level) -> Prediction:
            prediction = denoise(x, level, conditions, mask)
            if not isinstance(prediction, Prediction):
                kind = "None" if prediction is None else f"a {type(prediction).__name__}"
                raise UserError(f"the denoiser, or its guidance, returned {kind} instead of a Prediction")
            if difference := form_difference(prediction.output, shapes_of(x)):
                raise UserError(f"the prediction of the denoiser has not the form of the state: {difference}")
            # x is in the space and every view is affine in the output, so this projects them all.
            prediction = replace(prediction, output=space.project(prediction.output, mask))
            if prediction.variance is not None:
                prediction = replace(prediction, variance=space.factors(prediction.variance, mask))
            if watch is not None:
                watch(Evaluation(x, prediction))
            return prediction

        x = prior(space, draws, levels[0], mask) if start is None else start

        def fresh() -> State:
            return space.noise(draws.normal(("fresh", next(number)), x), mask)

        return integrate(step, evaluate, x, levels, fresh, reached)

    x = draw(watch)
    if _non_finite(x):
        _explain(draw, levels)
    return x


def _require_ends(levels: Sequence[Level], keep_noise: bool) -> None:
    """Raise `UserError` unless there are at least two levels, of which the last is the clean end or noise is kept."""
    if len(levels) < 2:
        raise UserError(f"sampling needs at least two levels, from noise to data, not {len(levels)}; see `levels_of`")
    if levels[-1].sigma != 0 and not keep_noise:
        raise UserError(
            f"the levels of sampling must end without noise, but the last of {len(levels)} has sigma "
            f"{levels[-1].sigma:g}: append CLEAN, as `levels_of` does, or allow a noisy result with `keep_noise`"
        )


def _non_finite(state: State) -> dict[str, Tensor]:
    """The fields with entries that are not finite."""
    finite = {name: field.isfinite().all() for name, field in fields(state).items()}
    if bool(torch.stack(list(finite.values())).all()):
        return {}
    return {name: field for name, field in fields(state).items() if not finite[name]}


def _explain(draw: Callable[..., State], levels: Sequence[Level]) -> NoReturn:
    """Draw again, and raise a `UserError` that names the step and the field that became non-finite first."""
    done = 0

    def require(state: State, level: Level, what: str, advice: str) -> None:
        for name, field in _non_finite(state).items():
            count = int((~field.isfinite()).flatten(1).any(1).sum())
            raise UserError(
                f"sampling became non-finite in step {done + 1} of {len(levels) - 1}, at log-SNR {level.log_snr:.4g}: "
                f"{what}{f', in the field {name!r},' if name else ''} is nan or infinite in {count} of {len(field)} "
                f"samples; {advice}"
            )

    def watch(evaluation: Evaluation) -> None:
        level = evaluation.prediction.level
        require(evaluation.x, level, "the state inside the solver's step", "try more steps, or another solver")
        what = "the prediction of the network with its guidance"
        require(evaluation.prediction.output, level, what, "try less guidance, or another checkpoint")

    def reached(index: int, x: State) -> None:
        nonlocal done
        require(x, levels[index], "the result of the solver's step", "try more steps, or another solver")
        done = index + 1

    draw(watch, reached)
    raise UserError(
        "samples are nan or infinite, but were finite when they were drawn again: the device or the network does not "
        "give the same results twice"
    )


def in_batches(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`indices` in consecutive batches of at most `size`."""
    return (indices[start : start + size] for start in range(0, len(indices), size))
