"""The log-likelihood log p(x0) of a denoiser, by its probability-flow ODE."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise
from diffcore.likelihood import runge_kutta
from diffcore.likelihood.path import angle_at, path_of, time_at
from diffcore.likelihood.runge_kutta import Parts
from diffcore.names import Divergence, names_in, require_name
from diffcore.process.schedules import Schedule
from diffcore.states.level import FieldLevels, Level, Levels, by_field
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, Weight, combine, concatenate, fields, first_field, map_fields

_AT_ONCE = 64
"""The number of vector-Jacobian products that one backward pass computes."""


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
    given: str | Collection[str] = (),
) -> Tensor:
    """log p(x0) of each sample, `[B]` float64 nats: a density per unit of volume of the space.

    On the circle alpha = cos phi, sigma = sin phi the probability flow is dx/dphi = v, so along it
    d log p(x) / dphi = -div v (Song et al. 2021, section 4.3; Chen et al. 2018, theorem 1), for every schedule:

        log p(x0) = log N(x_end; 0, sigma_end^2) + int div v dphi + D log alpha_start,

    from x_start = alpha_start x0, with D degrees of freedom. `log_snrs` are the log-SNRs of the noisy and of the clean
    end; None takes those of `schedule`. As both are finite, two corrections are computed from the denoiser's
    predictions at the ends:

    * x_end is not pure noise: its marginal is approximated by N(alpha x0_hat, alpha^2 + sigma^2), where x0_hat is the
      prediction there. This neglects alpha^2 times the difference of the data's variance from 1.
    * x_start contains noise of standard deviation s = sigma / alpha in units of x0. By the heat equation, removing it
      changes log p(x0) by -(s^2 / 2) (div score + |score|^2), up to the square of s^2 / the data's variance.

    With a schedule by field (`ByField`), each field f has an angle of its own, tan phi_f = e^(-c_f / 2) tan phi with
    the shift c_f, so that dx_f/dphi = v_f dphi_f/dphi. Fields whose names are in `given` stay clean: the result is the
    density of the others given them. One name can be given as a string.

    `divergence` is the method for div v:

    * "exact" sums over a basis of the space, with one vector-Jacobian product for each coordinate.
    * "hutchinson" averages z . J z over `probes` random directions z, the noise of the space for signs +-1 (Grathwohl
      et al. 2019, section 3.1). It is unbiased. Sample i draws the directions of `seed` and `indices[i]` (`range(B)`
      if None).

    `steps` is the number of equal steps of order 5, with six evaluations each. If it is None, each sample has its own
    step sizes, such that the estimated error of the root mean square of x and of the log-volume per degree of freedom
    stays within `atol` + `rtol` |value|. Steps are taken in asinh(phi / 0.03), which is linear in phi at high noise and
    in log-SNR at low noise. For mixtures and correlated Gaussians of standard deviation 0.01 to 2, between log-SNRs of
    -20 and 20, 20 equal steps have an error of 1e-4 nats per degree of freedom; equal steps in phi have 0.2, and in
    log-SNR 0.03. Raises `UserError` if the tolerance cannot be met, and if `given` has names that are no fields, or all
    fields.
    """
    require_name(divergence, Divergence, "divergence")
    given = names_in(given)
    if log_snrs is None:
        low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    else:
        low, high = log_snrs
    path = path_of(schedule, x0, given)
    first, last = path.end(high), path.end(low)
    start, end = time_at(high), time_at(low)
    if divergence == "exact":
        directions, weight = basis(space, x0, mask, given), 1.0
    else:
        draws = Draws.of(seed, range(x0.shape[0]) if indices is None else indices, first_field(x0).device)
        directions, weight = _probes(space, x0, mask, draws, probes), 1 / probes

    def freedoms_of(function: Callable[[Level], float], level: Levels) -> Tensor:
        """function(level) times the degrees of freedom, in total."""
        if not isinstance(level, FieldLevels):
            return function(level) * space.degrees_of_freedom(x0, mask).double()
        parts = [(space_of(space, name), name) for name in level.of if name not in given]
        each = [function(level.of[n]) * s.degrees_of_freedom(fields(x0)[n], mask).double() for s, n in parts]
        return torch.stack(each).sum(0)

    def velocity(x: State, level: Levels, factor: Weight) -> tuple[State, Tensor]:
        """factor v, and its divergence."""
        v, trace = velocity_and_divergence(denoise, x, level, space, directions, conditions, mask, factor)
        return v, weight * trace

    freedoms = freedoms_of(lambda level: 1.0, first)

    def slope(time: Tensor, parts: Parts) -> Parts:
        phi, rate = angle_at(time)
        return velocity(parts[0], path.level(phi), path.rate(phi, rate))

    def norm(error: Parts, after: Parts) -> Tensor:
        count = freedoms.clamp(min=1)
        x_error, x = ((space.squared_norm(part[0], mask) / count).sqrt() for part in (error, after))
        volume_error, volume = ((first_field(part[1]) / count).abs() for part in (error, after))
        return torch.maximum(x_error / (atol + rtol * x), volume_error / (atol + rtol * volume))

    x = combine((first.alpha, space.project(x0, mask)))
    weighted, trace = velocity(x, first, by_field(lambda level: level.alpha * level.sigma, first))
    scaled_divergence = freedoms_of(lambda level: level.alpha**2, first) - trace - freedoms
    volume = freedoms_of(lambda level: math.log(level.alpha), first)
    parts: Parts = (x, volume + _without_noise(x, weighted, scaled_divergence, first, space, mask))
    if steps is None:
        x, volume = runge_kutta.adaptive(slope, parts, start, end, norm)
    else:
        x, volume = runge_kutta.fixed(slope, parts, start, end, steps)
    with torch.no_grad():
        mean = space.project(denoise(x, last, conditions, mask).x0, mask)
    # On the circle, alpha^2 + sigma^2 = 1. A given field is its own mean.
    squared = space.squared_norm(combine((1.0, x), (by_field(lambda level: -level.alpha, last), mean)), mask).double()
    return volume - squared / 2 - freedoms / 2 * math.log(2 * math.pi)


def velocity_and_divergence(
    denoise: Denoise,
    x: State,
    level: Levels,
    space: Space,
    directions: "Directions",
    conditions: Conditions | None = None,
    mask: Mask = None,
    factor: Weight = 1.0,
) -> tuple[State, Tensor]:
    """w v at `x`, with the factor w, and the sum of `<z, w J z>` over the `directions` z, `[B]` float64.

    With `basis`, this is the divergence of w v.
    """
    leaf = map_fields(lambda f: f.detach().requires_grad_(), x)
    with torch.enable_grad():
        v = space.project(denoise(leaf, level, conditions, mask).v, mask)
        if isinstance(factor, Mapping):
            v = combine((factor, v))  # the fields differ, so their parts of the divergence must be multiplied
        v = combine((1.0, v), (0.0, leaf))  # a v that does not depend on x then has a zero gradient instead of none
        trace = torch.zeros(x.shape[0], dtype=torch.float64, device=first_field(x).device)
        for direction, dual in directions():
            products = _products(_flat(v), _flat(leaf), dual)
            for product, field in zip(products, direction, strict=True):
                trace = trace + (product * field).flatten(2).sum((0, 2))
    v = map_fields(Tensor.detach, v)
    return (v, trace) if isinstance(factor, Mapping) else (combine((factor, v)), factor * trace)


def _products(outputs: "_Flat", inputs: "_Flat", duals: "_Flat") -> "_Flat":
    """The vector-Jacobian products of K directions, `[K, B, ...]`, at once if all operations of a network allow that.

    Some, such as the attention of PyTorch on a CPU, cannot be differentiated for several directions at once; then these
    are taken one after another.
    """
    try:
        return torch.autograd.grad(outputs, inputs, duals, is_grads_batched=True, retain_graph=True)
    except RuntimeError as error:
        if "vmap" not in str(error) and "atching rule" not in str(error):
            raise
    each = [
        torch.autograd.grad(outputs, inputs, [dual[number] for dual in duals], retain_graph=True)
        for number in range(len(duals[0]))
    ]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


def _without_noise(
    x: State, weighted: State, scaled_divergence: Tensor, level: Levels, space: Space, mask: Mask
) -> Tensor:
    """The change of log p at y = x / alpha when the noise of the level is removed, `[B]`, to first order in s^2.

    It is -(s^2 / 2) (div score + |score|^2), with s^2 score = x0_hat - y and x0_hat = alpha x - sigma v, so that
    div x0_hat = alpha (alpha D - sigma div v) on the circle; with levels by field, the sum over the fields.

    * `weighted`: alpha sigma v.
    * `scaled_divergence`: s^2 div score = alpha^2 D - div (alpha sigma v) - D.
    """

    def of_x(level: Level) -> float:
        return float((level.alpha - 1 / level.alpha) * level.alpha / level.sigma) if level.sigma else 0.0

    # s score = (alpha / sigma) (alpha x - sigma v - x / alpha)
    of_v = by_field(lambda each: -1 / each.sigma if each.sigma else 0.0, level)
    scaled_score = combine((by_field(of_x, level), x), (of_v, weighted))
    return -(scaled_divergence + space.squared_norm(scaled_score, mask).double()) / 2


def bits_per_dimension(log_likelihood: Tensor, degrees_of_freedom: Tensor, log_volume: Tensor | float = 0.0) -> Tensor:
    """Bits per dimension, -(log p + `log_volume`) / (D log 2), `[B]`, from log p in nats and D degrees of freedom.

    `log_volume` converts a density to a probability: it is the logarithm of the volume of the cell of a data point, in
    the units of the state. For discrete data with bins of width w it is D log w (Theis et al. 2016, section 3.1).
    """
    return -(log_likelihood + log_volume) / (degrees_of_freedom.to(log_likelihood).clamp(min=1) * math.log(2))


# The divergence of a vector field v of the space is the trace of its Jacobian J in the space. Noise of the space is a
# linear map N of normal numbers n, and it is white in the inner product of the space. So trace J = E <N n, J N n> over
# white n, which is also the sum over all unit vectors n. With dual(z) = grad |z|^2 / 2, <z, J z> = dual(z)^T J z, which
# takes one vector-Jacobian product.

_Flat = tuple[Tensor, ...]
Directions = Callable[[], Iterator[tuple[_Flat, _Flat]]]
"""Groups of K directions z and of their duals, with a tensor `[K, B, ...]` for each field of the state."""


def _flat(state: State) -> _Flat:
    return tuple(fields(state).values())


def _paired(space: Space, normal: State, mask: Mask, count: int) -> tuple[_Flat, _Flat]:
    """The directions N n of `count` batches of normal numbers, which are concatenated, and the duals."""
    repeated = None if mask is None else mask.repeat(count, 1)
    leaf = map_fields(lambda f: f.detach().requires_grad_(), space.noise(normal, repeated))
    with torch.enable_grad():
        dual = torch.autograd.grad(space.squared_norm(leaf, repeated).sum() / 2, _flat(leaf))

    def grouped(flat: _Flat) -> _Flat:
        return tuple(f.detach().unflatten(0, (count, -1)) for f in flat)

    return grouped(_flat(leaf)), grouped(dual)


def basis(space: Space, like: State, mask: Mask, given: Collection[str] = ()) -> Directions:
    """The directions N n of all unit vectors n, without those of `given` fields and those that are zero everywhere."""
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
        free = [part for name, part in zip(fields(like), directions, strict=True) if name not in given]
        kept.append(numbers[torch.stack([field.flatten(1).any(1) for field in free]).any(0)])
    groups = torch.cat(kept).split(_AT_ONCE)
    return lambda: (pairs(numbers) for numbers in groups if len(numbers))


def _probes(space: Space, like: State, mask: Mask, draws: Draws, count: int) -> Directions:
    """The directions N n of `count` vectors n of random signs for each sample, the same along the whole flow."""
    normals = [draws.normal(("probe", number), like) for number in range(count)]
    signs = [map_fields(lambda f: torch.where(f < 0, -1.0, 1.0).to(f), normal) for normal in normals]
    groups = [signs[start : start + _AT_ONCE] for start in range(0, count, _AT_ONCE)]
    pairs = [_paired(space, concatenate(group), mask, len(group)) for group in groups]
    return lambda: iter(pairs)
