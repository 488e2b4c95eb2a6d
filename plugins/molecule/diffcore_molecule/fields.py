"""The fields of a molecule's state, as its codec makes them and its networks read them."""

from dataclasses import dataclass

import torch
from torch import nn

from diffcore.categories import Categories
from diffcore.spaces import Euclidean, Product, SymmetricPairs


@dataclass(frozen=True)
class OneOf(Euclidean):
    """`[N, C]`, each row near one of `categories`, which occur with `shares`."""

    categories: Categories
    shares: tuple[float, ...]


@dataclass(frozen=True)
class PairsOneOf(SymmetricPairs):
    """`[N, N, C]` symmetric, each entry near one of `categories`, which occur with `shares`."""

    categories: Categories
    shares: tuple[float, ...]


CATEGORICAL = ("atoms", "charges", "bonds")


def views_of(space: Product) -> dict[str, Categories]:
    """What networks say of each field that is made of categories."""
    return {name: space.parts[name].categories for name in CATEGORICAL}  # type: ignore[attr-defined]


def channels_of(space: Product) -> tuple[int, int]:
    """How many numbers a state has for each atom beside its place, and for each pair."""
    spaces = space.parts
    atoms = sum(spaces[name].shape[-1] for name in ("atoms", "charges"))  # type: ignore[attr-defined]
    return atoms, spaces["bonds"].shape[-1]  # type: ignore[attr-defined]


def logits(width: int, space: Product, name: str) -> nn.Linear:
    """The last layer of a field: before training it says of every entry how often each category occurs."""
    shares = torch.tensor(space.parts[name].shares).clamp(min=1e-4)  # type: ignore[attr-defined]
    layer = nn.Linear(width, len(shares))
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(shares.log())
    return layer
