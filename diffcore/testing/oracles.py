"""Denoisers in closed form, for data whose distribution is known.

Each is called like a trained denoiser and returns the exact E[x0 | x]. The results of solvers, guidance, likelihoods
and inverse problems can then be compared with exact values.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction, from_x0
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Mask, Space
from diffcore.states.state import State, combine, fields, map_fields, per_sample


def gaussian(mean: float, std: float) -> Denoise:
    """The denoiser of data N(mean, std^2) in every coordinate of every field.

    E[x0 | x] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x - alpha mean).
    """

    def denoise(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        alpha, sigma = level
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)

        def posterior_mean(field: Tensor) -> Tensor:
            return mean + per_sample(gain, field) * (field - per_sample(alpha * mean, field))

        return from_x0(map_fields(posterior_mean, x), x, level)

    return denoise


def gaussian_flow(x: State, start: Level, end: Level, mean: float, std: float) -> State:
    """The solution at `end` of the probability-flow ODE that starts from `x` at `start`, for data N(mean, std^2).

    (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) is constant along the solution.
    """

    def marginal_std(level: Level) -> float | Tensor:
        return (level.alpha**2 * std**2 + level.sigma**2) ** 0.5

    return map_fields(
        lambda f: end.alpha * mean + marginal_std(end) / marginal_std(start) * (f - start.alpha * mean), x
    )


def _number(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or a tensor `[B]`, in the dtype of `like`.

    A Python float is converted directly; through the default dtype, float32, it would lose digits.
    """
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


@dataclass(frozen=True, eq=False)
class Mixture:
    """The denoiser of a mixture of Gaussians N(c_k, std^2) in a space, for one tensor or a state of several fields.

    `centres` is a state `[K, ...]` in `space`. If `space` is None it is Euclidean, and `centres` must be a tensor.
    `weights` `[K]` are the weights of the components, equal if None. With `labels` `[K]`, the condition "label" `[B]`
    restricts each sample to the components with its label. A label that no component has stands for no condition: it
    keeps all components. Called without conditions, the mixture is the unconditional denoiser.
    """

    centres: State
    std: float
    weights: Tensor | None = None
    labels: Tensor | None = None
    space: Space | None = None

    @cached_property
    def _space(self) -> Space:
        if self.space is not None:
            return self.space
        assert isinstance(self.centres, Tensor), "centres of several fields need their space"
        return Euclidean(tuple(self.centres.shape[1:]))

    def _log_weights(self, batch: int, conditions: Conditions | None, like: Tensor) -> Tensor:
        """log w_k for each sample, `[B, K]`, normalised over the components with the sample's label."""
        count = self.centres.shape[0]
        weights = torch.ones(count) if self.weights is None else self.weights
        log_weights = weights.to(like).log().expand(batch, count)
        if self.labels is not None and conditions and "label" in conditions:
            kept = self.labels.to(like.device) == conditions["label"][:, None]
            log_weights = log_weights.masked_fill(~(kept | ~kept.any(1, keepdim=True)), -math.inf)
        return log_weights.log_softmax(1)

    def _log_terms(self, x: State, level: Level, conditions: Conditions | None, mask: Mask) -> Tensor:
        """log w_k - |x - alpha c_k|^2 / (2 v), `[B, K]`, where v = alpha^2 std^2 + sigma^2."""
        squares = []
        for k in range(self.centres.shape[0]):
            difference = map_fields(lambda f, c, k=k: f - per_sample(level.alpha, f) * c[k], x, self.centres)
            squares.append(self._space.squared_norm(difference, mask))
        squared = torch.stack(squares, 1)
        variance = _number(level.alpha**2 * self.std**2 + level.sigma**2, squared).reshape(-1, 1)
        return self._log_weights(x.shape[0], conditions, squared) - squared / (2 * variance)

    def __call__(self, x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """E[x0 | x] = m + alpha std^2 / v (x - alpha m).

        Here m = sum_k w_k(x) c_k, w_k(x) are the responsibilities of the components, and v = alpha^2 std^2 + sigma^2.
        """
        alpha, sigma = level
        responsibilities = self._log_terms(x, level, conditions, mask).softmax(1)
        mean = map_fields(
            lambda c: torch.einsum("bk,k...->b...", responsibilities, c.to(responsibilities)), self.centres
        )
        mean = self._space.project(mean, mask)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return from_x0(combine((1 - gain * alpha, mean), (gain, x)), x, level)

    def log_density(self, x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Tensor:
        """log p(x) of noisy states at the level, `[B]`, in nats, with respect to the volume of the space."""
        freedoms = self._space.degrees_of_freedom(x, mask)
        variance = _number(level.alpha**2 * self.std**2 + level.sigma**2, freedoms)
        log_terms = self._log_terms(x, level, conditions, mask)
        return log_terms.logsumexp(1) - freedoms / 2 * torch.log(2 * math.pi * variance)


def mixture(
    centres: State,
    std: float,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
    space: Space | None = None,
) -> Mixture:
    """A `Mixture` with these centres, weights and labels: see there."""
    return Mixture(centres, std, weights, labels, space)


@dataclass(frozen=True, eq=False)
class Correlated:
    """The denoiser of data N(mean, covariance), for states of one tensor.

    `mean` is a tensor `[...]` of D numbers, and `covariance` is `[D, D]`.
    """

    mean: Tensor
    covariance: Tensor

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        return values.clamp(min=0), vectors

    def __call__(self, x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """E[x0 | x] = mean + alpha C (alpha^2 C + sigma^2)^-1 (x - alpha mean)."""
        assert isinstance(x, Tensor)
        values, vectors = self._eigen
        alpha, sigma = (_number(value, x).reshape(-1, 1) for value in level)
        centred = (x.flatten(1) - alpha * self.mean.flatten()) @ vectors
        gain = alpha * values / (alpha**2 * values + sigma**2)
        return from_x0((self.mean.flatten() + gain * centred @ vectors.T).reshape(x.shape), x, level)

    def flow(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """The solution at `end` of the probability-flow ODE that starts from `x` at `start`.

        Along each eigenvector of the covariance C, with eigenvalue c, (x - alpha mean) / sqrt(alpha^2 c + sigma^2) is
        constant.
        """
        values, vectors = self._eigen
        std = (end.alpha**2 * values + end.sigma**2).sqrt() / (start.alpha**2 * values + start.sigma**2).sqrt()
        centred = (x.flatten(1) - start.alpha * self.mean.flatten()) @ vectors
        return (end.alpha * self.mean.flatten() + std * centred @ vectors.T).reshape(x.shape)

    def log_density(self, x: Tensor, level: Level) -> Tensor:
        """log p(x) of noisy states at the level, `[B]`, in nats."""
        values, vectors = self._eigen
        variances = level.alpha**2 * values + level.sigma**2
        centred = (x.flatten(1) - level.alpha * self.mean.flatten()) @ vectors
        return -(centred**2 / variances + torch.log(2 * math.pi * variances)).sum(1) / 2

    def given(self, matrix: Tensor, measured: Tensor, noise_std: float) -> "Correlated":
        """The posterior of x0 given the measurement y = A x0 + noise_std eps, with eps ~ N(0, I). It is Gaussian too.

        `matrix` is A `[M, D]`, and `measured` is y `[M]`.
        """
        gram = matrix @ self.covariance @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=matrix.dtype)
        gain = torch.linalg.solve(gram, matrix @ self.covariance).T
        mean = self.mean.flatten() + gain @ (measured - matrix @ self.mean.flatten())
        return Correlated(mean.reshape(self.mean.shape), self.covariance - gain @ matrix @ self.covariance)


def largest_difference(first: State, second: State) -> float:
    """max |a - b| over all entries of all fields."""
    return max((a - b).abs().max().item() for a, b in zip(fields(first).values(), fields(second).values(), strict=True))
