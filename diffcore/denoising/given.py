"""Checks of what callers pass for conditions: names, shapes, and the values that exist."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from diffcore.denoising.conditions import Condition
from diffcore.errors import UserError


def require_shapes(shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any], batch: int) -> None:
    """Raise `UserError` unless `values` has a tensor `[batch, *shape]` for each of the conditions, by name.

    Values of other conditions are ignored. Nothing waits for the device.
    """
    for name, shape in shapes.items():
        if name not in values:
            there = ", ".join(map(repr, values)) or "none"
            wanted = ", ".join(map(str, (batch, *shape)))
            raise UserError(
                f"the condition {name!r} is missing (given: {there}): give its values [{wanted}], its null values, or "
                "None for no conditions at all"
            )
        require_one_each(name, values[name], batch, shape)


def require_one_each(name: str, value: Any, batch: int, shape: tuple[int, ...] | None = None) -> None:
    """Raise `UserError` unless `value` is a tensor `[batch, *shape]`: one value for each sample.

    Without `shape`, which is where the condition is not known, only the number of values is checked.
    """
    wanted = ", ".join(map(str, (batch, *(shape or ())))) + (", ..." if shape is None and _has_axes(value) else "")
    if not isinstance(value, Tensor):
        raise UserError(f"the condition {name!r} is {type(value).__name__}; give a tensor [{wanted}]")
    if value.shape[:1] != (batch,) or (shape is not None and tuple(value.shape[1:]) != shape):
        found = ", ".join(map(str, value.shape))
        raise UserError(
            f"the condition {name!r} has the shape [{found}] for {batch} samples; give one value for each, [{wanted}]"
        )


def _has_axes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


def require_values(conditions: Sequence[Condition], values: Mapping[str, Any], batch: int) -> None:
    """Raise `UserError` for conditions that do not exist, wrong shapes, and values that do not exist (labels).

    The values of tensors on a GPU are not checked, as that would wait for the device.
    """
    known = {condition.name: condition for condition in conditions}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"unknown condition {name!r}; there are: {', '.join(known) or 'none'}")
        require_one_each(name, value, batch, known[name].shape)
        if value.device.type == "cpu":
            known[name].require(value)


def require_accepted(conditions: Sequence[Condition], accepted: Sequence[str], network: str, others: str = "") -> None:
    """Raise `UserError` if a condition yields an input of networks that is not among those `accepted`.

    `network` names the network in the message, and `others` names networks that accept the input.
    """
    for condition in conditions:
        for name in condition.inputs.names:
            if name not in accepted:
                raise UserError(
                    f"the condition {condition.name!r} yields `{name}`, which {network} does not accept" + others
                )
