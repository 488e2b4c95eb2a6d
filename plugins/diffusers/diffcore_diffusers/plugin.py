"""The records of this plugin. Importing it is cheap: torch and diffusers are imported only by the builders."""

from collections.abc import Iterable, Sequence
from importlib import import_module

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Command, Component, ExportFormat, lazy
from diffcore_diffusers.options.autoencoder import HfKLOptions
from diffcore_diffusers.options.clip import HfClipOptions
from diffcore_diffusers.options.dit import HfDiTOptions
from diffcore_diffusers.options.scheduler import SchedulerOptions
from diffcore_diffusers.options.tables import BetaTableOptions
from diffcore_diffusers.options.text_unet import HfTextUNetOptions
from diffcore_diffusers.options.unet import HfUNetOptions
from diffcore_image.options import FolderOptions

API_VERSION = 2

_lazy = lazy("diffcore_diffusers")
_REQUIRES = ("torch", "diffusers", "diffcore_image")
_IMAGE = frozenset({"image"})


@hookimpl
def diffcore_schedules() -> Iterable[Component]:
    return (
        Component(
            "hf-betas", "the table of a scheduler of diffusers, exactly", _lazy("tables:schedule"), BetaTableOptions
        ),
    )


@hookimpl
def diffcore_datasets() -> Iterable[Component]:
    return (
        Component(
            "hf-folder",
            "your own pictures as diffusers has them, from -1 to 1; runs of them can be exported",
            _lazy("pictures:folder"),
            FolderOptions,
            requires=_REQUIRES,
            modalities=_IMAGE,
        ),
    )


@hookimpl
def diffcore_denoisers() -> Iterable[Component]:
    return (
        Component(
            "hf-unet",
            "diffusers' UNet2DModel, for models that go to diffusers and come from there",
            _lazy("networks.unet:unet"),
            HfUNetOptions,
            requires=_REQUIRES,
            modalities=_IMAGE,
            small={
                "block_out_channels": (8, 16),
                "down_block_types": ("DownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D"),
                "layers_per_block": 1,
                "norm_num_groups": 4,
            },
        ),
        Component(
            "hf-unet-text",
            "diffusers' UNet2DConditionModel, the network of Stable Diffusion, for data with captions",
            _lazy("networks.text_unet:text_unet"),
            HfTextUNetOptions,
            requires=(*_REQUIRES, "transformers"),
            modalities=_IMAGE,
            accepts=("tokens",),
            small={
                "block_out_channels": (8, 16),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "layers_per_block": 1,
                "attention_head_dim": 2,
                "norm_num_groups": 4,
            },
        ),
        Component(
            "hf-dit",
            "diffusers' DiTTransformer2DModel, the network of DiT, for data with classes or without",
            _lazy("networks.dit:dit"),
            HfDiTOptions,
            requires=_REQUIRES,
            modalities=_IMAGE,
            small={
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "num_layers": 2,
                "num_embeds_ada_norm": 10,
            },
        ),
    )


@hookimpl
def diffcore_autoencoders() -> Iterable[Component]:
    return (
        Component(
            "hf-kl",
            "diffusers' AutoencoderKL, the autoencoder of Stable Diffusion",
            _lazy("networks.autoencoder:autoencoder"),
            HfKLOptions,
            requires=_REQUIRES,
            modalities=_IMAGE,
            small={
                "block_out_channels": (8, 8),
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
                "norm_num_groups": 4,
            },
        ),
    )


@hookimpl
def diffcore_text_encoders() -> Iterable[Component]:
    return (
        Component(
            "hf-clip",
            "transformers' CLIPTextModel, the text encoder of Stable Diffusion",
            _lazy("networks.clip:clip"),
            HfClipOptions,
            requires=("torch", "transformers"),
            small={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        ),
    )


@hookimpl
def diffcore_solvers() -> Iterable[Component]:
    return (
        Component(
            "hf-scheduler",
            "a scheduler of diffusers steps itself, from noise, with all that its configuration says",
            _lazy("scheduler_steps:scheduler"),
            SchedulerOptions,
            requires=_REQUIRES,
        ),
    )


@hookimpl
def diffcore_commands() -> Iterable[Command]:
    return (_command("import", "a model of diffusers as a run: diffcore import FOLDER --out RUN"),)


@hookimpl
def diffcore_export_formats() -> Iterable[ExportFormat]:
    return (
        ExportFormat(
            "diffusers",
            "a folder in the layout of diffusers, for runs of hf-unet, hf-dit, hf-unet-text and hf-kl",
            _lazy("exporting:export_run"),
            requires=_REQUIRES,
            install="pip install diffcore-diffusers",
        ),
    )


def _command(name: str, summary: str) -> Command:
    def main(arguments: Sequence[str]) -> int:
        return getattr(import_module("diffcore_diffusers.commands"), f"{name}_main")(arguments)

    return Command(name, summary, main, requires=_REQUIRES)
