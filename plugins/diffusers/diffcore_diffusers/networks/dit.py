"""diffusers' `DiTTransformer2DModel`."""

from collections.abc import Sequence
from typing import Any

from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition
from diffcore.errors import UserError
from diffcore.states.spaces import Euclidean, Mask
from diffcore_diffusers.networks.constructing import constructed
from diffcore_diffusers.networks.told import WIDTH, Told, told
from diffcore_diffusers.networks.unet import with_variances
from diffcore_diffusers.options.dit import HfDiTOptions

MOST_OF_POSITIONS = 2**26
"""Maximum size of the table of positions, which diffusers computes in float64 while the network is made."""


class HfDiT(nn.Module):
    """diffusers' `DiTTransformer2DModel` as a backbone; its weights have the names that they have there, after `net.`.

    Class k of the data is number k of the network, and no class its last number, `num_embeds_ada_norm`.
    """

    width = WIDTH

    def __init__(self, options: HfDiTOptions, channels: int, side: int) -> None:
        super().__init__()
        self.net = constructed("the denoiser hf-dit", DiTTransformer2DModel, **config_of(options, channels, side))
        self.options = options
        for block in self.net.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # conditions are dropped before they get here

    def own_conditioning(self, conditions: tuple[Condition, ...], level_fields: Sequence[str]) -> Told:
        """The timesteps and classes that the network embeds. Raises `UserError` for others than one class."""
        room = self.options.num_embeds_ada_norm
        found = told("hf-dit", self.options.table, conditions, level_fields, room)
        if conditions and (count := len(conditions[0].classes)) > room:  # type: ignore[attr-defined]
            raise UserError(f"`denoiser.num_embeds_ada_norm` must be at least {count} here, the number of classes")
        return found

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None) -> Tensor | tuple[Tensor, Tensor]:
        times, labels = conditioning[:, 0], conditioning[:, 1].long()
        output: Tensor = self.net(x, timestep=times, class_labels=labels).sample
        return with_variances(output) if self.options.learns_variances else output


def dit(options: HfDiTOptions, space: Euclidean) -> HfDiT:
    """The network for states of the space. Raises `UserError` unless they are squares that patches fill."""
    channels, height, width = space.shape
    if height != width or height % options.patch_size:
        raise UserError(
            f"states of {height}x{width} do not fit the denoiser hf-dit: they must be squares whose sides are "
            f"multiples of `denoiser.patch_size`, {options.patch_size}"
        )
    positions = (height // options.patch_size) ** 2 * options.num_attention_heads * options.attention_head_dim
    if positions > MOST_OF_POSITIONS:
        raise UserError(
            f"states of {height}x{width} do not fit the denoiser hf-dit: the table of its positions would have "
            f"{positions:,} numbers, and may have {MOST_OF_POSITIONS:,}"
        )
    return HfDiT(options, channels, height)


def config_of(options: HfDiTOptions, channels: int, side: int) -> dict[str, Any]:
    """The configuration of `DiTTransformer2DModel` for states of that number of channels and that side."""
    own = options.model_dump(exclude={"table", "learns_variances"})
    outputs = channels * (2 if options.learns_variances else 1)
    return {**own, "in_channels": channels, "out_channels": outputs, "sample_size": side}
