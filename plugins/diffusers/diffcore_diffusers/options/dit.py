"""Options of the network `hf-dit`."""

from typing import Literal

from pydantic import Field

from diffcore.plugins.records import Settings
from diffcore_diffusers.options.tables import BetaTableOptions


class HfDiTOptions(Settings):
    """Options of the network `hf-dit`, by the names of diffusers' `DiTTransformer2DModel`."""

    num_attention_heads: int = Field(4, ge=1, le=256, description="Heads of attention.")
    attention_head_dim: int = Field(32, ge=1, le=1024, description="Channels of a head of attention.")
    num_layers: int = Field(6, ge=1, le=512, description="Blocks of the transformer.")
    patch_size: int = Field(2, ge=1, le=64, description="Height and width of a patch, in cells of the state.")
    num_embeds_ada_norm: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Number of classes that the network has room for; a pipeline of diffusers expects 1000.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in training.")
    attention_bias: bool = Field(True, description="Whether the queries, keys and values of attention have a bias.")
    activation_fn: Literal["gelu-approximate", "gelu", "geglu", "geglu-approximate"] = Field(
        "gelu-approximate", description="Activation function."
    )
    norm_eps: float = Field(1e-5, gt=0, description="Added to variances in normalisations.")
    learns_variances: bool = Field(False, description="Whether the network predicts variances too.")
    table: BetaTableOptions = BetaTableOptions()
