"""The fields of a molecule's state, as its codec makes them and its networks read them."""

from dataclasses import dataclass

from torch import nn

from diffcore.nn.blocks import zeroed
from diffcore.states.categories import Categories
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs


@dataclass(frozen=True)
class OneOf(Euclidean):
    """`[N, C]`, each row near one of `categories`, which are called `kinds`."""

    categories: Categories
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return f"{super().__str__()} ({', '.join(self.kinds)})"


@dataclass(frozen=True)
class PairsOneOf(SymmetricPairs):
    """`[N, N, C]` symmetric, each entry near one of `categories`."""

    categories: Categories


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
    """The last layer of a field, which before training says nothing beyond how often each category occurs."""
    return zeroed(nn.Linear(width, len(space.parts[name].categories.codes)))  # type: ignore[attr-defined]
