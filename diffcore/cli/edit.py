"""The flags of `diffcore sample` that draw samples which agree with a file."""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from diffcore.errors import UserError
from diffcore.names import InverseMethod
from diffcore.plugins.records import Settings
from diffcore.runs.model import Model
from diffcore.sampling.inverse.editing import Constraint, inpainting, upscaling
from diffcore.states.state import State, map_fields


class EditOptions(Settings):
    inpaint: Path | None = Field(
        None, description="Fill in a part of this file; --mask says which, or the file by what it lacks."
    )
    mask: Path | None = Field(None, description="A file of the same size: white is to be filled in, black is known.")
    upscale: Path | None = Field(None, description="Draw samples whose block means are this smaller file.")
    method: InverseMethod | None = Field(
        None, description="How samples are made to agree: mmps (the default), dps, or, to inpaint, repaint."
    )
    resamplings: int = Field(10, ge=1, description="repaint: how often each step is done.")
    noise_std: float = Field(
        0.0, ge=0, description="mmps, dps: how far the file may be off, in standard deviations of the data."
    )


def edits(options: Any) -> list[str]:
    """The kinds of editing that the flags ask for."""
    return [name for name in ("inpaint", "upscale") if getattr(options, name) is not None]


def editing(options: Any, model: Model) -> Constraint | None:
    """What the flags ask for, or None where they ask for no editing."""
    wanted = edits(options)
    if len(wanted) == 2:
        raise UserError("--inpaint and --upscale are two different tasks; give one")
    if options.mask is not None and options.inpaint is None:
        raise UserError("--mask belongs to --inpaint FILE, which is missing")
    if not wanted:
        return None
    if model.modality.reader is None:
        raise UserError(f"--{wanted[0]}: the plugin for {model.modality.name} cannot read files")
    if model.codec.sizes is not None:
        raise UserError(f"--{wanted[0]}: samples of {model.modality.name} vary in size, and editing is for one size")
    reader = model.modality.reader(model.codec)
    space, method = model.codec.space, options.method
    if options.upscale is not None:
        if method == "repaint":
            raise UserError("--method repaint fills in; with --upscale use mmps or dps")
        if not hasattr(reader, "read_coarse"):
            raise UserError(f"--upscale: the plugin for {model.modality.name} knows no smaller files")
        coarse, factor = reader.read_coarse(options.upscale)
        return upscaling(coarse, factor, space, method or "mmps", options.noise_std)
    values, known = _known(options, reader, model.modality.name)
    return inpainting(values, known, space, method or "mmps", options.noise_std, options.resamplings)


def _known(options: Any, reader: Any, name: str) -> tuple[State, State]:
    """What `--inpaint` gives, and where it is known: where `--mask` says, else where the file has something."""
    if options.mask is None:
        if not hasattr(reader, "read_part"):
            raise UserError("--inpaint needs --mask FILE, white where the sample is to be filled in")
        return reader.read_part(options.inpaint)
    if not hasattr(reader, "read_missing"):
        raise UserError(f"--mask: files of {name} have none; what --inpaint FILE holds is known, the rest is filled in")
    return reader.read(options.inpaint), map_fields(torch.logical_not, reader.read_missing(options.mask))
