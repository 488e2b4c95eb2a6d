"""The tables of noise levels of diffusers' schedulers, number by number, and the schedules that contain them."""

import math

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.process.schedules import Betas, Schedule, ZeroTerminal
from diffcore_diffusers.options.tables import BetaTableOptions


def alphas_cumprod(options: BetaTableOptions) -> Tensor:
    """abar_i = prod_{j <= i} (1 - beta_j), float32 `[T]`, as diffusers computes it, before any rescaling.

    Products are taken in float32, as there: in float64 they differ by up to 1e-5 of the value at the noisy end.
    """
    return torch.cumprod(1.0 - _betas(options), dim=0)


def schedule(options: BetaTableOptions) -> Schedule:
    """The schedule whose levels at t = i / (T - 1) are those of the table; log-SNRs are linear in t between them.

    With `rescale_betas_zero_snr`, the table is rescaled in float64 (Lin et al. 2024, algorithm 1), and agrees with that
    of diffusers to within the rounding of its float32.

    Raises `UserError` if the table does not decrease from each level to the next, or ends at 0.
    """
    abar = alphas_cumprod(options).double()
    if not bool((abar.diff() < 0).all()) or not 0 < float(abar[-1]) <= float(abar[0]) < 1:
        raise UserError(
            f"the table of {length(options):,} betas ({_described(options)}) has levels that float32 cannot tell "
            "apart, or none of the signal at its end: its betas are too large, too small, or too many"
        )
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    betas = Betas(1 - abar / before)
    return ZeroTerminal(betas) if options.rescale_betas_zero_snr else betas


def _described(options: BetaTableOptions) -> str:
    if options.trained_betas:
        return "trained_betas"
    return f"{options.beta_schedule}, beta_start {options.beta_start:g}, beta_end {options.beta_end:g}"


def length(options: BetaTableOptions) -> int:
    """T, the number of levels of the table."""
    return len(options.trained_betas) or options.num_train_timesteps


def _betas(options: BetaTableOptions) -> Tensor:
    """The betas of the table, float32 `[T]`."""
    if options.trained_betas:
        return torch.tensor(options.trained_betas, dtype=torch.float32)
    count, first, last = options.num_train_timesteps, options.beta_start, options.beta_end
    if options.beta_schedule == "linear":
        return torch.linspace(first, last, count, dtype=torch.float32)
    if options.beta_schedule == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2
    if options.beta_schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, count)) * (last - first) + first

    def bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = [min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)]
    return torch.tensor(steps, dtype=torch.float32)
