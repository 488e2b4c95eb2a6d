"""Whether a file computes what the run computes."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.interop.function import Function, Tensors

MOST = 1e-4
"""The largest difference with which a file is kept; the usual one is below 1e-5."""

BATCHES = (1, 5)
"""The sizes of the batches that are compared: others than the one that was traced."""


def checked(function: Function, call: Callable[[Tensors], Tensors], what: str) -> float:
    """The largest difference of `call`, the file, from the function, over batches and sets of several sizes.

    Raises `UserError` if it is above `MOST`, or if an output is missing or of another shape. `what` is the file.
    """
    worst = 0.0
    for batch in BATCHES:
        elements = function.elements if batch > 1 else max(function.elements - 1, function.least)
        given = function.examples(batch, elements)
        found = differences(function, given, call(given))
        name = max(found, key=lambda each: found[each])
        if not found[name] <= MOST:  # also where it is nan
            raise UserError(
                f"{what} gives another {name} than the run: they differ by {found[name]:.1e}; it is not kept"
            )
        worst = max(worst, found[name])
    return worst


@torch.no_grad()
def differences(function: Function, given: Tensors, found: Tensors) -> dict[str, float]:
    """The largest difference of each output from that of the run.

    It is in units of the largest entry of the output; for x0 and eps, of alpha x0 and sigma eps in units of the largest
    entry of both: at a level where sigma is small, eps has the rounding of x divided by sigma.
    """
    eager, scales = {**function.module(**given), **function.eager(given)}, function.scales(given)
    compared = {}
    for name, value in found.items():
        scale = _like(scales[name], value) if name in scales else torch.ones((), dtype=torch.float64)
        expected = eager[name]
        if expected.shape != value.shape:
            raise UserError(f"{name} has the shape {[*value.shape]} in place of {[*expected.shape]}")
        compared[name] = (scale * expected.double(), scale * value.double())
    largest = max((of_run.abs().max().item() for name, (of_run, _) in compared.items() if name in scales), default=1.0)
    return {
        name: ((a - b).abs().max() / (largest if name in scales else a.abs().max().clamp(min=1e-6))).item()
        for name, (a, b) in compared.items()
    }


def _like(scale: Tensor, value: Tensor) -> Tensor:
    return scale.double().reshape(-1, *[1] * (value.ndim - 1))
