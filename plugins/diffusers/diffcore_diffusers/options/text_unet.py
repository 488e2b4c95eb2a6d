"""Options of the network `hf-unet-text`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Settings
from diffcore_diffusers.options.tables import BetaTableOptions
from diffcore_diffusers.options.unet import Channels, require_one_kind_each

Down = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
Up = Literal["CrossAttnUpBlock2D", "UpBlock2D"]
_Heads = Annotated[int, Field(ge=1, le=1024)]


class HfTextUNetOptions(Settings):
    """Options of the network `hf-unet-text`, by the names of diffusers' `UNet2DConditionModel`."""

    block_out_channels: tuple[Channels, ...] = Field(
        (64, 128, 128), min_length=1, max_length=16, description="Channels of each level."
    )
    down_block_types: tuple[Down, ...] = Field(
        ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), description="Kind of each level going down."
    )
    up_block_types: tuple[Up, ...] = Field(
        ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), description="Kind of each level going up."
    )
    layers_per_block: int = Field(2, ge=1, le=64, description="Residual blocks of each level.")
    attention_head_dim: _Heads | tuple[_Heads, ...] = Field(
        8, description="Number of heads of attention, of all levels or of each; diffusers calls it so."
    )
    transformer_layers_per_block: int = Field(
        1, ge=1, le=64, description="Blocks of attention after each residual one."
    )
    norm_num_groups: int = Field(32, ge=1, description="Groups of the normalisations.")
    norm_eps: float = Field(1e-5, gt=0, description="Added to variances in normalisations.")
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = Field("silu", description="Activation function.")
    only_cross_attention: bool = Field(False, description="Attend to the text only, and not to the state itself.")
    dual_cross_attention: bool = Field(False, description="Attend to the text in two transformers at each place.")
    use_linear_projection: bool = Field(False, description="Linear layers around attention in place of convolutions.")
    upcast_attention: bool = Field(False, description="Compute attention in float32.")
    downsample_padding: int = Field(1, ge=0, le=1, description="Padding of the convolutions that halve.")
    mid_block_scale_factor: float = Field(1.0, gt=0, description="Divides the outputs of the block in the middle.")
    resnet_time_scale_shift: Literal["default", "scale_shift"] = Field(
        "default", description="How residual blocks take the time: added, or as scale and shift."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of residual blocks in training.")
    center_input_sample: bool = Field(False, description="Give the network 2 x - 1 in place of x.")
    flip_sin_to_cos: bool = Field(True, description="Whether cosines come before sines in the embedding of time.")
    freq_shift: int = Field(0, ge=0, le=1, description="Shift of the frequencies of the embedding of time.")
    time_embedding_dim: int | None = Field(None, ge=1, description="Channels of the embedding of time.")
    table: BetaTableOptions = BetaTableOptions()

    @model_validator(mode="after")
    def _fit(self) -> "HfTextUNetOptions":
        require_one_kind_each(self)
        heads = self.attention_head_dim
        if isinstance(heads, tuple) and len(heads) != len(self.block_out_channels):
            raise ValueError("attention_head_dim must be one number, or one for each of block_out_channels")
        for number, channels in enumerate(self.block_out_channels):
            own = heads[number] if isinstance(heads, tuple) else heads
            if channels % self.norm_num_groups or channels % own:
                raise ValueError(f"norm_num_groups and attention_head_dim must divide {channels} of block_out_channels")
        return self
