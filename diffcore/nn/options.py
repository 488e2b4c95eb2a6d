"""Options of the networks on grids. Importing them is cheap, so a plugin's records can name them."""

from pydantic import Field, PositiveInt

from diffcore.plugins.records import Settings


class UNetOptions(Settings):
    width: int = Field(64, ge=8, description="Channels at the first level; a multiple of 8.", multiple_of=8)
    multipliers: tuple[PositiveInt, ...] = Field((1, 2), min_length=1, description="Channels of each level, in widths.")
    blocks: int = Field(1, ge=1, description="Residual blocks a level on the way down.")
    patch: int = Field(4, ge=1, description="Side of the patches that are folded into channels first.")
    attention: bool = Field(False, description="Attention at the coarsest level.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside residual blocks.")
    learned_variance: bool = Field(False, description="Learn the variance of ancestral sampling's steps too.")


class EncoderOptions(Settings):
    width: int = Field(32, ge=8, description="Channels at the first level; a multiple of 8.", multiple_of=8)
    multipliers: tuple[PositiveInt, ...] = Field((1, 2), min_length=1, description="Channels of each level, in widths.")
    blocks: int = Field(1, ge=1, description="Residual blocks a level.")
    patch: int = Field(1, ge=1, description="Side of the patches that are folded into channels first.")
    attention: bool = Field(False, description="Attention at the coarsest level.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside residual blocks.")


class DiTOptions(Settings):
    width: int = Field(192, ge=8, description="Size of a token.")
    depth: int = Field(6, ge=1, description="Transformer blocks.")
    heads: int = Field(6, ge=1, description="Attention heads; must divide the width.")
    patch: int = Field(4, ge=1, description="Side of a patch; must divide the grid's sides.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the hidden layer, in widths.")
    learned_variance: bool = Field(False, description="Learn the variance of ancestral sampling's steps too.")
