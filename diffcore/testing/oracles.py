"""Denoisers in closed form, for data whose distribution is known.

Each is called like a trained denoiser and returns the exact E[x0 | x]. The results of solvers, guidance, likelihoods
and inverse problems can then be compared with exact values.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction, from_x0
from diffcore.states.level import CLEAN, FieldLevels, Level, Levels, by_field, level_of
from diffcore.states.spaces import Euclidean, Mask, Space, space_of
from diffcore.states.state import State, combine, fields, map_fields, named, per_sample


def gaussian(mean: float, std: float) -> Denoise:
    """The denoiser of data N(mean, std^2) in every coordinate of every field.

    E[x0 | x] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x - alpha mean), by field where levels are.
    """

    def posterior_mean(field: Tensor, level: Level) -> Tensor:
        alpha, sigma = level
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + per_sample(gain, field) * (field - per_sample(alpha * mean, field))

    def denoise(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        if isinstance(level, FieldLevels):
            return from_x0(named({name: posterior_mean(f, level.of[name]) for name, f in fields(x).items()}), x, level)
        return from_x0(map_fields(lambda f: posterior_mean(f, level), x), x, level)

    return denoise


def gaussian_flow(x: State, start: Levels, end: Levels, mean: float, std: float) -> State:
    """The solution at `end` of the probability-flow ODE that starts from `x` at `start`, for data N(mean, std^2).

    (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) is constant along the solution.
    """

    def marginal_std(level: Level) -> Any:
        return (level.alpha**2 * std**2 + level.sigma**2) ** 0.5

    moved = {}
    for name, field in fields(x).items():
        first, last = level_of(start, name), level_of(end, name)
        ratio = marginal_std(last) / marginal_std(first)
        moved[name] = last.alpha * mean + ratio * (field - first.alpha * mean)
    return moved[""] if isinstance(x, Tensor) else named(moved)


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

    Levels may differ between fields; a clean field is known then, and the prediction is that given its value.
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

    def _log_terms(self, x: State, level: Levels, conditions: Conditions | None, mask: Mask) -> Tensor:
        """log w_k - |x - alpha c_k|^2 / (2 v), `[B, K]`, where v = alpha^2 std^2 + sigma^2."""
        if isinstance(level, FieldLevels):
            distances = [self._of(name)._distances(f, level.of[name], mask) for name, f in fields(x).items()]
            distance = torch.stack(distances).sum(0)
        else:
            distance = self._distances(x, level, mask)
        return self._log_weights(x.shape[0], conditions, distance) - distance

    def _distances(self, x: State, level: Level, mask: Mask) -> Tensor:
        """|x - alpha c_k|^2 / (2 v), `[B, K]`."""
        squares = []
        for k in range(self.centres.shape[0]):
            difference = map_fields(lambda f, c, k=k: f - per_sample(level.alpha, f) * c[k], x, self.centres)
            squares.append(self._space.squared_norm(difference, mask))
        squared = torch.stack(squares, 1)
        variance = _number(level.alpha**2 * self.std**2 + level.sigma**2, squared).reshape(-1, 1)
        return squared / (2 * variance)

    def _of(self, name: str) -> "Mixture":
        """The mixture of one field."""
        return Mixture(fields(self.centres)[name], self.std, space=space_of(self._space, name))

    def __call__(self, x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """E[x0 | x] = m + alpha std^2 / v (x - alpha m).

        Here m = sum_k w_k(x) c_k, w_k(x) are the responsibilities of the components, and v = alpha^2 std^2 + sigma^2.
        """
        responsibilities = self._log_terms(x, level, conditions, mask).softmax(1)
        mean = map_fields(
            lambda c: torch.einsum("bk,k...->b...", responsibilities, c.to(responsibilities)), self.centres
        )
        mean = self._space.project(mean, mask)
        of_x = by_field(self._gain, level)
        of_mean = by_field(lambda each: 1 - self._gain(each) * each.alpha, level)
        return from_x0(combine((of_mean, mean), (of_x, x)), x, level)

    def _gain(self, level: Level) -> Tensor | float:
        """alpha std^2 / v."""
        return level.alpha * self.std**2 / (level.alpha**2 * self.std**2 + level.sigma**2)  # type: ignore[no-any-return]

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


@dataclass(frozen=True, eq=False)
class JointMixture:
    """The denoiser of a mixture of Gaussians N(m_k, C_k) of several fields together, with any levels by field.

    * `means`: a state `[K, ...]` of K components. Each has D numbers over all fields, in the order of the fields.
    * `covariances`: `[K, D, D]`, positive definite.
    * `weights`: `[K]`, which sum to 1.

    With A and S the diagonal matrices of alpha and sigma of each number, x ~ sum_k w_k N(A m_k, A C_k A + S^2).
    """

    means: State
    covariances: Tensor
    weights: Tensor

    def __call__(self, x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        """E[x0 | x] = sum_k w_k(x) (m_k + C_k A (A C_k A + S^2)^-1 (x - A m_k)), with responsibilities w_k(x).

        A field at the clean level is known, so this is the mean given its value.
        """
        means, centred, factors, scale = self._marginals(x, level)
        solved = torch.cholesky_solve(centred[..., None], factors)[..., 0]
        each = means + torch.einsum("kij,bkj->bki", self.covariances.to(means), scale * solved)
        responsibilities = self._log_terms(centred, factors).softmax(1)
        return from_x0(self._like(x, torch.einsum("bk,bki->bi", responsibilities, each)), x, level)

    def log_density(self, x: State, level: Levels = CLEAN) -> Tensor:
        """log p(x) of noisy states at the levels, `[B]`, in nats."""
        _, centred, factors, _ = self._marginals(x, level)
        return self._log_terms(centred, factors).logsumexp(1)

    def given(self, field: str, value: Tensor) -> "JointMixture":
        """The mixture of the other fields given that `field` has the `value`, a tensor without a batch axis."""
        sizes = {name: mean[0].numel() for name, mean in fields(self.means).items()}
        known = torch.cat([torch.full((size,), name == field) for name, size in sizes.items()])
        means, point = _flattened(self.means), value.flatten().to(self.covariances)
        blocks = self.covariances[:, known][:, :, known]
        gain = torch.linalg.solve(blocks, self.covariances[:, known][:, :, ~known]).mT
        difference = point - means[:, known]
        moved = means[:, ~known] + (gain @ difference[..., None])[..., 0]
        left = self.covariances[:, ~known][:, :, ~known] - gain @ self.covariances[:, known][:, :, ~known]
        evidence = -(difference * torch.linalg.solve(blocks, difference)).sum(1) / 2 - torch.logdet(blocks) / 2
        weights = (self.weights.log() + evidence).softmax(0)
        others = {name: mean for name, mean in fields(self.means).items() if name != field}
        pieces = moved.split([sizes[name] for name in others], 1)
        return JointMixture(
            named({n: p.reshape(m.shape) for (n, m), p in zip(others.items(), pieces, strict=True)}), left, weights
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean `[D]` and the covariance `[D, D]` of the whole mixture."""
        means = _flattened(self.means)
        mean = self.weights @ means
        second = torch.einsum("k,kij->ij", self.weights, self.covariances + means[:, :, None] * means[:, None, :])
        return mean, second - torch.outer(mean, mean)

    def _marginals(self, x: State, level: Levels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m_k `[K, D]`, x - A m_k `[B, K, D]`, Cholesky factors of A C_k A + S^2 `[b, K, D, D]`, and A `[b, 1, D]`.

        b is 1 for levels of floats.
        """
        flat = _flattened(x).to(self.covariances.dtype)

        def of_each(scale: str) -> Tensor:
            columns = []
            for name, value in fields(x).items():
                number = _number(getattr(level_of(level, name), scale), flat).reshape(-1, 1)
                columns.append(number.expand(-1, value[0].numel()))
            most = max(len(column) for column in columns)
            return torch.cat([column.expand(most, -1) for column in columns], 1)

        alpha, sigma = of_each("alpha"), of_each("sigma")
        means = _flattened(self.means).to(flat)
        scaled = alpha[:, None, :, None] * self.covariances.to(flat) * alpha[:, None, None, :]
        factors = torch.linalg.cholesky(scaled + torch.diag_embed(sigma**2)[:, None])
        return means, flat[:, None] - alpha[:, None] * means, factors, alpha[:, None]

    def _log_terms(self, centred: Tensor, factors: Tensor) -> Tensor:
        """log w_k + log N(x; A m_k, A C_k A + S^2), `[B, K]`."""
        white = torch.linalg.solve_triangular(factors, centred[..., None], upper=False)[..., 0]
        logdet = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = centred.shape[-1] / 2 * math.log(2 * math.pi)
        return self.weights.log().to(centred) - white.square().sum(-1) / 2 - logdet - constant

    def _like(self, x: State, flat: Tensor) -> State:
        values = fields(x)
        pieces = flat.split([value[0].numel() for value in values.values()], 1)
        return named({n: p.reshape(v.shape).to(v.dtype) for (n, v), p in zip(values.items(), pieces, strict=True)})


def _flattened(state: State) -> Tensor:
    """All numbers of each sample, `[B, D]`, in the order of the fields."""
    return torch.cat([value.flatten(1) for value in fields(state).values()], 1)


def largest_difference(first: State, second: State) -> float:
    """max |a - b| over all entries of all fields."""
    return max((a - b).abs().max().item() for a, b in zip(fields(first).values(), fields(second).values(), strict=True))
