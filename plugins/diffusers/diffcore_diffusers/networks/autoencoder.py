"""diffusers' `AutoencoderKL`."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from diffcore.errors import UserError
from diffcore.states.spaces import Euclidean, Mask
from diffcore_diffusers.networks.constructing import constructed
from diffcore_diffusers.options.autoencoder import HfKLOptions


class HfKL(nn.Module):
    """diffusers' `AutoencoderKL` as an autoencoder; its weights have the names that they have there, after `net.`.

    A latent is the mean of the distribution that the encoder predicts; its variance is neither used nor trained.
    Normalisations are over the whole picture, so a picture is decoded as a whole, one at a time where no gradient is
    needed.
    """

    channel_axis = 1

    def __init__(self, options: HfKLOptions, channels: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.options, self.factor = options, 2 ** (len(options.block_out_channels) - 1)
        self.net = constructed("the autoencoder hf-kl", AutoencoderKL, **config_of(options, channels, sides))
        self.space = Euclidean((options.latent_channels, sides[0] // self.factor, sides[1] // self.factor))

    def encode(self, state: Tensor, mask: Mask = None) -> Tensor:
        """`state` `[B, channels, H, W]` to latents `[B, latent, H / factor, W / factor]`. `mask` is ignored."""
        latents: Tensor = self.net.encode(state).latent_dist.mode()
        return latents

    def decode(self, latent: Tensor, mask: Mask = None) -> Tensor:
        """Latents to states."""
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self.net.decode(latent).sample  # type: ignore[no-any-return]
        return torch.cat([self.net.decode(row).sample for row in latent.split(1)])

    def cells(self, marked: Tensor) -> Tensor:
        """The cells of the latent in which any entry of a picture is marked, bool `[B, latent, h, w]`."""
        some = functional.max_pool2d(marked.any(1, keepdim=True).float(), self.factor) > 0
        return some.expand(-1, self.space.shape[0], -1, -1)


def autoencoder(options: HfKLOptions, codec: Any) -> HfKL:
    """The autoencoder of pictures. Raises `UserError` if their sides cannot be halved at each level."""
    channels, height, width = codec.space.shape
    unit = 2 ** (len(options.block_out_channels) - 1)
    if height % unit or width % unit:
        raise UserError(
            f"pictures of {height}x{width} do not fit the autoencoder hf-kl with {len(options.block_out_channels)} "
            f"levels: sides must be multiples of {unit}; change `data.size` or `autoencoder.block_out_channels`"
        )
    return HfKL(options, channels, (height, width))


def config_of(options: HfKLOptions, channels: int, sides: tuple[int, int]) -> dict[str, Any]:
    """The configuration of `AutoencoderKL` for pictures of that number of channels and of the sides."""
    own = options.model_dump()
    return {**own, "in_channels": channels, "out_channels": channels, "sample_size": max(sides)}
