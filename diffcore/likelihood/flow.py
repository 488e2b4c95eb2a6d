"""log p(x0) of a denoiser, by its probability-flow ODE."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise
from diffcore.likelihood import runge_kutta
from diffcore.likelihood.runge_kutta import Parts
from diffcore.names import Divergence
from diffcore.process.schedules import Schedule, variance_preserving
from diffcore.states.level import Level
from diffcore.states.noise import SampleNoise
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, concatenate, fields, first_field, map_fields

_BEND = 0.03
"""The angle below which the clock turns from linear to logarithmic."""

_AT_ONCE = 64
"""Vector-Jacobian products that one backward pass computes."""


def log_likelihood(
    denoise: Denoise,
    x0: State,
    space: Space,
    schedule: Schedule,
    *,
    conditions: Conditions | None = None,
    mask: Mask = None,
    divergence: Divergence = "exact",
    probes: int = 1,
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    log_snrs: tuple[float, float] | None = None,
) -> Tensor:
    """log p(x0) of each sample, `[B]` float64 nats: a density per unit of volume of the space.

    On the circle alpha = cos phi, sigma = sin phi the probability flow is dx/dphi = v, so along it
    d log p(x) / dphi = -div v (Song et al. 2021, section 4.3; Chen et al. 2018, theorem 1), whatever the schedule:

        log p(x0) = log N(x_end; 0, sigma_end^2) + int div v dphi + D log alpha_start,

    from x_start = alpha_start x0 with D degrees of freedom. `log_snrs` are the noisy and the clean end; those of
    `schedule` where None is given. What lies beyond them is made up for by the denoiser's word at the ends:

    * x_end is not pure noise: its marginal is taken as N(alpha x0_hat, alpha^2 + sigma^2), x0_hat the prediction there,
      which is right up to the share alpha^2 of the data's variance being 1.
    * x_start carries the noise s = sigma / alpha. By the heat equation, log p(x0) changes by
      -(s^2 / 2) (div score + |score|^2) when it is taken away, up to the square of s^2 / the data's variance.

    `divergence`: "exact" sums over a basis of the space, one vector-Jacobian product for each coordinate.
    "hutchinson" averages z . J z over `probes` random directions z, noise of the space made of signs +-1 (Grathwohl et
    al. 2019, section 3.1), unbiased; sample i draws those of `seed` and `indices[i]` (`range(B)` where None).

    With `steps`, so many equal steps of order 5, six evaluations each. Otherwise steps follow the error, each sample's
    its own, within `atol` + `rtol` |value| for the root mean square of x and for the log-volume per degree of freedom.
    The clock is asinh(phi / 0.03): even in phi at high noise and in log-SNR at low noise. For mixtures and correlated
    Gaussians of std 0.01 to 2 between log-SNRs of -20 and 20, 20 equal steps of it are right to 1e-4 nats a degree of
    freedom; of phi alone they miss by 0.2, of the log-SNR by 0.03. Raises `UserError` where the
    tolerance cannot be met.
    """
    if log_snrs is None:
        low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    else:
        low, high = log_snrs
    first, last = (_float_level(log_snr) for log_snr in (high, low))
    start, end = (math.asinh(math.atan2(level.sigma, level.alpha) / _BEND) for level in (first, last))
    if divergence == "exact":
        directions, weight = basis(space, x0, mask), 1.0
    else:
        noise = SampleNoise(seed, range(x0.shape[0]) if indices is None else indices)
        directions, weight = _probes(space, x0, mask, noise, probes), 1 / probes
    freedoms = space.degrees_of_freedom(x0, mask).double()

    def velocity(x: State, level: Level) -> tuple[State, Tensor]:
        v, trace = velocity_and_divergence(denoise, x, level, space, directions, conditions, mask)
        return v, weight * trace

    def slope(time: Tensor, parts: Parts) -> Parts:
        phi, rate = _BEND * time.sinh(), _BEND * time.cosh()
        v, trace = velocity(parts[0], Level(phi.cos(), phi.sin()))  # type: ignore[arg-type]
        return combine((rate, v)), rate * trace

    def norm(error: Parts, after: Parts) -> Tensor:
        (moved, volume), (x, total) = error, after
        count = freedoms.clamp(min=1)
        size, miss = ((space.squared_norm(state, mask) / count).sqrt() for state in (x, moved))
        tolerated = atol + rtol * (total / count).abs()  # type: ignore[union-attr]
        return torch.maximum(miss / (atol + rtol * size), (volume / count).abs() / tolerated)  # type: ignore[union-attr]

    x = combine((first.alpha, space.project(x0, mask)))
    parts: Parts = (x, freedoms * math.log(first.alpha) + _without_noise(x, *velocity(x, first), first, space, mask))
    if steps is None:
        x, volume = runge_kutta.adaptive(slope, parts, start, end, norm)
    else:
        x, volume = runge_kutta.fixed(slope, parts, start, end, steps)
    with torch.no_grad():
        mean = space.project(denoise(x, last, conditions, mask).x0, mask)
    squared = space.squared_norm(combine((1.0, x), (-last.alpha, mean)), mask).double()
    variance = last.total**2
    return volume - squared / (2 * variance) - freedoms / 2 * math.log(2 * math.pi * variance)


def velocity_and_divergence(
    denoise: Denoise,
    x: State,
    level: Level,
    space: Space,
    directions: "Directions",
    conditions: Conditions | None = None,
    mask: Mask = None,
) -> tuple[State, Tensor]:
    """v at `x` and its divergence over the `directions`, `[B]` float64: with those of `basis`, the exact one."""
    leaf = map_fields(lambda f: f.detach().requires_grad_(), x)
    with torch.enable_grad():
        v = space.project(denoise(leaf, level, conditions, mask).v, mask)
        v = combine((1.0, v), (0.0, leaf))  # so that a v which does not depend on x has a gradient: zero
        trace = torch.zeros(x.shape[0], dtype=torch.float64, device=first_field(x).device)
        for direction, dual in directions():
            products = torch.autograd.grad(_flat(v), _flat(leaf), dual, is_grads_batched=True, retain_graph=True)
            for product, field in zip(products, direction, strict=True):
                trace = trace + (product * field).flatten(2).sum((0, 2))
    return map_fields(Tensor.detach, v), trace


def _without_noise(x: State, v: State, divergence: Tensor, level: Level, space: Space, mask: Mask) -> Tensor:
    """log p(x / alpha) of clean data less that of data with the level's noise, `[B]`, to first order in s^2.

    -(s^2 / 2) (div score + |score|^2), with s^2 score = x0_hat - y for y = x / alpha, x0_hat = alpha x - sigma v and so
    div x0_hat = alpha (alpha D - sigma div v) on the circle.
    """
    alpha, sigma = level
    x0 = combine((alpha, x), (-sigma, v))
    gap = combine((1.0, x0), (-1 / alpha, x))
    freedoms = space.degrees_of_freedom(x, mask).double()
    volume = alpha * (alpha * freedoms - sigma * divergence) - freedoms
    return -(volume + space.squared_norm(gap, mask).double() * (alpha / sigma) ** 2) / 2


def bits_per_dimension(log_likelihood: Tensor, degrees_of_freedom: Tensor, log_volume: Tensor | float = 0.0) -> Tensor:
    """-(log p + log volume) / (D log 2), `[B]`.

    `log_volume` turns a density into a probability: the log of the volume of the cell that stands for a datum, in the
    units of the state. For data on a grid of bins of width w it is D log w (Theis et al. 2016, section 3.1).
    """
    return -(log_likelihood + log_volume) / (degrees_of_freedom.to(log_likelihood).clamp(min=1) * math.log(2))


def _float_level(log_snr: float) -> Level[float]:
    alpha, sigma = variance_preserving(torch.tensor(log_snr, dtype=torch.float64))
    return Level(alpha.item(), sigma.item())


# The divergence of a field v of the space is the trace of its Jacobian J there. Noise of the space is a linear map N of
# normal numbers, white in the space's inner product: trace J = E <N n, J N n> over white n, which is also the sum over
# unit vectors n. With dual(z) = grad |z|^2 / 2, <z, J z> = dual(z)^T J z: one vector-Jacobian product.

_Flat = tuple[Tensor, ...]
Directions = Callable[[], Iterator[tuple[_Flat, _Flat]]]
"""Groups of directions z and of their duals; each a tensor `[K, B, ...]` a field."""


def _flat(state: State) -> _Flat:
    return tuple(fields(state).values())


def _paired(space: Space, normal: State, mask: Mask, count: int) -> tuple[_Flat, _Flat]:
    """The directions N n of `count` batches of normal numbers, laid end to end, and their duals."""
    repeated = None if mask is None else mask.repeat(count, 1)
    leaf = map_fields(lambda f: f.detach().requires_grad_(), space.noise(normal, repeated))
    with torch.enable_grad():
        dual = torch.autograd.grad(space.squared_norm(leaf, repeated).sum() / 2, _flat(leaf))

    def grouped(flat: _Flat) -> _Flat:
        return tuple(f.detach().unflatten(0, (count, -1)) for f in flat)

    return grouped(_flat(leaf)), grouped(dual)


def basis(space: Space, like: State, mask: Mask) -> Directions:
    """Every unit vector, but for those that are no direction of the space in any sample."""
    batch, sizes = like.shape[0], [field[0].numel() for field in _flat(like)]
    first = first_field(like)

    def pairs(numbers: Tensor) -> tuple[_Flat, _Flat]:
        ones = torch.zeros(len(numbers), sum(sizes), dtype=first.dtype, device=first.device)
        ones[torch.arange(len(numbers)), numbers] = 1
        pieces = iter(ones.split(sizes, 1))

        def unit(field: Tensor) -> Tensor:
            return next(pieces).reshape(-1, 1, *field.shape[1:]).expand(-1, batch, *field.shape[1:]).flatten(0, 1)

        return _paired(space, map_fields(unit, like), mask, len(numbers))

    kept = []
    for numbers in torch.arange(sum(sizes), device=first.device).split(_AT_ONCE):
        directions, _ = pairs(numbers)
        kept.append(numbers[torch.stack([field.flatten(1).any(1) for field in directions]).any(0)])
    groups = torch.cat(kept).split(_AT_ONCE)
    return lambda: (pairs(numbers) for numbers in groups if len(numbers))


def _probes(space: Space, like: State, mask: Mask, noise: SampleNoise, count: int) -> Directions:
    """`count` draws of signs for each sample, which stay the same along the flow."""
    signs = [map_fields(lambda f: torch.where(f < 0, -1.0, 1.0).to(f), noise.normal(like)) for _ in range(count)]
    groups = [signs[start : start + _AT_ONCE] for start in range(0, count, _AT_ONCE)]
    pairs = [_paired(space, concatenate(group), mask, len(group)) for group in groups]
    return lambda: iter(pairs)
