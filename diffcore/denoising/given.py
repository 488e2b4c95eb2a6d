"""Checks of what callers pass for conditions: names, shapes, and the values that exist."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.errors import UserError


def require_shapes(names: Collection[str], values: Mapping[str, Any], batch: int) -> None:
    """Raise `UserError` unless `values` has a tensor `[batch]` for each of the condition `names`.

    Values of other conditions are ignored. Nothing waits for the device.
    """
    for name in names:
        if name not in values:
            there = ", ".join(map(repr, values)) or "none"
            raise UserError(
                f"the condition {name!r} is missing (given: {there}): give its values [{batch}], its null values, or "
                "None for no conditions at all"
            )
        require_one_each(name, values[name], batch)


def require_one_each(name: str, value: Any, batch: int) -> None:
    """Raise `UserError` unless `value` is a tensor `[batch]`: one number for each sample."""
    if not isinstance(value, Tensor):
        raise UserError(f"the condition {name!r} is {type(value).__name__}; give a tensor [{batch}]")
    if tuple(value.shape) != (batch,):
        shape = ", ".join(map(str, value.shape))
        raise UserError(
            f"the condition {name!r} has the shape [{shape}] for {batch} samples; give one value for each, [{batch}]"
        )


def require_values(conditions: Sequence[Condition], values: Mapping[str, Any], batch: int) -> None:
    """Raise `UserError` for conditions that do not exist, wrong shapes, and labels that are no class.

    The values of tensors on a GPU are not checked, as that would wait for the device.
    """
    known = {condition.name: condition for condition in conditions}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"unknown condition {name!r}; there are: {', '.join(known) or 'none'}")
        require_one_each(name, value, batch)
        if isinstance(known[name], ClassCondition) and value.device.type == "cpu":
            _require_classes(known[name], value)  # type: ignore[arg-type]


def _require_classes(condition: ClassCondition, value: Tensor) -> None:
    count = len(condition.classes)
    if value.is_floating_point() or value.dtype.is_complex:
        raise UserError(f"the condition {condition.name!r} has numbers of the type {value.dtype}; give whole numbers")
    outside = value[(value < 0) | (value > count)]
    if len(outside):
        raise UserError(
            f"the condition {condition.name!r} has the value {int(outside[0])}; its classes are 0 to {count - 1}, and "
            f"{count} means that none is given"
        )
