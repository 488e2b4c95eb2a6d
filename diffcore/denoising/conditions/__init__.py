"""Conditions: the properties that a sample should have. Each has a name, a type and a null value of its own.

The values of a batch are a dictionary of tensors `[B, ...]`, by the name of the condition. The null value means "not
given": it replaces values that are dropped in training, and guidance compares with it.
"""

from diffcore.denoising.conditions.batches import (
    any_given,
    captions_of,
    drop,
    nulls,
    parse_conditions,
    parsed,
    parsed_each,
    require_names,
    with_nulls,
)
from diffcore.denoising.conditions.class_condition import ClassCondition
from diffcore.denoising.conditions.condition import Condition, Conditions
from diffcore.denoising.conditions.scalar_condition import ScalarCondition

__all__ = [
    "ClassCondition",
    "Condition",
    "Conditions",
    "ScalarCondition",
    "any_given",
    "captions_of",
    "drop",
    "nulls",
    "parse_conditions",
    "parsed",
    "parsed_each",
    "require_names",
    "with_nulls",
]
