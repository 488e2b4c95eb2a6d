"""Writes runs in the layout of diffusers."""

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline, StableDiffusionPipeline
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diffcore.errors import UserError, first_line
from diffcore.interop.weights import loaded_run
from diffcore.plugins.registry import Registry
from diffcore.system.files import write_atomically
from diffcore_diffusers.exports.autoencoder import autoencoder
from diffcore_diffusers.networks.autoencoder import HfKL
from diffcore_diffusers.networks.dit import HfDiT, config_of
from diffcore_diffusers.networks.text_unet import HfTextUNet
from diffcore_diffusers.networks.unet import HfUNet
from diffcore_diffusers.options.tables import BetaTableOptions

logger = logging.getLogger(__name__)

_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

_NO_CLASS = 1000
"""The number that `DiTPipeline` has for no class."""

_TABLE = "embedding_table.weight"
"""The end of the names of the embeddings of classes, of which each block has its own; the last is for no class."""


def export_run(run: Path, out: Path, registry: Registry) -> Path:
    """Write the run to the new folder `out`, with averaged weights, and return the folder.

    | network | written as |
    |---|---|
    | `hf-unet`, of pixels and without conditions | `DDPMPipeline` |
    | `hf-dit`, of latents of `hf-kl`, with classes or without | `DiTPipeline` |
    | `hf-unet-text`, of latents of `hf-kl`, with the text encoder `hf-clip` | `StableDiffusionPipeline` |
    | the autoencoder `hf-kl` | `AutoencoderKL` |

    The scheduler has the table that belongs to the weights, and clips nothing. The folder is there once all of it is
    written. Raises `UserError` if `out` exists and is not empty, and for other runs: of other networks, with other
    conditions, and with states that are not pixels between -1 and 1.
    """
    _require_new(out)
    loaded = loaded_run(run, registry)
    network: Any = loaded.model.network
    own = getattr(network, "autoencoder", None) or getattr(network, "backbone", None)
    if isinstance(own, HfKL):
        written: Any = _autoencoder(loaded, run)
    elif isinstance(own, HfUNet):
        written = _pixels(loaded, run)
    elif isinstance(own, HfDiT):
        written = _classes(loaded, run)
    elif isinstance(own, HfTextUNet):
        written = _texts(loaded, run)
    else:
        kind = loaded.model.task.network
        raise UserError(
            f"{run} has the {kind} {getattr(loaded.settings, kind).name}, which diffusers does not have; hf-unet, "
            "hf-dit, hf-unet-text and the autoencoder hf-kl can be exported"
        )
    place = Path(os.path.realpath(out))
    part = place.with_name(f".{secrets.token_hex(4)}.part")
    try:
        _save(written, part, loaded)
        _require_new(out)
        part.replace(place)
    except SafetensorError as error:  # what a full disk raises
        raise UserError(f"{out} could not be written: {first_line(error)}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _require_new(out: Path) -> None:
    """Raise `UserError` if there is something at `out`, unless it is an empty folder."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already: choose another `out`")


def _save(written: Any, folder: Path, loaded: Any) -> None:
    """Write a pipeline or a model of diffusers to the folder."""
    folder.mkdir(parents=True)  # save_pretrained only logs it where this fails
    with _without_bars():
        written.save_pretrained(folder, safe_serialization=True)
    if isinstance(written, StableDiffusionPipeline):
        _with_usual_names(folder / "text_encoder" / "model.safetensors")
    if isinstance(written, DiTPipeline) and loaded.model.codec.conditions:
        condition: Any = loaded.model.codec.conditions[0]
        _with_class_names(folder / "model_index.json", condition.classes)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars that transformers shows while it writes."""
    if find_spec("transformers") is None:
        yield
        return
    from transformers.utils import logging as of_transformers

    shown = of_transformers.is_progress_bar_enabled()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            of_transformers.enable_progress_bar()


def _pixels(loaded: Any, run: Path) -> DDPMPipeline:
    """A `UNet2DModel` of pixels."""
    model, backbone = loaded.model, loaded.model.network.backbone
    if model.codec.conditions:
        names = ", ".join(condition.name for condition in model.codec.conditions)
        raise UserError(f"{run} takes conditions ({names}), and DDPMPipeline takes none")
    if not hasattr(model.codec, "facts"):
        raise UserError(f"{run} diffuses in latents, and DDPMPipeline draws pixels: use hf-dit or hf-unet-text")
    _require_pixels(model.codec.facts, run, "DDPMPipeline")
    options = backbone.options
    variance = "learned_range" if options.learns_variances else "fixed_small"
    scheduler = DDPMScheduler(**_table(options.table), **_predicted(loaded), variance_type=variance, clip_sample=False)
    return DDPMPipeline(backbone.net, scheduler)


def _classes(loaded: Any, run: Path) -> DiTPipeline:
    """A `DiTTransformer2DModel` of latents."""
    backbone = loaded.model.network.backbone
    vae = _latents(loaded, run, "DiTPipeline")
    return DiTPipeline(_with_room(backbone), vae, _scheduler(loaded))


def _texts(loaded: Any, run: Path) -> StableDiffusionPipeline:
    """A `UNet2DConditionModel` of latents, with a `CLIPTextModel`."""
    from diffcore_diffusers.networks.clip import HfClip

    model, backbone = loaded.model, loaded.model.network.backbone
    encoder = model.codec.conditions[0].encoder
    if not isinstance(encoder, HfClip):
        name = loaded.settings.text.name
        raise UserError(f"{run} has the text encoder {name}, which diffusers does not have; train with `text` hf-clip")
    vae = _latents(loaded, run, "StableDiffusionPipeline")
    text = model.network.conditioning.texts[0].net
    parts = {"text_encoder": text, "tokenizer": encoder.tokenizer, "unet": backbone.net}
    return StableDiffusionPipeline(
        vae=vae,
        **parts,
        scheduler=_scheduler(loaded, offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _autoencoder(loaded: Any, run: Path) -> Any:
    """An `AutoencoderKL` alone, as it is: the scale of latents is measured by the runs that diffuse in them."""
    codec, network = loaded.model.codec, loaded.model.network.autoencoder
    _require_pixels(codec.facts, run, "AutoencoderKL")
    count = network.options.latent_channels
    facts = codec.facts
    return autoencoder(network, facts.channels, (facts.height, facts.width), torch.zeros(count), torch.ones(count))


def _latents(loaded: Any, run: Path, pipeline: str) -> Any:
    """The `AutoencoderKL` of a run in latents."""
    codec = loaded.model.codec
    network = getattr(codec, "autoencoder", None)
    if not isinstance(network, HfKL):
        raise UserError(
            f"{run} does not diffuse in latents of the autoencoder hf-kl, as a {pipeline} does: train one with `task` "
            "encode and `autoencoder` hf-kl, and name its run with `latent`"
        )
    facts = codec.first.facts
    _require_pixels(facts, run, pipeline)
    if codec.last_log_snr is not None:
        logger.warning(
            f"the decoder of {run} was trained with noise of the log-SNR {codec.last_log_snr:g}, with which its "
            f"samples end; a {pipeline} removes all noise, so its pictures differ a little"
        )
    mean, std = (next(iter(part.parameters())).detach() for part in (codec.mean, codec.std))
    return autoencoder(network, facts.channels, (facts.height, facts.width), mean, std)


def _require_pixels(facts: Any, run: Path, what: str) -> None:
    if {*facts.mean, *facts.std} != {0.5}:
        raise UserError(
            f"{run} has states with the mean {facts.mean} and the standard deviation {facts.std} of its data; "
            f"{what} has pixels from -1 to 1: train with `data` hf-folder"
        )


def _with_room(backbone: HfDiT) -> DiTTransformer2DModel:
    """The network with the number of classes that `DiTPipeline` expects, if it has fewer."""
    options = backbone.options
    missing = _NO_CLASS - options.num_embeds_ada_norm
    if missing <= 0:
        return backbone.net
    config = backbone.net.config
    wider = options.model_copy(update={"num_embeds_ada_norm": _NO_CLASS})
    net = DiTTransformer2DModel(**config_of(wider, config.in_channels, config.sample_size))
    weights = backbone.net.state_dict()
    for name in [name for name in weights if name.endswith(_TABLE)]:
        weights[name] = torch.cat([weights[name], weights[name][-1:].expand(missing, -1)])
    net.load_state_dict(weights)
    return net.eval()


def _scheduler(loaded: Any, offset: int = 0) -> DDIMScheduler:
    """The scheduler of latents, which ends without noise. `offset` is `steps_offset`, as its pipeline wants it."""
    table: BetaTableOptions = loaded.model.network.backbone.options.table
    spacing = "trailing" if table.rescale_betas_zero_snr else "leading"
    return DDIMScheduler(
        **_table(table), **_predicted(loaded), clip_sample=False, timestep_spacing=spacing, steps_offset=offset
    )


def _table(table: BetaTableOptions) -> dict[str, Any]:
    return {**table.model_dump(), "trained_betas": list(table.trained_betas) or None}


def _predicted(loaded: Any) -> dict[str, str]:
    return {"prediction_type": _PREDICTIONS[loaded.settings.parameterisation]}


def _with_usual_names(path: Path) -> None:
    """Give the weights of a `CLIPTextModel` the names that all versions of transformers read."""
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _with_class_names(path: Path, names: Sequence[str]) -> None:
    """Add the names of classes to the description of a pipeline, which reads them and does not write them."""
    content = json.loads(path.read_text())
    write_atomically(path, json.dumps({**content, "id2label": dict(enumerate(names))}, indent=2).encode())
