"""Builders of the networks on grids `[B, C, height, width]` from their options and a space, for plugins to offer."""

from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.nn.encoder import Encoder
from diffcore.nn.options import DiTOptions, EncoderOptions, UNetOptions
from diffcore.nn.unet import UNet
from diffcore.states.spaces import Euclidean


def unet(options: UNetOptions, space: Euclidean, inputs: Inputs = NO_INPUTS) -> UNet:
    """A `UNet`; raises `UserError` if the grid cannot be divided into patches and halved at each level."""
    channels, height, width = space.shape
    _check_sides(height, width, options.patch * 2 ** (len(options.multipliers) - 1), "`denoiser.multipliers`")
    return UNet(channels, **options.model_dump(), tokens=inputs.tokens, like_state=inputs.like_state)


def dit(options: DiTOptions, space: Euclidean, inputs: Inputs = NO_INPUTS) -> DiT:
    """A `DiT`; raises `UserError` if the grid cannot be divided into patches, or if heads do not divide the width."""
    channels, height, width = space.shape
    _check_sides(height, width, options.patch, "`denoiser.patch`")
    if options.width % options.heads:
        raise UserError(f"`denoiser.heads` {options.heads} does not divide `denoiser.width` {options.width}")
    return DiT(channels, (height, width), **options.model_dump(), tokens=inputs.tokens, like_state=inputs.like_state)


def encoder(options: EncoderOptions, space: Euclidean, outputs: int) -> Encoder:
    """An `Encoder`; raises `UserError` if the grid cannot be divided into patches."""
    channels, height, width = space.shape
    if height % options.patch or width % options.patch:
        raise UserError(
            f"grids of {height}x{width} cannot be divided into patches of {options.patch}: change the size of the data "
            "or `classifier.patch`"
        )
    return Encoder(channels, outputs, **options.model_dump())


def _check_sides(height: int, width: int, unit: int, argument: str) -> None:
    """Raise `UserError` unless both sides are multiples of `unit`; `argument` is one on which `unit` depends."""
    if height < unit or width < unit:
        raise UserError(
            f"grids of {height}x{width} are smaller than the network can take: sides must be at least {unit}; "
            f"use larger data (`data.size`, if the data set has it), or a smaller `denoiser.patch` or {argument}"
        )
    if height % unit or width % unit:
        raise UserError(
            f"grids of {height}x{width} do not fit the network: sides must be multiples of {unit}; "
            f"change the size of the data (`data.size`, if the data set has it), `denoiser.patch` or {argument}"
        )
