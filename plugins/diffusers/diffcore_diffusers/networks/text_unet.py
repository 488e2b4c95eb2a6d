"""diffusers' `UNet2DConditionModel`."""

from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition
from diffcore.denoising.inputs import Inputs, Tokens
from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore.states.spaces import Euclidean, Mask
from diffcore_diffusers.networks.constructing import constructed
from diffcore_diffusers.networks.told import WIDTH, Told, told
from diffcore_diffusers.networks.unet import require_halved, size_of
from diffcore_diffusers.options.text_unet import HfTextUNetOptions


class HfTextUNet(nn.Module):
    """diffusers' `UNet2DConditionModel` as a backbone; its weights have the names that they have there, after `net.`.

    It attends to the tokens of a text.
    """

    width, accepts = WIDTH, ("tokens",)

    def __init__(self, options: HfTextUNetOptions, channels: int, sides: tuple[int, int], tokens: int) -> None:
        super().__init__()
        config = config_of(options, channels, sides, tokens)
        self.net = constructed("the denoiser hf-unet-text", UNet2DConditionModel, **config)
        self.options, self._masked = options, True

    def own_conditioning(self, conditions: tuple[Condition, ...], level_fields: Sequence[str]) -> Told:
        """The timesteps that the network embeds and the tokens. Raises `UserError` for others than one text."""
        encoders = [each.encoder for each in conditions if isinstance(each, TextCondition)]
        self._masked = not all(getattr(encoder, "all_exist", False) for encoder in encoders)
        return told("hf-unet-text", self.options.table, conditions, level_fields, text=True)

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None, tokens: Tokens | None = None) -> Tensor:
        assert tokens is not None
        present = tokens.mask if self._masked else None  # a mask could not be exported for batches of any size
        output: Tensor = self.net(x, conditioning[:, 0], tokens.values, encoder_attention_mask=present).sample
        return output


def text_unet(options: HfTextUNetOptions, space: Euclidean, inputs: Inputs) -> HfTextUNet:
    """The network for states of the space. Raises `UserError` without texts, and for sides that cannot be halved."""
    channels, height, width = space.shape
    require_halved("hf-unet-text", len(options.block_out_channels), height, width)
    if not inputs.tokens:
        raise UserError("the denoiser hf-unet-text needs data with captions; hf-unet needs none")
    return HfTextUNet(options, channels, (height, width), inputs.tokens)


def config_of(options: HfTextUNetOptions, channels: int, sides: tuple[int, int], tokens: int) -> dict[str, Any]:
    """The configuration of `UNet2DConditionModel` for states and tokens of these numbers of channels."""
    own = options.model_dump(exclude={"table"})
    size = size_of(sides)
    return {
        **own,
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": size,
        "cross_attention_dim": tokens,
    }
