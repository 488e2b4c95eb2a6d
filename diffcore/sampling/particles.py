"""Particles: several trajectories for each sample, of which those with a larger weight are continued.

The samples of a denoiser have a distribution p(x0), and wanted is p(x0) h(x0) / Z, with a known factor h such as the
probability of a class. Guidance adds the gradient of log h_t(x_t), which stands for log E[h(x0) | x_t]. What it stands
for is not exact, and samplers of finite steps do not follow it exactly. Particles correct both (sequential Monte Carlo;
twisted: Wu et al. 2023, algorithm 1; without a gradient, as Feynman-Kac steering: Singhal et al. 2025, algorithm 1).
K particles follow the guided steps q(x_s | x_t), and the weight of each is multiplied in every step by

    p(x_s | x_t) h_s / (q(x_s | x_t) h_t),

where p is the step without guidance. The product of all steps is p h / q, so the weighted particles become draws of
p h / Z as K grows, however good or bad the h_t of noisy levels are. Where the effective number of particles,
1 / sum w^2, falls below K / 2, they are resampled in proportion to their weights. The sample is one of the K, drawn in
proportion to the weights at the end, so samples stay independent of each other, and each costs K times as much.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.denoising.estimate import told, without_estimate
from diffcore.errors import UserError
from diffcore.names import GradientOf
from diffcore.sampling.guidance.energy import LogWeight
from diffcore.sampling.loop import integrate
from diffcore.sampling.solvers.by_field import of_all_fields, take
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.form import form_difference
from diffcore.states.level import CLEAN, Levels
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, map_fields

PARTICLE = 2**53
"""Particle k of sample i has the noise of the sample number i + k PARTICLE, so particle 0 has that of the sample."""
MOST = 1024
"""The largest number of particles of a sample: the numbers of samples are below 2^63."""
EVERY = 3
"""Factors of the estimate x0_hat are computed after every so many steps, and at the end: they may take long."""


@dataclass(frozen=True)
class Factor:
    """A factor h on the density of samples, by its logarithm `[B]` in nats, which need not have a gradient.

    * `log_weight`: log h.
    * `of`: "x" if it takes the noisy state and its level, as log p(c | x_t) does; "x0" if it takes a clean state: the
      estimate x0_hat on the way, and the sample itself at the end.
    """

    log_weight: LogWeight
    of: GradientOf = "x"


@dataclass(frozen=True)
class Particles:
    """How samples are drawn with particles.

    * `count`: K, the number of particles of a sample.
    * `factors`: the factors h on the density.
    * `guide`: decorates the denoiser of p, which becomes that of q; None if q is p.
    * `all`: all particles are samples, and each K consecutive samples are the particles of one group, which share their
      conditions and their mask. Otherwise one of the K particles of each sample is taken.
    """

    count: int
    factors: tuple[Factor, ...]
    guide: Callable[[Denoise], Denoise] | None = None
    all: bool = False


def numbers_of(indices: Sequence[int], count: int) -> list[int]:
    """The numbers of the noise of `count` particles of each of the samples `indices`, sample by sample."""
    return [index + k * PARTICLE for index in indices for k in range(count)]


def effective_size(log_weights: Tensor) -> Tensor:
    """1 / sum_k w_k^2 of normalised weights, `[B]`: between 1 and K, for `log_weights` `[B, K]`."""
    return 1 / log_weights.softmax(1).square().sum(1)


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """The particles that continue, int64 `[B, K]`: particle k continues K w_k times, rounded up or down.

    Systematic resampling (Carpenter, Clifford & Fearnhead 1999): the j-th is the one in whose interval of the
    cumulative weights (j + u) / K lies, with one `uniform` number u in [0, 1) for each sample, `[B]`. On average over
    u, particle k continues exactly K w_k times.
    """
    count = log_weights.shape[1]
    places = (torch.arange(count, device=uniform.device) + uniform[:, None]) / count
    return _at(log_weights, places)


def _at(log_weights: Tensor, places: Tensor) -> Tensor:
    """The particles in whose intervals of the cumulative weights the `places` in [0, 1) lie."""
    ends = log_weights.double().softmax(1).cumsum(1)
    return torch.searchsorted(ends, places.double().contiguous(), right=True).clamp(max=log_weights.shape[1] - 1)


class Crowd:
    """The particles of one batch of samples. Its state is made of the weights; it belongs to one sampling call.

    * `denoise(plain)`: the denoiser of q, given that of p.
    * `step(solver, steps)`: the step of a solver, the number of which is `steps`, followed by weighting and resampling.
    * `chosen(states)`: the samples, given the clean states `[B K, ...]`.

    The other arguments are those of `diffcore.sampling.loop.sample`, with a value for each particle.
    """

    def __init__(
        self, particles: Particles, space: Space, draws: Draws, conditions: Conditions | None, mask: Mask
    ) -> None:
        self._particles, self._space, self._draws = particles, space, draws
        self._conditions, self._mask = conditions, mask
        self._plain: list[Prediction] = []
        self._continued: Tensor | None = None
        """The rows of the last evaluation that the particles continue, if they have been resampled since."""
        self._log_weights = torch.zeros(
            len(draws.samples) // particles.count, particles.count, device=draws.samples.device, dtype=torch.float64
        )
        self._before = [torch.zeros_like(self._log_weights) for _ in particles.factors]

    def denoise(self, plain: Denoise) -> Denoise:
        """The guided denoiser. What `plain` predicts in it is kept for the weights of the step.

        An estimate that it is told (`diffcore.denoising.estimate`) is that of the particle that continues.
        """

        def kept(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
            prediction = plain(x, level, conditions, mask)
            self._plain[:] = [_detached(prediction)]
            return prediction

        guided = plain if self._particles.guide is None else self._particles.guide(kept)

        def told_own(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
            given, estimate = without_estimate(conditions)
            if estimate is not None and self._continued is not None:
                conditions = {**given, **told(estimate[self._continued])}
            self._continued = None
            return guided(x, level, conditions, mask)

        return told_own

    def step(self, solver: Step, steps: int) -> Step:
        """The step of a solver; with a guide, one whose steps are Gaussians (`steps_of`).

        Before the last step, which adds no noise, nothing is resampled: equal particles would stay equal.
        """

        def step(evaluate: Evaluate, x: State, move: Move) -> State:
            latest: list[Prediction] = []

            def noted(x: State, level: Levels) -> Prediction:
                latest[:] = [evaluate(x, level)]
                return latest[0]

            if self._particles.guide is None:
                x = take(solver, noted, x, move)
            else:
                x, ratio = self._proposed(solver, noted, x, move)
                self._log_weights = self._log_weights + self._by_sample(ratio)
            if move.index + 1 == steps:
                return x
            looks = (move.index + 1) % EVERY == 0
            estimate = self._space.project(latest[0].x0, self._mask) if latest and looks else None
            self._weigh(x, move.next, estimate)
            if move.index + 2 >= steps:
                return x
            rows = self._resampled(move.index)
            move.history[:] = [_mapped(value, lambda state: state[rows]) for value in move.history]
            self._continued = rows if self._continued is None else self._continued[rows]
            return x[rows]

        return of_all_fields(step)

    def chosen(self, states: State) -> State:
        """One particle of each sample, `[B, ...]`, drawn in proportion to the final weights; or all of them."""
        if self._particles.all:
            return states
        self._weigh(None, CLEAN, states)
        uniform = self._draws.uniform("particle", dtype=torch.float64)[:: self._particles.count]
        return states[self._rows(_at(self._log_weights, uniform[:, None]))]

    def _weigh(self, x: State | None, level: Levels, x0: State | None) -> None:
        """Multiply the weights by the factors at a noisy and at a clean state, over those before."""
        for number, factor in enumerate(self._particles.factors):
            state = x if factor.of == "x" else x0
            if state is None:
                continue
            value = factor.log_weight(state, level if factor.of == "x" else CLEAN, self._conditions, self._mask)
            if difference := form_difference(value, {"": (len(self._draws.samples),)}):
                raise UserError(f"a log-weight must have one value for each sample: {difference}")
            now = self._by_sample(value)
            self._log_weights = self._log_weights + now - self._before[number]
            self._before[number] = now

    def _resampled(self, index: int) -> Tensor:
        """The rows that continue, `[B K]`; their weights are then equal."""
        count = self._particles.count
        uniform = self._draws.uniform(("particles", index), dtype=torch.float64)[::count]
        few = (effective_size(self._log_weights) < count / 2)[:, None]
        same = torch.arange(count, device=few.device).expand_as(self._log_weights)
        parents = torch.where(few, systematic(self._log_weights, uniform), same)
        self._log_weights = torch.where(few, 0.0, self._log_weights)
        self._before = [before.gather(1, parents) for before in self._before]
        return self._rows(parents)

    def _rows(self, parents: Tensor) -> Tensor:
        samples = torch.arange(len(parents), device=parents.device)[:, None]
        return (samples * self._particles.count + parents).flatten()

    def _by_sample(self, values: Tensor) -> Tensor:
        return values.detach().to(self._log_weights).view_as(self._log_weights)

    def _proposed(self, solver: Step, evaluate: Evaluate, x: State, move: Move) -> tuple[State, Tensor]:
        """A draw of q(x_s | x_t), and log p - log q of it, `[B K]`.

        Both are Gaussians with the same standard deviation. With z the noise and d the difference of their means in
        this unit, the draw is z from the mean of q and z + d from that of p: log p - log q = (|z|^2 - |z + d|^2) / 2.
        Where a step adds no noise, as the last one, the state of q is taken as it is.
        """
        guided, mask = evaluate(x, move.now), self._mask
        plain = self._plain[0]
        plain = replace(plain, output=self._space.project(plain.output, mask))
        if plain.variance is not None:
            plain = replace(plain, variance=self._space.factors(plain.variance, mask))
        noise, nothing = move.noise(), map_fields(torch.zeros_like, x)

        def after(prediction: Prediction, noise: State) -> State:
            return take(solver, lambda x, level: prediction, x, replace(move, noise=lambda: noise, history=[]))

        mean, of_plain = after(guided, nothing), after(plain, nothing)
        std = combine((1.0, after(guided, map_fields(torch.ones_like, x))), (-1.0, mean))
        apart = map_fields(lambda a, b, s: torch.where(s > 0, (a - b) / s, 0.0), mean, of_plain, std)
        ratio = self._space.squared_norm(noise, mask) - self._space.squared_norm(
            combine((1.0, noise), (1.0, apart)), mask
        )
        return map_fields(lambda a, s, z: a + s * z, mean, std, noise), ratio / 2


def steps_of(solver: Step, space: Space, levels: Sequence[Levels]) -> tuple[bool, bool]:
    """Whether a solver adds noise in any step of these levels, and whether all its steps are draws of a Gaussian.

    The latter means that a step evaluates the denoiser once, at the state and the level where it begins, and keeps
    nothing for later steps, so that its mean and its standard deviation are functions of that prediction.
    """
    noisy, gaussian = False, True

    def watched(evaluate: Evaluate, x: State, move: Move) -> State:
        nonlocal noisy, gaussian
        asked: list[Levels] = []

        def noted(x: State, level: Levels) -> Prediction:
            asked.append(level)
            return evaluate(x, level)

        def noise() -> State:
            nonlocal noisy
            noisy = True
            return move.noise()

        own = replace(move, noise=noise)
        x = take(solver, noted, x, own)
        kept: list[State] = []
        _mapped(own.history, kept.append)
        gaussian = gaussian and asked == [move.now] and not kept
        return x

    empty = map_fields(torch.zeros_like, space.empty(1))
    integrate(of_all_fields(watched), lambda x, level: Prediction(x, level, empty), empty, levels, lambda: empty)
    return noisy, gaussian


def _mapped(value: Any, change: Callable[[State], Any]) -> Any:
    """What a solver keeps, with each state in it changed."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_mapped(each, change) for each in value)
    if isinstance(value, Mapping) and isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _mapped(getattr(value, each.name), change) for each in dataclasses.fields(value)}
        return replace(value, **parts)
    shape = getattr(value, "shape", ())
    return change(value) if len(shape) else value


def _detached(prediction: Prediction) -> Prediction:
    """The prediction without the graph of autograd that a gradient through it needs."""
    output = map_fields(torch.detach, prediction.output)
    return replace(prediction, x=map_fields(torch.detach, prediction.x), output=output, unguided=None)
