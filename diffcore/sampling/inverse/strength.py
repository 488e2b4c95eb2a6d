"""Variations of samples: what is known of them, what is free, and what lies between."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import UserError
from diffcore.names import InverseMethod
from diffcore.sampling.inverse.editing import (
    METHODS,
    Constraint,
    Correct,
    Start,
    inpainting,
    measured,
    pasted,
    repaint,
)
from diffcore.sampling.inverse.operators import Operation, check_measurement, existing, of_samples, within_space
from diffcore.sampling.loop import require_mask
from diffcore.sampling.solvers.by_field import of_all_fields, take
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import FieldLevels, Levels
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields, from_fields

Strength = float | Mapping[str, float] | State
"""How much is changed: one number, a number for each field, or a state of numbers, one for each entry."""


def log_snr_at(strength: float) -> float:
    """The log-SNR that a strength s from 0 to 1 names: -2 log tan(pi s / 2).

    There, sigma / alpha = tan(pi s / 2). So s is the angle arctan(sigma / alpha) as a fraction of a right angle, which
    is the time of the cosine schedule, and for data of unit variance the noisy state has the correlation cos(pi s / 2)
    with the data. It does not depend on the schedule, the time grid or the solver.
    """
    if strength <= 0:
        return math.inf
    return -2 * math.log(math.tan(math.pi * strength / 2)) if strength < 1 else -math.inf


def varying(
    values: State,
    strength: Strength,
    space: Space,
    mask: Mask = None,
    method: InverseMethod = "mmps",
    noise_std: float = 0.0,
    resamplings: int = 10,
) -> Constraint:
    """Draw variations of the `values`: x = alpha values + sigma noise at the level of `strength`, denoised from there.

    With one strength s for all entries (SDEdit, Meng et al. 2022), x_s is a draw of q(x_s | values), and a solver takes
    it to the clean end: solvers with fresh noise draw p(x0 | x_s), those without follow the probability flow. At 0 the
    samples are the values, and at 1 they are free. Strengths may differ by field and by
    entry. An entry is

    * known, at strength 0: it keeps its value (`inpainting`, by the `method`);
    * free, at strength 1;
    * half-known, between: it is known until the level of its strength is reached, and changes with the others
      afterwards (the masks of Levin & Fried 2023, differential diffusion). Where fields have levels of their own, the
      noisiest one counts.

    Where entries of the space depend on each other, whole elements are known, as in `inpainting`.

    * `values`: a state of the space, `[1, ...]` for all samples alike, or `[N, ...]` with one for each index that is
      drawn.
    * `strength`: one number from 0 to 1; one for each field, where fields without one keep their values; or a state of
      numbers like `values`.
    * `mask`: where the number of elements varies, the elements that exist, bool `[1, N]` or `[n, N]`. Samples have the
      same elements.
    * `method`, `noise_std`, `resamplings`: as for `inpainting`, where something is known.

    Raises `UserError` for strengths outside of 0 to 1, fields that do not exist, and values that do not fit the space.
    """
    if mask is not None:
        require_mask(mask)
    check_measurement(lambda x0: x0, values, space)
    entries = _by_entry(strength, values)
    numbers = _distinct(entries)
    if len(numbers) == 1:
        (only,) = numbers
        return Constraint(mask=mask, start=None if only == 1 else Start(values, log_snr_at(only)))
    start = None if numbers[-1] == 1 else Start(values, log_snr_at(numbers[-1]))
    if len(numbers) == 2 and numbers[0] == 0:
        known = existing(from_fields({name: value == 0 for name, value in entries.items()}), space, mask)
        return replace(inpainting(values, known, space, method, noise_std, resamplings), mask=mask, start=start)
    method = "mmps" if method == "learned" else method  # what has been learned is known at all levels, or at none
    staged = _stages(values, entries, numbers[:-1], space, mask)
    stops = tuple(stage.log_snr for stage in staged if stage.log_snr < math.inf)

    def constrain(denoise: Denoise, step: Step, indices: Sequence[int], mask: Mask) -> tuple[Denoise, Step]:
        given = of_samples(values, indices)
        own = [replace(stage, operator=stage.operator.rows(indices)) for stage in staged]
        if method == "repaint":
            return denoise, _repainting(step, own, given, resamplings)
        exact = not noise_std and own[-1].log_snr == math.inf
        ended = pasted(step, own[-1].operator, given) if exact else step
        return _measuring(denoise, own, given, space, METHODS[method](noise_std)), ended

    return Constraint(constrain, mask=mask, start=start, stops=stops)


@dataclass(frozen=True, eq=False)
class _Stage:
    """What is known while the log-SNR is below `log_snr`: what `operator` keeps."""

    log_snr: float
    operator: Operation


def _stages(
    values: State, entries: Mapping[str, Tensor], numbers: Sequence[float], space: Space, mask: Mask
) -> list[_Stage]:
    """The stages of the strengths `numbers`, which increase, from the noisiest to the cleanest."""
    return [
        _Stage(
            log_snr_at(number),
            within_space(
                existing(from_fields({name: value <= number for name, value in entries.items()}), space, mask), space
            ),
        )
        for number in reversed(numbers)
    ]


def _stage_at(stages: Sequence[_Stage], level: Levels, arrived: bool = False) -> _Stage | None:
    """The stage at a level, which counts as over there unless the level is one that a step has `arrived` at."""
    log_snr = min(level.log_snr.values()) if isinstance(level, FieldLevels) else level.log_snr
    shift = -1e-9 if arrived else 1e-9
    return next((stage for stage in stages if log_snr + shift < stage.log_snr), None)


def _measuring(denoise: Denoise, stages: Sequence[_Stage], values: State, space: Space, correct: Correct) -> Denoise:
    """The denoiser, given at each level what is known there."""
    steered = {
        stage.log_snr: measured(denoise, stage.operator, stage.operator(values), space, correct) for stage in stages
    }

    def given(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        stage = _stage_at(stages, level)
        return (denoise if stage is None else steered[stage.log_snr])(x, level, conditions, mask)

    return given


def _repainting(step: Step, stages: Sequence[_Stage], values: State, resamplings: int) -> Step:
    """The step of a solver, in which what is known at the level that it arrives at is painted over."""
    painted = {stage.log_snr: repaint(step, stage.operator, values, resamplings) for stage in stages}

    def painting(evaluate: Evaluate, x: State, move: Move) -> State:
        stage = _stage_at(stages, move.next, arrived=True)
        return take(step if stage is None else painted[stage.log_snr], evaluate, x, move)

    return of_all_fields(painting)


def _by_entry(strength: Strength, values: State) -> dict[str, Tensor]:
    """The strength of each entry, by field. Raises `UserError` if it does not fit the values."""
    shapes = {name: value.shape for name, value in fields(values).items()}
    if isinstance(strength, int | float):
        strength = dict.fromkeys(shapes, float(strength))
    elif isinstance(strength, Mapping) and not isinstance(strength, Tensor):
        strength = dict(strength)
    given = fields(strength) if isinstance(strength, Tensor) else dict(strength.items())
    if unknown := [name for name in given if name not in shapes]:
        names = ", ".join(name for name in shapes if name) or "no fields"
        raise UserError(f"`strength`: {unknown[0]!r} is no field of these states; there are: {names}")
    entries = {}
    for name, shape in shapes.items():
        value = torch.as_tensor(given.get(name, 0.0), dtype=torch.float32)
        if value.ndim and value.shape[1:] != shape[1:]:
            where = f" in the field {name}" if name else ""
            raise UserError(f"`strength` has the shape {[*value.shape]}{where}; it should be {[1, *shape[1:]]}")
        if not bool(((value >= 0) & (value <= 1)).all()):
            wrong = value[~((value >= 0) & (value <= 1))].flatten()[0].item()
            raise UserError(f"`strength` {wrong:g}: give a number from 0, which changes nothing, to 1, which is free")
        entries[name] = value if value.ndim else value.expand(1, *shape[1:])
    return entries


def _distinct(entries: Mapping[str, Tensor]) -> list[float]:
    """All strengths that occur, increasing."""
    return torch.cat([value.unique() for value in entries.values()]).unique().tolist()
