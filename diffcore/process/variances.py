"""The variance of an ancestral step, as a fraction between its two bounds, and the divergence of the step.

A step from t to a cleaner s is a draw of N(m, p^2), where m is the posterior's mean with x0_hat in place of x_0, and

    log p^2 = (1 - f) log q^2 + f log u^2.

q^2 is the variance of the posterior, u^2 that of the forward step on the unit-variance state, and f the fraction
(Nichol & Dhariwal 2021, eq. 15). Then u^2 / q^2 = e^R with R = log sigmoid(-lambda_t) - log sigmoid(-lambda_s), which
depends on the log-SNRs alone, not on the scaling of the schedule.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, fields, first_field, map_fields, per_sample

LogSnr: TypeAlias = Tensor | float | Mapping[str, Tensor | float]
"""A log-SNR, a float or `[B]`, or those of the fields of a state."""


def log_ratio(noisy: Tensor, clean: Tensor) -> Tensor:
    """R = log(u^2 / q^2) of the step from the log-SNR `noisy` to `clean`, float64 of their shape; positive."""
    return logsigmoid(-noisy.double()) - logsigmoid(-clean.double())


def step_divergence(
    error: State, noisy: LogSnr, clean: LogSnr, fraction: State | float, space: Space, mask: Mask = None
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of the step from the log-SNR `noisy` to `clean`, `[B]` nats.

    `noisy` and `clean` are `[B]` or floats, `error` is x0_hat - x_0, and `fraction` f is a float, or a state of
    `space.factors`. The two means differ by a multiple of the error, so

        KL = e^(-f R) (SNR_s - SNR_t) |error|^2 / 2 + sum (e^(-f R) - 1 + f R) / 2,

    where the sum is over the degrees of freedom. At f = 0 it is the term of Kingma et al. 2021, eq. 13. With log-SNRs
    by field, it is the sum over the fields; those of infinite log-SNR are given, and have no part.
    """
    if isinstance(noisy, Mapping) or isinstance(clean, Mapping):
        terms = []
        for name, value in fields(error).items():
            start, end = (each[name] if isinstance(each, Mapping) else each for each in (noisy, clean))
            part = fraction if isinstance(fraction, float | int) else fields(fraction)[name]
            if isinstance(start, Tensor) or start != math.inf:
                terms.append(step_divergence(value, start, end, part, space_of(space, name), mask))
        return torch.stack(terms).sum(0)
    like = first_field(error)
    first, last = (torch.as_tensor(each, dtype=torch.float64, device=like.device) for each in (noisy, clean))
    ratio = log_ratio(first, last).expand(len(like))
    gained = (-last.exp() * torch.expm1(first - last)).to(like.dtype)
    if isinstance(fraction, float | int):
        excess = map_fields(lambda e: per_sample(fraction * ratio, e) * torch.ones_like(e), error)
    else:
        excess = map_fields(lambda f: per_sample(ratio, f) * f, fraction)
    scaled = map_fields(lambda e, r: e * torch.exp(-r / 2), error, excess)
    mismatch = space.total(map_fields(lambda r: torch.expm1(-r) + r, excess), mask)
    return (gained * space.squared_norm(scaled, mask) + mismatch) / 2
