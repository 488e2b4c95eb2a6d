"""Fitting a time grid, and the method that goes with it, to a denoiser's own flow.

With N evaluations, where should they lie? The answer depends on the data, so it is found by following the denoiser's
probability-flow ODE accurately from some starting noise, and moving the N levels of an Adams method until it ends
where the accurate flow does; and for each level the place where the method's polynomials take its value to be. These
2 N - 1 numbers are all that is learned, the coefficients follow from them, so there is little to overfit. (Sabour et
al. 2024 and Tong et al. 2025 learn grids too, by other objectives.)
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import UserError
from diffcore.names import Clock
from diffcore.process.schedules import Schedule
from diffcore.sampling.loop import integrate, levels_of, prior
from diffcore.sampling.solvers import Evaluate, Step, adams
from diffcore.sampling.timesteps import FAR, tapered, uniform_in_log_snr
from diffcore.states.level import CLEAN, Level
from diffcore.states.noise import SampleNoise, seed_of
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, fields


@dataclass(frozen=True)
class Method:
    """Options of `diffcore.sampling.solvers.adams`."""

    order: int
    corrector: int
    clock: Clock
    shifts: Sequence[Any] = ()

    def step(self) -> Step:
        """The solver."""
        return adams(self.order, self.corrector, self.clock, shifts=self.shifts)


METHODS = tuple(
    Method(order, corrector, clock)
    for order, corrector in ((2, 2), (2, 3), (3, 0), (3, 4))
    for clock in ("log-snr", "alpha")
)
"""What `tune` chooses from."""


class FreshNoiseError(ValueError):
    """A solver that draws fresh noise follows no trajectory that there would be an error of."""


@dataclass(frozen=True)
class Fit:
    """What tuning found: a method and its log-SNRs `[N]`."""

    method: Method
    log_snrs: Tensor


@dataclass(frozen=True)
class Flow:
    """Trajectories of a denoiser: where they start, at which level, and where the accurate flow takes them."""

    denoise: Denoise
    space: Space
    schedule: Schedule
    start: State
    end: State
    conditions: Conditions | None
    mask: Mask

    @property
    def count(self) -> int:
        """How many trajectories."""
        return int(self.start.shape[0])

    def part(self, chosen: Tensor) -> "Flow":
        """Some of the trajectories."""
        conditions = None if self.conditions is None else {k: v[chosen] for k, v in self.conditions.items()}
        mask = None if self.mask is None else self.mask[chosen]
        parts = (self.denoise, self.space, self.schedule, self.start[chosen], self.end[chosen])
        return Flow(*parts, conditions, mask)

    def errors(self, step: Step, log_snrs: Tensor) -> Tensor:
        """|x - x_accurate| / sqrt(degrees of freedom) of each trajectory, `[B]`, with the levels at `log_snrs`."""
        if log_snrs.requires_grad:
            levels = [Level(*pair) for pair in zip(*self.schedule.level(log_snrs), strict=True)] + [CLEAN]
        else:
            levels = levels_of(self.schedule, log_snrs)
        evaluate = _evaluate(self.denoise, self.space, self.conditions, self.mask)
        x = integrate(step, evaluate, self.start, levels, _no_noise)
        square = self.space.squared_norm(combine((1.0, x), (-1.0, self.end)), self.mask)
        return (square / self.space.degrees_of_freedom(x, self.mask).clamp(min=1)).sqrt()

    def score(self, step: Step, log_snrs: Tensor) -> float:
        """The mean log error: what tuning makes small. Infinite where a trajectory leaves the numbers.

        Raises `FreshNoiseError` where the solver follows no trajectory.
        """
        with torch.no_grad():
            mean = self.errors(step, log_snrs).clamp(min=_TINY).log().mean().item()
        return mean if math.isfinite(mean) else math.inf


def _evaluate(denoise: Denoise, space: Space, conditions: Conditions | None, mask: Mask) -> Evaluate:
    """The denoiser on the space; where gradients are wanted, it keeps x alone and is run again for them."""

    def run(x: State, level: Level) -> State:
        return space.project(denoise(x, level, conditions, mask).x0, mask)

    def evaluate(x: State, level: Level) -> Prediction:
        if not torch.is_grad_enabled():
            return Prediction(x, level, run(x, level), "x0")
        # Learned levels are scalars with gradients; networks take one level a sample.
        each = Level(*(value.expand(x.shape[0]) if isinstance(value, Tensor) else value for value in level))
        return Prediction(x, level, checkpoint(run, x, each, use_reentrant=False), "x0")

    return evaluate


def _no_noise() -> State:
    raise FreshNoiseError("only deterministic solvers follow a flow")


def flow_of(
    denoise: Denoise,
    space: Space,
    schedule: Schedule,
    *,
    indices: Sequence[int],
    seed: int,
    conditions: Conditions | None = None,
    mask: Mask = None,
    device: torch.device | str = "cpu",
    accurate: int = 200,
) -> Flow:
    """The trajectories `indices` of `seed`, followed with `accurate` evaluations each.

    Raises `UserError` where they leave the numbers.
    """
    levels = levels_of(schedule, uniform_in_log_snr(schedule, accurate))
    start = prior(space, SampleNoise(seed_of(seed, "tuning"), indices), len(indices), levels[0], device, mask)
    with torch.no_grad():
        end = integrate(adams(), _evaluate(denoise, space, conditions, mask), start, levels, _no_noise)
    if not all(field.isfinite().all() for field in fields(end).values()):
        raise UserError(
            f"the model's flow, followed in {accurate} steps, leads to values that are no numbers, so there is nothing "
            "to tune to: take another checkpoint, or less guidance"
        )
    return Flow(denoise, space, schedule, start, end, conditions, mask)


def starting_grids(schedule: Schedule, n: int) -> list[Tensor]:
    """Grids that tuning can start from: tapered to several degrees, from most levels at high noise to most at low.

    Where `n` leaves nothing to choose, as a single level does not, they are one.
    """
    grids = [
        tapered(schedule, n, upper, lower, fall)
        for upper, lower in itertools.product((1.0, 3.0, 10.0, 100.0), (0.003, 0.03, 0.1))
        for fall in (0.5, 1.0)
    ]
    return grids if n > 1 else grids[:1]


def fit_grid(
    flow: Flow,
    held_out: Flow,
    starts: Sequence[Tensor],
    *,
    iterations: int = 150,
    batch: int = 16,
    after_iteration: Callable[[float], None] = lambda share: None,
) -> Fit:
    """The levels and the method that follow `flow` best.

    Each of `METHODS` begins with the one of the grids `starts` that suits it best. All are moved a little, the best two
    more, and the best of these most, once by itself and once with shifts, until it has moved `iterations` times: by
    Adam on the mean log error of `batch` trajectories at a time. Of everything that was reached, what does best on the
    trajectories `held_out` is returned. The noisy end stays, also where it is infinite.

    Raises `UserError` where no method follows the trajectories to numbers.
    """

    def on(evaluators: Flow) -> Callable[[Fit], float]:
        return lambda found: evaluators.score(found.method.step(), found.log_snrs)

    small = on(flow.part(torch.arange(min(batch, flow.count))))
    scored = [min(((small(f), f) for f in (Fit(m, grid) for grid in starts)), key=itemgetter(0)) for m in METHODS]
    if min(scored, key=itemgetter(0))[0] == math.inf:
        raise UserError(
            f"in {len(starts[0])} steps the model's flow leads to values that are no numbers: take more steps"
        )
    first, second, third = (max(1, round(share * iterations)) for share in _SHARES)
    pool = [found for _, found in scored]
    total, done, reached = len(pool) * first + 2 * second + 2 * third, 0, list(pool)

    def tick() -> None:
        nonlocal done
        done += 1
        after_iteration(done / total)

    def moved(contestants: Sequence[Fit], steps: int) -> list[Fit]:
        after = [_moved(flow, found, steps, batch, tick) for found in contestants]
        reached.extend(after)
        return after

    better = sorted(moved(pool, first), key=on(flow))[:2]
    best = min(moved(better, second), key=on(flow))
    shifted = replace(best.method, shifts=(0.0,) * len(best.log_snrs))
    moved([best, Fit(shifted, best.log_snrs)], third)
    return min(reached, key=on(held_out))


_SHARES = (0.1, 0.3, 0.6)
"""Of the iterations, in each round."""

_RATE = 0.05
_TINY = 1e-12


def _moved(flow: Flow, found: Fit, steps: int, batch: int, tick: Callable[[], None]) -> Fit:
    """`found` after `steps` of Adam on the logarithms of the spacings and on the shifts; the noisy end stays."""
    grid, method = found.log_snrs, found.method
    if len(grid) == 1:
        return found
    # Where the first log-SNR is infinite, the spacing to the second is counted from a finite one instead.
    anchor = grid[0] if grid[0] > -math.inf else (grid[1] - 1).clamp(max=-FAR)
    spacings = torch.cat([anchor[None], grid[1:]]).diff().log().requires_grad_()
    shifts = torch.tensor(method.shifts, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([spacings, shifts], lr=_RATE, betas=(0.9, 0.97))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * min(1.0, 2 * (1 - step / steps))
        chosen = torch.arange(step * batch, (step + 1) * batch) % flow.count
        shifted = replace(method, shifts=list(shifts))
        errors = flow.part(chosen).errors(shifted.step(), grid_of(grid[0], anchor, spacings))
        loss = errors.clamp(min=_TINY).log().mean()
        if not torch.isfinite(loss):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    return Fit(replace(method, shifts=tuple(shifts.tolist())), grid_of(grid[0], anchor, spacings.detach()))


def grid_of(first: Tensor, anchor: Tensor, spacings: Tensor) -> Tensor:
    """Log-SNRs `[N]`: the first, and from `anchor` on those at the N - 1 spacings with these logarithms."""
    return torch.cat([first[None], anchor + spacings.exp().cumsum(0)])
