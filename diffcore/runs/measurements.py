"""What samples of a run have to agree with: files to fill in or to enlarge, as constraints on sampling."""

from pathlib import Path
from typing import Any

import torch

from diffcore.errors import UserError
from diffcore.names import InverseMethod
from diffcore.runs.model import Model
from diffcore.sampling.inverse.editing import Constraint, inpainting, upscaling
from diffcore.states.state import State, map_fields

Source = str | Path | State
"""A file of the run's kind of data, or an encoded sample, `[1, ...]` or one for each that is drawn."""


def inpainting_of(
    model: Model,
    source: Source,
    mask: Source | None = None,
    method: InverseMethod | None = None,
    noise_std: float = 0.0,
    resamplings: int = 10,
) -> Constraint:
    """The constraint that samples agree with `source` where it is known.

    `mask` is a file in which white is to be filled in, or a state of booleans that is True where the sample is to be
    filled in. Without it the file itself must show what is missing, as a set of which some elements are given does.
    The other arguments are those of `diffcore.sampling.inverse.editing.inpainting`.
    """
    reader = _reader(model, "inpaint")
    known: State
    if mask is None:
        if not isinstance(source, str | Path) or not hasattr(reader, "read_part"):
            raise UserError("`inpaint` needs `mask`, a file that is white where the sample is to be filled in")
        values, known = reader.read_part(Path(source))
    else:
        if isinstance(mask, str | Path):
            if not hasattr(reader, "read_missing"):
                raise UserError(
                    f"`mask`: files of {model.modality.name} have none; what the file of `inpaint` holds is known, the "
                    "rest is filled in"
                )
            mask = reader.read_missing(Path(mask))
        known = map_fields(torch.logical_not, mask)
        values = reader.read(Path(source)) if isinstance(source, str | Path) else source
    return inpainting(values, known, model.codec.space, method or "mmps", noise_std, resamplings)


def upscaling_of(
    model: Model, source: Source, factor: int | None = None, method: InverseMethod | None = None, noise_std: float = 0.0
) -> Constraint:
    """The constraint that the block means of samples are `source`: a smaller file, or a smaller encoded state.

    `factor` says how many entries of a sample a block has along each axis; a file says so by its size.
    """
    if method == "repaint":
        raise UserError("`method` repaint fills in; to enlarge, use mmps or dps")
    if isinstance(source, str | Path):
        reader = _reader(model, "upscale")
        if not hasattr(reader, "read_coarse"):
            raise UserError(f"`upscale`: the plugin for {model.modality.name} knows no smaller files")
        coarse, factor = reader.read_coarse(Path(source))
    elif factor is None:
        raise UserError("`upscale`: an encoded state needs a `factor`, how many entries of a sample a block has")
    else:
        coarse = source
    return upscaling(coarse, factor, model.codec.space, method or "mmps", noise_std)


def _reader(model: Model, task: str) -> Any:
    if model.modality.reader is None:
        raise UserError(f"`{task}`: the plugin for {model.modality.name} cannot read files")
    if model.codec.sizes is not None:
        raise UserError(f"`{task}`: samples of {model.modality.name} vary in size, and this works for one size only")
    return model.modality.reader(model.codec)
