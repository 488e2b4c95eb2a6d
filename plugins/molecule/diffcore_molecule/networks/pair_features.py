"""What networks see of pairs of atoms."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.states.spaces import Mask, Product
from diffcore_molecule.fields import channels_of


class Pairs:
    """The pairs i < j of N elements, `[M]`, and the way back to dense `[N, N]`."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.first, self.second = torch.triu_indices(n, n, 1, device=device)
        self.n = n
        count = len(self.first)
        self._places = torch.full((n, n), count, device=device)
        self._places[self.first, self.second] = self._places[self.second, self.first] = torch.arange(
            count, device=device
        )

    def of(self, dense: Tensor) -> Tensor:
        """`[B, N, N, ...]` to `[B, M, ...]`."""
        return dense.flatten(1, 2).index_select(1, self.first * self.n + self.second)

    def dense(self, values: Tensor) -> Tensor:
        """Symmetric `[B, N, N, C]` with zero diagonal out of `[B, M, C]`."""
        padded = functional.pad(values, (0, 0, 0, 1))
        return padded.index_select(1, self._places.flatten()).unflatten(1, (self.n, self.n))

    def sums(self, values: Tensor) -> Tensor:
        """The sum over the pairs of each element, `[B, M, C]` to `[B, N, C]`."""
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
    """Gaussians of a distance, `[...]` to `[..., size]`: centres evenly from 0 to `reach`, their spacing as width."""

    def __init__(self, size: int = 24, reach: float = 6.0) -> None:
        super().__init__()
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0, reach, size), persistent=False)
        self.size, self.spacing = size, reach / (size - 1)

    def forward(self, distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((distance[..., None] - self.centres) / self.spacing).square())


@dataclass(frozen=True)
class Geometry:
    """Distances and directions between the atoms of a batch, and which atoms there are."""

    pairs: Pairs
    present: Tensor
    """`[B, N, 1]`, 1 where an atom exists."""
    exist: Tensor
    """`[B, M, 1]`, 1 where both atoms of a pair do."""
    share: Tensor
    """`[B, 1, 1, 1]`, one over the root of the number of atoms: what sums over atoms are scaled by."""
    distance: Tensor
    """`[B, M, 1]`."""
    unit: Tensor
    """From the first to the second atom, of length one, `[B, M, 3]`."""
    directions: Tensor
    """From i to j, `[B, N, N, 3]`, of length one; zero on the diagonal."""

    @classmethod
    def of(cls, positions: Tensor, mask: Mask) -> "Geometry":
        """The geometry of `positions` `[B, N, 3]`. Lengths are sqrt(r^2 + 1e-4), smooth where two atoms meet."""
        b, n = positions.shape[:2]
        present = positions.new_ones(b, n) if mask is None else mask.to(positions.dtype)
        pairs = Pairs(n, positions.device)
        vectors = pairs.difference(positions)
        distance = (vectors.square().sum(-1, keepdim=True) + 1e-4).sqrt()
        between = positions[:, None] - positions[:, :, None]
        return cls(
            pairs=pairs,
            present=present[..., None],
            exist=pairs.product_of_both(present)[..., None],
            share=present.sum(1).clamp(min=1).rsqrt().reshape(b, 1, 1, 1),
            distance=distance,
            unit=vectors / distance,
            directions=between / (between.square().sum(-1, keepdim=True) + 1e-4).sqrt(),
        )


class PairFeatures(nn.Linear):
    """A linear map of what a noisy state says of each pair: Gaussians of the distance, its square, and the bond."""

    def __init__(self, space: Product, width: int) -> None:
        radial = RadialBasis()
        super().__init__(radial.size + 1 + channels_of(space)[1], width)
        self.radial = radial

    def of(self, bonds: Tensor, geometry: Geometry) -> Tensor:
        """`bonds` `[B, N, N, C]` to `[B, M, width]`."""
        distance = geometry.distance
        return self(torch.cat([self.radial(distance[..., 0]), distance.square() / 10, geometry.pairs.of(bonds)], -1))
