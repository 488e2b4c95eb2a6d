"""Reads `UNet2DConditionModel`."""

from collections.abc import Mapping
from typing import Any

from diffcore.errors import UserError
from diffcore_diffusers.imports.configs import made, options_of, sides_of
from diffcore_diffusers.imports.unet import channels_of
from diffcore_diffusers.options.text_unet import HfTextUNetOptions
from diffcore_diffusers.schedulers import Scheduler

_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 1280,
}
_NONE = (
    *("num_attention_heads", "reverse_transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type"),
    *("class_embed_type", "addition_embed_type", "addition_time_embed_dim", "num_class_embeds", "timestep_post_act"),
    *("time_embedding_act_fn", "time_cond_proj_dim", "projection_class_embeddings_input_dim", "cross_attention_norm"),
)
_ONLY: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(_NONE, ()),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "mid_block_only_cross_attention": (False,),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
}


def text_unet_options(
    config: Mapping[str, Any], scheduler: Scheduler, channels: int, tokens: int, origin: str
) -> tuple[HfTextUNetOptions, tuple[int, int]]:
    """The options of `hf-unet-text`, and the sides of the states, of a configuration of `UNet2DConditionModel`.

    `channels` are those of the latents of the pipeline, and `tokens` those of its text encoder. Raises `UserError` for
    values that are not known, and for a network of others.
    """
    others = ("in_channels", "out_channels", "sample_size", "cross_attention_dim", "addition_embed_type_num_heads")
    values = options_of(config, HfTextUNetOptions, origin, _DEFAULTS, _ONLY, others)
    if values["in_channels"] != channels:
        raise UserError(
            f"{origin}: in_channels is {values['in_channels']}, and latents have {channels}: networks that are given "
            "more, such as those for inpainting, cannot be read"
        )
    channels_of(values, 1, origin, "a network without learned variances")
    if values["cross_attention_dim"] != tokens:
        raise UserError(
            f"{origin}: cross_attention_dim is {values['cross_attention_dim']}; the text encoder has {tokens}"
        )
    options = made(HfTextUNetOptions, values, origin, table=scheduler.table.model_dump())
    return options, sides_of(values.get("sample_size"), origin)
