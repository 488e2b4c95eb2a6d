"""Makes runs of models in the layout of diffusers."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcore.errors import UserError
from diffcore.interop.weights import Latents, run_of_weights
from diffcore.plugins.registry import Registry
from diffcore_diffusers import folders, schedulers
from diffcore_diffusers.imports.autoencoder import autoencoder_options, autoencoder_weights, read_latents
from diffcore_diffusers.imports.clip import clip_options, clip_weights, read_pieces
from diffcore_diffusers.imports.configs import class_in, require_class, sides_of
from diffcore_diffusers.imports.dit import class_names, dit_options
from diffcore_diffusers.imports.names import present
from diffcore_diffusers.imports.text_unet import text_unet_options
from diffcore_diffusers.imports.unet import facts_of, unet_options
from diffcore_diffusers.schedulers import SOLVERS, Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What a run is made of, for `diffcore.interop.weights.run_of_weights`."""

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    latents: Latents | None = None
    notes: tuple[str, ...] = ()


def import_folder(folder: Path, out: Path, registry: Registry, as_diffusers: bool = False) -> Path:
    """Make a run in `out` of the model in `folder`, and return its folder.

    `folder` holds a pipeline, or an `AutoencoderKL` alone, of which a run with the task `encode` is made. With
    `as_diffusers`, the run draws with the scheduler of the pipeline itself (`diffcore_diffusers.scheduler_steps`).

    Raises `UserError` for pipelines, networks, schedulers and values that are not known, and for folders that are
    damaged.
    """
    alone = folder / "config.json"
    if not (folder / "model_index.json").exists() and alone.exists():
        found = _autoencoder(folder, folders.table(alone), str(alone))
        if as_diffusers:
            raise UserError(
                f"`as_diffusers` is for pipelines, and {folder} holds an AutoencoderKL, which draws nothing"
            )
    else:
        index = folders.table(folder / "model_index.json")
        for part in folder.iterdir():
            if part.name in index:
                folders.require_no_link(part)
        read = PIPELINES.get(str(index.get("_class_name")))
        if read is None:
            raise UserError(
                f"{folder} holds the pipeline {str(index.get('_class_name'))[:80]!r}; "
                f"those that can be imported are: {', '.join(PIPELINES)}"
            )
        class_in(index, "scheduler", folder)
        place = folder / "scheduler" / "scheduler_config.json"
        config = folders.table(place) | (_OVERRIDDEN if read is _texts else {})
        found = read(folder, index, schedulers.read(config, str(place), as_diffusers))
    made = run_of_weights(
        out, "image", found.settings, found.facts, found.weights, registry, str(folder), found.latents
    )
    for note in found.notes:
        logger.info(f"{folder}: {note}")
    return made


def _pixels(folder: Path, index: Mapping[str, Any], scheduler: Scheduler) -> Imported:
    """A `UNet2DModel` of pixels."""
    require_class(index, "unet", folder, "UNet2DModel")
    place = folder / "unet" / "config.json"
    options, facts = unet_options(folders.table(place), scheduler, str(place))
    settings = {
        "data": {**_data(facts), "class_level": "none"},
        "denoiser": {"name": "hf-unet", **options.model_dump(mode="json")},
        **_drawing(scheduler, guidance=1.0),
    }
    return Imported(settings, facts, _network(folder / "unet"), notes=scheduler.notes)


def _classes(folder: Path, index: Mapping[str, Any], scheduler: Scheduler) -> Imported:
    """A `DiTTransformer2DModel` of latents, with classes."""
    require_class(index, "transformer", folder, "DiTTransformer2DModel", "Transformer2DModel")
    require_class(index, "vae", folder, "AutoencoderKL")
    place = folder / "transformer" / "config.json"
    options, channels, side = dit_options(folders.table(place), scheduler, str(place))
    latents, facts = read_latents(folder / "vae", (side, side), channels)
    names = class_names(index.get("id2label"), options.num_embeds_ada_norm, str(folder / "model_index.json"))
    settings = {
        "data": _data(facts),
        "denoiser": {"name": "hf-dit", **options.model_dump(mode="json")},
        **_drawing(scheduler, guidance=4.0, batch=4),
    }
    weights = {
        name: tensor
        for name, tensor in _network(folder / "transformer").items()
        if not name.endswith("pos_embed.pos_embed")  # a table of sines, which is computed
    }
    return Imported(settings, {**facts, "classes": names}, weights, latents, scheduler.notes)


def _texts(folder: Path, index: Mapping[str, Any], scheduler: Scheduler) -> Imported:
    """A `UNet2DConditionModel` of latents, with a `CLIPTextModel`: the layout of Stable Diffusion."""
    if find_spec("transformers") is None:
        raise UserError(
            f"{folder} has a text encoder, which needs transformers: pip install 'diffcore-diffusers[text]'"
        )
    from diffcore_diffusers.networks.clip import HfClip

    require_class(index, "unet", folder, "UNet2DConditionModel")
    require_class(index, "vae", folder, "AutoencoderKL")
    require_class(index, "text_encoder", folder, "CLIPTextModel", library="transformers")
    require_class(index, "tokenizer", folder, "CLIPTokenizer", "CLIPTokenizerFast", library="transformers")
    pieces = read_pieces(folder / "tokenizer")
    text = clip_options(folder / "text_encoder", len(pieces.pieces))
    encoder = HfClip(text, pieces)
    place = folder / "unet" / "config.json"
    config, vae = folders.table(place), folder / "vae" / "config.json"
    channels = autoencoder_options(folders.table(vae), str(vae))[0].latent_channels
    options, sides = text_unet_options(config, scheduler, channels, text.hidden_size, str(place))
    latents, facts = read_latents(folder / "vae", sides, channels)
    known = {"encoder": "hf-clip", "options": text.model_dump(mode="json"), "learned": dict(encoder.learned)}
    settings = {
        "data": {**_data(facts), "class_level": "none"},
        "denoiser": {"name": "hf-unet-text", **options.model_dump(mode="json")},
        "text": {"name": "hf-clip", **text.model_dump(mode="json")},
        **_drawing(scheduler, guidance=7.5, batch=4),
    }
    weights = _network(folder / "unet") | {
        f"conditioning.texts.0.{name}": tensor for name, tensor in clip_weights(folder / "text_encoder").items()
    }
    notes = [f"{part}: not used" for part in ("safety_checker", "image_encoder") if _is_there(index, part)]
    facts = {**facts, "text": {**known, "digest": encoder.digest}}
    return Imported(settings, facts, weights, latents, (*scheduler.notes, *notes))


def _autoencoder(folder: Path, config: Mapping[str, Any], origin: str) -> Imported:
    """An `AutoencoderKL` alone: a first stage, in whose latents other runs diffuse."""
    if config.get("_class_name") != "AutoencoderKL":
        raise UserError(
            f"{folder} holds the class {str(config.get('_class_name'))[:80]!r}; AutoencoderKL can be imported"
        )
    options, channels, _, size = autoencoder_options(config, origin)
    facts = facts_of(channels, sides_of(size, origin))
    settings = {
        "task": {"name": "encode", "regularisation": "none"},
        "data": {**_data(facts), "class_level": "none"},
        "autoencoder": {"name": "hf-kl", **options.model_dump(mode="json")},
    }
    weights = {f"autoencoder.{name}": tensor for name, tensor in autoencoder_weights(folder).items()}
    return Imported(settings, facts, weights)


PIPELINES: Mapping[str, Callable[[Path, Mapping[str, Any], Scheduler], Imported]] = {
    "DDPMPipeline": _pixels,
    "DDIMPipeline": _pixels,
    "DiTPipeline": _classes,
    "StableDiffusionPipeline": _texts,
}
"""The pipelines that can be imported."""


_OVERRIDDEN = {"steps_offset": 1, "clip_sample": False}
"""What `StableDiffusionPipeline` sets in its scheduler, whatever the configuration says."""


def _data(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The data set with which the network can be trained further: pictures of its size and number of channels."""
    return {"name": "hf-folder", "size": facts["height"], "colour": "grey" if facts["channels"] == 1 else "rgb"}


def _drawing(scheduler: Scheduler, guidance: float, batch: int = 250) -> dict[str, Any]:
    """The settings of the noise levels and of sampling; `guidance` is the weight that the pipeline has by default."""
    solver = SOLVERS[scheduler.name] if scheduler.itself is None else scheduler.itself
    sample = {"solver": solver, "steps": 50, "grid": "time", "guidance": guidance, "batch_size": batch}
    return {
        "schedule": {"name": "hf-betas", **scheduler.table.model_dump(mode="json")},
        "parameterisation": scheduler.parameterisation,
        "sample": sample,
    }


def _network(folder: Path) -> dict[str, Tensor]:
    """The weights of the network in `folder`, by the names that they have in the denoiser of a run."""
    return {f"backbone.net.{present(name)}": tensor for name, tensor in folders.weights(folder).items()}


def _is_there(index: Mapping[str, Any], part: str) -> bool:
    entry = index.get(part)
    return isinstance(entry, list) and any(entry)
