"""The values of the conditions of a batch: null values, dropped values, values that a user writes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffcore.denoising.conditions.condition import Condition, Conditions
from diffcore.errors import UserError, did_you_mean
from diffcore.states.placement import to_device


def nulls(conditions: Sequence[Condition], batch: int, device: torch.device | str = "cpu") -> Conditions:
    """The null values of all conditions, for a batch."""
    return {condition.name: condition.null(batch, device) for condition in conditions}


def with_nulls(condition: Condition, value: Tensor, rows: Tensor) -> Tensor:
    """The values `[B, ...]` with null values in the `rows`, bool `[B]`."""
    rows = rows.reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(rows, condition.null(len(value), value.device), value)


def drop(conditions: Sequence[Condition], values: Conditions, probability: float, u: Tensor) -> Conditions:
    """Replace each condition of each sample by its null value with `probability`, independently.

    Ho & Salimans 2022, section 3.2: so that one network learns the conditional and the unconditional model. `u`
    `[B, len(conditions)]` are uniform numbers in [0, 1): a condition is dropped where its number is below
    `probability`.
    """
    dropped = {}
    for condition, column in zip(conditions, u.unbind(1), strict=True):
        value = values[condition.name]
        dropped[condition.name] = with_nulls(condition, value, to_device(column, value.device) < probability)
    return dropped


def any_given(conditions: Sequence[Condition], values: Conditions) -> bool:
    """Whether any sample has a condition that is not null."""
    return any(bool(c.given(values[c.name]).any()) for c in conditions if c.name in values)


def captions_of(conditions: Sequence[Condition], values: Conditions, batch: int | None = None) -> list[dict[str, str]]:
    """The conditions of each sample as text, by the name of the condition; null values are left out.

    There is one dictionary for each of `batch` samples; None takes the number of samples from `values`, which is 0
    if there are no conditions.
    """
    if batch is None:
        batch = max(map(len, values.values()), default=0)
    present = [(c, values[c.name], c.given(values[c.name])) for c in conditions if c.name in values]
    return [{c.name: c.caption(value[i]) for c, value, given in present if given[i]} for i in range(batch)]


def parse_conditions(
    conditions: Sequence[Condition], asked: Mapping[str, str], indices: Sequence[int], seed: int = 0
) -> Conditions:
    """The values that a user asks for, as text by name, for the samples `indices` of `seed`; all others are null.

    Raises `UserError` for a name that is not among `conditions`, and for text that is not a valid value.
    """
    names = [condition.name for condition in conditions]
    for name in asked:
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"unknown condition {name!r}{hint}; this model takes: {', '.join(names) or 'none'}")
    values = nulls(conditions, len(indices))
    for condition in conditions:
        if condition.name in asked:
            values[condition.name] = parsed(condition, asked[condition.name], indices, seed)
    return values


def parsed(condition: Condition, text: str, indices: Sequence[int], seed: int = 0) -> Tensor:
    """The value that `text` means. Raises `UserError` where `parse` raises `ValueError`, or PyTorch `RuntimeError`."""
    try:
        return condition.parse(text, indices, seed)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{condition.name}: {text!r} cannot be read: {error}") from error
