"""The records of this plugin. Importing it is cheap: torch and diffusers are imported only by the builders."""

from collections.abc import Iterable, Sequence
from importlib import import_module

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Command, Component, ExportFormat, lazy
from diffcore_diffusers.options import BetaTableOptions, HfUNetOptions
from diffcore_image.options import FolderOptions

API_VERSION = 2

_lazy = lazy("diffcore_diffusers")
_REQUIRES = ("torch", "diffusers", "diffcore_image")


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
            modalities=frozenset({"image"}),
        ),
    )


@hookimpl
def diffcore_denoisers() -> Iterable[Component]:
    return (
        Component(
            "hf-unet",
            "diffusers' UNet2DModel, for models that go to diffusers and come from there",
            _lazy("networks:unet"),
            HfUNetOptions,
            requires=_REQUIRES,
            modalities=frozenset({"image"}),
            small={
                "block_out_channels": (8, 16),
                "down_block_types": ("DownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D"),
                "layers_per_block": 1,
                "norm_num_groups": 4,
            },
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
            "a folder in the layout of diffusers, for runs of the denoiser hf-unet",
            _lazy("exporting:export_run"),
            requires=_REQUIRES,
            install="pip install diffcore-diffusers",
        ),
    )


def _command(name: str, summary: str) -> Command:
    def main(arguments: Sequence[str]) -> int:
        return getattr(import_module("diffcore_diffusers.commands"), f"{name}_main")(arguments)

    return Command(name, summary, main, requires=_REQUIRES)
