"""Self-conditioning: a network receives an estimate of x0 that it has made before (Chen et al. 2023, section 3.2).

In training, the network first predicts x0 from the same noisy state, without a gradient, for some of the examples; it
then predicts again, given that estimate. In sampling, each evaluation is given the x0 of the evaluation before it.

The estimate is a state of the form of x0, in the same units. A network that accepts `estimate` receives it as it is,
and one that accepts `like_state` as channels beside those of the state. Where there is no estimate yet, it is nan, and
the network receives zeros.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from diffcore.denoising import along
from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise
from diffcore.denoising.known import known_in
from diffcore.states.level import Levels
from diffcore.states.partly import partly
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, map_fields


def told(estimate: State) -> dict[str, Tensor]:
    """The estimate of x0 `[B, ...]` as entries of a mapping of conditions."""
    return along.told("estimate", estimate)


def without_estimate(conditions: Conditions | None) -> tuple[Conditions, State | None]:
    """The conditions without the estimate, which differs at every level, and the estimate; None if there is none."""
    estimate = along.told_in("estimate", conditions)
    names = () if estimate is None else told(estimate).keys()
    return {name: value for name, value in (conditions or {}).items() if name not in names}, estimate


def self_conditioned(denoise: Denoise) -> bool:
    """Whether a denoiser has learned to receive an estimate (`Denoiser.self_conditioning`)."""
    return bool(getattr(denoise, "self_conditioning", False))


@torch.no_grad()
def estimated(
    denoise: Denoise, space: Space, x: State, level: Levels, conditions: Conditions | None, mask: Mask, rows: Tensor
) -> State:
    """The x0 that the denoiser predicts for the samples `rows` of a batch `[B, ...]`, and nan for the others.

    * `space`: the space of the states, onto which the estimate is projected, as in sampling.
    * `rows`: the indices of the samples, int64 `[n]`. Only these are evaluated.
    """
    conditions = None if conditions is None else {name: value[rows] for name, value in conditions.items()}
    known, mask = known_in(conditions), None if mask is None else mask[rows]
    levels = level.map(lambda scale: scale[rows] if isinstance(scale, Tensor) and scale.ndim else scale)
    x0 = denoise(x[rows], levels, conditions, mask).x0
    x0 = (space if known is None else partly(space, known)).project(x0, mask)
    return map_fields(lambda like, own: torch.full_like(like, torch.nan).index_copy(0, rows, own.to(like)), x, x0)


@lru_cache(maxsize=64)
def told_rows(places: range, share: float, device: torch.device) -> Tensor:
    """Which examples of a batch are told an estimate: a `share` of them, evenly spread, int64 `[n]`.

    They are those at the places i with floor((i + 1) share) > floor(i share), so that the times of both parts are
    stratified like those of the whole batch, and a step is the same for any number of processes and can be repeated as
    a CUDA graph. At least one is, because in processes that share the weights the network must be called equally often.
    """
    chosen = [row for row, i in enumerate(places) if math.floor((i + 1) * share) > math.floor(i * share)]
    return torch.tensor(chosen or [0], device=device)
