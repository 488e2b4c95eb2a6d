"""The format `torch`: a program of torch.export with its description among its extra files."""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from diffcore.interop.function import Tensors
from diffcore.interop.writing import as_text, written
from diffcore.plugins.registry import Registry

DESCRIPTION = "diffcore.json"
"""The name of the description among the extra files of a program."""


def denoiser(run: Path, out: Path, registry: Registry) -> Path:
    """Write the denoiser of a run to the new file `out`; see `diffcore.interop.writing.written`."""
    return written(run, out, registry, "denoiser", save, opened)


def decoder(run: Path, out: Path, registry: Registry) -> Path:
    """Write the decoder of a run that diffuses in latents to the new file `out`."""
    return written(run, out, registry, "decoder", save, opened)


def save(program: ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    """Write the program and its description."""
    with path.open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files={DESCRIPTION: as_text(description)})


def opened(path: Path) -> Callable[[Tensors], Tensors]:
    """The program in a file as a function of its named inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    @torch.no_grad()
    def call(given: Tensors) -> Tensors:
        return module(**given)  # type: ignore[no-any-return]

    return call


def description_in(path: Path) -> dict[str, Any]:
    """The description in a file."""
    extra = {DESCRIPTION: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    return json.loads(extra[DESCRIPTION])  # type: ignore[no-any-return]
