"""The values of the conditions of a batch: null values, dropped values, values that a user writes."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from diffcore.denoising.conditions.condition import Condition, Conditions
from diffcore.errors import UserError, did_you_mean
from diffcore.states.placement import to_device

logger = logging.getLogger(__name__)


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
    require_names(conditions, asked)
    values = nulls(conditions, len(indices))
    for condition in conditions:
        if condition.name in asked:
            values[condition.name] = parsed(condition, asked[condition.name], indices, seed)
    return values


def require_names(conditions: Sequence[Condition], asked: Iterable[str]) -> None:
    """Raise `UserError` for a name that is not among `conditions`."""
    names = [condition.name for condition in conditions]
    for name in asked:
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"unknown condition {name!r}{hint}; this model takes: {', '.join(names) or 'none'}")


def parsed(condition: Condition, text: str, indices: Sequence[int], seed: int = 0) -> Tensor:
    """The value that `text` means, for all samples. Raises `UserError` as `parsed_each` does."""
    value = _parsed(condition, text, indices, seed)
    _tell_parts(condition, [text])
    return value


def parsed_each(condition: Condition, texts: Sequence[str], seed: int = 0) -> Tensor:
    """The value of each sample `[n, ...]`. Each distinct text is parsed once, for all samples that have it.

    Raises `UserError` where `parse` does, and where it raises `ValueError`, or PyTorch `RuntimeError`.
    """
    indices: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        indices.setdefault(text, []).append(index)
    rows = torch.cat([_parsed(condition, text, which, seed) for text, which in indices.items()])
    _tell_parts(condition, indices)
    order = torch.tensor([index for which in indices.values() for index in which])
    return rows[order.argsort()]


def _parsed(condition: Condition, text: str, indices: Sequence[int], seed: int) -> Tensor:
    try:
        return condition.parse(text, indices, seed)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{condition.name}: {text!r} cannot be read: {error}") from error


_MOST_TOLD = 3
"""The number of texts of a request that are named because only a part of each is used."""


def _tell_parts(condition: Condition, texts: Iterable[str]) -> None:
    """Log the texts of which only a part is used; the first of them, and how many there are besides."""
    warnings = [warning for text in texts if (warning := condition.in_part(text))]
    for warning in warnings[:_MOST_TOLD]:
        logger.warning(warning)
    if len(warnings) > _MOST_TOLD:
        logger.warning(f"of {len(warnings) - _MOST_TOLD:,} other texts, too, only a part is used")
