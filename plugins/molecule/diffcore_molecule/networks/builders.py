"""Builders of the plugin's networks, whose sizes depend on the elements and charges that occur."""

from collections.abc import Callable
from typing import Any

from torch import nn

from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError
from diffcore.nn.joint import Maker, joint_network
from diffcore.nn.sets import SetTransformer
from diffcore.states.spaces import Euclidean, Product, Space
from diffcore_molecule.codec import MOLECULE, PROPERTIES, MoleculeCodec
from diffcore_molecule.networks.autoencoder import MoleculeAutoencoder
from diffcore_molecule.networks.equivariant import EquivariantDenoiser, InvariantPredictor
from diffcore_molecule.networks.transformer import TransformerDenoiser
from diffcore_molecule.options import AtomsOptions, AutoencoderOptions, EquivariantOptions, TransformerOptions

READER_DEPTH = 3
"""The largest number of layers of the network that reads a molecule for the properties beside it."""


def equivariant(options: EquivariantOptions, space: Product, inputs: Inputs = NO_INPUTS) -> nn.Module:
    """The equivariant denoiser; raises `UserError` if the number of heads does not divide the width."""
    _require_molecules(space)
    _check_heads(options.heads, options.width, "denoiser")

    def trunk(space: Any, inputs: Inputs) -> EquivariantDenoiser:
        return EquivariantDenoiser(space, options, inputs.tokens, inputs.known, inputs.estimate)

    return _beside_properties(trunk, options, space, inputs)


def transformer(options: TransformerOptions, space: Product, inputs: Inputs = NO_INPUTS) -> nn.Module:
    """The transformer; raises `UserError` if the number of heads does not divide the width."""
    _require_molecules(space)
    _check_heads(options.heads, options.width, "denoiser")

    def trunk(space: Any, inputs: Inputs) -> TransformerDenoiser:
        return TransformerDenoiser(space, options, inputs.tokens, inputs.estimate)

    return _beside_properties(trunk, EquivariantOptions(), space, inputs)


def _beside_properties(
    trunk: Callable[[Any, Inputs], nn.Module], reading: EquivariantOptions, space: Product, inputs: Inputs
) -> nn.Module:
    """The trunk for molecules alone, or, for a joint state, with the network of their properties.

    This one reads molecules by an invariant network of the options `reading`, so that the properties of a molecule do
    not depend on how it lies in space.
    """
    if PROPERTIES not in space.parts:
        return trunk(space, inputs)
    reader = reading.model_copy(update={"depth": min(reading.depth, READER_DEPTH)})
    sides = {MOLECULE: [name for name in space.parts if name != PROPERTIES], PROPERTIES: [PROPERTIES]}

    def encoder(space: Any, outputs: int) -> InvariantPredictor:
        return InvariantPredictor(space, outputs, reader)

    return joint_network(space, sides, {MOLECULE: Maker(trunk, ("tokens",), encoder)}, inputs)


def invariant_predictor(options: EquivariantOptions, space: Product, outputs: int) -> InvariantPredictor:
    """The backbone of the noisy classifier; raises `UserError` if the number of heads does not divide the width."""
    _require_molecules(space)
    _check_heads(options.heads, options.width, "classifier")
    return InvariantPredictor(space, outputs, options)


def autoencoder(options: AutoencoderOptions, codec: MoleculeCodec) -> MoleculeAutoencoder:
    """The autoencoder; raises `UserError` if the number of heads does not divide the width."""
    _check_heads(options.heads, options.width, "autoencoder")
    return MoleculeAutoencoder(codec.space, options)


def atoms(options: AtomsOptions, space: Space, inputs: Inputs = NO_INPUTS) -> SetTransformer:
    """The denoiser of latents of atoms; raises `UserError` for states that are no vectors of atoms."""
    if not isinstance(space, Euclidean):
        raise UserError("`denoiser` atoms diffuses in latents: give `latent`, a run with `task` encode")
    _check_heads(options.heads, options.width, "denoiser")
    return SetTransformer(space.shape[1], **options.model_dump(), octaves=0, tokens=inputs.tokens)


def _require_molecules(space: Space) -> None:
    """Raise `UserError` for latents, which networks of whole molecules cannot denoise."""
    if not isinstance(space, Product):
        raise UserError("this network denoises molecules, not latents: in latents, use `denoiser` atoms")


def _check_heads(heads: int, width: int, part: str) -> None:
    if width % heads:
        raise UserError(f"`{part}.heads` {heads} does not divide `{part}.width` {width}")
