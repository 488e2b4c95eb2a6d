"""The contract of noise schedules: monotone, with an inverse, and with scales that belong to the log-SNR."""

from typing import Any

import torch
from torch import Tensor

from diffcore.testing.checks.check import Check, Measurement
from diffcore.testing.checks.common import combined
from diffcore.testing.parts.part import PartUnderTest, built

_TIMES = 1001


def builds(part: PartUnderTest) -> Measurement:
    """The builder returns an object with `log_snr`, `time` and `level`."""
    return built(part)


def _times() -> Tensor:
    return torch.linspace(0, 1, _TIMES, dtype=torch.float64)


def keeps_form(part: PartUnderTest) -> Measurement:
    """All three functions take float64 tensors of any shape and return float64 tensors of that shape."""
    schedule, measurements = part.build(), []
    for shape in ((), (3,), (2, 3)):
        t = torch.full(shape, 0.4, dtype=torch.float64)
        log_snr = schedule.log_snr(t)
        found: list[tuple[str, Any]] = [("log_snr", log_snr), ("time", schedule.time(torch.as_tensor(log_snr)))]
        found += [*zip(("alpha", "sigma"), schedule.level(torch.as_tensor(log_snr)), strict=True)]
        for name, value in found:
            is_right = isinstance(value, Tensor) and value.shape == shape and value.dtype == torch.float64
            form = f"{[*value.shape]} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            measured = f"{name} of a time of shape {[*shape]} is {form}"
            measurements.append(Measurement(is_right, measured, "float64 tensors of the same shape", part.where))
    wrong = [measurement for measurement in measurements if not measurement.passed]
    return combined(*wrong, Measurement(True, "float64 tensors of any shape", "float64 tensors", part.where))


def decreases(part: PartUnderTest) -> Measurement:
    """log_snr(t) falls strictly from t = 0, the data, to t = 1, the noise; only the ends may be infinite."""
    values = part.build().log_snr(_times())
    steps = values[1:] - values[:-1]
    rising = (~(steps < 0)).nonzero()[:, 0]
    infinite = (~values[1:-1].isfinite()).nonzero()[:, 0]
    expected = "a log-SNR that falls strictly on [0, 1] and is finite between the ends"
    if len(infinite):
        time = (int(infinite[0]) + 1) / (_TIMES - 1)
        return Measurement(False, f"log_snr({time:g}) is {values[infinite[0] + 1].item():g}", expected, part.where)
    if len(rising):
        row = int(rising[0])
        first, second = (f"log_snr({(row + i) / (_TIMES - 1):g}) = {values[row + i].item():g}" for i in (0, 1))
        return Measurement(False, f"{first} and {second}", expected, part.where)
    return Measurement(True, f"from {values[0].item():g} to {values[-1].item():g}", expected, part.where)


def inverse(part: PartUnderTest) -> Measurement:
    """time(log_snr(t)) is t."""
    schedule, t = part.build(), _times()
    log_snr = schedule.log_snr(t)
    known = log_snr.isfinite()
    difference = (schedule.time(log_snr[known]) - t[known]).abs()
    largest, row = difference.nan_to_num(torch.inf).max(0)
    return Measurement(
        largest.item() <= 1e-5,
        f"time(log_snr({t[known][row].item():g})) differs from it by {largest.item():.2g}",
        "at most 1e-05",
        part.where,
    )


def scales(part: PartUnderTest) -> Measurement:
    """alpha and sigma are not negative, and log(alpha^2 / sigma^2) is the log-SNR that they were asked for."""
    schedule = part.build()
    log_snr = schedule.log_snr(_times())
    log_snr = log_snr[log_snr.isfinite()]
    alpha, sigma = schedule.level(log_snr)
    difference = (2 * (alpha.log() - sigma.log()) - log_snr).abs() / (1 + log_snr.abs())
    largest, row = difference.nan_to_num(torch.inf).max(0)
    return Measurement(
        largest.item() <= 1e-6,
        f"at log-SNR {log_snr[row].item():g}, alpha = {alpha[row].item():.4g} and sigma = {sigma[row].item():.4g}, "
        f"whose log-SNR is {2 * (alpha[row].log() - sigma[row].log()).item():.6g}",
        "log(alpha^2 / sigma^2) = log-SNR",
        part.where,
    )


_NEEDS = ("builds", "keeps_form")

CHECKS = (
    Check("builds", "the builder returns a schedule", builds),
    Check("keeps_form", "float64 tensors of any shape", keeps_form, ("builds",)),
    Check("decreases", "the log-SNR falls strictly with time", decreases, _NEEDS),
    Check("inverse", "time is the inverse of log_snr", inverse, ("decreases", *_NEEDS)),
    Check("scales", "alpha and sigma have the log-SNR", scales, _NEEDS),
)
