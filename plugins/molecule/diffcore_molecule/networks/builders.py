"""The plugin's networks, made to the elements that occur."""

from diffcore.errors import UserError
from diffcore.states.spaces import Product
from diffcore_molecule.networks.equivariant import EquivariantClassifier, EquivariantDenoiser
from diffcore_molecule.networks.transformer import TransformerDenoiser
from diffcore_molecule.options import EquivariantOptions, TransformerOptions


def equivariant(options: EquivariantOptions, space: Product) -> EquivariantDenoiser:
    """The equivariant denoiser; raises `UserError` where heads do not divide the width."""
    _check_heads(options.heads, options.width, "denoiser")
    return EquivariantDenoiser(space, options)


def transformer(options: TransformerOptions, space: Product) -> TransformerDenoiser:
    """The transformer; raises `UserError` where heads do not divide the width."""
    _check_heads(options.heads, options.width, "denoiser")
    return TransformerDenoiser(space, options)


def classifier(options: EquivariantOptions, space: Product, outputs: int) -> EquivariantClassifier:
    """The equivariant classifier; raises `UserError` where heads do not divide the width."""
    _check_heads(options.heads, options.width, "classifier")
    return EquivariantClassifier(space, outputs, options)


def _check_heads(heads: int, width: int, part: str) -> None:
    if width % heads:
        raise UserError(f"--{part}.heads {heads} does not divide --{part}.width {width}")
