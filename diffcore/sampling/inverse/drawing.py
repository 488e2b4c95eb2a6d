"""Drawing a batch of samples that have to agree with something, or are free."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise
from diffcore.errors import UserError
from diffcore.process.schedules import Schedule, last_level
from diffcore.sampling.inverse.editing import Constraint, Start
from diffcore.sampling.inverse.operators import of_samples
from diffcore.sampling.loop import Evaluation, levels_of, noised, sample
from diffcore.sampling.particles import Crowd, Particles, numbers_of
from diffcore.sampling.solvers.step import Step
from diffcore.sampling.timesteps import through
from diffcore.states.level import CLEAN, Levels
from diffcore.states.noise import Draws
from diffcore.states.partly import placed
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, fields, map_fields

FREE = Constraint()
"""Samples that need not agree with anything."""


@torch.no_grad()
def draw(
    denoise: Denoise,
    space: Space,
    step: Step,
    schedule: Schedule,
    log_snrs: Tensor,
    constraint: Constraint | None = None,
    *,
    indices: Sequence[int],
    seed: int = 0,
    conditions: Conditions | None = None,
    mask: Mask = None,
    device: torch.device | str = "cpu",
    watch: Callable[[Evaluation], None] | None = None,
    last: float | None = None,
    particles: Particles | None = None,
    remember: bool = False,
) -> State:
    """The samples `indices` of `seed`, `[B, ...]`, in units of x0.

    `log_snrs` `[n]` is the time grid. With `last`, samples keep the noise of this log-SNR: the result is
    x0 + (sigma / alpha) eps. With `particles`, each sample is one of several trajectories. The other arguments are
    those of `diffcore.sampling.loop.sample`. Raises `UserError` for particles and a constraint that steers.
    """
    constraint = constraint or FREE
    if particles is not None and not particles.all:
        count = particles.count
        conditions = {name: value.repeat_interleave(count, 0) for name, value in (conditions or {}).items()}
        mask = None if mask is None else mask.repeat_interleave(count, 0)
        indices = numbers_of(indices, count)
    draws = Draws.of(seed, indices, device)
    inner = (
        space if constraint.within is None else constraint.within(indices, None if mask is None else mask.to(device))
    )
    crowd = None
    if particles is not None:
        if constraint.steers or constraint.draw is not None:
            raise UserError(
                "`particles` cannot be used where samples are made to agree with a measurement by another method: "
                "leave it out"
            )
        crowd = Crowd(particles, inner, draws, conditions, None if mask is None else mask.to(device))
        denoise = crowd.denoise(denoise)
    denoise, step = constraint(denoise, step, indices, mask)
    mask = None if mask is None else mask.to(device)
    if constraint.draw is not None:
        return constraint.draw(denoise, schedule, indices, draws, conditions or {}, mask)
    given = constraint.given_values(indices)
    start, begin = constraint.start, None
    levels: list[Levels] = [last_level(schedule, last) or CLEAN]
    if start is None:
        levels = levels_of(schedule, through(log_snrs, constraint.stops), last)
    else:
        if start.log_snr < (float("inf") if last is None else last):
            levels = levels_of(schedule, through(log_snrs, constraint.stops, start.log_snr), last)
        values = _values(start, indices, space, device)
        begin = noised(values if inner is space else placed(values, inner, mask), inner, draws, levels[0], mask)
    if len(levels) == 1 and begin is not None:
        states = begin
    else:
        states = sample(
            denoise,
            inner,
            step if crowd is None else crowd.step(step, len(levels) - 1),
            levels,
            indices=indices,
            seed=seed,
            conditions=conditions,
            mask=mask,
            start=begin,
            given=given,
            device=device,
            watch=watch,
            keep_noise=last is not None,
            remember=remember,
        )
    if inner is not space:
        states = space.project(states, mask)
    if last is None:
        return states if crowd is None else crowd.chosen(states)
    factor: Any = {name: 1.0 if name in given else 1 / levels[-1].alpha for name in fields(states)}  # type: ignore[operator]
    states = combine((factor if given else factor[next(iter(factor))], states))
    return states if crowd is None else crowd.chosen(states)


def _values(start: Start, indices: Sequence[int], space: Space, device: torch.device | str) -> State:
    """The values of the samples `indices`, `[B, ...]`."""
    values = of_samples(start.values, indices)
    return map_fields(
        lambda value, like: value.to(device, like.dtype).expand(len(indices), *value.shape[1:]),
        values,
        space.empty(1),
    )
