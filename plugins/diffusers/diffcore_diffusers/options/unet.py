"""Options of the network `hf-unet`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Settings
from diffcore_diffusers.options.tables import BetaTableOptions

Down = Literal["DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"]
Up = Literal["UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
Channels = Annotated[int, Field(ge=1, le=8192)]


def require_one_kind_each(options: Any) -> None:
    """Raise `ValueError` unless each level of `block_out_channels` has one kind going down and one going up."""
    if not len(options.block_out_channels) == len(options.down_block_types) == len(options.up_block_types):
        raise ValueError("block_out_channels, down_block_types and up_block_types must have the same length")


def require_groups(options: Any) -> None:
    """Raise `ValueError` unless `norm_num_groups` divides the channels of each level."""
    groups = options.norm_num_groups
    if uneven := next((each for each in options.block_out_channels if each % groups), None):
        raise ValueError(f"norm_num_groups {groups} does not divide {uneven} of block_out_channels")


class HfUNetOptions(Settings):
    """Options of the network `hf-unet`, by the names of diffusers' `UNet2DModel`."""

    block_out_channels: tuple[Channels, ...] = Field(
        (64, 128, 128), min_length=1, max_length=16, description="Channels of each level."
    )
    down_block_types: tuple[Down, ...] = Field(
        ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), description="Kind of each level on the way down."
    )
    up_block_types: tuple[Up, ...] = Field(
        ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), description="Kind of each level on the way up."
    )
    layers_per_block: int = Field(2, ge=1, le=64, description="Residual blocks of each level.")
    attention_head_dim: int | None = Field(8, ge=1, description="Channels of a head of attention.")
    norm_num_groups: int = Field(32, ge=1, description="Groups of the normalisations.")
    attn_norm_num_groups: int | None = Field(None, ge=1, description="Groups of the normalisation of attention.")
    norm_eps: float = Field(1e-5, gt=0, description="Added to variances in normalisations.")
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = Field("silu", description="Activation function.")
    mid_block_type: Literal["UNetMidBlock2D"] | None = Field("UNetMidBlock2D", description="Block in the middle.")
    mid_block_scale_factor: float = Field(1.0, gt=0, description="Divides the outputs of the block in the middle.")
    add_attention: bool = Field(True, description="Whether the block in the middle has attention.")
    downsample_padding: int = Field(1, ge=0, le=1, description="Padding of the convolutions that halve.")
    downsample_type: Literal["conv", "resnet"] = Field("conv", description="How levels are halved.")
    upsample_type: Literal["conv", "resnet"] = Field("conv", description="How levels are doubled.")
    resnet_time_scale_shift: Literal["default", "scale_shift"] = Field(
        "default", description="How residual blocks take the time: added, or as scale and shift."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of residual blocks in training.")
    center_input_sample: bool = Field(False, description="Give the network 2 x - 1 in place of x.")
    flip_sin_to_cos: bool = Field(True, description="Whether cosines come before sines in the embedding of time.")
    freq_shift: int = Field(0, ge=0, le=1, description="Shift of the frequencies of the embedding of time.")
    time_embedding_dim: int | None = Field(None, ge=1, description="Channels of the embedding of time.")
    learns_variances: bool = Field(False, description="Whether the network predicts variances too.")
    table: BetaTableOptions = BetaTableOptions()

    @model_validator(mode="after")
    def _fit(self) -> "HfUNetOptions":
        require_one_kind_each(self)
        require_groups(self)
        return self
