"""Builders of the plugin's networks, whose sizes depend on the elements and charges that occur."""

from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError
from diffcore.states.spaces import Product
from diffcore_molecule.networks.equivariant import EquivariantDenoiser, InvariantPredictor
from diffcore_molecule.networks.transformer import TransformerDenoiser
from diffcore_molecule.options import EquivariantOptions, TransformerOptions


def equivariant(options: EquivariantOptions, space: Product, inputs: Inputs = NO_INPUTS) -> EquivariantDenoiser:
    """The equivariant denoiser; raises `UserError` if the number of heads does not divide the width."""
    _check_heads(options.heads, options.width, "denoiser")
    return EquivariantDenoiser(space, options, inputs.tokens)


def transformer(options: TransformerOptions, space: Product, inputs: Inputs = NO_INPUTS) -> TransformerDenoiser:
    """The transformer; raises `UserError` if the number of heads does not divide the width."""
    _check_heads(options.heads, options.width, "denoiser")
    return TransformerDenoiser(space, options, inputs.tokens)


def invariant_predictor(options: EquivariantOptions, space: Product, outputs: int) -> InvariantPredictor:
    """The backbone of the noisy classifier; raises `UserError` if the number of heads does not divide the width."""
    _check_heads(options.heads, options.width, "classifier")
    return InvariantPredictor(space, outputs, options)


def _check_heads(heads: int, width: int, part: str) -> None:
    if width % heads:
        raise UserError(f"`{part}.heads` {heads} does not divide `{part}.width` {width}")
