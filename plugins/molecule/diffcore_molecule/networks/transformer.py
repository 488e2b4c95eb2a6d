"""A transformer over atoms that is not equivariant: it learns rotations from randomly rotated training molecules."""

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.inputs import Tokens
from diffcore.nn.attention import TokenLayers
from diffcore.nn.blocks import accepted, zeroed
from diffcore.nn.dit import TransformerBlock, modulated
from diffcore.states.spaces import Mask, Product
from diffcore_molecule.fields import channels_of, logit_layer, views_of
from diffcore_molecule.networks.pair_features import EstimateFeatures, Geometry, PairFeatures
from diffcore_molecule.options import TransformerOptions


class Block(nn.Module):
    """Attention between atoms with a bias from the pair features, then an update of the pairs by both their atoms."""

    def __init__(self, options: TransformerOptions, conditioning: int) -> None:
        super().__init__()
        width, pair_width = options.width, options.pair_width
        self.bias = nn.Linear(pair_width, options.heads)
        self.atoms = TransformerBlock(width, options.heads, conditioning, mlp_ratio=2.0)
        self.modulation = zeroed(nn.Linear(conditioning, 2 * pair_width))
        self.ends = nn.Linear(width, pair_width, bias=False)
        self.products = nn.Linear(width, options.inner, bias=False)
        inputs = pair_width + options.inner
        self.pair = nn.Sequential(nn.Linear(inputs, 2 * pair_width), nn.SiLU(), nn.Linear(2 * pair_width, pair_width))

    def forward(
        self, h: Tensor, e: Tensor, geometry: Geometry, conditioning: Tensor, mask: Mask
    ) -> tuple[Tensor, Tensor]:
        """Updated atom tokens `h` `[B, N, C]` and pair features `e` `[B, M, P]`."""
        pairs = geometry.pairs
        h = self.atoms(h, conditioning, mask, pairs.dense(self.bias(e)).permute(0, 3, 1, 2))
        shift, scale = self.modulation(conditioning)[:, None].chunk(2, -1)
        ends, products = self.ends(h), self.products(h)
        inputs = modulated(e, shift, scale) + pairs.sum_of_both(ends)
        return h, e + self.pair(torch.cat([inputs, pairs.product_of_both(products)], -1))


class TransformerDenoiser(nn.Module):
    """A transformer whose atom tokens contain the coordinates, and whose pair features contain the distances.

    Its output depends on the orientation of the molecule, so it needs the random rotations of training. With `tokens`
    channels of tokens, the atoms attend to the tokens after each block. With `estimate`, linear maps of the features of
    an estimate of the molecule are added to the first features of atoms and pairs.
    """

    def __init__(self, space: Product, options: TransformerOptions, tokens: int = 0, estimate: bool = False) -> None:
        super().__init__()
        self.accepts = accepted(tokens=tokens, estimate=estimate)
        atom_channels, _ = channels_of(space)
        self.width = options.width
        self.views = views_of(space)
        width, pair_width = options.width, options.pair_width
        self.tokens = nn.Linear(3 + atom_channels, width)
        self.pairs = PairFeatures(space, pair_width)
        self.blocks = nn.ModuleList(Block(options, self.width) for _ in range(options.depth))
        self.modulation = zeroed(nn.Linear(self.width, 2 * width + 2 * pair_width))
        self.positions = zeroed(nn.Linear(width, 3, bias=False))  # the space removes the mean, and so any bias
        self.atoms = logit_layer(width, space, "atoms")
        self.charges = logit_layer(width, space, "charges")
        self.bonds = logit_layer(pair_width, space, "bonds")
        self.attend = TokenLayers(tokens, [width] * options.depth, options.heads)
        self.estimate = EstimateFeatures(space, 3, width, pair_width) if estimate else None

    def forward(
        self,
        x: TensorDict,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        estimate: TensorDict | None = None,
    ) -> TensorDict:
        """v of `positions` `[B, N, 3]` and logits of `atoms`, `charges` `[B, N, K]` and `bonds` `[B, N, N, K]`."""
        geometry = Geometry.of(x["positions"], mask)
        h = self.tokens(torch.cat([x["positions"], x["atoms"], x["charges"]], -1))
        e = self.pairs.of(x["bonds"], geometry)
        if estimate is not None and self.estimate is not None:
            of_atoms, of_pairs = self.estimate(estimate, estimate["positions"], geometry.pairs)
            h, e = h + of_atoms, e + of_pairs
        for number, block in enumerate(self.blocks):
            h, e = block(h, e, geometry, conditioning, mask)
            h = self.attend(number, h, tokens)
        widths = [h.shape[-1]] * 2 + [e.shape[-1]] * 2
        shift, scale, pair_shift, pair_scale = self.modulation(conditioning)[:, None].split(widths, -1)
        atoms = modulated(h, shift, scale)
        return TensorDict(
            {
                "positions": self.positions(atoms),
                "atoms": self.atoms(atoms),
                "charges": self.charges(atoms),
                "bonds": geometry.pairs.dense(self.bonds(modulated(e, pair_shift, pair_scale))),
            },
            batch_size=x.batch_size,
        )
