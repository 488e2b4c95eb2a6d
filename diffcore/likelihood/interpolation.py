"""Samples between two samples: both become noise along the probability flow, and what lies between comes back."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise
from diffcore.errors import UserError
from diffcore.likelihood import runge_kutta
from diffcore.likelihood.path import angle_at, path_of, time_at
from diffcore.likelihood.runge_kutta import Parts
from diffcore.process.schedules import Schedule
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.inverse.operators import check_measurement
from diffcore.sampling.loop import noised, require_mask
from diffcore.states.level import by_field
from diffcore.states.noise import TRY, Draws
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, dot, map_fields

FARTHEST = 20.0
"""The largest |log-SNR| of an end of the flow, where that of the schedule is infinite or larger."""


@torch.no_grad()
def along_flow(
    denoise: Denoise,
    x: State,
    space: Space,
    schedule: Schedule,
    towards: Literal["noise", "data"],
    *,
    conditions: Conditions | None = None,
    mask: Mask = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> State:
    """The state at the other end of the probability flow through `x` `[B, ...]`, from data to noise or back.

    On the circle alpha = cos phi, sigma = sin phi the flow is dx/dphi = v. Its ends are those of the schedule, at
    log-SNRs within -20 and 20, and x is scaled as on the circle at both. Each sample has its own step sizes, such that
    the estimated error of the root mean square of x stays within `atol` + `rtol` |x| in each step.
    """
    path = path_of(schedule, x, ())
    clean, noisy = (time_at(log_snr) for log_snr in ends_of(schedule))
    backwards = towards == "data"
    first, last = (noisy, clean) if backwards else (clean, noisy)
    count = space.degrees_of_freedom(x, mask).double().clamp(min=1)

    def slope(time: Tensor, parts: Parts) -> Parts:
        phi, rate = angle_at(first - time if backwards else first + time)
        level = path.level(phi)
        v = space.project(denoise(parts[0], level, conditions, mask).v, mask)
        return (combine((path.rate(phi, -rate if backwards else rate), v)),)

    def norm(error: Parts, after: Parts) -> Tensor:
        wrong, size = ((space.squared_norm(part[0], mask) / count).sqrt() for part in (error, after))
        return wrong / (atol + rtol * size)

    return runge_kutta.adaptive(slope, (x,), 0.0, abs(last - first), norm)[0]


def ends_of(schedule: Schedule) -> tuple[float, float]:
    """The log-SNRs of the clean and of the noisy end of the flow."""
    low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    return min(high, FARTHEST), max(low, -FARTHEST)


def spherical(first: State, second: State, weight: Tensor) -> State:
    """sin((1 - w) a) / sin a first + sin(w a) / sin a second, with the angle a between the states of each sample.

    `weight` is w `[B]`. Shoemake 1985 (slerp). The norm changes evenly, so that what lies between two draws of Gaussian
    noise is as far from zero as they are. Parallel states are interpolated linearly.
    """
    cosine = dot(first, second) / (dot(first, first) * dot(second, second)).sqrt().clamp(min=1e-30)
    angle = cosine.double().clamp(-1, 1).acos()
    sine, weight = angle.sin(), weight.to(angle)
    flat = sine < 1e-4
    a, b = (torch.where(flat, w, (w * angle).sin() / torch.where(flat, 1.0, sine)) for w in (1 - weight, weight))
    return combine((a, first), (b, second))


def between(
    first: State, second: State, n: int, space: Space, mask: Mask = None, keep_noise: bool = False
) -> Constraint:
    """`n` samples on the way from the state `first` to `second`, both `[1, ...]`, of which the ends are these states.

    Both are encoded as noise along the probability flow (`along_flow`) with the conditions of each sample. Sample i is
    decoded from the noise `spherical` at i / (n - 1), along the same flow. The flow begins at the clean end of the
    schedule, where both have the little noise that the model knows there; it is drawn from the seed, and what lies
    between it is taken off again at the end, so that the round trip through the flow gives back `first` and `second`.
    With `keep_noise`, it is not taken off, for codecs that decode states with this noise.

    * `mask`: where the number of elements varies, the elements that exist in both, bool `[1, N]`. Element i of the
      first becomes element i of the second.

    Raises `UserError` for fewer than two samples, and for states that do not fit the space.
    """
    if n < 2:
        raise UserError(f"`n` {n}: samples between two need both ends, so draw at least 2")
    if mask is not None:
        require_mask(mask, 1)
    for state in (first, second):
        check_measurement(lambda x0: x0, state, space)

    def draw(
        denoise: Denoise, schedule: Schedule, indices: Sequence[int], draws: Draws, conditions: Conditions, mask: Mask
    ) -> State:
        device, batch = draws.samples.device, len(indices)
        level = path_of(schedule, first, ()).end(ends_of(schedule)[0])
        alike = all(bool((value == value[:1]).all()) for value in conditions.values())
        encoded, noises = [], []
        for number, state in enumerate((first, second)):
            rows = 1 if alike else batch
            values = _repeated(map_fields(lambda value: value.to(device), state), rows)
            own = Draws.of(draws.seed, [number] * rows, device)
            at = None if mask is None else mask[:rows]
            x = noised(values, space, own, level, at)
            noises.append(combine((1.0, x), (by_field(lambda each: -each.alpha, level), values)))  # sigma eps
            given = {name: value[:rows] for name, value in conditions.items()}
            encoded.append(along_flow(denoise, x, space, schedule, "noise", conditions=given, mask=at))
        samples = draws.samples % TRY  # another try of a sample is the same place on the way
        weight = samples.double() / (n - 1)
        way = spherical(_repeated(encoded[0], batch), _repeated(encoded[1], batch), weight)
        x = along_flow(denoise, way, space, schedule, "data", conditions=conditions, mask=mask)
        if not keep_noise:
            left = spherical(_repeated(noises[0], batch), _repeated(noises[1], batch), weight)
            x = combine((1.0, x), (-1.0, left))
        x = combine((by_field(lambda each: 1 / each.alpha, level), x))
        return x if keep_noise else _with_ends(x, first, second, samples, n)

    return Constraint(mask=mask, draw=draw)


def _repeated(state: State, batch: int) -> State:
    """A state `[1, ...]` or `[batch, ...]` as `[batch, ...]`."""
    return map_fields(lambda value: value.expand(batch, *value.shape[1:]), state)


def _with_ends(x: State, first: State, second: State, samples: Tensor, n: int) -> State:
    """`x` `[B, ...]`, in which the samples 0 and n - 1 are `first` and `second` themselves, without rounding."""

    def put(value: Tensor, start: Tensor, end: Tensor) -> Tensor:
        at = samples.reshape(-1, *[1] * (value.ndim - 1))
        return torch.where(at == 0, start.to(value), torch.where(at == n - 1, end.to(value), value))

    return map_fields(put, x, first, second)
