"""How large a network may get while it is built, so that settings which somebody sent cannot take all memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules import module

from diffcore.errors import UserError
from diffcore.system.files import memory

MOST_MODULES = 100_000
"""Parts of a network, at most."""

SLACK = 2**24
"""Numbers that a network may have beyond those of its file: tables that are made anew and not kept."""

_COPIES = 20
"""Bytes that training takes for each weight, at least: itself, gradient, two moments and average, 4 bytes each."""


def room() -> int:
    """How many weights a network may have that this machine's memory can train."""
    return memory() // _COPIES


@contextmanager
def at_most(numbers: int, where: str) -> Iterator[None]:
    """Refuse a network with more than `numbers` weights as soon as it gets them, before they have values.

    A tensor that is allocated and not filled takes no memory yet, so the refusal comes before memory is taken; one that
    the system does not even allocate is refused too. Building on the meta device first would cost another build and
    fail where constructors read values of tensors. Raises `UserError`; `where` names the settings.
    """
    seen, modules = 0, 0

    def count(owner: Any, name: str, tensor: Tensor | None) -> None:
        nonlocal seen
        seen += tensor.numel() if tensor is not None else 0
        if seen > numbers:
            raise UserError(f"{where} asks for a network of more than {numbers:,} weights")

    def count_module(owner: Any, name: str, child: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise UserError(f"{where} asks for a network of more than {MOST_MODULES:,} parts")

    hooks = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
        module.register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _NO_MEMORY):
            raise
        raise UserError(f"{where} asks for a network that no memory holds") from None
    finally:
        for hook in hooks:
            hook.remove()


_NO_MEMORY = ("allocate memory", "Storage size", "out of memory", "overflow")
"""Words of PyTorch where an allocation fails."""
