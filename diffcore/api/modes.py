"""Calls that do not depend on the modes of PyTorch that their caller has set.

These modes are the default type and device of new tensors, gradients, inference mode and autocast. Afterwards they are
what they were before.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_own_modes(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, called with the modes that PyTorch starts with."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with float32(), ExitStack() as modes:
            modes.enter_context(torch.inference_mode(False))  # it also allows gradients
            if torch.get_default_device().type != "cpu":
                modes.enter_context(torch.device("cpu"))
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    modes.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return call


class _Shared:
    """How many calls want float32, in all threads, and the default type before the first of them."""

    lock = threading.Lock()
    calls = 0
    before = torch.float32


@contextmanager
def float32() -> Iterator[None]:
    """Have float32 as the default type of new tensors; when no thread needs it any more, the earlier type returns.

    All threads of a process share the default type. With another one, weights, noise and data would have different
    types, which cannot be multiplied. A type that the program sets in the meantime stays.
    """
    with _Shared.lock:
        current = torch.get_default_dtype()
        if not _Shared.calls or current != torch.float32:
            _Shared.before = current
        _Shared.calls += 1
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _Shared.lock:
            _Shared.calls -= 1
            if not _Shared.calls and torch.get_default_dtype() == torch.float32:
                torch.set_default_dtype(_Shared.before)
