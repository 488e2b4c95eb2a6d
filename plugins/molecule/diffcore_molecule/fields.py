"""The fields of a molecule's state, which the codec creates and the networks read."""

from dataclasses import dataclass

from torch import nn

from diffcore.nn.blocks import zeroed
from diffcore.states.categories import Categories
from diffcore.states.spaces import Product, SymmetricPairs


@dataclass(frozen=True)
class CategoricalPairs(SymmetricPairs):
    """The space of symmetric fields `[N, N, C]` in which each pair of clean data is the code of one of `categories`."""

    categories: Categories


CATEGORICAL = ("atoms", "charges", "bonds")


def views_of(space: Product) -> dict[str, Categories]:
    """The `views` of a network: by name of categorical field, the categories for which it predicts logits."""
    return {name: space.parts[name].categories for name in CATEGORICAL}  # type: ignore[attr-defined]


def channels_of(space: Product) -> tuple[int, int]:
    """The number of channels of a state per atom, without its position, and per pair of atoms."""
    spaces = space.parts
    atoms = sum(spaces[name].shape[-1] for name in ("atoms", "charges"))  # type: ignore[attr-defined]
    return atoms, spaces["bonds"].shape[-1]  # type: ignore[attr-defined]


def std_of(space: Product, name: str) -> float:
    """The standard deviation of a categorical field of the data, over its entries and channels."""
    return space.parts[name].categories.std  # type: ignore[attr-defined, no-any-return]


def logit_layer(width: int, space: Product, name: str) -> nn.Linear:
    """The last layer of a categorical field. It starts at zero, which predicts the frequencies of the categories."""
    return zeroed(nn.Linear(width, len(space.parts[name].categories.codes)))  # type: ignore[attr-defined]
