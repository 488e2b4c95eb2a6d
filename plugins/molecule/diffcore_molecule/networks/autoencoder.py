"""The autoencoder of molecules: a vector for each atom, which also holds the bonds."""

from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.states.categories import Categories
from diffcore.states.spaces import Euclidean, Mask, Product
from diffcore_molecule.fields import CATEGORICAL, channels_of, views_of
from diffcore_molecule.networks.pair_features import Geometry, PairFeatures, Pairs
from diffcore_molecule.networks.transformer import Block
from diffcore_molecule.options import AutoencoderOptions


class MoleculeAutoencoder(nn.Module):
    """States of molecules to `latent` numbers for each atom, `[B, N, latent]`, and back.

    The encoder is a transformer over atoms whose attention has a bias from distances and bonds. The decoder is another
    one without distances; the features of a pair begin as functions of the latents of both atoms. So a model of the
    latents needs no tensor over pairs. Latents of an atom do not depend on the order of the atoms. They depend on the
    orientation of the molecule, which training turns at random.

    `decode` gives positions, and logits of `atoms`, `charges` and `bonds`, of which `state_of` makes states.
    """

    channel_axis = 2

    def __init__(self, space: Product, options: AutoencoderOptions) -> None:
        super().__init__()
        width, pair_width = options.width, options.pair_width
        count = space.empty(1)["positions"].shape[1]
        self.states, self.space = space, Euclidean((count, options.latent))
        self.categories: dict[str, Categories] = views_of(space)
        self.constant = nn.Parameter(torch.randn(2, width))  # in place of a noise level
        self.tokens = nn.Linear(3 + channels_of(space)[0], width)
        self.pairs = PairFeatures(space, pair_width)
        self.encoder = nn.ModuleList(Block(options, width) for _ in range(options.depth))
        self.to_latent = nn.Linear(width, options.latent)
        self.from_latent = nn.Linear(options.latent, width)
        self.ends = nn.Linear(width, pair_width)
        self.products = nn.Linear(width, pair_width)
        self.decoder = nn.ModuleList(Block(options, width) for _ in range(options.depth))
        self.positions = nn.Linear(width, 3)
        codes = {name: len(self.categories[name].codes) for name in CATEGORICAL}
        self.atoms, self.charges = nn.Linear(width, codes["atoms"]), nn.Linear(width, codes["charges"])
        self.bonds = nn.Linear(pair_width, codes["bonds"])

    def encode(self, state: TensorDict, mask: Mask = None) -> Tensor:
        """States to latents `[B, N, latent]`; those of absent atoms are zero."""
        geometry = Geometry.of(state["positions"], mask)
        h = self.tokens(torch.cat([state["positions"], state["atoms"], state["charges"]], -1))
        e = self.pairs.of(state["bonds"], geometry)
        for block in self.encoder:
            h, e = block(h, e, geometry, self.constant[:1].expand(h.shape[0], -1), mask)
        return self.space.project(self.to_latent(functional.layer_norm(h, h.shape[-1:])), mask)

    def decode(self, latent: Tensor, mask: Mask = None) -> TensorDict:
        """`positions` `[B, N, 3]`, and logits of `atoms`, `charges` `[B, N, K]` and `bonds` `[B, N, N, K]`."""
        geometry = Geometry.of(latent.new_zeros(*latent.shape[:2], 3), mask)  # of which blocks use the pairs alone
        pairs, h = geometry.pairs, self.from_latent(latent)
        e = pairs.sum_of_both(self.ends(h)) + pairs.product_of_both(self.products(h))
        for block in self.decoder:
            h, e = block(h, e, geometry, self.constant[1:].expand(h.shape[0], -1), mask)
        h, e = (functional.layer_norm(values, values.shape[-1:]) for values in (h, e))
        fields = {"positions": self.positions(h), "atoms": self.atoms(h), "charges": self.charges(h)}
        return TensorDict({**fields, "bonds": pairs.dense(self.bonds(e))}, batch_size=[latent.shape[0]])

    def state_of(self, decoded: TensorDict, mask: Mask = None) -> TensorDict:
        """The points of the categories with the largest logits, and the positions."""
        points = {name: own.encode(decoded[name].argmax(-1)) for name, own in self.categories.items()}
        state = TensorDict({"positions": decoded["positions"], **points}, batch_size=decoded.batch_size)
        return cast(TensorDict, self.states.project(state, mask))

    def losses(self, decoded: TensorDict, state: TensorDict, mask: Mask = None) -> dict[str, Tensor]:
        """The squared error of a coordinate, and -log p in nats of an atom, a charge and a bond: means, `[B]`."""
        batch, count = state["positions"].shape[:2]
        present = torch.ones(batch, count, device=decoded.device) if mask is None else mask.float()
        positions = self.states.parts["positions"]
        freedoms = positions.degrees_of_freedom(state["positions"], mask).clamp(min=1)
        error = positions.squared_norm(decoded["positions"] - state["positions"], mask) / freedoms
        found = {"positions": error}
        for name in ("atoms", "charges"):
            found[name] = _mean(self._surprise(name, decoded[name], state[name]), present)
        pairs = Pairs(count, present.device)
        logits, codes = pairs.of(decoded["bonds"]), pairs.of(state["bonds"])
        found["bonds"] = _mean(self._surprise("bonds", logits, codes), pairs.product_of_both(present))
        return found

    def _surprise(self, name: str, logits: Tensor, codes: Tensor) -> Tensor:
        """-log p of the true category of each entry."""
        return functional.cross_entropy(logits.movedim(-1, 1), self.categories[name].nearest(codes), reduction="none")


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of the values `[B, n]` with the weights 0 or 1, `[B]`."""
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
