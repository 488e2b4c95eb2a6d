"""Small models of every kind of data and denoiser, with random weights, as runs that can be exported."""

from pathlib import Path

import torch

from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose
from diffcore.runs.loading import LoadedRun
from diffcore.runs.model import build_data, build_model
from diffcore.runs.settings import FirstStage

_SOUNDS = {"name": "drums", "sounds": 20, "codec": "complex", "bands": 32, "hop": 32, "seconds": 0.05}
_CLOUDS = {"name": "shapes", "shapes": 40, "points": 32}
_UNET, _DIT = {"name": "unet", "width": 8, "patch": 2}, {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
_ATOMS = {"width": 8, "pair_width": 8, "depth": 1, "heads": 2}
_MESSAGES, _TRANSFORMER = {"name": "equivariant", **_ATOMS, "inner": 4}, {"name": "transformer", **_ATOMS, "inner": 4}
_LATENT_SET = {"name": "latent", "width": 8, "latents": 4, "latent_width": 16, "rounds": 1, "heads": 2}
_HF = {
    "name": "hf-unet",
    **{"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4},
    **{"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
}
_WORDS = {"name": "words", "channels": 8, "heads": 2, "layers": 1, "length": 12}


def _settings(data, denoiser, **others):
    return {"data": data, "denoiser": denoiser, **others}


_DIGITS = {"name": "digits"}
_SCENES = {"name": "scenes", "pictures": 100}

CASES = {
    "image unet": ("image", _settings(_DIGITS, _UNET)),
    "image unet, attention, variances": (
        "image",
        _settings(_DIGITS, {**_UNET, "multipliers": (1,), "attention": True, "learned_variance": True}),
    ),
    "image dit": ("image", _settings(_DIGITS, _DIT)),
    "image dit, eps": ("image", _settings(_DIGITS, _DIT, parameterisation="eps")),
    "image unet, upscale": ("image", _settings({**_DIGITS, "upscale": 2}, _UNET)),
    "image unet, words": ("image", _settings(_SCENES, _UNET, text=_WORDS)),
    "image dit, words": ("image", _settings(_SCENES, _DIT, text=_WORDS)),
    "image unet, self-conditioned": (
        "image",
        _settings(_DIGITS, _UNET, task={"name": "denoise", "self_conditioning": 0.5}),
    ),
    "image unet, latent": ("image", _settings(_DIGITS, {**_UNET, "patch": 1})),
    "image hf-unet": ("image", _settings(_DIGITS, {**_HF, "num_class_embeds": 11})),
    "audio unet": ("audio", _settings(_SOUNDS, {**_UNET, "patch": 4})),
    "audio dit": ("audio", _settings(_SOUNDS, _DIT)),
    "audio joint": ("audio", _settings({**_SOUNDS, "joint": "envelope"}, {**_UNET, "patch": 4})),
    "pointcloud latent": ("pointcloud", _settings(_CLOUDS, _LATENT_SET)),
    "pointcloud transformer": (
        "pointcloud",
        _settings({**_CLOUDS, "normals": True}, {"name": "transformer", "width": 16, "depth": 1, "heads": 2}),
    ),
    "pointcloud latent, upscale": ("pointcloud", _settings({**_CLOUDS, "upscale": 2}, _LATENT_SET)),
    "pointcloud joint": ("pointcloud", _settings({**_CLOUDS, "joint": "parts"}, _LATENT_SET)),
    "pointcloud tokens, latent": (
        "pointcloud",
        _settings(_CLOUDS, {"name": "tokens", "width": 16, "depth": 1, "heads": 2}),
    ),
    "molecule equivariant": ("molecule", _settings({"name": "embedded"}, _MESSAGES)),
    "molecule equivariant, parts": ("molecule", _settings({"name": "embedded"}, _MESSAGES, levels={"known": 0.4})),
    "molecule transformer": ("molecule", _settings({"name": "embedded"}, _TRANSFORMER)),
    "molecule joint": ("molecule", _settings({"name": "embedded", "joint": ("logp", "qed")}, _MESSAGES)),
    "molecule transformer, words": (
        "molecule",
        _settings({"name": "embedded", "captions": True}, _TRANSFORMER, text=_WORDS),
    ),
    "molecule atoms, latent": (
        "molecule",
        _settings({"name": "embedded"}, {"name": "atoms", "width": 16, "depth": 1, "heads": 2}),
    ),
    "image + audio": (
        "image+audio",
        {"data": {"name": "pairs"}},
    ),
}
"""The kind of data and the settings, by what the model is called in tables."""

STAGES = {
    "image unet, latent": {"name": "grid", "width": 8, "factor": 2, "latent": 2},
    "pointcloud tokens, latent": {"name": "tokens", "width": 16, "tokens": 6, "latent": 4},
    "molecule atoms, latent": {"name": "atoms", "width": 8, "depth": 1},
}
"""The autoencoders of the cases that diffuse in latents."""


_FACTS = {}


def facts_of(modality, settings):
    """The facts of the data of these settings, which are loaded once for each."""
    if "+" in modality:
        sides = {
            side: facts_of(side, compose(installed(), side, file={"data": _SIDES[side]}))
            for side in modality.split("+")
        }
        return installed().modality(modality).facts(**sides)
    key = settings.data.model_dump_json() + str(getattr(settings, "text", None))
    if key not in _FACTS:
        _FACTS[key] = build_data(settings, installed()).facts
    return _FACTS[key]


_SIDES = {"image": _DIGITS, "audio": _SOUNDS}


def loaded(name):
    """The run of a case: its model has random weights, also where training begins with zeros. Returns its facts too."""
    modality, chosen = CASES[name]
    settings = compose(installed(), modality, file=chosen, origin="the case")
    facts = facts_of(modality, settings)
    stage = None
    if name in STAGES:
        stage = FirstStage(autoencoder=STAGES[name], facts=facts.model_dump(mode="json"), last_log_snr=5.0)
    model = build_model(settings, facts, installed(), first_stage=stage)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.network.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.1, generator=generator)
    model.network.eval().requires_grad_(False)
    return LoadedRun(settings, model, Path("step-00000000"), True), facts.model_dump(mode="json")
