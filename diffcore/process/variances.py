"""Variances of an ancestral step, as fractions between its two bounds, and the divergence that they cost.

A step from t to a cleaner s is drawn from N(m, p^2), where m is the posterior's mean with x0_hat in place of x_0 and

    log p^2 = (1 - f) log q^2 + f log u^2:    q^2 the posterior's variance, u^2 the forward step's on the
                                              unit-variance state (Nichol & Dhariwal 2021, eq. 15).

Then u^2 / q^2 = e^R with R = log sigmoid(-lambda_t) - log sigmoid(-lambda_s): log-SNRs alone decide, no scaling does.
"""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffcore.states.spaces import Euclidean, Mask, Product, Space, SymmetricPairs
from diffcore.states.state import State, fields, first_field, map_fields, per_sample


def log_ratio(noisy: Tensor, clean: Tensor) -> Tensor:
    """R = log(u^2 / q^2) of the step between two log-SNRs, float64 of their shape; positive."""
    return logsigmoid(-noisy.double()) - logsigmoid(-clean.double())


def in_space(fraction: State, space: Space, mask: Mask = None) -> State:
    """Fractions that keep noise in the space when they scale it, of the shape of `fraction`.

    Scaling by elements stays in a Euclidean space, and in symmetric pairs where it is symmetric. Any other space ties
    its elements together (those that are centred have no variance of their own), so there each sample has one
    fraction a field: the mean over the elements that exist.
    """
    if isinstance(space, Product):
        values = fields(fraction)
        kept = {name: in_space(values[name], part, mask) for name, part in space.parts.items()}
        return TensorDict(kept, batch_size=fraction.shape[:1])
    assert isinstance(fraction, Tensor)
    if isinstance(space, Euclidean):
        return fraction
    if isinstance(space, SymmetricPairs):
        return (fraction + fraction.transpose(1, 2)) / 2
    if mask is None:
        mean = fraction.flatten(1).mean(1)
    else:
        rows = (fraction.flatten(2).mean(2) if fraction.ndim > 2 else fraction) * mask
        mean = rows.sum(1) / mask.sum(1).clamp(min=1)
    return mean.reshape(-1, *[1] * (fraction.ndim - 1)).expand_as(fraction)


def total(values: State, space: Space, mask: Mask = None) -> Tensor:
    """The sum over the degrees of freedom of `values` that scaling by elements may have (`in_space`), `[B]`."""
    if isinstance(space, Product):
        parts = fields(values)
        return torch.stack([total(parts[name], part, mask) for name, part in space.parts.items()]).sum(0)
    assert isinstance(values, Tensor)
    if isinstance(space, Euclidean):
        return space.project(values, mask).flatten(1).sum(1)
    if isinstance(space, SymmetricPairs):
        return space.project(values, mask).flatten(1).sum(1) / 2
    # One value a sample; where a mask has left nothing of the first element there is no freedom either.
    return space.degrees_of_freedom(values, mask) * values.flatten(1)[:, 0]


def step_divergence(
    error: State, noisy: Tensor | float, clean: Tensor | float, fraction: State | float, space: Space, mask: Mask = None
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), `[B]` nats, of a step between two log-SNRs, `[B]` or floats.

    `error` is x0_hat - x_0, `fraction` a float, or a state of fractions that keep the space. The two means differ by
    a multiple of the error, so with D degrees of freedom

        KL = e^(-f R) (SNR_s - SNR_t) |error|^2 / 2 + sum (e^(-f R) - 1 + f R) / 2,

    the sum over the D. At f = 0 it is the term of Kingma et al. 2021, eq. 13.
    """
    like = first_field(error)
    noisy, clean = (torch.as_tensor(end, dtype=torch.float64, device=like.device) for end in (noisy, clean))
    ratio = log_ratio(noisy, clean).expand(len(like))
    gained = (-clean.exp() * torch.expm1(noisy - clean)).to(like.dtype)
    if isinstance(fraction, float | int):
        excess = map_fields(lambda e: per_sample(fraction * ratio, e) * torch.ones_like(e), error)
    else:
        excess = map_fields(lambda f: per_sample(ratio, f) * f, fraction)
    scaled = map_fields(lambda e, r: e * torch.exp(-r / 2), error, excess)
    mismatch = total(map_fields(lambda r: torch.expm1(-r) + r, excess), space, mask)
    return (gained * space.squared_norm(scaled, mask) + mismatch) / 2
