"""Equivariant networks that pass messages between all pairs of atoms.

Atoms have scalars `s` `[B, N, C]` and vectors `v` `[B, N, K - 1, C]`: the concatenated features of the degrees l = 1 to
`degree`. Scalars and vectors together have K = (degree + 1)^2 components. Pairs of atoms i < j have scalars `e`
`[B, M, P]`.

With the option `reflections`, the networks are equivariant under E(3), and features of degree l have parity (-1)^l. A
network that commutes with reflections draws both mirror images of a molecule equally often, whatever its data are.
Without the option, features have no parity: tensor products such as the cross product of two vectors, whose sign does
not change in a mirror, are added to the others. The networks are then equivariant under rotations and translations, and
can tell left from right.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from e3nn import o3
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Tokens
from diffcore.nn.attention import TokenLayers
from diffcore.nn.blocks import accepted, zeroed
from diffcore.nn.dit import modulated
from diffcore.states.spaces import Mask, Product
from diffcore_molecule.fields import channels_of, logit_layer, views_of
from diffcore_molecule.networks.pair_features import EstimateFeatures, Geometry, PairFeatures, Pairs
from diffcore_molecule.options import EquivariantOptions

Attend = Callable[[int, Tensor], Tensor]
"""What changes the scalars of the atoms after the layer of a number."""

Start = tuple[Tensor | float, Tensor | float, Tensor | float]
"""What is added to the features `s`, `v` and `e` before the first layer."""

ATOMS_SCALE = 10.0
"""The divisor of sums over atoms: about the number of atoms of a small molecule."""


def paths(degree: int, reflections: bool = True) -> list[tuple[int, int, int]]:
    """The tensor products (l1, l2, l) of features, harmonics and result up to `degree`.

    They have |l1 - l2| <= l <= l1 + l2. With `reflections`, l1 + l2 + l is even, because features of degree l have
    parity (-1)^l. Without, the others follow: (1, 1, 1) is the cross product.
    """
    triples = [(a, b, ell) for ell, a, b in product(range(degree + 1), repeat=3) if abs(a - b) <= ell <= a + b]
    even, odd = ([triple for triple in triples if sum(triple) % 2 == parity] for parity in (0, 1))
    return even if reflections else even + odd


def components(degree: int, first: int = 0) -> slice:
    """The slice of the components of `degree` among the components of all degrees from `first` on."""
    return slice(degree**2 - first**2, (degree + 1) ** 2 - first**2)


class Harmonics(nn.Module):
    """Linear maps, one for each path, from the features of one atom to those of another, given their direction.

    G_(l k)(l1 m) = sum_n C_mnk Y_n^(l2)(r_ij) with e3nn's Clebsch-Gordan coefficients C and spherical harmonics Y, so
    that sum_m G_km h_m is the tensor product h (x) Y(r_ij) of degree l.
    """

    def __init__(self, degree: int, reflections: bool = True) -> None:
        super().__init__()
        self.degree = degree
        self.paths = paths(degree, reflections)
        size = (degree + 1) ** 2
        coefficients = torch.zeros(len(self.paths), size, size, size)  # path, result k, source m, harmonic n
        for path, (a, b, result) in enumerate(self.paths):
            block = o3.wigner_3j(a, b, result) * (2 * result + 1) ** 0.5
            coefficients[path, components(result), components(a), components(b)] = block.permute(2, 0, 1)
        self.coefficients: Tensor
        self.register_buffer("coefficients", coefficients.flatten(0, 2), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Unit vectors `[..., 3]` to maps `[..., paths, K, K]`."""
        degrees = list(range(self.degree + 1))
        spherical = o3.spherical_harmonics(degrees, unit, normalize=False, normalization="component")
        size = (self.degree + 1) ** 2
        return (spherical @ self.coefficients.to(unit).T).unflatten(-1, (len(self.paths), size, size))


class LinearByDegree(nn.Module):
    """A linear map of the channels for each degree from `first` on, `[B, N, K, C]` to `[B, N, K, D]`."""

    def __init__(self, degree: int, width: int, outputs: int, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.maps = nn.ModuleList(nn.Linear(width, outputs, bias=False) for _ in range(first, degree + 1))

    def parts(self, features: Tensor) -> list[Tensor]:
        """The results, one tensor for each degree."""
        degrees = range(self.first, self.first + len(self.maps))
        return [
            linear(features[:, :, components(degree, self.first)])
            for degree, linear in zip(degrees, self.maps, strict=True)
        ]

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat(self.parts(features), 2)


def lengths_of(parts: Sequence[Tensor]) -> list[Tensor]:
    """The lengths `[B, N, C]` of the features of each degree `[B, N, 2 l + 1, C]`: sqrt(|f|^2 + 1e-6)."""
    return [(each.square().sum(2) + 1e-6).sqrt() for each in parts]


def normed(v: Tensor, degree: int) -> Tensor:
    """The features of each degree divided by their root mean square over components and channels."""
    by_degree = [v[:, :, components(ell, 1)] for ell in range(1, degree + 1)]
    return torch.cat([each / (each.square().mean((2, 3), keepdim=True) + 1e-4).sqrt() for each in by_degree], 2)


class Layer(nn.Module):
    """Messages over all pairs, then an update of the atoms, then an update of the pairs.

    m_i = sum_j sum over paths of w_path,head(e_ij) h_j (x) Y(r_ij): tensor products with the spherical harmonics of the
    pair's direction. The weights are linear in the pair's features; each head has weights for its group of channels.
    The scalars of an atom also receive the sum of the features of its pairs. They then pass through an MLP, which
    also receives the lengths of the vectors and gates the vectors. A pair receives the scalars of both atoms, the inner
    products of their features of each degree, and the components of their vectors along the pair. All factors of
    products are normalised first.
    """

    def __init__(self, harmonics: Harmonics, conditioning: int, options: EquivariantOptions) -> None:
        super().__init__()
        degree, width, pair_width, inner = options.degree, options.width, options.pair_width, options.inner
        self.degree, self.heads, self.paths = degree, options.heads, len(harmonics.paths)
        self.scalar_sizes, self.pair_sizes = [width] * 4 + [pair_width] * 2, [pair_width, inner]
        self.modulation = zeroed(nn.Linear(conditioning, sum(self.scalar_sizes)))
        self.weights = nn.Linear(pair_width, self.paths * self.heads)
        self.before = LinearByDegree(degree, width, width)
        self.after = LinearByDegree(degree, width, width)
        self.bonds = nn.Linear(pair_width, width, bias=False)
        self.lengths = LinearByDegree(degree, width, width, first=1)
        self.mlp = nn.Sequential(nn.Linear((1 + degree) * width, 2 * width), nn.SiLU())
        self.scalar = nn.Linear(2 * width, width)
        self.gates = nn.Linear(2 * width, degree * width)
        self.ends = nn.Linear(2 * width, sum(self.pair_sizes))
        self.products = LinearByDegree(degree, width, inner, first=1)
        self.along = nn.Linear(width, inner, bias=False)
        inputs = pair_width + (degree + 2) * inner
        self.pair = nn.Sequential(nn.Linear(inputs, 2 * pair_width), nn.SiLU(), nn.Linear(2 * pair_width, pair_width))

    def forward(
        self, s: Tensor, v: Tensor, e: Tensor, maps: Tensor, geometry: Geometry, conditioning: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Updated `s`, `v` and `e`. `maps` are the output of `Harmonics`, zero for pairs with an absent atom."""
        pairs = geometry.pairs
        modulation = self.modulation(conditioning)[:, None].split(self.scalar_sizes, -1)
        shift1, scale1, shift2, scale2, pair_shift, pair_scale = modulation
        active = functional.silu(e) * geometry.pair_mask
        message = (
            self._messages(
                torch.cat([modulated(s, shift1, scale1)[:, :, None], normed(v, self.degree)], 2),
                pairs.dense(self.weights(active)),
                maps,
            )
            * geometry.sum_scale
        )
        s = s + message[:, :, 0] + self.bonds(pairs.sums(active))
        v = normed(v + message[:, :, 1:], self.degree)

        hidden = self.mlp(torch.cat([modulated(s, shift2, scale2), *lengths_of(self.lengths.parts(v))], -1))
        s = s + self.scalar(hidden)
        gates = self.gates(hidden).unflatten(-1, (self.degree, -1))
        gated = [v[:, :, components(ell, 1)] * gates[:, :, None, ell - 1] for ell in range(1, self.degree + 1)]

        ends, scalars = self.ends(hidden).split(self.pair_sizes, -1)
        inputs = [modulated(e, pair_shift, pair_scale) + pairs.sum_of_both(ends), pairs.product_of_both(scalars)]
        inputs += [pairs.product_of_both(each).mean(2) for each in self.products.parts(v)]
        inputs.append((pairs.difference(self.along(v[:, :, :3])) * geometry.unit[..., None]).sum(2))
        return s, v + torch.cat(gated, 2), e + self.pair(torch.cat(inputs, -1))

    def _messages(self, features: Tensor, weights: Tensor, maps: Tensor) -> Tensor:
        """`features` `[B, N, K, C]`, `weights` `[B, N, N, heads * paths]` to messages `[B, N, K, C]`."""
        b, n, k, width = features.shape
        source = self.before(features).reshape(b, n * k, self.heads, -1).transpose(1, 2)
        each = weights.unflatten(-1, (self.heads, self.paths))
        kernel = torch.einsum("bijhp,bijpkm->bhikjm", each, maps).reshape(b, self.heads, n * k, n * k)
        return self.after((kernel @ source).transpose(1, 2).reshape(b, n, k, width))


def harmonics_of(vectors: Tensor, channels: Tensor) -> Tensor:
    """The spherical harmonics of `vectors` `[B, N, 3]`, of each degree times its `channels` `[degree, C]`, as `v`."""
    each = enumerate(channels, start=1)
    return torch.cat(
        [o3.spherical_harmonics(ell, vectors, False, normalization="component")[..., None] * own for ell, own in each],
        2,
    )


class Trunk(nn.Module):
    """Computes scalars and vectors of atoms and features of pairs from a noisy molecule."""

    def __init__(self, space: Product, conditioning: int, options: EquivariantOptions) -> None:
        super().__init__()
        atom_channels, _ = channels_of(space)
        self.degree = options.degree
        self.harmonics = Harmonics(options.degree, options.reflections)
        self.atoms = nn.Linear(atom_channels + 1, options.width)
        self.pairs = PairFeatures(space, options.pair_width)
        self.pair_ends = nn.Linear(atom_channels + 1, options.pair_width, bias=False)
        self.vectors = nn.Parameter(torch.randn(options.degree, options.width))
        self.layers = nn.ModuleList(Layer(self.harmonics, conditioning, options) for _ in range(options.depth))

    def forward(
        self,
        x: TensorDict,
        conditioning: Tensor,
        geometry: Geometry,
        attend: Attend = lambda number, s: s,
        more: Sequence[Start] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The features `s`, `v` and `e` of a state of unit variance. `attend` is applied to `s` after each layer.

        Each of `more` is added to the features before the first layer.
        """
        pairs, positions = geometry.pairs, x["positions"]
        maps = self.harmonics(geometry.directions) * pairs.dense(geometry.pair_mask)[..., None, None]
        own = torch.cat([x["atoms"], x["charges"], positions.square().sum(-1, keepdim=True) / 3], -1)
        s = self.atoms(own)
        v = harmonics_of(positions, self.vectors)
        e = self.pairs.of(x["bonds"], geometry) + pairs.sum_of_both(self.pair_ends(own))
        for own_s, own_v, own_e in more:
            s, v, e = s + own_s, v + own_v, e + own_e
        for number, layer in enumerate(self.layers):
            s, v, e = layer(s, v, e, maps, geometry, conditioning)
            s = attend(number, s)
        return s, v, e


class EquivariantDenoiser(nn.Module):
    """Message passing that is equivariant in the field `positions`, and invariant in the other fields.

    The group is E(3), or, without the option `reflections`, SE(3).

    With `tokens` channels of tokens, the scalars of the atoms attend to the tokens after each layer. With `known`, the
    network is told which entries are known: the features of atoms and pairs begin with linear maps of these booleans.
    With `estimate`, they begin with linear maps of the features of an estimate of the molecule, in the same frame.
    """

    def __init__(
        self,
        space: Product,
        options: EquivariantOptions,
        tokens: int = 0,
        known: bool = False,
        estimate: bool = False,
    ) -> None:
        super().__init__()
        self.accepts = accepted(tokens=tokens, known=known, estimate=estimate)
        width, pair_width = options.width, options.pair_width
        self.width = 2 * width
        self.views = views_of(space)
        self.trunk = Trunk(space, self.width, options)
        self.modulation = zeroed(nn.Linear(self.width, 2 * width + 2 * pair_width))
        self.atoms = logit_layer(width, space, "atoms")
        self.charges = logit_layer(width, space, "charges")
        self.bonds = logit_layer(pair_width, space, "bonds")
        self.vectors = zeroed(nn.Linear(width, 1, bias=False))
        self.pull = zeroed(nn.Linear(pair_width, 1))
        self.attend = TokenLayers(tokens, [width] * options.depth, options.heads)
        self.known_atoms = zeroed(nn.Linear(3, width, bias=False)) if known else None
        self.known_pairs = zeroed(nn.Linear(1, pair_width, bias=False)) if known else None
        self.estimate = EstimateFeatures(space, 1, width, pair_width) if estimate else None
        self.estimate_vectors = nn.Parameter(torch.zeros(options.degree, width)) if estimate else None

    def forward(
        self,
        x: TensorDict,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        known: TensorDict | None = None,
        estimate: TensorDict | None = None,
    ) -> TensorDict:
        """v of `positions` `[B, N, 3]` and logits of `atoms`, `charges` `[B, N, K]` and `bonds` `[B, N, N, K]`.

        v of an atom is a linear map of its vectors, plus the sum of the directions of the other atoms, each weighted by
        a scalar of the pair.
        """
        geometry = Geometry.of(x["positions"], mask)
        more = [*self._of_known(known, geometry.pairs), *self._of_estimate(estimate, geometry.pairs)]
        s, v, e = self.trunk(x, conditioning, geometry, lambda number, s: self.attend(number, s, tokens), more)
        widths = [s.shape[-1]] * 2 + [e.shape[-1]] * 2
        shift, scale, pair_shift, pair_scale = self.modulation(conditioning)[:, None].split(widths, -1)
        atoms = modulated(s, shift, scale)
        between = modulated(e, pair_shift, pair_scale)
        pull = geometry.pairs.dense(self.pull(between) * geometry.pair_mask)[..., 0]
        moved = torch.einsum("bij,bijm->bim", pull, geometry.directions) * geometry.sum_scale[..., 0]
        return TensorDict(
            {
                "positions": moved + self.vectors(v[:, :, :3])[..., 0],
                "atoms": self.atoms(atoms),
                "charges": self.charges(atoms),
                "bonds": geometry.pairs.dense(self.bonds(between)),
            },
            batch_size=x.batch_size,
        )

    def _of_known(self, known: TensorDict | None, pairs: Pairs) -> list[Start]:
        """Features of the atoms and of the pairs of which entries are known, relative to those of which none is."""
        if known is None or self.known_atoms is None or self.known_pairs is None:
            return []
        atoms = torch.stack([known[name][..., 0] for name in ("positions", "atoms", "charges")], -1)
        between = pairs.of(known["bonds"][..., :1]).to(self.known_pairs.weight)
        return [(self.known_atoms(atoms.to(self.known_atoms.weight)), 0.0, self.known_pairs(between))]

    def _of_estimate(self, estimate: TensorDict | None, pairs: Pairs) -> list[Start]:
        """Features of an estimate of the molecule: vectors of its positions, and else what does not change with them.

        Its positions are those of a molecule in the frame of the noisy one, so a rotation of both rotates the vectors.
        """
        if estimate is None or self.estimate is None or self.estimate_vectors is None:
            return []
        positions = estimate["positions"]
        atoms, between = self.estimate(estimate, positions.square().sum(-1, keepdim=True) / 3, pairs)
        return [(atoms, harmonics_of(positions, self.estimate_vectors), between)]


class InvariantPredictor(nn.Module):
    """Predicts `outputs` numbers from a noisy molecule; the noisy classifier interprets them.

    They are invariant under E(3), or, without the option `reflections`, under SE(3).

    It has the trunk of the denoiser. The features of atoms and of pairs are summed and passed through an MLP.
    """

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
        """The numbers `[B, outputs]` predicted from the state `x`."""
        geometry = Geometry.of(x["positions"], mask)
        s, v, e = self.trunk(x, conditioning, geometry)
        lengths = lengths_of([v[:, :, components(ell, 1)] for ell in range(1, self.trunk.degree + 1)])
        atoms = functional.silu(self.atoms(torch.cat([s, *lengths], -1))) * geometry.atom_mask
        pairs = functional.silu(self.pairs(e)) * geometry.pair_mask
        # Sums, not means: they grow with the size of the molecule, as extensive properties do.
        return self.output(self.head(atoms.sum(1) / ATOMS_SCALE + pairs.sum(1) / ATOMS_SCALE))
