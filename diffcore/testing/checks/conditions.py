"""Checks of the conditions: null values, embeddings, and that tokens which do not exist have no effect."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.conditions import Condition, Conditions, with_nulls
from diffcore.denoising.inputs import Embedded, Tokens, require_embedded
from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import (
    ROUNDING,
    combined,
    field_prefix,
    name_list,
    relative_difference,
    source_location,
)
from diffcore.testing.plugin import BATCH_SIZE, PluginUnderTest, randomised

_EXTRA = 2
"""How many tokens that do not exist are appended."""


def conditions_sound(plugin: PluginUnderTest) -> Measurement:
    """Null values are not given, values that are dropped become null, and embeddings follow their values.

    * The codec gives equal conditions when it is built again: conditions of two runs are compared.
    * `given` is bool `[B]`, and False for null values. Null values have the type of the values, so that they can
      replace them in training.
    * `examples` have the shape of values, and `caption` is one line of text.
    * The embedding of a value is finite, has the parts that `Condition.inputs` announces, and does not depend on the
      other values of the batch.
    """
    conditions, values = plugin.codec.conditions, plugin.encoded(BATCH_SIZE).conditions
    if not conditions:
        raise NotApplicableError("the codec has no conditions")
    again = part_of(plugin.modality, "codec", plugin.data.facts).conditions
    expected = "null values, embeddings and captions as `Condition` describes them"
    if again != conditions:
        measured = "the codec has other conditions when it is built again: they do not compare equal"
        return Measurement(False, measured, "conditions that are frozen dataclasses", source_location(type(again[0])))
    width = plugin.model.denoiser.conditioning.width
    for condition in conditions:
        for complaint in _complaints(condition, values[condition.name], width):
            where = source_location(type(condition))
            return Measurement(False, f"the condition {condition.name}: {complaint}", expected, where)
    names = name_list(condition.name for condition in conditions)
    return Measurement(True, f"{names} have null values, embeddings and captions", expected)


def _complaints(condition: Condition, value: Tensor, width: int) -> Iterator[str]:
    """What is wrong with a condition; `value` are values of examples."""
    batch = len(value)
    null, given = condition.null(batch), condition.given(value)
    if tuple(given.shape) != (batch,) or given.dtype != torch.bool:
        yield f"`given` is {str(given.dtype).removeprefix('torch.')} {[*given.shape]}, not bool [{batch}]"
    elif bool(condition.given(null).any()):
        yield "null values count as given"
    elif null.dtype.is_floating_point != value.dtype.is_floating_point:
        yield f"null values are {null.dtype}, and those of examples {value.dtype}"
    else:
        try:
            condition.require(value)
            condition.require(null)
        except UserError as error:
            yield str(error)
        dropped = torch.arange(batch) % 2 == 0
        if not torch.equal(condition.given(with_nulls(condition, value, dropped)), given & ~dropped):
            yield "dropping a value does not make it null, or changes others"
        shape = tuple(condition.examples(3).shape)
        if shape != (3, *condition.shape):
            yield f"`examples(3)` has the shape {[*shape]}, not {[3, *condition.shape]}"
        captions = [condition.caption(each) for each in value[given]]
        if wrong := [caption for caption in captions if not isinstance(caption, str) or not caption.isprintable()]:
            yield f"`caption` is {wrong[0]!r}, not one line of text"
        yield from _embedding_complaints(condition, torch.cat([value, null[:1]]), width)


@torch.no_grad()
def _embedding_complaints(condition: Condition, value: Tensor, width: int) -> Iterator[str]:
    embedding = randomised(condition.embedding(width))

    def embedded(values: Tensor) -> dict[str, Tensor]:
        found = require_embedded(condition.name, embedding(values), condition.inputs, len(values), width)
        return _parts(found)

    whole = embedded(value)
    if infinite := [name for name, part in whole.items() if not bool(part.isfinite().all())]:
        yield f"the embedding has nan or infinite numbers in the {infinite[0]}"
        return
    for row in range(len(value)):
        for name, part in embedded(value[row : row + 1]).items():
            both = part[0], whole[name][row]
            if both[0].shape == both[1].shape:
                difference = relative_difference(*both).value
                if difference > ROUNDING:
                    yield f"other values of the batch change the {name} of its embedding by {difference:.2g}"
                    return


def _parts(embedded: Embedded) -> dict[str, Tensor]:
    """The parts of an embedding by name; values of tokens that do not exist are zero."""
    vector, tokens, like_state = embedded
    parts: dict[str, Any] = {"vector": vector, "like_state": like_state}
    if tokens is not None:
        parts["tokens"] = tokens.values.where(tokens.mask[..., None], 0.0)
    return {name: part for name, part in parts.items() if part is not None}


def token_padding(plugin: PluginUnderTest) -> Measurement:
    """Tokens that do not exist change no output: neither the numbers stored for them, nor how many of them there are.

    Texts of different lengths are padded to one length, and `Tokens.mask` is True where a token exists.
    """
    denoiser = plugin.randomised_denoiser
    if not denoiser.conditioning.inputs.tokens:
        raise NotApplicableError("no condition yields tokens")
    batch = plugin.noisy_batch()
    where = source_location(plugin.backbone)
    outputs = []
    for stored, extra in ((0.0, 0), (10.0, 0), (10.0, _EXTRA)):
        changed = randomised(denoiser)
        changed.conditioning = _Padded(denoiser.conditioning, stored, extra)  # type: ignore[assignment]
        outputs.append(plugin.predict(batch, changed))
    measurements = []
    for output, change in zip(outputs[1:], ("other numbers stored", f"{_EXTRA} more tokens"), strict=True):
        difference = relative_difference(output, outputs[0])
        measurements.append(
            Measurement(
                difference.value <= ROUNDING,
                f"{field_prefix(difference.field)}{change} where no token exists change the output by "
                f"{difference.value:.2g}",
                f"at most {ROUNDING:g} of the largest entry: tokens that do not exist have no effect",
                where,
            )
        )
    return combined(*measurements)


class _Padded(nn.Module):
    """A conditioning whose last token does not exist, where other numbers are stored, and with `extra` such tokens."""

    def __init__(self, conditioning: nn.Module, stored: float, extra: int) -> None:
        super().__init__()
        self.conditioning, self.stored, self.extra = conditioning, stored, extra
        self.shapes = conditioning.shapes

    def forward(self, log_snr: Tensor, conditions: Conditions) -> Embedded:
        vector, tokens, like_state = self.conditioning(log_snr, conditions)
        mask = functional.pad(tokens.mask, (0, 1 + self.extra))
        values = functional.pad(tokens.values, (0, 0, 0, 1 + self.extra))
        return Embedded(vector, Tokens(values.where(mask[..., None], self.stored), mask), like_state)
