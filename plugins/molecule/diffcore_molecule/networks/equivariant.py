"""An E(3)-equivariant denoiser, dense over pairs of atoms.

Atoms have scalars `s` `[B, N, C]` and vectors `v` `[B, N, K - 1, C]`: features of the degrees l = 1 to `degree`, laid
end to end, K = (degree + 1)^2 components in all. Those of degree l have parity (-1)^l. Pairs i < j have scalars `e`
`[B, M, P]`.
"""

from collections.abc import Sequence
from itertools import product

import torch
from e3nn import o3
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.nn.blocks import zeroed
from diffcore.nn.dit import modulated
from diffcore.states.spaces import Mask, Product
from diffcore_molecule.fields import channels_of, logits, views_of
from diffcore_molecule.networks.pair_features import Geometry, PairFeatures
from diffcore_molecule.options import EquivariantOptions

ATOMS_SCALE = 10.0
"""About how many atoms a small molecule has: what sums over atoms are divided by."""


def paths(degree: int) -> list[tuple[int, int, int]]:
    """The tensor products (l1, l2, l) of features, harmonics and result up to `degree` that keep parity.

    |l1 - l2| <= l <= l1 + l2, and l1 + l2 + l even, as all have natural parity.
    """
    found = product(range(degree + 1), repeat=3)
    return [(a, b, result) for result, a, b in found if abs(a - b) <= result <= a + b and (a + b + result) % 2 == 0]


def part(degree: int, first: int = 0) -> slice:
    """Where the components of `degree` lie among those of all degrees from `first` on."""
    return slice(degree**2 - first**2, (degree + 1) ** 2 - first**2)


class Harmonics(nn.Module):
    """The linear maps from features of one atom to another's that the direction of their pair makes, a path each.

    G_(l k)(l1 m) = sum_n C_mnk Y_n^(l2)(r_ij) with e3nn's Clebsch-Gordan coefficients C and spherical harmonics Y, so
    that sum_m G_km h_m is the tensor product h (x) Y(r_ij) of degree l.
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.paths = paths(degree)
        size = (degree + 1) ** 2
        coefficients = torch.zeros(len(self.paths), size, size, size)  # path, result k, source m, harmonic n
        for path, (a, b, result) in enumerate(self.paths):
            block = o3.wigner_3j(a, b, result) * (2 * result + 1) ** 0.5
            coefficients[path, part(result), part(a), part(b)] = block.permute(2, 0, 1)
        self.coefficients: Tensor
        self.register_buffer("coefficients", coefficients.flatten(0, 2), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Vectors of length one `[..., 3]` to `[..., paths, K, K]`."""
        degrees = list(range(self.degree + 1))
        spherical = o3.spherical_harmonics(degrees, unit, normalize=False, normalization="component")
        size = (self.degree + 1) ** 2
        return (spherical @ self.coefficients.to(unit).T).unflatten(-1, (len(self.paths), size, size))


class ByDegree(nn.Module):
    """A linear map of the channels for each degree from `first` on, `[..., C]` to `[..., D]`."""

    def __init__(self, degree: int, width: int, outputs: int, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.maps = nn.ModuleList(nn.Linear(width, outputs, bias=False) for _ in range(first, degree + 1))

    def parts(self, features: Tensor) -> list[Tensor]:
        """The results, degree by degree."""
        degrees = range(self.first, self.first + len(self.maps))
        return [linear(features[:, :, part(rank, self.first)]) for rank, linear in zip(degrees, self.maps, strict=True)]

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat(self.parts(features), 2)


def lengths_of(parts: Sequence[Tensor]) -> list[Tensor]:
    """The lengths `[B, N, C]` of features of each degree `[B, N, 2 l + 1, C]`, smooth at zero."""
    return [(each.square().sum(2) + 1e-6).sqrt() for each in parts]


def normed(v: Tensor, degree: int) -> Tensor:
    """The features of each degree divided by the root mean square of their components and channels."""
    by_degree = [v[:, :, part(rank, 1)] for rank in range(1, degree + 1)]
    return torch.cat([each / (each.square().mean((2, 3), keepdim=True) + 1e-4).sqrt() for each in by_degree], 2)


class Layer(nn.Module):
    """Messages over all pairs, then an update of atoms, then one of pairs.

    m_i = sum_j sum over paths of w_path,head(e_ij) h_j (x) Y(r_ij): tensor products with the harmonics of the pair's
    direction, weighted by what the pair's features say, each head for its share of the channels. Scalars also take the
    sum of their pairs' features, and pass an MLP that sees the lengths of the vectors and gates them. Pairs see both
    atoms, the inner products of their features by degree, and their vectors' components along the pair. Whatever is
    multiplied is normalised first.
    """

    def __init__(self, harmonics: Harmonics, conditioning: int, options: EquivariantOptions) -> None:
        super().__init__()
        degree, width, pair_width, inner = options.degree, options.width, options.pair_width, options.inner
        self.degree, self.heads, self.paths = degree, options.heads, len(harmonics.paths)
        self.scalar_sizes, self.pair_sizes = [width] * 4 + [pair_width] * 2, [pair_width, inner]
        self.modulation = zeroed(nn.Linear(conditioning, sum(self.scalar_sizes)))
        self.weights = nn.Linear(pair_width, self.paths * self.heads)
        self.before = ByDegree(degree, width, width)
        self.after = ByDegree(degree, width, width)
        self.bonds = nn.Linear(pair_width, width, bias=False)
        self.lengths = ByDegree(degree, width, width, first=1)
        self.mlp = nn.Sequential(nn.Linear((1 + degree) * width, 2 * width), nn.SiLU())
        self.scalar = nn.Linear(2 * width, width)
        self.gates = nn.Linear(2 * width, degree * width)
        self.ends = nn.Linear(2 * width, sum(self.pair_sizes))
        self.products = ByDegree(degree, width, inner, first=1)
        self.along = nn.Linear(width, inner, bias=False)
        seen = pair_width + (degree + 2) * inner
        self.pair = nn.Sequential(nn.Linear(seen, 2 * pair_width), nn.SiLU(), nn.Linear(2 * pair_width, pair_width))

    def forward(
        self, s: Tensor, v: Tensor, e: Tensor, maps: Tensor, geometry: Geometry, conditioning: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scalars, vectors and pairs to the like. `maps` are those of `Harmonics`, zero where a pair lacks an atom."""
        pairs = geometry.pairs
        modulation = self.modulation(conditioning)[:, None].split(self.scalar_sizes, -1)
        shift1, scale1, shift2, scale2, pair_shift, pair_scale = modulation
        active = functional.silu(e) * geometry.exist
        message = (
            self._messages(
                torch.cat([modulated(s, shift1, scale1)[:, :, None], normed(v, self.degree)], 2),
                pairs.dense(self.weights(active)),
                maps,
            )
            * geometry.share
        )
        s = s + message[:, :, 0] + self.bonds(pairs.sums(active))
        v = normed(v + message[:, :, 1:], self.degree)

        inside = self.mlp(torch.cat([modulated(s, shift2, scale2), *lengths_of(self.lengths.parts(v))], -1))
        s = s + self.scalar(inside)
        gates = self.gates(inside).unflatten(-1, (self.degree, -1))
        gated = [v[:, :, part(rank, 1)] * gates[:, :, None, rank - 1] for rank in range(1, self.degree + 1)]

        ends, scalars = self.ends(inside).split(self.pair_sizes, -1)
        seen = [modulated(e, pair_shift, pair_scale) + pairs.sum_of_both(ends), pairs.product_of_both(scalars)]
        seen += [pairs.product_of_both(each).mean(2) for each in self.products.parts(v)]
        seen.append((pairs.difference(self.along(v[:, :, :3])) * geometry.unit[..., None]).sum(2))
        return s, v + torch.cat(gated, 2), e + self.pair(torch.cat(seen, -1))

    def _messages(self, features: Tensor, weights: Tensor, maps: Tensor) -> Tensor:
        """`features` `[B, N, K, C]`, `weights` `[B, N, N, heads * paths]` to messages `[B, N, K, C]`."""
        b, n, k, width = features.shape
        source = self.before(features).reshape(b, n * k, self.heads, -1).transpose(1, 2)
        each = weights.unflatten(-1, (self.heads, self.paths))
        kernel = torch.einsum("bijhp,bijpkm->bhikjm", each, maps).reshape(b, self.heads, n * k, n * k)
        return self.after((kernel @ source).transpose(1, 2).reshape(b, n, k, width))


class Trunk(nn.Module):
    """Scalars and vectors of atoms and features of pairs out of a noisy molecule."""

    def __init__(self, space: Product, conditioning: int, options: EquivariantOptions) -> None:
        super().__init__()
        atom_channels, _ = channels_of(space)
        self.degree = options.degree
        self.harmonics = Harmonics(options.degree)
        self.atoms = nn.Linear(atom_channels + 1, options.width)
        self.pairs = PairFeatures(space, options.pair_width)
        self.pair_ends = nn.Linear(atom_channels + 1, options.pair_width, bias=False)
        self.vectors = nn.Parameter(torch.randn(options.degree, options.width))
        self.layers = nn.ModuleList(Layer(self.harmonics, conditioning, options) for _ in range(options.depth))

    def forward(self, x: TensorDict, conditioning: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        """A state of unit variance to s, v and e."""
        pairs, positions = geometry.pairs, x["positions"]
        maps = self.harmonics(geometry.directions) * pairs.dense(geometry.exist)[..., None, None]
        own = torch.cat([x["atoms"], x["charges"], positions.square().sum(-1, keepdim=True) / 3], -1)
        s = self.atoms(own)
        v = torch.cat(
            [
                o3.spherical_harmonics(rank, positions, normalize=False, normalization="component")[..., None]
                * channels
                for rank, channels in enumerate(self.vectors, start=1)
            ],
            2,
        )
        e = self.pairs.of(x["bonds"], geometry) + pairs.sum_of_both(self.pair_ends(own))
        for layer in self.layers:
            s, v, e = layer(s, v, e, maps, geometry, conditioning)
        return s, v, e


class EquivariantDenoiser(nn.Module):
    """Message passing whose `positions` turn, mirror and move with those of its input; other fields stay."""

    def __init__(self, space: Product, options: EquivariantOptions) -> None:
        super().__init__()
        width, pair_width = options.width, options.pair_width
        self.width = 2 * width
        self.views = views_of(space)
        self.trunk = Trunk(space, self.width, options)
        self.modulation = zeroed(nn.Linear(self.width, 2 * width + 2 * pair_width))
        self.atoms = logits(width, space, "atoms")
        self.charges = logits(width, space, "charges")
        self.bonds = logits(pair_width, space, "bonds")
        self.vectors = zeroed(nn.Linear(width, 1, bias=False))
        self.pull = zeroed(nn.Linear(pair_width, 1))

    def forward(self, x: TensorDict, conditioning: Tensor, mask: Mask = None) -> TensorDict:
        """v of `positions` `[B, N, 3]` and logits of `atoms`, `charges` `[B, N, K]` and `bonds` `[B, N, N, K]`.

        Atoms pull each other along the lines between them, and their vectors move them.
        """
        geometry = Geometry.of(x["positions"], mask)
        s, v, e = self.trunk(x, conditioning, geometry)
        widths = [s.shape[-1]] * 2 + [e.shape[-1]] * 2
        shift, scale, pair_shift, pair_scale = self.modulation(conditioning)[:, None].split(widths, -1)
        atoms = modulated(s, shift, scale)
        between = modulated(e, pair_shift, pair_scale)
        pull = geometry.pairs.dense(self.pull(between) * geometry.exist)[..., 0]
        moved = torch.einsum("bij,bijm->bim", pull, geometry.directions) * geometry.share[..., 0]
        return TensorDict(
            {
                "positions": moved + self.vectors(v[:, :, :3])[..., 0],
                "atoms": self.atoms(atoms),
                "charges": self.charges(atoms),
                "bonds": geometry.pairs.dense(self.bonds(between)),
            },
            batch_size=x.batch_size,
        )


class EquivariantClassifier(nn.Module):
    """The same trunk; sums over atoms of their scalars and over pairs, in an MLP. Invariant."""

    def __init__(self, space: Product, outputs: int, options: EquivariantOptions) -> None:
        super().__init__()
        self.width = 2 * options.width
        self.views = views_of(space)
        self.trunk = Trunk(space, self.width, options)
        self.atoms = nn.Linear((1 + options.degree) * options.width, self.width)
        self.pairs = nn.Linear(options.pair_width, self.width)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(self.width, self.width), nn.SiLU())
        self.output = zeroed(nn.Linear(self.width, outputs))

    def forward(self, x: TensorDict, conditioning: Tensor, mask: Mask = None) -> Tensor:
        """A state to `[B, outputs]`."""
        geometry = Geometry.of(x["positions"], mask)
        s, v, e = self.trunk(x, conditioning, geometry)
        lengths = lengths_of([v[:, :, part(rank, 1)] for rank in range(1, self.trunk.degree + 1)])
        atoms = functional.silu(self.atoms(torch.cat([s, *lengths], -1))) * geometry.present
        pairs = functional.silu(self.pairs(e)) * geometry.exist
        # Sums grow with the molecule, as extensive properties do.
        return self.output(self.head(atoms.sum(1) / ATOMS_SCALE + pairs.sum(1) / ATOMS_SCALE))
