"""Options of the networks on grids. This module does not import torch, so that plugin records can name them."""

from pydantic import Field, PositiveInt, model_validator

from diffcore.plugins.records import Settings


class UNetOptions(Settings):
    """Options of `diffcore.nn.unet.UNet`."""

    width: int = Field(64, ge=8, description="Channels at the first level; a multiple of 8.", multiple_of=8)
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2), min_length=1, description="Channels of each level, as multiples of width."
    )
    blocks: int = Field(1, ge=1, description="Residual blocks at each level.")
    patch: int = Field(4, ge=1, description="Side of the patches that are first folded into channels.")
    attention: bool = Field(False, description="Attention at the coarsest level.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside residual blocks.")
    learned_variance: bool = Field(False, description="Also learn the variance of ancestral sampling's steps.")
    octaves: int = Field(
        0, ge=0, le=16, description="Number of frequencies of the Fourier features of the state, for likelihoods."
    )


class EncoderOptions(Settings):
    """Options of `diffcore.nn.encoder.Encoder`."""

    width: int = Field(32, ge=8, description="Channels at the first level; a multiple of 8.", multiple_of=8)
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2), min_length=1, description="Channels of each level, as multiples of width."
    )
    blocks: int = Field(1, ge=1, description="Residual blocks at each level.")
    patch: int = Field(1, ge=1, description="Side of the patches that are first folded into channels.")
    attention: bool = Field(False, description="Attention at the coarsest level.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside residual blocks.")


class GridAutoencoderOptions(Settings):
    """Options of `diffcore.nn.grid_autoencoder.GridAutoencoder`."""

    factor: int = Field(4, ge=1, le=64, description="How many times the sides of the latent are smaller.")
    latent: int = Field(4, ge=1, le=1024, description="Channels of the latent.")
    width: int = Field(32, ge=8, description="Channels at the first level; doubled and doubled again at the next two.")
    blocks: int = Field(1, ge=1, description="Residual blocks at each level, of the encoder and of the decoder.")
    patch: int = Field(2, ge=1, description="Side of the patches that are first folded into channels.")

    @model_validator(mode="after")
    def _halves(self) -> "GridAutoencoderOptions":
        ratio, rest = divmod(self.factor, self.patch)
        if rest or ratio & (ratio - 1) or not ratio:
            raise ValueError(f"factor, {self.factor}, must be patch, {self.patch}, times a power of 2")
        return self


class DiTOptions(Settings):
    """Options of `diffcore.nn.dit.DiT`."""

    width: int = Field(192, ge=8, description="Channels of a token.")
    depth: int = Field(6, ge=1, description="Number of transformer blocks.")
    heads: int = Field(6, ge=1, description="Number of attention heads; must divide the width.")
    patch: int = Field(4, ge=1, description="Side of a patch; must divide the sides of the grid.")
    mlp_ratio: float = Field(4.0, gt=0, description="Channels of the hidden layer, as a multiple of width.")
    learned_variance: bool = Field(False, description="Also learn the variance of ancestral sampling's steps.")
    octaves: int = Field(
        0, ge=0, le=16, description="Number of frequencies of the Fourier features of the state, for likelihoods."
    )
