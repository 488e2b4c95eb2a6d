"""An E(3)-equivariant denoiser, dense over pairs of atoms."""

from itertools import product

import torch
from e3nn import o3
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.nn.blocks import zeroed
from diffcore.nn.dit import modulated
from diffcore.spaces import Mask, Product
from diffcore_molecule.fields import channels_of, logits, views_of
from diffcore_molecule.options import EquivariantOptions
from diffcore_molecule.pairs import Geometry, RadialBasis

ATOMS_SCALE = 10.0
"""About how many atoms a small molecule has: what sums over atoms are divided by."""


def paths(degree: int) -> dict[int, list[tuple[int, int]]]:
    """The products that keep parity: for each degree l of the result, the pairs (l1, l2) of features and harmonics.

    |l1 - l2| <= l <= l1 + l2, and l1 + l2 + l even, as all have natural parity.
    """
    pairs = list(product(range(degree + 1), repeat=2))
    return {
        result: [(a, b) for a, b in pairs if abs(a - b) <= result <= a + b and (a + b + result) % 2 == 0]
        for result in range(degree + 1)
    }


class Harmonics(nn.Module):
    """The linear maps from features of one atom to another's that the direction of their pair makes, a path each.

    G_(l k)(l1 m) = sum_n C_mnk Y_n^(l2)(r_ij) with e3nn's Clebsch-Gordan coefficients C and spherical harmonics Y, so
    that sum_m G_km h_m is the tensor product h (x) Y(r_ij) of degree l. K = (degree + 1)^2 counts the components of all
    degrees together.
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.paths = [(a, b, result) for result, pairs in paths(degree).items() for a, b in pairs]
        size = (degree + 1) ** 2
        coefficients = torch.zeros(len(self.paths), size, size, size)  # path, result k, source m, harmonic n
        for path, (a, b, result) in enumerate(self.paths):
            block = o3.wigner_3j(a, b, result) * (2 * result + 1) ** 0.5
            coefficients[path, _part(result), _part(a), _part(b)] = block.permute(2, 0, 1)
        self.coefficients: Tensor
        self.register_buffer("coefficients", coefficients.flatten(0, 2), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Vectors of length one `[B, N, N, 3]` to `[B, N, N, paths, K, K]`."""
        degrees = list(range(self.degree + 1))
        spherical = o3.spherical_harmonics(degrees, unit, normalize=False, normalization="component")
        size = (self.degree + 1) ** 2
        return (spherical @ self.coefficients.to(unit).T).unflatten(-1, (len(self.paths), size, size))


def _part(degree: int) -> slice:
    """Where the components of a degree lie among those of all."""
    return slice(degree**2, (degree + 1) ** 2)


class Layer(nn.Module):
    """Messages over all pairs, then an update of atoms, then one of pairs.

    m_i = sum_j sum over paths of w_path,head(e_ij) h_j (x) Y(r_ij): tensor products with the harmonics of the pair's
    direction, weighted by what the pair's features say, each head for its share of the channels. Scalars pass an MLP
    that sees the lengths of the other degrees and gates them. Pairs see both atoms, the inner products of their
    features by degree, and their vectors' components along the pair.
    """

    def __init__(
        self, harmonics: Harmonics, width: int, pair_width: int, heads: int, conditioning: int, inner: int
    ) -> None:
        super().__init__()
        degree, count = harmonics.degree, len(harmonics.paths)
        self.degree, self.width, self.heads, self.count = degree, width, heads, count
        self.modulation = zeroed(nn.Linear(conditioning, 4 * width + 2 * pair_width))
        self.weights = nn.Linear(pair_width, count * heads)
        self.before = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(degree + 1))
        self.after = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(degree + 1))
        self.bonds = nn.Linear(pair_width, width, bias=False)
        self.lengths = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(degree))
        self.mlp = nn.Sequential(nn.Linear((1 + degree) * width, 2 * width), nn.SiLU())
        self.scalar = nn.Linear(2 * width, width)
        self.gates = nn.Linear(2 * width, degree * width)
        self.ends = nn.Linear(width, pair_width, bias=False)
        self.products = nn.ModuleList(nn.Linear(width, inner, bias=False) for _ in range(degree + 1))
        self.along = nn.Linear(width, inner, bias=False)
        seen = pair_width + (degree + 2) * inner
        self.pair = nn.Sequential(nn.Linear(seen, 2 * pair_width), nn.SiLU(), nn.Linear(2 * pair_width, pair_width))

    def forward(
        self, h: Tensor, e: Tensor, maps: Tensor, geometry: Geometry, conditioning: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`h` `[B, N, K, C]`, `e` `[B, M, P]`, `maps` of `Harmonics` with zeros where a pair lacks an atom."""
        pairs = geometry.pairs
        widths = [self.width] * 4 + [e.shape[-1]] * 2
        shift1, scale1, shift2, scale2, pair_shift, pair_scale = self.modulation(conditioning)[:, None].split(
            widths, -1
        )
        b, n, k, _ = h.shape

        def by_degree(linears: nn.ModuleList, features: Tensor) -> Tensor:
            return torch.cat([linear(features[:, :, _part(number)]) for number, linear in enumerate(linears)], 2)

        normed = torch.cat([modulated(h[:, :, :1], shift1[:, None], scale1[:, None]), *self._normed(h)], 2)
        source = by_degree(self.before, normed).reshape(b, n * k, self.heads, -1).transpose(1, 2)
        weights = pairs.dense(self.weights(functional.silu(e))).unflatten(-1, (self.heads, self.count))
        kernel = torch.einsum("bijhp,bijpkm->bhikjm", weights, maps).reshape(b, self.heads, n * k, n * k)
        message = (kernel @ source).transpose(1, 2).reshape(b, n, k, self.width) * geometry.share
        h = h + by_degree(self.after, message)
        bonds = self.bonds(pairs.dense(functional.silu(e) * geometry.exist).sum(2))
        h = torch.cat([h[:, :, :1] + bonds[:, :, None], h[:, :, 1:]], 2)

        lengths = [
            (linear(h[:, :, _part(number)]).square().sum(2) + 1e-6).sqrt()
            for number, linear in enumerate(self.lengths, start=1)
        ]
        inside = self.mlp(torch.cat([modulated(h[:, :, 0], shift2, scale2), *lengths], -1))
        gates = 1 + self.gates(inside).unflatten(-1, (self.degree, self.width))
        h = torch.cat(
            [h[:, :, :1] + self.scalar(inside)[:, :, None]]
            + [h[:, :, _part(number)] * gates[:, :, None, number - 1] for number in range(1, self.degree + 1)],
            2,
        )

        ends = self.ends(h[:, :, 0])
        found = [modulated(e, pair_shift, pair_scale) + ends[:, pairs.first] + ends[:, pairs.second]]
        for number, linear in enumerate(self.products):
            p = linear(h[:, :, _part(number)])
            found.append((p[:, pairs.first] * p[:, pairs.second]).mean(2))
        along = self.along(h[:, :, 1:4])
        found.append(((along[:, pairs.second] - along[:, pairs.first]) * geometry.unit[..., None]).sum(2))
        return h, e + self.pair(torch.cat(found, -1))

    def _normed(self, h: Tensor) -> list[Tensor]:
        """Features of degree l >= 1 divided by their root mean square over components and channels."""
        parts = [h[:, :, _part(number)] for number in range(1, self.degree + 1)]
        return [part / (part.square().mean((2, 3), keepdim=True) + 1e-4).sqrt() for part in parts]


class Trunk(nn.Module):
    """Features of atoms and pairs of a noisy molecule.

    Atoms have features of degrees 0 to `degree`, K = (degree + 1)^2 components of C channels; those of degree l have
    parity (-1)^l and turn with the molecule. Pairs i < j have scalars.
    """

    def __init__(self, space: Product, conditioning: int, options: EquivariantOptions) -> None:
        super().__init__()
        atom_channels, bond_channels = channels_of(space)
        degree, width, pair_width = options.degree, options.width, options.pair_width
        self.degree = degree
        self.harmonics = Harmonics(degree)
        self.radial = RadialBasis()
        self.atoms = nn.Linear(atom_channels + 1, width)
        self.pairs = nn.Linear(self.radial.centres.numel() + 1 + bond_channels, pair_width)
        self.pair_ends = nn.Linear(atom_channels + 1, pair_width, bias=False)
        self.vectors = nn.Parameter(torch.randn(degree, width))
        self.layers = nn.ModuleList(
            Layer(self.harmonics, width, pair_width, options.heads, conditioning, options.inner)
            for _ in range(options.depth)
        )

    def forward(self, x: TensorDict, conditioning: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """A state of unit variance to `[B, N, K, C]` and `[B, M, P]`."""
        pairs = geometry.pairs
        maps = self.harmonics(geometry.directions) * pairs.dense(geometry.exist)[..., None, None]
        squared = geometry.distance.square()
        own = torch.cat([x["atoms"], x["charges"], x["positions"].square().sum(-1, keepdim=True)], -1)
        ends = self.pair_ends(own)
        e = self.pairs(torch.cat([self.radial(geometry.distance[..., 0]), squared / 10, pairs.of(x["bonds"])], -1))
        e = e + ends[:, pairs.first] + ends[:, pairs.second]
        parts = [self.atoms(own)[:, :, None]]
        for number in range(1, self.degree + 1):
            spherical = o3.spherical_harmonics(number, x["positions"], normalize=False, normalization="component")
            parts.append(spherical[..., None] * self.vectors[number - 1])
        h = torch.cat(parts, 2)
        for layer in self.layers:
            h, e = layer(h, e, maps, geometry, conditioning)
        return h, e


class EquivariantDenoiser(nn.Module):
    """Message passing whose `positions` turn, mirror and move with those of its input; other fields stay."""

    def __init__(self, space: Product, options: EquivariantOptions) -> None:
        super().__init__()
        self.width = 2 * options.width
        self.views = views_of(space)
        width, pair_width = options.width, options.pair_width
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
        h, e = self.trunk(x, conditioning, geometry)
        widths = [h.shape[-1]] * 2 + [e.shape[-1]] * 2
        shift, scale, pair_shift, pair_scale = self.modulation(conditioning)[:, None].split(widths, -1)
        atoms = modulated(h[:, :, 0], shift, scale)
        between = modulated(e, pair_shift, pair_scale)
        pull = geometry.pairs.dense(self.pull(between) * geometry.exist)[..., 0]
        moved = torch.einsum("bij,bijm->bim", pull, geometry.directions) * geometry.share[..., 0]
        return TensorDict(
            {
                "positions": moved + self.vectors(h[:, :, 1:4])[..., 0],
                "atoms": self.atoms(atoms),
                "charges": self.charges(atoms),
                "bonds": geometry.pairs.dense(self.bonds(between)),
            },
            batch_size=x.batch_size,
        )


class EquivariantPredictor(nn.Module):
    """The same trunk; sums over atoms of their scalars and over pairs, in an MLP. Invariant."""

    def __init__(self, space: Product, outputs: int, options: EquivariantOptions) -> None:
        super().__init__()
        self.width = 2 * options.width
        self.views = views_of(space)
        self.trunk = Trunk(space, self.width, options)
        self.atoms = nn.Linear(options.width, self.width)
        self.pairs = nn.Linear(options.pair_width, self.width)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(self.width, self.width), nn.SiLU())
        self.output = zeroed(nn.Linear(self.width, outputs))

    def forward(self, x: TensorDict, conditioning: Tensor, mask: Mask = None) -> Tensor:
        """A state to `[B, outputs]`."""
        geometry = Geometry.of(x["positions"], mask)
        h, e = self.trunk(x, conditioning, geometry)
        atoms = functional.silu(self.atoms(h[:, :, 0])) * geometry.present
        pairs = functional.silu(self.pairs(e)) * geometry.exist
        # Sums grow with the molecule, as extensive properties do.
        return self.output(self.head(atoms.sum(1) / ATOMS_SCALE + pairs.sum(1) / ATOMS_SCALE))
