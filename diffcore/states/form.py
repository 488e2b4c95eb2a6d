"""The form of a state: its fields and their shapes, compared with the form that is expected."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from diffcore.errors import UserError
from diffcore.states.state import State, fields


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    """The shape of each field of a batch, by name; a single tensor is the field `""`."""
    return {name: tuple(value.shape) for name, value in fields(state).items()}


def form_difference(found: Any, expected: Mapping[str, Sequence[int]]) -> str:
    """How a state differs from the `expected` shapes of its fields, in words; empty if it does not.

    `found` may be anything, for example None, which is what a function returns that forgets `return`.
    """
    if not isinstance(found, Tensor) and not callable(getattr(found, "items", None)):
        wanted = "a tensor" if [*expected] == [""] else f"named tensors ({', '.join(expected)})"
        return f"it is {_kind(found)} instead of {wanted}"
    shapes = shapes_of(found)
    if shapes.keys() != expected.keys():
        return f"its fields are {_names(shapes)} instead of {_names(expected)}"
    return "; ".join(
        f"{f'{name} has' if name else 'it has'} the shape {_shape(shapes[name])} instead of {_shape(shape)}"
        for name, shape in expected.items()
        if shapes[name] != tuple(shape)
    )


def _kind(value: Any) -> str:
    return "None" if value is None else f"of the type {type(value).__name__}"


def _names(shapes: Mapping[str, Any]) -> str:
    return ", ".join(shapes) if any(shapes) else "one tensor without a name"


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def require_some_fields(given: Collection[str], names: Collection[str], otherwise: str) -> None:
    """Raise `UserError` if `given` has names that are not among the `names` of fields, or all of them.

    `otherwise` is the consequence of giving all fields, for the message: "nothing to draw".
    """
    if unknown := sorted({*given} - {*names}):
        raise UserError(f"`given` has {unknown[0]!r}, which is not a field; there are: {', '.join(names)}")
    if {*given} == {*names}:
        raise UserError(f"all fields are given, so there is {otherwise}: leave one out of `given`")
