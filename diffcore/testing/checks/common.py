"""Functions that several checks share: comparing states, and phrases for the report."""

import functools
import hashlib
import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcore.states.state import State, fields, first_field
from diffcore.testing.checks.check import Measurement

ROUNDING = 1e-4
"""How much results may differ that are equal except for the order of their sums, relative to the largest entry."""


class Difference(NamedTuple):
    """How much two states differ: the largest relative difference, and the field that has it."""

    value: float
    field: str


def relative_difference(first: State, second: State) -> Difference:
    """The largest difference of two states: in each field max |a - b| / max |b|.

    It is infinite where a state is not finite or shapes differ. The name of the field is empty for a single tensor.
    """
    largest = Difference(0.0, "")
    for (name, a), b in zip(fields(first).items(), fields(second).values(), strict=True):
        if a.shape != b.shape or not bool((a - b).isfinite().all()):
            return Difference(float("inf"), name)
        if not b.numel():
            continue
        value = ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()
        if value > largest.value:
            largest = Difference(value, name)
    return largest


def same_states(first: Any, second: Any) -> bool:
    """Whether two states have the same fields, shapes, types and numbers, bit for bit; nan equals nan."""
    one, two = fields(first), fields(second)
    return one.keys() == two.keys() and all(_same_tensors(one[name], two[name]) for name in one)


def digest_of(state: Any) -> str:
    """A SHA-256 of the names, shapes, types and numbers of a state."""
    digest = hashlib.sha256()
    for name, value in sorted(fields(state).items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _same_tensors(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def batch_size(state: State) -> int:
    """The number of samples in a state."""
    return len(first_field(state))


def not_finite(state: State) -> list[str]:
    """The names of the fields that hold nan or infinite numbers."""
    return [name for name, field in fields(state).items() if not bool(torch.isfinite(field).all())]


def combined(*measurements: Measurement) -> Measurement:
    """The first measurement that failed; if all passed, one that lists what all of them measured and expected."""
    for measurement in measurements:
        if not measurement.passed:
            return measurement
    measured = dict.fromkeys(m.measured for m in measurements)
    expected = dict.fromkeys(m.expected for m in measurements)
    return Measurement(True, "; ".join(measured), "; ".join(expected), measurements[0].where)


def field_prefix(name: str) -> str:
    """The beginning of a phrase about a field, `name: `; empty for a state of a single tensor."""
    return f"{name}: " if name else ""


def name_list(names: Iterable[str], most: int = 5) -> str:
    """The first names, with commas between them, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def source_location(thing: Any) -> str:
    """The full name of a class or function, or of the class of an object, with its file and line."""
    target = inspect.unwrap(thing) if callable(thing) else thing
    if not (inspect.isclass(target) or inspect.isroutine(target)):
        target = type(target)
    return _location(getattr(target, "__func__", target))


@functools.cache  # to find the line of a class, inspect parses the whole file
def _location(target: Any) -> str:
    name = f"{target.__module__}.{target.__qualname__}"
    try:
        return f"{name} ({inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]})"
    except (OSError, TypeError):
        return name
