"""Drawing sides of joint states given the others."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffcore.errors import UserError, did_you_mean
from diffcore.plugins.data import sides_of
from diffcore.plugins.output import Side
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.generation import has_elements
from diffcore.runs.measurements import reader_of
from diffcore.runs.model import Model
from diffcore.sampling.inverse.editing import Constraint, given_fields
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields


def given_sides(model: Model, files: Mapping[str, str | Path | Side], each: int = 1) -> tuple[Constraint, int]:
    """The constraint that samples have the sides that files hold, and the number of samples: `each` for every entry.

    `files` are by the name of the side; an encoded side may take the place of a file (`side_of`). Raises `UserError`
    for a state that is not joint, for names that are not those of its sides, if all sides are given, for files that
    cannot be used, and for files of different numbers of entries.
    """
    sides = sides_of(model.codec)
    for name in files:
        require_side(model, name)
    if not model.task.flow:
        raise UserError(
            f"`given`: a run with the task {model.task.name} draws all sides together: use the run that was its teacher"
        )
    if len(files) == len(sides):
        raise UserError(f"`given`: all sides are given ({', '.join(sides)}), so there is nothing to draw")
    read = {
        name: file if isinstance(file, Side) else reader_of(model, "given").read_side(name, Path(file))
        for name, file in files.items()
    }
    counts = {name: len(next(iter(side.values.values()))) for name, side in read.items()}
    entries = max(counts.values())
    if odd := {name: count for name, count in counts.items() if count not in (1, entries)}:
        shown = " and ".join(f"{count} of {name}" for name, count in counts.items())
        raise UserError(
            f"`given`: the files hold {shown}, of which entry {min(odd.values()) + 1} lacks a partner: give as many of "
            "each, or one"
        )
    rows = torch.arange(entries).repeat_interleave(each)
    values = {
        name: value[rows] if len(value) == entries else value
        for side in read.values()
        for name, value in side.values.items()
    }
    masks = [side.mask for side in read.values() if side.mask is not None]
    mask = None if not masks else masks[0][rows] if len(masks[0]) == entries else masks[0]
    recipe = {"task": "given", "sides": {name: tensors_digest(dict(side.values)) for name, side in read.items()}}
    return given_fields(values, model.codec.space, {**recipe, "each": each}, mask), len(rows)


def side_of(model: Model, name: str, state: State, mask: Mask) -> Side:
    """One side of encoded joint states `[n, ...]`. Raises `UserError` if they have none of that name."""
    require_side(model, name)
    values = fields(state)
    own = {field: values[field] for field in sides_of(model.codec)[name]}
    return Side(own, mask if side_has_elements(model, name) else None)


def require_side(model: Model, name: str) -> None:
    """Raise `UserError` unless the states of the model are joint and have a side of that name."""
    sides = sides_of(model.codec)
    if not sides:
        raise UserError(
            f"`given` {name}: this run has not learned a joint state; train one with `data.joint`, or of two kinds of "
            "data"
        )
    if name not in sides:
        raise UserError(f"`given` {name}{did_you_mean(name, sides)}: the sides of this run are {', '.join(sides)}")


def others_given(model: Model, side: str, state: State, mask: Mask) -> Constraint:
    """The constraint that samples have all sides but one of these encoded states, `[n, ...]`."""
    own = sides_of(model.codec)[side]
    values: dict[str, Tensor] = {name: value for name, value in fields(state).items() if name not in own}
    return given_fields(values, model.codec.space, None, None if side_has_elements(model, side) else mask)


def side_has_elements(model: Model, side: str) -> bool:
    """Whether the number of elements of a side varies."""
    return model.codec.sizes is not None and any(has_elements(model, name) for name in sides_of(model.codec)[side])
