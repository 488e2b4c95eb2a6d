"""Features of pairs of atoms: the inputs that networks compute from distances and bonds."""

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.nn.blocks import zeroed
from diffcore.states.spaces import Mask, Product
from diffcore_molecule.fields import channels_of, std_of


class Pairs:
    """The M pairs i < j of N atoms, and conversion between tensors over pairs `[M]` and dense tensors `[N, N]`."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.n, count = n, n * (n - 1) // 2
        atoms, numbers = torch.arange(n, device=device), torch.arange(count, device=device)
        starts = atoms * n - atoms * (atoms + 1) // 2  # the number of pairs before those of each first atom
        self.first = (starts <= numbers[:, None]).sum(1) - 1
        self.second = numbers - starts[self.first] + self.first + 1
        low, high = torch.minimum(atoms[:, None], atoms), torch.maximum(atoms[:, None], atoms)
        self._index = torch.where(low == high, count, starts[low] + high - low - 1)

    def of(self, dense: Tensor) -> Tensor:
        """`[B, N, N, ...]` to `[B, M, ...]`."""
        return dense.flatten(1, 2).index_select(1, self.first * self.n + self.second)

    def dense(self, values: Tensor) -> Tensor:
        """`[B, M, C]` to symmetric `[B, N, N, C]` with zero diagonal."""
        padded = functional.pad(values, (0, 0, 0, 1))
        return padded.index_select(1, self._index.flatten()).unflatten(1, (self.n, self.n))

    def sums(self, values: Tensor) -> Tensor:
        """For each atom the sum over its pairs, `[B, M, C]` to `[B, N, C]`."""
        empty = values.new_zeros(values.shape[0], self.n, values.shape[2])
        return empty.index_add(1, self.first, values).index_add(1, self.second, values)

    def sum_of_both(self, values: Tensor) -> Tensor:
        """a_i + a_j, `[B, N, ...]` to `[B, M, ...]`."""
        return values.index_select(1, self.first) + values.index_select(1, self.second)

    def product_of_both(self, values: Tensor) -> Tensor:
        """a_i a_j, `[B, N, ...]` to `[B, M, ...]`."""
        return values.index_select(1, self.first) * values.index_select(1, self.second)

    def difference(self, values: Tensor) -> Tensor:
        """a_j - a_i, `[B, N, ...]` to `[B, M, ...]`."""
        return values.index_select(1, self.second) - values.index_select(1, self.first)


class RadialBasis(nn.Module):
    """Gaussians of a distance, `[...]` to `[..., size]`.

    The centres are evenly spaced from 0 to `max_distance`; the standard deviation is their spacing.
    """

    def __init__(self, size: int = 24, max_distance: float = 6.0) -> None:
        super().__init__()
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0, max_distance, size), persistent=False)
        self.size, self.spacing = size, max_distance / (size - 1)

    def forward(self, distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((distance[..., None] - self.centres) / self.spacing).square())


@dataclass(frozen=True)
class Geometry:
    """Distances and directions between the atoms of a batch, and the masks of atoms and pairs."""

    pairs: Pairs
    atom_mask: Tensor
    """`[B, N, 1]`, 1 for each atom that is present, else 0."""
    pair_mask: Tensor
    """`[B, M, 1]`, 1 for each pair whose atoms are both present, else 0."""
    sum_scale: Tensor
    """`[B, 1, 1, 1]`, the factor of sums over atoms: 1 / sqrt(number of atoms)."""
    distance: Tensor
    """`[B, M, 1]`."""
    unit: Tensor
    """Unit vectors from the first to the second atom, `[B, M, 3]`."""
    directions: Tensor
    """Unit vectors from i to j, `[B, N, N, 3]`; zero on the diagonal."""

    @classmethod
    def of(cls, positions: Tensor, mask: Mask) -> "Geometry":
        """The geometry of `positions` `[B, N, 3]`. Distances are sqrt(r^2 + 1e-4), which is smooth at r = 0."""
        b, n = positions.shape[:2]
        atom_mask = positions.new_ones(b, n) if mask is None else mask.to(positions.dtype)
        pairs = Pairs(n, positions.device)
        vectors = pairs.difference(positions)
        distance = distances(vectors)
        between = positions[:, None] - positions[:, :, None]
        return cls(
            pairs=pairs,
            atom_mask=atom_mask[..., None],
            pair_mask=pairs.product_of_both(atom_mask)[..., None],
            sum_scale=atom_mask.sum(1).clamp(min=1).rsqrt().reshape(b, 1, 1, 1),
            distance=distance,
            unit=vectors / distance,
            directions=between / (between.square().sum(-1, keepdim=True) + 1e-4).sqrt(),
        )


def distances(vectors: Tensor) -> Tensor:
    """The lengths of `vectors` `[..., 3]`, `[..., 1]`: sqrt(r^2 + 1e-4), which is smooth at r = 0."""
    return (vectors.square().sum(-1, keepdim=True) + 1e-4).sqrt()


class PairFeatures(nn.Linear):
    """A linear map of the inputs of each pair: Gaussians of the distance, the squared distance, and the noisy bond."""

    def __init__(self, space: Product, width: int) -> None:
        radial = RadialBasis()
        super().__init__(radial.size + 1 + channels_of(space)[1], width)
        self.radial = radial

    def of(self, bonds: Tensor, geometry: Geometry) -> Tensor:
        """`bonds` `[B, N, N, C]` to `[B, M, width]`."""
        return self.between(geometry.distance, geometry.pairs.of(bonds))

    def between(self, distance: Tensor, bonds: Tensor) -> Tensor:
        """`distance` `[B, M, 1]` and `bonds` `[B, M, C]` to `[B, M, width]`."""
        return self(torch.cat([self.radial(distance[..., 0]), distance.square() / 10, bonds], -1))


class EstimateFeatures(nn.Module):
    """Linear maps, zero at first, of an estimate of the molecule to the first features of atoms and of pairs.

    An atom has the estimates of its element and its charge, and `places` numbers that say where it is. A pair has the
    inputs of `PairFeatures`, with the estimated distance and bond. The bonds are divided by their standard deviation.
    """

    def __init__(self, space: Product, places: int, width: int, pair_width: int) -> None:
        super().__init__()
        self.atoms = zeroed(nn.Linear(places + channels_of(space)[0], width, bias=False))
        self.pairs = zeroed(PairFeatures(space, pair_width))
        self.bond_std = std_of(space, "bonds")

    def forward(self, estimate: TensorDict, places: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The features `[B, N, width]` and `[B, M, pair_width]` of an estimate; `places` `[B, N, places]`."""
        distance = distances(pairs.difference(estimate["positions"]))
        bonds = pairs.of(estimate["bonds"]) / self.bond_std
        return (
            self.atoms(torch.cat([estimate["atoms"], estimate["charges"], places], -1)),
            self.pairs.between(distance, bonds),
        )
