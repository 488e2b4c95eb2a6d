"""Calls with float32 as the default type of new tensors, which networks, states and examples have."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_float32(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, called with the default type float32; afterwards the type that the caller had set is restored.

    With another default type, weights, noise and data would have different types, which cannot be multiplied.
    """

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(before)

    return call
