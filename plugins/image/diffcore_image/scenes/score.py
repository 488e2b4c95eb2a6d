"""Compares the scenes that were asked for with the scenes that were made."""

import torch
from torch import Tensor

from diffcore.evaluation.attributes import every, with_all
from diffcore_image.scenes.scene import Scenes

ATTRIBUTES = ("count", "colour", "shape", "size", "relation")


def compare(asked: Scenes, found: Scenes) -> dict[str, Tensor]:
    """What is right, float `[N]` by attribute: 1 or 0, or nan where a sentence does not ask for it.

    Which object of a picture is which of a sentence is not known: the order is taken in which more attributes of
    objects are right, and the relation decides where both orders are equally good. `colour`, `shape` and `size` are
    right if they are right for every object that is asked for. `all` is right if all that is asked for is right.
    """
    orders = [_right(asked, found), _right(asked, found.swapped())]
    better = _number_right(orders[1]) > _number_right(orders[0])
    right = {
        name: torch.where(better if each.ndim == 1 else better[:, None], other, each)
        for (name, each), other in zip(orders[0].items(), orders[1].values(), strict=True)
    }
    return with_all({name: every(value) if value.ndim == 2 else value for name, value in right.items()})


def _right(asked: Scenes, found: Scenes) -> dict[str, Tensor]:
    """What is right where the objects are in the same order: `[N]`, or `[N, 2]` for attributes of objects."""
    result = {}
    for name in ATTRIBUTES:
        wanted = getattr(asked, name)
        result[name] = (wanted == getattr(found, name)).float().masked_fill(wanted < 0, torch.nan)
    return result


def _number_right(right: dict[str, Tensor]) -> Tensor:
    """How good an order is: attributes of objects count fully, the relation by half, `[N]`."""
    objects = sum(right[name].nansum(1) for name in ("colour", "shape", "size"))
    return objects + right["relation"].nan_to_num() / 2
