"""Builders of the plugin's networks, whose sizes depend on the elements and charges that occur."""

from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError
from diffcore.nn.sets import SetTransformer
from diffcore.states.spaces import Euclidean, Product, Space
from diffcore_molecule.codec import MoleculeCodec
from diffcore_molecule.networks.autoencoder import MoleculeAutoencoder
from diffcore_molecule.networks.equivariant import EquivariantDenoiser, InvariantPredictor
from diffcore_molecule.networks.transformer import TransformerDenoiser
from diffcore_molecule.options import AtomsOptions, AutoencoderOptions, EquivariantOptions, TransformerOptions


def equivariant(options: EquivariantOptions, space: Product, inputs: Inputs = NO_INPUTS) -> EquivariantDenoiser:
    """The equivariant denoiser; raises `UserError` if the number of heads does not divide the width."""
    _require_molecules(space)
    _check_heads(options.heads, options.width, "denoiser")
    return EquivariantDenoiser(space, options, inputs.tokens, inputs.known, inputs.estimate)


def transformer(options: TransformerOptions, space: Product, inputs: Inputs = NO_INPUTS) -> TransformerDenoiser:
    """The transformer; raises `UserError` if the number of heads does not divide the width."""
    _require_molecules(space)
    _check_heads(options.heads, options.width, "denoiser")
    return TransformerDenoiser(space, options, inputs.tokens, inputs.estimate)


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
