"""Several passes of one network as one batch: the plain one for all samples, the others where they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.states.level import Level
from diffcore.states.spaces import Mask
from diffcore.states.state import State, concatenate, map_fields

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Pass:
    """A pass with `conditions` and its weight; `rows` are the samples that need it, None means all."""

    conditions: Conditions
    weight: float
    rows: Tensor | None = None


def together(
    denoise: Denoise, x: State, level: Level, base: Conditions, passes: Sequence[Pass], mask: Mask
) -> Prediction:
    """D_base + sum_i w_i (D_i - D_base), all of it one batch; a single pass of weight 1 is run alone.

    The variance is the mean of those of the passes. All views are affine in the output, so mixing outputs mixes them.
    """
    if not passes:
        return denoise(x, level, base, mask)
    if len(passes) == 1 and passes[0].weight == 1:
        return denoise(x, level, passes[0].conditions, mask)
    rows = [None, *(each.rows for each in passes)]
    conditions = [base, *(each.conditions for each in passes)]
    joint = denoise(
        concatenate([_at(x, chosen) for chosen in rows]),
        Level(*(_joined(scale, rows) for scale in level)),
        {
            name: torch.cat([_at(part[name], chosen) for part, chosen in zip(conditions, rows, strict=True)])
            for name in base
        },
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

    output = mixed(joint.output, [each.weight for each in passes])
    variance = None if joint.variance is None else mixed(joint.variance, [1 / len(passes)] * len(passes))
    return Prediction(x, level, output, joint.view, variance)


def _at(batch: State, rows: Tensor | None) -> State:
    return batch if rows is None else batch[rows]


def _joined(scale: float | Tensor, rows: Sequence[Tensor | None]) -> float | Tensor:
    """The scale of a level for each pass of the batch; a float is that of all."""
    if not isinstance(scale, Tensor) or scale.ndim == 0:
        return scale
    return torch.cat([_at(scale, chosen) for chosen in rows])


def remembered(function: Callable[[Given], Found]) -> Callable[[Given], Found]:
    """`function` with its last answer kept: the same conditions come at every level of a trajectory.

    Which samples need a pass is asked of the device, and asking anew at each step would wait for it.
    """
    last: tuple[Given, Found] | None = None

    def call(given: Given) -> Found:
        nonlocal last
        if last is None or last[0] is not given:
            last = (given, function(given))
        return last[1]

    return call
