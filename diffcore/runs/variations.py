"""What is made of samples that a user has: their variations, and what lies between two of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffcore.errors import UserError
from diffcore.likelihood.interpolation import between
from diffcore.names import InverseMethod
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.measurements import Source, default_method, method_options, read_whole, reader_of
from diffcore.runs.model import Model, last_log_snr
from diffcore.runs.samples import Samples
from diffcore.sampling.inverse.editing import Constraint, undecorated
from diffcore.sampling.inverse.strength import Strength, varying
from diffcore.states.spaces import Mask
from diffcore.states.state import State, fields, map_fields


def variation_of(
    model: Model,
    source: Source | Samples,
    strength: Strength = 0.5,
    mask: Source | None = None,
    method: InverseMethod | None = None,
    noise_std: float = 0.0,
    resamplings: int = 10,
    elements: Mask = None,
) -> Constraint:
    """The constraint that samples are variations of `source`: a file, an encoded sample, or samples of a run.

    `strength` is how much is changed, from 0 to 1, see `diffcore.sampling.inverse.strength.varying`. With `mask`, a
    file that is white, or a boolean state that is True, where the sample changes, everything else is known. The other
    arguments are those of `diffcore.runs.measurements.inpainting_of`; `elements` are those that exist in an encoded
    sample, where that varies. Raises `UserError` if the plugin cannot read such files, or nothing is to be changed.
    """
    values, elements = _read(model, source, "from", elements)
    if mask is not None:
        strength = _within(model, strength, mask, values)
    method = method or default_method(model, noise_std)
    constraint = varying(values, strength, model.codec.space, elements, method, noise_std, resamplings)
    recipe: dict[str, Any] = {
        "task": "vary",
        "of": tensors_digest(fields(values)),
        "strength": _described(strength),
        **(method_options(method, noise_std, resamplings) if constraint.decorate is not undecorated else {}),
    }
    return replace(constraint, recipe=recipe)


def between_of(model: Model, first: Source | Samples, second: Source | Samples, n: int) -> Constraint:
    """The constraint that `n` samples lead from one to another: files, or encoded samples, or samples of a run.

    Where the elements of samples have no order, those of the second file are put in the order that is nearest to the
    first, if the plugin can do so; those of encoded samples are taken as they are. Raises `UserError` if the plugin
    cannot read such files, or if the two have different numbers of elements.
    """
    if all(isinstance(source, str | Path) for source in (first, second)):
        reader: Any = reader_of(model, "between")
        if hasattr(reader, "read_pair"):
            start, end, elements = reader.read_pair(Path(first), Path(second))  # type: ignore[arg-type]
            return _between(model, start, end, n, elements)
    start, elements = _read(model, first, "between")
    end, others = _read(model, second, "between")
    if elements is not None and others is not None and not torch.equal(elements, others):
        raise UserError(
            f"`between`: the first has {int(elements.sum())} elements and the second {int(others.sum())}; samples "
            "between two need the same number in both"
        )
    return _between(model, start, end, n, elements)


def _between(model: Model, start: State, end: State, n: int, elements: Mask) -> Constraint:
    recipe = {"task": "between", "of": [tensors_digest(fields(start)), tensors_digest(fields(end))], "n": n}
    keeps = last_log_snr(model.codec) is not None
    return replace(between(start, end, n, model.codec.space, elements, keeps), recipe=recipe)


def _read(model: Model, source: Source | Samples, task: str, elements: Mask = None) -> tuple[State, Mask]:
    """The values `[1, ...]` or `[n, ...]` of a source, and the elements that exist; None if all always do."""
    if isinstance(source, Samples):
        return source.state, source.mask
    if isinstance(source, str | Path):
        return read_whole(model, Path(source), task)
    if elements is None and model.codec.sizes is not None:
        raise UserError(
            f"`{task}`: the number of elements of {model.modality.name} varies, and an encoded sample does not say "
            "which exist: give a file, or `Samples`"
        )
    return source, elements


def _within(model: Model, strength: Strength, mask: Source, values: State) -> State:
    """The strength of each entry: `strength` where the mask is white, and 0 elsewhere."""
    if not isinstance(strength, int | float):
        raise UserError("`mask` goes with one `strength` for all that is white in it")
    if isinstance(mask, str | Path):
        reader: Any = reader_of(model, "from")
        if not hasattr(reader, "read_missing"):
            raise UserError(f"`mask` is not supported for {model.modality.name}: give one `strength` for each field")
        mask = reader.read_missing(Path(mask))
    assert not isinstance(mask, str | Path)
    if not any(bool(flag.any()) for flag in fields(mask).values()):
        raise UserError("nothing is left to be changed: the mask is black everywhere")
    return map_fields(lambda flag, value: strength * flag.to(value), mask, values)


def _described(strength: Strength) -> Any:
    """A strength as values of JSON."""
    if isinstance(strength, int | float):
        return float(strength)
    if isinstance(strength, Mapping) and all(isinstance(value, int | float) for value in strength.values()):
        return {name: float(value) for name, value in sorted(strength.items())}
    return tensors_digest(fields(strength))  # type: ignore[arg-type]
