"""Reads `UNet2DModel`."""

from collections.abc import Mapping
from typing import Any

from diffcore.errors import UserError
from diffcore_diffusers.imports.configs import made, options_of, sides_of
from diffcore_diffusers.options.unet import HfUNetOptions
from diffcore_diffusers.schedulers import Scheduler

_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
}
"""The values of `UNet2DModel` for what a configuration leaves out, where those of `hf-unet` are others."""


def unet_options(config: Mapping[str, Any], scheduler: Scheduler, origin: str) -> tuple[HfUNetOptions, dict[str, Any]]:
    """The options of `hf-unet`, and the facts of the pictures, of a configuration of `UNet2DModel`.

    Raises `UserError` for values that are not known, a time that is not embedded by position, and classes, as
    `UNet2DModel` does not say which class stands for none.
    """
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise UserError(f"{origin}: the network takes classes, and the folder does not say what they mean")
    only = {"time_embedding_type": ("positional",)}
    others = ("in_channels", "out_channels", "sample_size", "num_train_timesteps", "class_embed_type")
    values = options_of(config, HfUNetOptions, origin, _DEFAULTS, only, others)
    # None means something here: one head of all channels, and no block in the middle.
    values |= {key: config[key] for key in ("attention_head_dim", "mid_block_type") if key in config}
    if scheduler.variance == "learned":
        raise UserError(f"{origin}: variance_type learned cannot be read; learned_range can")
    learned = scheduler.variance == "learned_range"
    channels = channels_of(values, 1 + learned, origin, "this scheduler")
    options = made(HfUNetOptions, values, origin, table=scheduler.table.model_dump(), learns_variances=learned)
    return options, facts_of(channels, sides_of(values.get("sample_size"), origin))


def channels_of(values: Mapping[str, Any], factor: int, origin: str, what: str) -> int:
    """`in_channels`. Raises `UserError` unless there are `factor` times as many `out_channels`, as `what` needs."""
    channels, outputs = values.get("in_channels"), values.get("out_channels")
    if not isinstance(channels, int) or outputs != channels * factor:
        raise UserError(f"{origin}: out_channels {outputs} does not fit in_channels {channels} of {what}")
    return channels


def facts_of(channels: int, sides: tuple[int, int]) -> dict[str, Any]:
    """The facts of pictures whose states are pixels from -1 to 1."""
    half = (0.5,) * channels
    return {"channels": channels, "height": sides[0], "width": sides[1], "mean": half, "std": half}
