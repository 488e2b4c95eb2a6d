"""Samples of joint states: a list with a mapping for each, of the name of a side to a batch of one sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Joint = Mapping[str, Any]
"""A sample: for each side, a batch of one in the form that the codec of the side decodes to."""


def apart(sides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples of each side, in the form of its codec, as a list of joint samples."""
    count = len(next(iter(sides.values())))
    return [{name: batch[row : row + 1] for name, batch in sides.items()} for row in range(count)]


def of_side(samples: Sequence[Joint], name: str) -> Any:
    """All samples of a side, in the form that its codec decodes to."""
    each = [sample[name] for sample in samples]
    if isinstance(each[0], list):
        return [sample for batch in each for sample in batch]
    return torch.cat(each)


def columns_of(examples: Any, name: str) -> Any:
    """The examples of a side: the columns `NAME.COLUMN` of joint examples."""
    from tensordict import TensorDict

    prefix = f"{name}."
    own: dict[str, Tensor] = {
        key.removeprefix(prefix): value for key, value in examples.items() if key.startswith(prefix)
    }
    return TensorDict(own, batch_size=examples.batch_size)
