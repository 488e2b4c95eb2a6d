"""Options of the autoencoder `hf-kl`."""

from typing import Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Settings
from diffcore_diffusers.options.unet import Channels, require_groups, require_one_kind_each

Down = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
Up = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]


class HfKLOptions(Settings):
    """Options of the autoencoder `hf-kl`, by the names of diffusers' `AutoencoderKL`."""

    block_out_channels: tuple[Channels, ...] = Field(
        (32, 64, 64), min_length=1, max_length=8, description="Channels of each level; each but the first halves."
    )
    down_block_types: tuple[Down, ...] = Field(
        ("DownEncoderBlock2D",) * 3, description="Kind of each level of the encoder."
    )
    up_block_types: tuple[Up, ...] = Field(("UpDecoderBlock2D",) * 3, description="Kind of each level of the decoder.")
    layers_per_block: int = Field(1, ge=1, le=64, description="Residual blocks of each level.")
    latent_channels: int = Field(4, ge=1, le=256, description="Channels of the latents.")
    norm_num_groups: int = Field(16, ge=1, description="Groups of the normalisations.")
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = Field("silu", description="Activation function.")
    mid_block_add_attention: bool = Field(True, description="Whether the blocks in the middle have attention.")

    @model_validator(mode="after")
    def _fit(self) -> "HfKLOptions":
        require_one_kind_each(self)
        require_groups(self)
        return self
