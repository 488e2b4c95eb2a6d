"""Fit a time grid of N levels, and the Adams method that uses it, to a denoiser's own probability flow.

The best levels depend on the data. Trajectories of the probability-flow ODE are computed accurately from some starting
noise; then the N levels of an Adams method, and the shifts of its polynomials (`adams`), are optimised until the method
ends where the accurate trajectories do. Only these 2 N - 1 numbers are learned and the coefficients of the method
follow from them, so there is little to overfit. (Sabour et al. 2024 and Tong et al. 2025 learn grids by other
objectives.)
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
from diffcore.denoising.estimate import told
from diffcore.errors import UserError
from diffcore.names import Clock
from diffcore.process.schedules import Schedule, ending_at, last_level
from diffcore.sampling.loop import integrate, levels_of, prior
from diffcore.sampling.solvers import Evaluate, Step, adams
from diffcore.sampling.timesteps import FAR, grid, tapered
from diffcore.states.level import CLEAN, Levels, unstacked
from diffcore.states.noise import Draws, seed_of
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, fields


@dataclass(frozen=True)
class Method:
    """The options `order`, `corrector`, `clock` and `shifts` of `diffcore.sampling.solvers.adams`."""

    order: int
    corrector: int
    clock: Clock
    shifts: Sequence[Any] = ()

    def step(self) -> Step:
        """The solver with these options."""
        return adams(self.order, self.corrector, self.clock, shifts=self.shifts)


METHODS = tuple(
    Method(order, corrector, clock)
    for order, corrector in ((2, 2), (2, 3), (3, 0), (3, 4))
    for clock in ("log-snr", "alpha")
)
"""The methods among which `fit_grid` chooses."""


class FreshNoiseError(ValueError):
    """Raised for a solver that draws fresh noise: it follows no trajectory of the flow, so it has no error."""


@dataclass(frozen=True)
class Fit:
    """The result of a fit: a method and its `log_snrs`, float64 `[N]`, increasing."""

    method: Method
    log_snrs: Tensor


@dataclass(frozen=True)
class Flow:
    """Trajectories of a denoiser's probability flow, from noise to their accurate ends.

    * `denoise`, `space`, `schedule`: the denoiser, the space of its states, and the schedule of the noise levels.
    * `start`: the states at the first level, `[B, ...]`.
    * `end`: the states that the accurate flow reaches from there, `[B, ...]`.
    * `conditions`, `mask`: those of the B samples, or None.
    """

    denoise: Denoise
    space: Space
    schedule: Schedule
    start: State
    end: State
    conditions: Conditions | None
    mask: Mask
    last: float | None = None
    """The log-SNR at which the trajectories end; None if they end without noise."""
    remember: bool = False
    """Whether the denoiser is told the x0 of the evaluation before, as in `diffcore.sampling.loop.sample`."""

    @property
    def count(self) -> int:
        """The number of trajectories, B."""
        return int(self.start.shape[0])

    def part(self, chosen: Tensor) -> "Flow":
        """The trajectories with the indices `chosen`, int64 `[n]`."""
        conditions = None if self.conditions is None else {k: v[chosen] for k, v in self.conditions.items()}
        mask = None if self.mask is None else self.mask[chosen]
        parts = (self.denoise, self.space, self.schedule, self.start[chosen], self.end[chosen])
        return Flow(*parts, conditions, mask, self.last, self.remember)

    def errors(self, step: Step, log_snrs: Tensor) -> Tensor:
        """|x - x_accurate| / sqrt(degrees of freedom) of each trajectory, `[B]`, for the solver and the levels."""
        if log_snrs.requires_grad:
            end = last_level(self.schedule, self.last)
            last = CLEAN if end is None else end.map(lambda scale: torch.tensor(scale, dtype=torch.float64))
            levels = [*unstacked(self.schedule.level(log_snrs)), last]
        else:
            levels = levels_of(self.schedule, log_snrs, self.last)
        evaluate = _evaluate(self.denoise, self.space, self.conditions, self.mask, self.remember)
        x = integrate(step, evaluate, self.start, levels, _no_noise)
        square = self.space.squared_norm(combine((1.0, x), (-1.0, self.end)), self.mask)
        return (square / self.space.degrees_of_freedom(x, self.mask).clamp(min=1)).sqrt()

    def score(self, step: Step, log_snrs: Tensor) -> float:
        """The mean of log error, the loss of the fit; infinite if a trajectory becomes non-finite.

        Raises `FreshNoiseError` if the solver draws fresh noise.
        """
        with torch.no_grad():
            mean = self.errors(step, log_snrs).clamp(min=_TINY).log().mean().item()
        return mean if math.isfinite(mean) else math.inf


def _evaluate(
    denoise: Denoise, space: Space, conditions: Conditions | None, mask: Mask, remember: bool = False
) -> Evaluate:
    """The denoiser along one trajectory, projected onto the space.

    With gradients it is checkpointed: backward passes run it again.
    """
    last: State | None = None

    def run(x: State, level: Levels, estimate: State | None) -> State:
        given = conditions if estimate is None else {**(conditions or {}), **told(estimate)}
        return space.project(denoise(x, level, given, mask).x0, mask)

    def x0_of(x: State, level: Levels) -> State:
        if not torch.is_grad_enabled():
            return run(x, level, last)
        # Learned levels are scalars with gradients; networks receive one level for each sample.
        levels = level.map(lambda scale: scale.expand(x.shape[0]) if isinstance(scale, Tensor) else scale)
        found: State = checkpoint(run, x, levels, last, use_reentrant=False, preserve_rng_state=False)
        return found

    def evaluate(x: State, level: Levels) -> Prediction:
        nonlocal last
        x0 = x0_of(x, level)
        last = x0 if remember else None
        return Prediction(x, level, x0, "x0")

    return evaluate


def _no_noise() -> State:
    raise FreshNoiseError("the solver draws fresh noise; only deterministic solvers follow the probability flow")


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
    last: float | None = None,
    remember: bool = False,
) -> Flow:
    """The trajectories `indices` of `seed`, each computed with `accurate` evaluations evenly spaced in log-SNR.

    They end without noise, or at the log-SNR `last`. `remember` is that of `Flow`. Raises `UserError` if they become
    non-finite.
    """
    levels = levels_of(schedule, grid("log-snr", schedule, accurate, last), last)
    start = prior(space, Draws.of(seed_of(seed, "tuning"), indices, device), levels[0], mask)
    with torch.no_grad():
        end = integrate(adams(), _evaluate(denoise, space, conditions, mask, remember), start, levels, _no_noise)
    if not all(field.isfinite().all() for field in fields(end).values()):
        raise UserError(
            f"the probability flow of the model, computed in {accurate} steps, becomes non-finite, so no time grid can "
            "be fitted to it: use another checkpoint, or less guidance"
        )
    return Flow(denoise, space, schedule, start, end, conditions, mask, last, remember)


def starting_grids(schedule: Schedule, n: int, last: float | None = None) -> list[Tensor]:
    """Starting points for `fit_grid`: `tapered` grids of `n` levels with several `upper`, `lower` and `fall`.

    They range from most levels at high noise to most at low noise. For n = 1 all would be equal, and one is returned.
    `last` is as for `diffcore.sampling.timesteps.grid`.
    """

    def spaced(upper: float, lower: float, fall: float) -> Tensor:
        if last is None:
            return tapered(schedule, n, upper, lower, fall)
        return tapered(ending_at(schedule, last), n + 1, upper, lower, fall, to_end=True)[:-1]

    grids = [
        spaced(upper, lower, fall)
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
    after_iteration: Callable[[float], None] = lambda fraction: None,
) -> Fit:
    """The levels and the method that follow `flow` best.

    Each of `METHODS` starts from the best of the grids `starts`. There are three rounds of Adam on the mean log error
    of `batch` trajectories at a time: all methods are optimised for 10 % of the `iterations`, the best two for 30 %
    more, and the best of these for the remaining 60 %, once without and once with shifts. Of all results, that with the
    lowest mean log error on the trajectories `held_out` is returned. The noisy end is not changed, also if it is
    infinite. `after_iteration` receives the fraction of the work that is done.

    Raises `UserError` if no method follows the trajectories to finite values.
    """

    def score_on(some: Flow) -> Callable[[Fit], float]:
        return lambda fit: some.score(fit.method.step(), fit.log_snrs)

    score = score_on(flow.part(torch.arange(min(batch, flow.count))))
    scored = [
        min(((score(fit), fit) for fit in (Fit(m, start) for start in starts)), key=itemgetter(0)) for m in METHODS
    ]
    if min(scored, key=itemgetter(0))[0] == math.inf:
        raise UserError(
            f"in {len(starts[0])} steps the probability flow of the model becomes non-finite: use more steps"
        )
    first, second, third = (max(1, round(fraction * iterations)) for fraction in _ROUNDS)
    candidates = [fit for _, fit in scored]
    total, done, results = len(candidates) * first + 2 * second + 2 * third, 0, list(candidates)

    def tick() -> None:
        nonlocal done
        done += 1
        after_iteration(done / total)

    def optimised(fits: Sequence[Fit], steps: int) -> list[Fit]:
        new = [_optimised(flow, fit, steps, batch, tick) for fit in fits]
        results.extend(new)
        return new

    best_two = sorted(optimised(candidates, first), key=score_on(flow))[:2]
    best = min(optimised(best_two, second), key=score_on(flow))
    shifted = replace(best.method, shifts=(0.0,) * len(best.log_snrs))
    optimised([best, Fit(shifted, best.log_snrs)], third)
    return min(results, key=score_on(held_out))


_ROUNDS = (0.1, 0.3, 0.6)
"""The fraction of the iterations in each round."""

_RATE = 0.05
"""The learning rate of Adam."""

_TINY = 1e-12
"""The smallest error whose logarithm is taken."""


def _optimised(flow: Flow, fit: Fit, steps: int, batch: int, tick: Callable[[], None]) -> Fit:
    """`fit` after `steps` of Adam on the logarithms of the spacings and on the shifts; the noisy end is fixed."""
    levels, method = fit.log_snrs, fit.method
    if len(levels) == 1:
        return fit
    # If the first log-SNR is infinite, the spacing to the second is measured from a finite one instead.
    anchor = levels[0] if levels[0] > -math.inf else (levels[1] - 1).clamp(max=-FAR)
    spacings = torch.cat([anchor[None], levels[1:]]).diff().log().requires_grad_()
    shifts = torch.tensor(method.shifts, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([spacings, shifts], lr=_RATE, betas=(0.9, 0.97))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * min(1.0, 2 * (1 - step / steps))
        chosen = torch.arange(step * batch, (step + 1) * batch) % flow.count
        shifted = replace(method, shifts=list(shifts))
        errors = flow.part(chosen).errors(shifted.step(), grid_of(levels[0], anchor, spacings))
        loss = errors.clamp(min=_TINY).log().mean()
        if not torch.isfinite(loss):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    return Fit(replace(method, shifts=tuple(shifts.tolist())), grid_of(levels[0], anchor, spacings.detach()))


def grid_of(first: Tensor, anchor: Tensor, spacings: Tensor) -> Tensor:
    """Log-SNRs `[N]`: `first`, then anchor + cumulative sum of exp(spacings), `spacings` `[N - 1]` being logarithms."""
    return torch.cat([first[None], anchor + spacings.exp().cumsum(0)])
