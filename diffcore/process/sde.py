"""The forward process as a stochastic differential equation."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffcore.process.schedules import Schedule


class Coefficients(NamedTuple):
    """dx = drift x dt + diffusion dw. Both are float64, of the shape of the times, per unit of the schedule's time."""

    drift: Tensor
    diffusion: Tensor


def sde(schedule: Schedule, t: Tensor) -> Coefficients:
    """The SDE whose marginals are those of the schedule, at the times `t`.

    f = d log(alpha) / dt, g^2 = d sigma^2 / dt - 2 f sigma^2 = -sigma^2 d lambda / dt (Song et al. 2021, eq. 5; Kingma
    et al. 2021, appendix F): the last form has one term and does not cancel. The derivatives are automatic; at a
    corner of lambda(t), as in tables, they are one-sided. Raises `ValueError` where lambda is infinite, for f and g
    are too.
    """
    with torch.enable_grad():
        t = t.detach().double().requires_grad_()
        log_snr = schedule.log_snr(t)
        if not log_snr.isfinite().all():
            raise ValueError("the SDE has no finite coefficients at a time where the log-SNR is infinite")
        alpha, sigma = schedule.level(log_snr)
        (log_snr_slope,) = torch.autograd.grad(log_snr.sum(), t, retain_graph=True)
        # A constant alpha depends on no time, which autograd would refuse.
        (drift,) = torch.autograd.grad((alpha.log() + 0 * t).sum(), t)  # type: ignore[union-attr, operator]
    return Coefficients(drift, (sigma * (-log_snr_slope).sqrt()).detach())
