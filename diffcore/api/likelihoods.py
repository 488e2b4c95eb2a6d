"""The likelihoods of samples and files, by a trained run: `Run.log_likelihood` and `Run.bits_per_dimension`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcore.api.asked import all_asked, values_of
from diffcore.denoising.conditions import Conditions
from diffcore.denoising.embedded_once import embedded_once
from diffcore.denoising.given import require_shapes, require_values
from diffcore.errors import UserError
from diffcore.likelihood.bound import Bins, variational_bound
from diffcore.likelihood.flow import bits_per_dimension, log_likelihood
from diffcore.plugins.data import Codec, Encoded
from diffcore.runs.generation import fitting_at_once
from diffcore.runs.measurements import read_states
from diffcore.runs.model import Model, require_flow
from diffcore.runs.samples import Samples
from diffcore.sampling.loop import levels_of, require_mask
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.form import form_difference, shapes_of
from diffcore.states.spaces import Mask
from diffcore.states.state import State, first_field, map_fields

Judged = Samples | Encoded | State | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""What has a likelihood: samples of a run, encoded examples with their conditions, encoded states, or files."""


def _encoded(model: Model, source: Judged, asked: Mapping[str, Any], seed: int, mask: Mask) -> Encoded:
    """`source` with the conditions that it is given, on the device of the model.

    `asked` are the arguments `label`, `prompt` and `conditions` of a run.
    """
    if mask is not None and model.codec.sizes is None:
        raise UserError("`mask`: all elements of these states exist, so leave it out")
    known: Conditions | None = None
    if isinstance(source, Samples | Encoded):
        state, mask, known = source.state, source.mask, source.conditions
    elif isinstance(source, str | os.PathLike | list | tuple):
        paths = [source] if isinstance(source, str | os.PathLike) else source
        if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
            raise UserError("`source` is a list or a tuple, so it must have the paths of files, at least one")
        state, found = read_states(model, paths)
        mask = found if mask is None else mask
    else:
        state = source
    _require_encoded(state, model.codec)
    if mask is None and model.codec.sizes is not None:
        raise UserError("`mask` is missing: the number of elements varies, so give the elements that exist")
    if mask is not None:
        require_mask(mask, len(state))
    wanted = all_asked(**asked, n=len(state))
    own = model.codec.conditions
    if known is not None and not wanted:
        require_shapes({condition.name: condition.shape for condition in own}, known, len(state))
        values = {condition.name: known[condition.name] for condition in own}
        require_values(own, values, len(state))
    else:
        values = values_of(wanted, own, len(state), seed)
    there = {name: value.to(model.device) for name, value in values.items()}
    state = map_fields(lambda field: field.to(model.device, torch.float32), state)
    return Encoded(state, there, None if mask is None else mask.to(model.device))


def _require_encoded(state: Any, codec: Codec) -> None:
    """Raise `UserError` unless `state` is a batch of encoded states, which examples and decoded samples are not."""
    if difference := _difference(state, codec):
        raise UserError(
            f"`source` is no batch of encoded states: {difference}; give samples of the run, files, or encoded "
            "examples, `diffcore.runs.coding.encode(run.model, examples)`"
        )


def _difference(state: Any, codec: Codec) -> str:
    """How `state` differs from a batch of encoded states, in words; empty if it does not."""
    found = shapes_of(state) if isinstance(state, Tensor) or callable(getattr(state, "items", None)) else {}
    count = next((shape[0] for shape in found.values() if shape), 1)
    wanted = {name: (count, *shape[1:]) for name, shape in shapes_of(codec.space.empty(1)).items()}
    if codec.sizes is not None or hasattr(codec, "resized"):  # samples may have other sizes than those of the space
        wanted = {name: found.get(name, shape) for name, shape in wanted.items()}
    if difference := form_difference(state, wanted):
        return difference
    if not count:
        return "it has no samples"
    kind = first_field(state).dtype
    return "" if kind.is_floating_point else f"its numbers are {str(kind).removeprefix('torch.')}"


def flow_likelihood(
    model: Model, path: Path, source: Judged, asked: Mapping[str, Any], seed: int, mask: Mask, **options: Any
) -> Tensor:
    """log p(x0) by the probability flow; `diffcore.api.run.Run.log_likelihood` describes the arguments."""
    require_flow(model, "a likelihood", path)
    given = _encoded(model, source, asked, seed, mask)
    return log_likelihood(
        model.denoiser,
        given.state,
        model.codec.space,
        model.schedule,
        conditions=given.conditions,
        mask=given.mask,
        seed=seed,
        **options,
    )


AT_ONCE = 100
"""The number of samples whose bound is computed at once; of large samples, as many as are drawn at once."""


def bits(
    model: Model, path: Path, source: Judged, asked: Mapping[str, Any], seed: int, mask: Mask, levels: int
) -> Tensor:
    """The variational bound in bits per dimension; `Run.bits_per_dimension` describes the arguments."""
    require_flow(model, "a likelihood", path)
    if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
        raise UserError(f"`levels` {levels!r}: the bound needs a whole number of at least 1")
    bins: Bins | None = getattr(model.codec, "bins", None)
    if bins is None:
        raise UserError(
            f"bits per dimension are those of data with discrete values, such as bytes, and the states of {path} have "
            "none: use `log_likelihood`, a density"
        )
    given, space = _encoded(model, source, asked, seed, mask), model.codec.space
    chain = levels_of(model.schedule, uniform_in_log_snr(model.schedule, levels))
    at_once = fitting_at_once(model, AT_ONCE)

    def of_part(first: int) -> Tensor:
        part = slice(first, first + at_once)
        x0, exists = bins.nearest(given.state[part]), None if given.mask is None else given.mask[part]
        bound = variational_bound(
            model.denoiser,
            x0,
            space,
            chain,
            conditions={name: value[part] for name, value in given.conditions.items()},
            mask=exists,
            bins=bins,
            seed=seed,
            indices=range(first, first + len(x0)),
        )
        return bits_per_dimension(-bound.total, space.degrees_of_freedom(x0, exists))

    with embedded_once():
        return torch.cat([of_part(first) for first in range(0, len(given.state), at_once)])
