"""What files say of samples: encoded states, and the constraints of inpainting and upscaling."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.ranges import read_range
from diffcore.errors import UserError
from diffcore.names import InverseMethod
from diffcore.plugins.building import part_of
from diffcore.plugins.reading import read_all, read_one
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.generation import require_any_size, resized
from diffcore.runs.latents import LatentCodec, latent_reader
from diffcore.runs.model import Model
from diffcore.sampling.inverse.editing import Constraint, inpainting, upscaling
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, map_fields

Source = str | Path | State
"""A file of the run's kind of data, or encoded samples: one, `[1, ...]`, or one for each sample that is drawn."""


def method_options(method: InverseMethod, noise_std: float, resamplings: int | None = None) -> dict[str, Any]:
    """The options of a method that have an effect."""
    if method == "learned":
        return {"method": method}
    if method == "repaint":
        return {"method": method, "resamplings": resamplings}
    return {"method": method, "noise_std": noise_std}


def _known_in(task: str, values: State, known: State) -> dict[str, Any]:
    """The beginning of the recipe of a task in which a part of samples is known, as values of JSON."""
    return {"task": task, "known": [tensors_digest(fields(values)), tensors_digest(fields(known))]}


def inpainting_of(
    model: Model,
    source: Source,
    mask: Source | None = None,
    method: InverseMethod | None = None,
    noise_std: float = 0.0,
    resamplings: int = 10,
    gap: str | None = None,
    size: str | None = None,
    free: str | Sequence[int] | None = None,
    attach: str | Sequence[int] | None = None,
    link: bool = False,
    unplaced: bool = False,
) -> Constraint:
    """The constraint that samples agree with `source` where it is known.

    `mask` is a file that is white, or a boolean state that is True, where the sample is to be filled in. `gap` is a
    part of the file that is to be filled in, for data with an order, such as seconds of a sound; the samples can then
    have another `size` than the model's. Without both, the file itself must show what is missing, as a file with some
    of the elements of a set does; its elements with the numbers `free`, from 1, are not known (`"3,4,7"`), and new
    elements may be joined to those with the numbers `attach` alone, for data whose elements are joined. With `link`,
    the file must have several pieces, and samples that are not in one piece are drawn again. If it is `unplaced`,
    its place and size in the whole are drawn. The other arguments are those of
    `diffcore.sampling.inverse.editing.inpainting`; without `method`, it is "learned" if the model has learned states of
    which a part is known, and else "mmps". Raises `UserError` if the plugin cannot read such files.
    """
    reads = isinstance(source, str | Path) or isinstance(mask, str | Path)
    reader: Any = reader_of(model, "inpaint") if reads else None
    known: State
    codec: Any = None
    linked: Any = None
    more: Mapping[str, Any] = {}
    if free is not None and (mask is not None or gap is not None or not hasattr(reader, "read_part")):
        raise UserError("`free` needs a file with a part of a set, whose elements have numbers, and no mask")
    if attach is not None and (mask is not None or not hasattr(reader, "read_around")):
        raise UserError("`attach` needs a file with a part of a set whose elements are joined, and no mask")
    if link and (mask is not None or not hasattr(reader, "read_around")):
        raise UserError("`link` needs a file with pieces of a set whose elements are joined, and no mask")
    if unplaced:
        if any(option is not None for option in (mask, gap, free, attach)) or not hasattr(reader, "read_unplaced"):
            raise UserError(
                "`unplaced` needs a file with a part that has a place and a size, such as some elements of a set in "
                "space, and goes without `mask`, `gap`, `free` and `attach`"
            )
        return _unplaced(model, reader.read_unplaced(Path(source)), method or "mmps", noise_std)  # type: ignore[arg-type]
    method = method or default_method(model, noise_std)
    if gap is not None or (mask is None and isinstance(source, str | Path) and hasattr(reader, "read_gap")):
        return _filling(model, source, mask, gap, size, method, noise_std, resamplings)
    if mask is None:
        if not isinstance(source, str | Path) or not hasattr(reader, "read_part"):
            raise UserError("`inpaint` needs `mask`, a file that is white where the sample is to be filled in")
        if hasattr(reader, "read_around"):
            others = None if attach is None else numbers_in(attach, "attach")
            edit = reader.read_around(Path(source), numbers_in(free or (), "free"), others)
            values, known, codec, more = edit.values, edit.known, edit.codec, edit.recipe
            if link and edit.pieces < 2:
                raise UserError(
                    f"`link`: {source} is in one piece; give several pieces, or draw around it by `inpaint`"
                )
            linked = edit.linked if link else None
        else:
            values, known = reader.read_part(Path(source))
            if free is not None:
                known = without(known, numbers_in(free, "free"))
    else:
        if isinstance(mask, str | Path):
            if not hasattr(reader, "read_missing"):
                raise UserError(
                    f"`mask` is not supported for {model.modality.name}: the content of the `inpaint` file is kept, "
                    "and the rest is filled in"
                )
            mask = reader.read_missing(Path(mask))
        known = map_fields(torch.logical_not, mask)
        values = reader.read(Path(source)) if isinstance(source, str | Path) else source
    recipe = {
        **_known_in("inpaint", values, known),
        **method_options(method, noise_std, resamplings),
        **more,
    }
    constraint = inpainting(values, known, model.codec.space, method, noise_std, resamplings)
    constraint = replace(constraint, recipe=recipe, codec=codec)
    return (
        replace(constraint, agreement="linked", settled=linked, recipe={**recipe, "link": True}) if link else constraint
    )


def _unplaced(model: Model, edit: Any, method: InverseMethod, noise_std: float) -> Constraint:
    """The constraint that samples have a part, anywhere and of any size."""
    recipe = {
        **_known_in("inpaint", edit.values, edit.known),
        **edit.recipe,
        **method_options(method, noise_std),
    }
    constraint = inpainting(edit.values, edit.known, model.codec.space, method, noise_std, unplaced=edit.unplaced)
    return replace(constraint, recipe=recipe, codec=edit.codec, agreement=edit.agreement, settled=edit.settled)


def default_method(model: Model, noise_std: float = 0.0) -> InverseMethod:
    """The method for what is known: "learned" if the model can be told what is, without noise, and else "mmps"."""
    told = "known" in getattr(getattr(model.network, "backbone", None), "accepts", ())
    return "learned" if told and not noise_std else "mmps"


def numbers_in(text: str | Sequence[int], option: str) -> list[int]:
    """The numbers of elements that a user writes, `3,4,7`. Raises `UserError`."""
    try:
        return [int(word) for word in (text.split(",") if isinstance(text, str) else text)]
    except ValueError:
        raise UserError(f"`{option}` {text}: write the numbers of elements, from 1, such as 3,4,7") from None


def without(known: State, numbers: Sequence[int]) -> State:
    """What is known without the elements of these numbers, from 1, and without their pairs with others.

    `known` is a state of booleans `[1, N, ...]`. Raises `UserError` for elements that are not known, and if none is
    left.
    """
    there = torch.stack([flag.flatten(2).any(2) for flag in fields(known).values()]).any(0)[0]
    for number in numbers:
        if not 1 <= number <= len(there) or not there[number - 1]:
            raise UserError(f"`free` {number}: the file has the elements 1 to {int(there.sum())}")
    freed = torch.zeros_like(there)
    freed[[number - 1 for number in numbers]] = True
    if not (there & ~freed).any():
        raise UserError("`free` has all elements of the file, so nothing of it is known: draw samples without it")

    def kept(flag: Tensor) -> Tensor:
        flag = flag & ~freed.reshape(1, -1, *[1] * (flag.ndim - 2))
        pairs = flag.ndim > 3 and flag.shape[1] == flag.shape[2]
        return flag & ~freed.reshape(1, 1, -1, *[1] * (flag.ndim - 3)) if pairs else flag

    return map_fields(kept, known)


def grown(constraint: Constraint, grow: str | int) -> str:
    """The size of samples with `grow` elements more than those that are known: a number, or a range `2..4`.

    Raises `UserError` for anything else, and where nothing is known of elements.
    """
    elements = constraint.known_elements(range(1))
    try:
        first, last = read_range(str(grow), int)
    except ValueError:
        raise UserError(f"`grow` {grow}: write a number of elements, or a range such as 2..4") from None
    if elements is None or min(first or 0, last or 0) < 0:
        raise UserError(f"`grow` {grow}: it adds elements to those of the `inpaint` file")
    count, least = int(elements.sum()), int(constraint.least_sizes(range(1)))  # type: ignore[arg-type]
    ends = ["" if end is None else str(max(count + end, least)) for end in (first, last)]
    return ends[0] if first == last else "..".join(ends)


def _filling(
    model: Model,
    source: Source,
    mask: Source | None,
    gap: str | None,
    size: str | None,
    method: InverseMethod,
    noise_std: float,
    resamplings: int,
) -> Constraint:
    """The constraint that samples agree with a file outside a gap."""
    if mask is not None:
        raise UserError("`gap` and `mask` are two ways to say what is to be filled in; give one")
    reader: Any = reader_of(resized(model, size) if size is not None else model, "inpaint")
    if not isinstance(source, str | Path) or not hasattr(reader, "read_gap"):
        raise UserError(f"`gap` needs a file of data with an order, such as time; {model.modality.name} has none here")
    edit = reader.read_gap(Path(source), gap)
    if edit.codec.space != model.codec.space:
        require_any_size(model, f"{source} needs samples of another size")
    recipe = {
        **_known_in("inpaint", edit.values, edit.known),
        **edit.recipe,
        **method_options(method, noise_std, resamplings),
    }
    constraint = inpainting(edit.values, edit.known, edit.codec.space, method, noise_std, resamplings)
    return replace(constraint, recipe=recipe, codec=edit.codec)


def given_by(
    model: Model,
    name: str,
    path: Path,
    each: int = 1,
    method: InverseMethod | None = None,
    noise_std: float = 0.0,
    resamplings: int = 10,
) -> tuple[Constraint, int]:
    """The constraint that samples have what a file says of them, and the number of samples: `each` for every entry.

    `name` is one of the `givens` of the model's kind of data. The other arguments are those of `inpainting_of`. Raises
    `UserError` for a file that cannot be used, and for other names.
    """
    if name not in model.modality.givens:
        raise UserError(f"`{name}`: {model.modality.name} has no files of this kind")
    if isinstance(model.codec, LatentCodec):
        raise UserError(f"`{name}` needs a model of the samples themselves, not of their latents")
    given = reader_of(model, name).read_given(name, path)
    rows = torch.arange(given.values.shape[0]).repeat_interleave(each)
    method = method or default_method(model, noise_std)
    recipe = {
        **_known_in(name, given.values, given.known),
        "each": each,
        **method_options(method, noise_std, resamplings),
    }
    known = given.known if given.known.shape[0] == 1 else given.known[rows]
    constraint = inpainting(given.values[rows], known, model.codec.space, method, noise_std, resamplings)

    def settled(states: State, mask: Mask, indices: Sequence[int]) -> tuple[State, Sequence[bool]]:
        found: tuple[State, Sequence[bool]] = given.settled(states, mask, rows[list(indices)].tolist())
        return found

    return replace(
        constraint,
        recipe=recipe,
        mask=None if given.mask is None else given.mask[rows],
        agreement=given.agreement,
        settled=None if given.settled is None else settled,
    ), len(rows)


def upscaling_of(
    model: Model, source: Source, factor: int | None = None, method: InverseMethod | None = None, noise_std: float = 0.0
) -> Constraint:
    """The constraint that the means of the blocks of a sample equal `source`: a smaller file, or a smaller state.

    `factor` is the number of entries of a sample in a block along each axis. For a file it follows from its size.
    Raises `UserError` if the plugin cannot read such files, or `method` cannot upscale.
    """
    if method in ("repaint", "learned"):
        raise UserError(f"`method` {method} cannot upscale; use mmps or dps")
    if isinstance(model.codec, LatentCodec):
        raise UserError("`upscale` by block means needs a model of the samples themselves, not of their latents")
    if isinstance(source, str | Path):
        reader = reader_of(model, "upscale")
        if not hasattr(reader, "read_coarse"):
            raise UserError(f"`upscale`: the plugin for {model.modality.name} cannot read smaller files")
        coarse, factor = reader.read_coarse(Path(source))
    elif factor is None:
        raise UserError("`upscale`: an encoded state needs `factor`, the entries of a sample per block along each axis")
    else:
        coarse = source
    bounds = getattr(model.codec, "bounds", None)
    method = method or "mmps"
    recipe = {
        "task": "upscale",
        "known": tensors_digest(fields(coarse)),
        "factor": factor,
        **method_options(method, noise_std),
    }
    return replace(upscaling(coarse, factor, model.codec.space, method, noise_std, bounds), recipe=recipe)


def read_states(model: Model, paths: Sequence[str | os.PathLike[str]]) -> tuple[State, Mask]:
    """The encoded contents of files, as one batch, and the elements that exist, where that varies.

    Raises `UserError` if the plugin cannot read files.
    """
    return read_all(reader_of(model, "source"), [*map(Path, paths)], "source", model.modality.name)


def read_whole(model: Model, path: Path, task: str) -> tuple[State, Mask]:
    """The encoded sample `[1, ...]` in a file, and the elements that exist, `[1, N]`; None if all always do.

    Raises `UserError` if the plugin cannot read files of whole samples.
    """
    return read_one(reader_of(model, task), path, task, model.modality.name)


def reader_of(model: Model, task: str) -> Any:
    """The reader of files of the model's kind of data, as states or latents, whichever the model diffuses in."""
    if model.modality.reader is None:
        raise UserError(f"`{task}`: the plugin for {model.modality.name} cannot read files")
    reader = part_of(model.modality, "reader", model.codec)
    if isinstance(model.codec, LatentCodec) and task == "inpaint" and hasattr(reader, "read_gap"):
        raise UserError(
            f"`inpaint` does not work in latents of {model.modality.name}: use a run that diffuses samples themselves"
        )
    return latent_reader(reader, model.codec) if isinstance(model.codec, LatentCodec) else reader
