"""Samples of which a part is known, by a network that has learned states with known parts.

The known entries have no noise at any level, and the network is told which they are (`diffcore.denoising.known`). So
the others are drawn from what the network has learned of p(others | known), with no approximation.
"""

import torch

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.denoising.known import told
from diffcore.sampling.solvers.by_field import of_all_fields, take
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Levels
from diffcore.states.partly import inserted
from diffcore.states.spaces import Mask
from diffcore.states.state import State, first_field, map_fields


def knowing(denoise: Denoise, values: State, known: State) -> Denoise:
    """A denoiser that has the `values` where `known` is True, whatever x is there, and is told so.

    Both are `[B, ...]`, or `[1, ...]` for all samples alike.
    """
    last: tuple[int, torch.device, Conditions] | None = None

    def flags(batch: int, device: torch.device) -> Conditions:
        """What is known, to be told: the same tensors at every level, as guidance and embeddings need."""
        nonlocal last
        if last is None or last[:2] != (batch, device):
            last = batch, device, told(map_fields(lambda flag: flag.to(device).expand(batch, *flag.shape[1:]), known))
        return last[2]

    def given(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        x = _with(x, values, known)
        return denoise(x, level, {**(conditions or {}), **flags(x.shape[0], first_field(x).device)}, mask)

    return given


def keeping(step: Step, values: State, known: State) -> Step:
    """The step of a solver, after which x has the `values` where `known` is True."""

    def kept(evaluate: Evaluate, x: State, move: Move) -> State:
        return _with(take(step, evaluate, _with(x, values, known), move), values, known)

    return of_all_fields(kept)


def _with(x: State, values: State, known: State) -> State:
    return inserted(
        x, map_fields(lambda v, like: v.to(like), values, x), map_fields(lambda f, like: f.to(like.device), known, x)
    )
