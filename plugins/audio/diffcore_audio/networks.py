"""Networks of spectrograms: those of grids, and a joint one where the envelope of a sound belongs to the state."""

from collections.abc import Callable
from functools import partial

from torch import nn

from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError
from diffcore.nn import builders
from diffcore.nn.joint import Maker, joint_network
from diffcore.nn.options import DiTOptions, EncoderOptions, UNetOptions
from diffcore.states.spaces import Product, Space

SIDES = {"sound": ("sound",), "envelope": ("envelope",)}
"""The sides of joint states, with their fields: a spectrogram, and the loudness in K frames."""


def unet(options: UNetOptions, space: Space, inputs: Inputs = NO_INPUTS) -> nn.Module:
    """A U-Net of spectrograms, beside a network of the envelope in joint states."""
    return _with_envelope(partial(builders.unet, options), space, inputs)


def dit(options: DiTOptions, space: Space, inputs: Inputs = NO_INPUTS) -> nn.Module:
    """A diffusion transformer of spectrograms, beside a network of the envelope in joint states."""
    return _with_envelope(partial(builders.dit, options), space, inputs)


def encoder(options: EncoderOptions, space: Space, outputs: int) -> nn.Module:
    """A classifier of spectrograms. Raises `UserError` for joint states."""
    if isinstance(space, Product):
        raise UserError("`data.joint` envelope: a classifier sees sounds alone; train it without `data.joint`")
    return builders.encoder(options, space, outputs)  # type: ignore[arg-type]


def _with_envelope(build: Callable[..., nn.Module], space: Space, inputs: Inputs) -> nn.Module:
    if not isinstance(space, Product):
        return build(space, inputs)
    return joint_network(space, SIDES, {"sound": Maker(build, ("tokens",))}, inputs)
