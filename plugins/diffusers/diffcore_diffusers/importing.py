"""Makes runs of models in the layout of diffusers."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcore.errors import UserError
from diffcore.interop.weights import checked, run_of_weights
from diffcore.plugins.registry import Registry
from diffcore_diffusers import folders, schedulers
from diffcore_diffusers.options import HfUNetOptions
from diffcore_diffusers.schedulers import SOLVERS, Scheduler

logger = logging.getLogger(__name__)

PIPELINES = ("DDPMPipeline", "DDIMPipeline")

_CLASS_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
}
"""The values of `UNet2DModel` for what a configuration leaves out, where those of `hf-unet` are others."""

_OLD_NAMES = (
    (re.compile(r"(attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
)
"""Older names of the layers of attention, which diffusers reads too."""


def import_folder(folder: Path, out: Path, registry: Registry) -> Path:
    """Make a run in `out` of the pipeline in `folder`, and return its folder.

    Raises `UserError` for pipelines, networks, schedulers and values that are not known, and for folders that are
    damaged.
    """
    index = folders.table(folder / "model_index.json")
    if index.get("_class_name") not in PIPELINES:
        raise UserError(
            f"{folder} holds the pipeline {str(index.get('_class_name'))[:80]!r}; "
            f"those that can be imported are: {', '.join(PIPELINES)}"
        )
    if _class(index, "unet", folder) != "UNet2DModel":
        raise UserError(f"{folder} has the unet {_class(index, 'unet', folder)[:80]!r}; UNet2DModel can be imported")
    place = folder / "scheduler" / "scheduler_config.json"
    scheduler = schedulers.read(folders.table(place), str(place))
    place = folder / "unet" / "config.json"
    config = folders.table(place)
    options, facts = unet_options(config, scheduler, str(place))
    settings = {
        "data": {"name": "hf-folder", "size": facts["height"], "class_level": "none", "colour": _colour(facts)},
        "denoiser": {"name": "hf-unet", **options.model_dump(mode="json")},
        "schedule": {"name": "hf-betas", **scheduler.table.model_dump(mode="json")},
        "parameterisation": scheduler.parameterisation,
        "sample": {"solver": SOLVERS[scheduler.name], "steps": 50, "grid": "time", "guidance": 1.0},
    }
    weights = {f"backbone.net.{_present(name)}": tensor for name, tensor in folders.weights(folder / "unet").items()}
    made = run_of_weights(out, "image", settings, facts, weights, registry, str(folder))
    for note in scheduler.notes:
        logger.info(f"{folder}: {note}")
    return made


def unet_options(config: Mapping[str, Any], scheduler: Scheduler, origin: str) -> tuple[HfUNetOptions, dict[str, Any]]:
    """The options of `hf-unet`, and the facts of the pictures, of a configuration of `UNet2DModel`.

    Raises `UserError` for values that are not known, a time that is not embedded by position, and classes, as
    `UNet2DModel` does not say which class stands for none.
    """
    values = {**_CLASS_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    if values.get("time_embedding_type", "positional") != "positional":
        raise UserError(f"{origin}: time_embedding_type must be positional, in which the network is told a timestep")
    if values.get("class_embed_type") is not None or values.get("num_class_embeds") is not None:
        raise UserError(f"{origin}: the network takes classes, and the folder does not say what they mean")
    known = {
        *HfUNetOptions.model_fields, *("in_channels", "out_channels", "sample_size"),
        *("time_embedding_type", "num_train_timesteps"),
    }  # fmt: skip
    if strange := sorted(key for key in values if key not in known and not key.startswith("_")):
        raise UserError(f"{origin}: {strange[0][:80]!r} is not known")
    channels, outputs, size = (values.get(key) for key in ("in_channels", "out_channels", "sample_size"))
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    learned = scheduler.variance in ("learned", "learned_range")
    if scheduler.variance == "learned":
        raise UserError(f"{origin}: variance_type learned cannot be read; learned_range can")
    if not isinstance(channels, int) or outputs != channels * (1 + learned):
        raise UserError(f"{origin}: out_channels {outputs} does not fit in_channels {channels} of this scheduler")
    own = {key: value for key, value in values.items() if key in HfUNetOptions.model_fields}
    if "attention_head_dim" in config:  # None means something here: one head of all channels
        own["attention_head_dim"] = config["attention_head_dim"]
    if "mid_block_type" in config:
        own["mid_block_type"] = config["mid_block_type"]
    own |= {"table": scheduler.table.model_dump(), "learns_variances": learned}
    facts = {
        **{"channels": channels, "height": height, "width": width},
        **{"mean": (0.5,) * channels, "std": (0.5,) * channels},
    }
    return checked(HfUNetOptions, own, origin), facts


def _colour(facts: Mapping[str, Any]) -> str:
    """The colour mode in which pictures are read that the network is trained further with."""
    return "grey" if facts["channels"] == 1 else "rgb"


def _class(index: Mapping[str, Any], part: str, folder: Path) -> str:
    """The class of a part of the pipeline, which must be one of diffusers' own."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or entry[0] != "diffusers" or not isinstance(entry[1], str):
        raise UserError(f"{folder / 'model_index.json'}: {part} must be a class of diffusers, not {str(entry)[:80]}")
    return entry[1]


def _present(name: str) -> str:
    """The name that a tensor has today."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name
