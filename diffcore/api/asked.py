"""What a caller requests of samples: the values of conditions, as text, numbers or tensors, by name."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition, Conditions, parse_conditions, parsed
from diffcore.denoising.given import require_values
from diffcore.errors import UserError
from diffcore.plugins.text import NAME
from diffcore.runs.generation import example_conditions
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, known_conditions

logger = logging.getLogger(__name__)

Prompt = str | Sequence[str]
"""A text for all samples, or several that the samples have in turn."""

Asked = Mapping[str, Any]
"""Values of conditions by name: `2.5`, a range `(40, 60)` or `"40..60"`, or a list of one for each sample.

A class is its name, `"cat"`, or its index from 0 after `#`, `"#3"`. The number `3` is the class called "3", never an
index. In a tensor, as in `Samples.conditions`, whole numbers are indices of classes. Where a value is no
number, such as a picture, a tensor is one value for all samples, or one for each.
"""


def all_asked(label: str | None, conditions: Asked | None, prompt: Prompt | None = None, n: int = 1) -> dict[str, Any]:
    """All that is requested of `n` samples, by name of the condition."""
    asked = dict(conditions or {})
    each = prompt if prompt is None or isinstance(prompt, str) else in_turn_of(prompt, n)
    for name, value in (("label", label), (NAME, each)):
        if value is not None:
            if name in asked:
                raise UserError(f"`{name}` is given twice: leave it out of `conditions`")
            asked[name] = value
    return asked


def require_text(model: Model, asked: Asked) -> None:
    """Raise `UserError` if a prompt is requested of a model that was trained without captions."""
    known = [condition.name for condition in model.codec.conditions]
    if NAME in asked and NAME not in known:
        others = f"; it takes: {', '.join(known)}" if known else ""
        raise UserError(f"this model was trained without captions, so it takes no `{NAME}`{others}")


def in_turn_of(texts: Sequence[str], n: int) -> list[str]:
    """`n` of the texts in turn. Raises `UserError` if there are none."""
    if not texts:
        raise UserError("`prompt` is an empty list: give a text, or several")
    return [texts[index % len(texts)] for index in range(n)]


def requested_values(
    model: Model, config: SamplingConfig, asked: Asked, n: int, seed: int, examples: bool
) -> Conditions:
    """The requested values; if none are given, examples of all values, or null values if `examples` is false."""
    if examples and not asked:
        return example_conditions(model, n, config)
    known = known_conditions(model, config)
    values = values_of(asked, known, n, seed)
    for condition in known:
        if warning := condition.warning(values[condition.name]):
            logger.warning(warning)
    return values


def values_of(asked: Asked, known: Sequence[Condition], n: int, seed: int) -> Conditions:
    """The values `[n, ...]` of all known conditions; null where nothing is asked.

    Where one value is not a number, such as a picture, a tensor holds the values themselves: one for all, or n.
    """
    whole: dict[str, str] = {}
    each: dict[str, Sequence[Any]] = {}
    tensors: dict[str, Tensor] = {}
    shapes = {condition.name: condition.shape for condition in known}
    for name, value in asked.items():
        if isinstance(value, Tensor) and (shape := shapes.get(name, ())):
            tensors[name] = value.expand(n, *shape) if value.shape == shape else value
            continue
        if isinstance(value, Tensor):
            is_class = name in {condition.name for condition in known if isinstance(condition, ClassCondition)}
            value = [f"#{index}" for index in value.tolist()] if is_class else value.tolist()
        if isinstance(value, list):
            if len(value) != n:
                raise UserError(f"`conditions`: {name} has {len(value)} values for {n} samples")
            each[name] = value
        else:
            whole[name] = _text(value)
    values = parse_conditions(known, {**whole, **{name: _text(v[0]) for name, v in each.items()}}, range(n), seed)
    for condition in known:
        if condition.name in each:
            values[condition.name] = _parsed(condition, [*map(_text, each[condition.name])], seed)
    require_values(known, tensors, n)
    return values | tensors


def _parsed(condition: Condition, texts: Sequence[str], seed: int) -> Tensor:
    """The value of each sample `[n, ...]`. Each distinct text is parsed once, for all samples that have it."""
    indices: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        indices.setdefault(text, []).append(index)
    rows = torch.cat([parsed(condition, text, which, seed) for text, which in indices.items()])
    order = torch.tensor([index for which in indices.values() for index in which])
    return rows[order.argsort()]


def _text(value: Any) -> str:
    """A value as a user writes it; a pair is a range."""
    return f"{value[0]}..{value[1]}" if isinstance(value, tuple) and len(value) == 2 else str(value)
