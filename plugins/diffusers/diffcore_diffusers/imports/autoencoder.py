"""Reads `AutoencoderKL`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcore.errors import UserError
from diffcore.interop.weights import Latents
from diffcore_diffusers import folders
from diffcore_diffusers.imports.configs import made, options_of
from diffcore_diffusers.imports.names import present
from diffcore_diffusers.imports.unet import channels_of, facts_of
from diffcore_diffusers.options.autoencoder import HfKLOptions

_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64,),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "sample_size": 32,
}
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "shift_factor": (),
    "latents_mean": (),
    "latents_std": (),
}


def autoencoder_options(config: Mapping[str, Any], origin: str) -> tuple[HfKLOptions, int, float, Any]:
    """The options of `hf-kl`, the channels of pictures, `scaling_factor` and `sample_size` of an `AutoencoderKL`.

    Raises `UserError` for values that are not known.
    """
    others = ("in_channels", "out_channels", "scaling_factor", "sample_size", "force_upcast")
    values = options_of(config, HfKLOptions, origin, _DEFAULTS, _ONLY, others)
    scale = values["scaling_factor"]
    if not isinstance(scale, int | float) or not 0 < scale < 1e9:
        raise UserError(f"{origin}: scaling_factor is {str(scale)[:80]}; it must be a positive number")
    channels = channels_of(values, 1, origin, "an autoencoder")
    return made(HfKLOptions, values, origin), channels, float(scale), values["sample_size"]


def autoencoder_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the `AutoencoderKL` in `folder`, by the names that they have in `hf-kl`."""
    return {f"net.{present(name)}": tensor for name, tensor in folders.weights(folder).items()}


def read_latents(folder: Path, sides: tuple[int, int], channels: int | None = None) -> tuple[Latents, dict[str, Any]]:
    """The latents that the `AutoencoderKL` in `folder` makes, and the facts of the pictures that it decodes.

    * `sides`: the height and width of the latents.
    * `channels`: the channels that they must have; None if any do.

    A pipeline diffuses in `scaling_factor` times the latents, which is a standard deviation of 1 / `scaling_factor`.
    """
    place = folder / "config.json"
    options, colours, scale, _ = autoencoder_options(folders.table(place), str(place))
    if channels not in (None, options.latent_channels):
        raise UserError(f"{place}: latent_channels is {options.latent_channels}; the network has {channels}")
    factor = 2 ** (len(options.block_out_channels) - 1)
    facts = facts_of(colours, (sides[0] * factor, sides[1] * factor))
    count = options.latent_channels
    described = {"name": "hf-kl", **options.model_dump(mode="json")}
    weights = autoencoder_weights(folder)
    return Latents(described, facts, weights, torch.zeros(count), torch.full((count,), 1 / scale)), facts
