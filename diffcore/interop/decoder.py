"""The decoder of a run that diffuses in latents, as a function of the latent and the mask."""

from typing import Any

import torch
from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.interop.denoiser import (
    MASK,
    example_mask,
    example_noise,
    least_elements,
    number_of_elements,
    sample_shape,
)
from diffcore.interop.description import origin
from diffcore.interop.function import ELEMENTS, Function, NamedInputs, Tensors, Value, argument_names
from diffcore.runs.latents import LatentCodec
from diffcore.runs.loading import LoadedRun
from diffcore.states.state import fields, from_fields


def decoder_function(loaded: LoadedRun, facts: dict[str, Any]) -> Function:
    """The function from latents to the states of the first stage, by its decoder.

    Its inputs are the fields of the latent (`x` where it is one tensor), as the denoiser has them, and the mask where
    elements may be absent; its outputs are the fields of the state. Raises `UserError` for runs that diffuse in the
    states of the data.
    """
    codec = loaded.model.codec
    if not isinstance(codec, LatentCodec):
        raise UserError("this run diffuses in no latents, so it has no decoder: export its `part` denoiser")
    space, first, names = codec.space, codec.first.space, _names([*fields(codec.space.empty(1))])
    outputs = _names([*fields(first.empty(1))], "state")
    shapes = {name: sample_shape(codec, name) for name in names}
    inputs = [Value(names[name], shape, torch.float32, "the latent") for name, shape in shapes.items()]
    masked = codec.sizes is not None
    if masked:
        inputs.append(Value(MASK, (ELEMENTS,), torch.bool, "True where an element exists"))
    sized = any(ELEMENTS in value.shape for value in inputs)

    def examples(batch: int, elements: int) -> dict[str, Tensor]:
        mask = example_mask(batch, elements) if masked else None
        latent = fields(example_noise(space, batch, elements, mask))
        given = {names[name]: value for name, value in latent.items()}
        return given if mask is None else {**given, MASK: mask}

    def decoded(own: LatentCodec, given: Tensors) -> dict[str, Tensor]:
        latent = from_fields({name: given[word] for name, word in names.items()})
        state = fields(own.reconstruct(latent, given.get(MASK)))
        return {outputs[name]: value for name, value in state.items()}

    return Function(
        NamedInputs(
            [value.name for value in inputs], nn.ModuleDict({"codec": codec}), lambda p, g: decoded(p["codec"], g)
        ),
        tuple(inputs),
        examples,
        lambda given: decoded(codec, given),
        elements=number_of_elements(space) if sized else 0,
        least=least_elements(codec) if sized else 0,
        description={
            **origin(loaded),
            "part": "decoder",
            "data": codec.stage.facts,
            "last_log_snr": codec.last_log_snr,
            "notes": [],
        },
    )


def _names(names: list[str], alone: str = "x") -> dict[str, str]:
    """The names of the fields as arguments; a state of one tensor is called `alone`."""
    return {"": alone} if names == [""] else argument_names(names, {MASK})
