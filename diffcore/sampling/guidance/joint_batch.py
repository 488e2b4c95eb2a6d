"""Evaluate a denoiser with several sets of conditions in one batch, which holds only the samples that need each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from diffcore.denoising import along
from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Levels
from diffcore.states.spaces import Mask
from diffcore.states.state import State, concatenate, map_fields

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class JointPass:
    """One of the evaluations D_i that `evaluate_jointly` mixes.

    * `conditions`: the conditions of this evaluation, for the whole batch.
    * `weight`: w_i.
    * `rows`: the indices of the samples that are evaluated, int64 `[n]`; None for all of the batch.
    """

    conditions: Conditions
    weight: float
    rows: Tensor | None = None


@dataclass(frozen=True)
class JointBatch:
    """What `evaluate_jointly` mixes: D_base with the conditions `base`, and the `passes`."""

    base: Conditions
    passes: Sequence[JointPass]

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions of all evaluations, one after another: the same tensors at every level of a trajectory."""
        each = [(self.base, None), *((one.conditions, one.rows) for one in self.passes)]
        return {name: torch.cat([_at(values[name], chosen) for values, chosen in each]) for name in self.base}


def evaluate_jointly(
    denoise: Denoise, x: State, level: Levels, joint: JointBatch, mask: Mask, estimate: State | None = None
) -> Prediction:
    """D_base + sum_i w_i (D_i - D_base), with all evaluations in one batch; a single pass of weight 1 is run alone.

    D_base is the prediction with the conditions `joint.base`, and D_i that of pass i; samples that are not among the
    rows of pass i have no i-th term. As all views of a prediction are affine in its output, it is the outputs that are
    mixed. The variances are mixed with weights 1 / n, so the result is their mean over the n passes. If there is one
    pass, the unguided prediction is that of the pass, and D_base for samples that are not among its rows; else there is
    none. All evaluations are told the same `estimate` (`diffcore.denoising.estimate`), if there is one.
    """
    passes = joint.passes

    def told(conditions: Conditions, rows: Sequence[Tensor | None] = (None,)) -> Conditions:
        if estimate is None:
            return conditions
        return {**conditions, **along.told("estimate", concatenate([_at(estimate, chosen) for chosen in rows]))}

    if not passes:
        return denoise(x, level, told(joint.base), mask)
    if len(passes) == 1 and passes[0].weight == 1:
        return denoise(x, level, told(passes[0].conditions), mask)
    rows = [None, *(each.rows for each in passes)]
    found = denoise(
        concatenate([_at(x, chosen) for chosen in rows]),
        level.map(lambda scale: _joined(scale, rows)),
        told(joint.conditions, rows),
        None if mask is None else torch.cat([_at(mask, chosen) for chosen in rows]),
    )
    sizes = [x.shape[0] if chosen is None else len(chosen) for chosen in rows]

    def mixed(states: State, weights: Sequence[float]) -> State:
        def mix(field: Tensor) -> Tensor:
            start, *ends = field.split(sizes)
            result = start
            for end, chosen, weight in zip(ends, rows[1:], weights, strict=True):
                if chosen is None:
                    result = result + weight * (end - start)
                else:
                    result = result.index_add(0, chosen, weight * (end - start[chosen]))
            return result

        return map_fields(mix, states)

    output = mixed(found.output, [each.weight for each in passes])
    variance = None if found.variance is None else mixed(found.variance, [1 / len(passes)] * len(passes))
    unguided = None
    if found.unguided is not None and len(passes) == 1:
        unguided = Prediction(x, level, mixed(found.unguided.output, [1.0]), found.unguided.view)
    return Prediction(x, level, output, found.view, variance, unguided)


def _at(batch: State, rows: Tensor | None) -> State:
    return batch if rows is None else batch[rows]


def _joined(scale: float | Tensor, rows: Sequence[Tensor | None]) -> float | Tensor:
    """alpha or sigma of the joint batch; a float, or a tensor without axes, holds for all of it."""
    if not isinstance(scale, Tensor) or scale.ndim == 0:
        return scale
    return torch.cat([_at(scale, chosen) for chosen in rows])


def cache_last(function: Callable[[Conditions], Answer]) -> Callable[[Conditions], Answer]:
    """`function`, which is not called again while its argument holds the same tensors as in the last call.

    The conditions are the same at every level of a trajectory, and finding the samples that need a pass makes the host
    wait for the device. Threads may share the result: each gets the answer for its own conditions. The tensors are
    compared by identity, so they must not be changed in place between calls.
    """
    last: tuple[Conditions, Answer] | None = None

    def call(conditions: Conditions) -> Answer:
        nonlocal last
        entry = last  # read once: another thread may replace it at any time
        if entry is None or not _same(entry[0], conditions):
            entry = ({**conditions}, function(conditions))
            last = entry
        return entry[1]

    return call


def _same(first: Conditions, second: Conditions) -> bool:
    """Whether both have the same names and hold the same tensors."""
    return first.keys() == second.keys() and all(first[name] is second[name] for name in first)
