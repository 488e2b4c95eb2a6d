"""The forward process as a stochastic differential equation."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffcore.process.schedules import Schedule
from diffcore.states.level import Level


class Coefficients(NamedTuple):
    """The coefficients of dx = `drift` x dt + `diffusion` dw, float64 of the shape of the times.

    t is the time of the schedule, from 0 to 1.
    """

    drift: Tensor
    diffusion: Tensor


def sde(schedule: Schedule, t: Tensor) -> Coefficients:
    """The coefficients f (drift) and g (diffusion) of the SDE with the marginals of the schedule, at the times `t`.

    f = d log(alpha) / dt, g^2 = d sigma^2 / dt - 2 f sigma^2 = -sigma^2 d lambda / dt (Song et al. 2021, eq. 5; Kingma
    et al. 2021, appendix F). The last form is used, because it does not cancel. Derivatives are computed by autograd;
    where lambda(t) has a corner, as in tables, they are one-sided. Raises `ValueError` if lambda is infinite at one of
    the times, because f and g are infinite there, and for a schedule of levels by field.
    """
    with torch.enable_grad():
        t = t.detach().double().requires_grad_()
        log_snr = schedule.log_snr(t)
        if not log_snr.isfinite().all():
            raise ValueError("the SDE has no finite coefficients at a time where the log-SNR is infinite")
        level = schedule.level(log_snr)
        if not isinstance(level, Level):
            raise ValueError("the SDE has coefficients for one level, not for levels by field: take the base schedule")
        alpha, sigma = map(torch.as_tensor, level)
        (log_snr_slope,) = torch.autograd.grad(log_snr.sum(), t, retain_graph=True)
        # 0 * t, because autograd raises an error for a constant alpha, which does not depend on t.
        (drift,) = torch.autograd.grad((alpha.log() + 0 * t).sum(), t)
    return Coefficients(drift, (sigma * (-log_snr_slope).sqrt()).detach())
