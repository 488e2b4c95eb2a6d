"""The sampling loop, which all solvers, guidances and kinds of data share."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.denoising.embedded_once import embedded_once
from diffcore.denoising.estimate import told
from diffcore.denoising.given import require_one_each
from diffcore.errors import UserError
from diffcore.process.schedules import Schedule, last_level
from diffcore.sampling.solvers.by_field import take
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.sampling.timesteps import check_descending
from diffcore.states.form import form_difference, require_some_fields, shapes_of
from diffcore.states.level import CLEAN, FieldLevels, Level, Levels, is_clean, level_of, shared, unstacked
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, fields, named


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the denoiser along a trajectory.

    * `x`: the state that the solver passed to the denoiser, `[B, ...]`.
    * `prediction`: what the denoiser returned, projected onto the space; `prediction.level` is the level.
    """

    x: State
    prediction: Prediction


def levels_of(schedule: Schedule, log_snrs: Tensor, last: float | None = None) -> list[Levels]:
    """The schedule's levels at `log_snrs` `[n]`, as floats, followed by the clean end: n + 1 levels.

    With `last`, the end is the level of that log-SNR, for samples that keep this noise. The first log-SNR may be
    -infinity, where alpha is 0. Raises `UserError` if the log-SNRs do not increase, or if the schedule has no finite
    level at one of them.
    """
    check_descending(log_snrs)
    levels = schedule.level(log_snrs.double())
    sigmas = levels.sigma.values() if isinstance(levels, FieldLevels) else [levels.sigma]
    if not all(sigma.isfinite().all() for sigma in sigmas):
        raise UserError(
            f"{type(schedule).__name__} has no finite noise level at the log-SNR {log_snrs[0].item():g}, with which "
            "the time grid begins: use another grid or schedule"
        )
    return [shared(level.map(Tensor.item)) for level in unstacked(levels)] + [last_level(schedule, last) or CLEAN]


def prior(space: Space, draws: Draws, level: Levels, mask: Mask = None) -> State:
    """The start of the trajectories of `draws`, `[B, ...]`: noise of the space times sigma of the first level."""
    like = space.empty(len(draws.samples)).to(draws.samples.device)
    return combine((level.sigma, space.noise(draws.normal("prior", like), mask)))


def noised(values: State, space: Space, draws: Draws, level: Levels, mask: Mask = None) -> State:
    """`values` `[B, ...]` with noise of the level: alpha values + sigma noise, with the noise of `prior`."""
    noise = space.noise(draws.normal("prior", values), mask)
    return combine((level.alpha, values), (level.sigma, noise))


def integrate(
    step: Step,
    evaluate: Evaluate,
    x: State,
    levels: Sequence[Levels],
    fresh: Callable[[], State],
    reached: Callable[[int, State], None] | None = None,
) -> State:
    """Follow a trajectory from `x` at the first of `levels` to the last, and return the state there.

    `fresh()` draws noise of the state's space; `reached(index, x)` is called after each step with the state it reached.
    Raises `UserError` if a step returns anything else than a state of the same form.
    """
    history: list[Any] = []
    for index, (now, following) in enumerate(pairwise(levels)):
        # `take` gives a solver one level; levels by field are seen only by steps that are marked `of_all_fields`.
        move = Move(cast(Level, now), cast(Level, following), fresh, history, index, len(levels) - 1)
        moved = take(step, evaluate, x, move)
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
    levels: Sequence[Levels],
    *,
    indices: Sequence[int],
    seed: int = 0,
    conditions: Conditions | None = None,
    mask: Mask = None,
    start: State | None = None,
    given: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[[Evaluation], None] | None = None,
    keep_noise: bool = False,
    remember: bool = False,
) -> State:
    """Draw the samples `indices` of `seed`: a batch of B = len(indices) states `[B, ...]`.

    Sample i depends on `seed`, i and its own condition and mask alone, not on the batch.

    * `denoise`, `space`: the denoiser, with its guidance, and the space of its states.
    * `step`, `levels`: the solver, and the noise levels that it passes (`levels_of`).
    * `conditions`: one value for each sample; None for no conditions.
    * `mask`: `[B, N]`, True where an element exists; None if all do.
    * `start`: a batch of states at the first level; None to draw it from the prior.
    * `given`: the values `[B, ...]` of fields of the state that are known, by name. They are at the clean level from
      the beginning, so the other fields are drawn given them. The noise of the others does not depend on them.
    * `watch`: called with every evaluation of the denoiser.
    * `keep_noise`: allow levels that do not end at sigma = 0; the result is then a noisy state at the last of them.
    * `remember`: tell the denoiser at each evaluation the x0 of the evaluation before it, with its guidance
      (`diffcore.denoising.estimate`).

    Raises `UserError` if the levels do not end with the clean end, if conditions, mask or given fields do not fit the
    batch, if the denoiser or the solver returns anything of another form than the state, and if a sample is not finite.
    Finiteness is checked in the result only, so that no step waits for the device; if it fails, the samples are drawn
    again to find the step at which they became non-finite.
    """
    _require_ends(levels, keep_noise)
    for name, value in (conditions or {}).items():
        require_one_each(name, value, len(indices))
    if mask is not None:
        require_mask(mask, len(indices))
    known = {name: value.to(device) for name, value in (given or {}).items()}
    if known:
        require_given(known, space, len(indices))
        levels = [with_given(level, known, space) for level in levels]
    draws = Draws.of(seed, indices, device)

    def draw(watch: Callable[[Evaluation], None] | None, reached: Callable[[int, State], None] | None = None) -> State:
        number = itertools.count()
        estimate: Conditions = {}

        def evaluate(x: State, level: Levels) -> Prediction:
            nonlocal estimate
            prediction = denoise(x, level, {**(conditions or {}), **estimate} if estimate else conditions, mask)
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
            if remember:
                estimate = told(prediction.x0)
            return prediction

        x = prior(space, draws, levels[0], mask) if start is None else start
        if known:
            x = named({**fields(x), **known})

        def fresh() -> State:
            return space.noise(draws.normal(("fresh", next(number)), x), mask)

        return integrate(step, evaluate, x, levels, fresh, reached)

    with embedded_once():
        x = draw(watch)
        if _non_finite(x):
            _explain(draw, levels)
    return x


def with_given(level: Levels, given: Collection[str], space: Space) -> Levels:
    """The levels by field in which the fields `given` are clean, and the others have `level`."""
    names = fields(space.empty(1))
    return FieldLevels({name: CLEAN if name in given else level_of(level, name) for name in names})


def require_mask(mask: Tensor, batch: int | None = None) -> None:
    """Raise `UserError` unless a mask is one of booleans `[batch, N]`, or of any number of samples if that is None."""
    if mask.dtype != torch.bool or mask.ndim != 2 or batch not in (None, len(mask)):
        kind, wanted = str(mask.dtype).removeprefix("torch."), "n" if batch is None else batch
        raise UserError(f"`mask` is {kind} {[*mask.shape]}; give booleans [{wanted}, N]")


def require_given(given: Mapping[str, Tensor], space: Space, batch: int) -> None:
    """Raise `UserError` unless `given` are values of some, but not all, fields of a batch of states of the space."""
    shapes = shapes_of(space.empty(1))
    if "" in shapes:
        raise UserError("`given` names fields of a state, and these states are one tensor without fields")
    require_some_fields(given, shapes, "nothing to draw")
    for name, value in given.items():
        if tuple(value.shape) != (expected := (batch, *shapes[name][1:])):
            raise UserError(f"the given field {name!r} has the shape {[*value.shape]} instead of {[*expected]}")


def _require_ends(levels: Sequence[Levels], keep_noise: bool) -> None:
    """Raise `UserError` unless there are at least two levels, of which the last is the clean end or noise is kept."""
    if len(levels) < 2:
        raise UserError(f"sampling needs at least two levels, from noise to data, not {len(levels)}; see `levels_of`")
    if not is_clean(levels[-1]) and not keep_noise:
        raise UserError(
            f"the levels of sampling must end without noise, but the last of {len(levels)} has sigma "
            f"{_shown(levels[-1].sigma)}: append CLEAN, as `levels_of` does, or allow a noisy result with `keep_noise`"
        )


def _non_finite(state: State) -> dict[str, Tensor]:
    """The fields with entries that are not finite."""
    finite = {name: field.isfinite().all() for name, field in fields(state).items()}
    if bool(torch.stack(list(finite.values())).all()):
        return {}
    return {name: field for name, field in fields(state).items() if not finite[name]}


def _shown(number: Any) -> str:
    """A number, or the numbers of all fields, with four digits."""
    if isinstance(number, Mapping):
        return ", ".join(f"{value:.4g} ({name})" for name, value in number.items())
    return f"{number:.4g}"


def _explain(draw: Callable[..., State], levels: Sequence[Levels]) -> NoReturn:
    """Draw again, and raise a `UserError` that names the step and the field that became non-finite first."""
    done = 0

    def require(state: State, level: Levels, what: str, advice: str) -> None:
        for name, field in _non_finite(state).items():
            count = int((~field.isfinite()).flatten(1).any(1).sum())
            raise UserError(
                f"sampling became non-finite in step {done + 1} of {len(levels) - 1}, at log-SNR "
                f"{_shown(level.log_snr)}: {what}{f', in the field {name!r},' if name else ''} is nan or "
                f"infinite in {count} of {len(field)} "
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
