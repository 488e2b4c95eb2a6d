"""What a caller requests of samples: the values of conditions, as text, numbers or tensors, by name."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from diffcore.denoising.conditions import Condition, Conditions, parse_conditions, parsed_each, require_names
from diffcore.denoising.given import require_values
from diffcore.denoising.text import shown
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


def in_turn_of(texts: Sequence[str], n: int) -> list[str]:
    """`n` of the texts in turn. Raises `UserError` if there are none, or if they are no list of texts."""
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"`prompt` is {shown(repr(texts))}: give a text, or a list of texts")
    if not texts:
        raise UserError("`prompt` is an empty list: give a text, or several")
    if len(texts) > n:
        logger.warning(f"{len(texts):,} prompts are given for {n:,} samples: those after the first {n:,} are not used")
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

    A tensor holds the values themselves, as in `Samples.conditions`: one for all, or n.
    """
    whole: dict[str, str] = {}
    each: dict[str, Sequence[Any]] = {}
    tensors: dict[str, Tensor] = {}
    by_name = {condition.name: condition for condition in known}
    for name, value in asked.items():
        if isinstance(value, Tensor) and name in by_name:
            shape, null = by_name[name].shape, by_name[name].null(1)
            same = null.is_floating_point() or not value.is_floating_point()  # 1.5 is no class
            tensor = value.cpu().to(null.dtype) if same else value
            tensors[name] = tensor.expand(n, *shape) if tensor.shape == shape else tensor
        elif isinstance(value, list | tuple) and not _is_range(value):
            if len(value) != n:
                raise UserError(f"`conditions`: {name} has {len(value)} values for {n} samples")
            each[name] = value
        else:
            whole[name] = _text(value)
    require_names(known, each)
    values = parse_conditions(known, whole, range(n), seed)
    for condition in known:
        if condition.name in each:
            values[condition.name] = parsed_each(condition, [*map(_text, each[condition.name])], seed)
    require_values(known, tensors, n)
    return values | tensors


def _is_range(value: Any) -> bool:
    """Whether a value is a pair of numbers, the ends of a range."""
    return isinstance(value, tuple) and len(value) == 2 and not any(isinstance(end, str) for end in value)


def _text(value: Any) -> str:
    """A value as a user writes it."""
    return f"{value[0]}..{value[1]}" if _is_range(value) else str(value)
