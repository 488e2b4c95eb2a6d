"""What a network receives of the conditions: a vector, tokens, and channels beside those of the state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffcore.errors import UserError
from diffcore.states.state import State, fields


class Tokens(NamedTuple):
    """Tokens for cross-attention, such as the words of a text.

    * `values`: `[B, L, channels]`. L may differ from call to call.
    * `mask`: bool `[B, L]`, True where a token exists.
    """

    values: Tensor
    mask: Tensor


class Embedded(NamedTuple):
    """What the embedding of a condition returns; an embedding that returns a plain tensor means `vector`.

    * `vector`: `[B, width]`, which is added to the conditioning vector.
    * `tokens`: tokens for cross-attention.
    * `like_state`: `[B, channels, H, W]` for a state `[B, C, H, W]`, `[B, N, channels]` for a set of N elements: more
      channels at the places of the state.
    """

    vector: Tensor | None = None
    tokens: Tokens | None = None
    like_state: Tensor | None = None

    def rows(self, places: Tensor) -> "Embedded":
        """The parts of the samples `places`, int64 `[n]`, which may occur several times."""
        vector, tokens, like_state = self
        return Embedded(
            None if vector is None else vector[places],
            None if tokens is None else Tokens(tokens.values[places], tokens.mask[places]),
            None if like_state is None else like_state[places],
        )


INPUTS = ("tokens", "like_state")
"""The names of the inputs of networks that conditions may yield, in the order of `Embedded`."""


@dataclass(frozen=True)
class Inputs:
    """What a network has to take besides the state, the conditioning vector and the mask.

    * `tokens`: the number of channels of the tokens; 0 if there are none.
    * `like_state`: the number of channels that have the shape of the state; 0 if there are none.
    * `known`: whether the network is told which entries of the state are known (`diffcore.denoising.known`).
    * `estimate`: whether it receives an estimate of x0, a state (`diffcore.denoising.estimate`).
    """

    tokens: int = 0
    like_state: int = 0
    known: bool = False
    estimate: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs that there are: the keyword arguments of the network."""
        return tuple(name for name in (*INPUTS, "known", "estimate") if getattr(self, name))


NO_INPUTS = Inputs()
"""A network takes only the state, the conditioning vector and the mask."""


def together(each: Sequence[Inputs]) -> Inputs:
    """The inputs of a network that takes all of `each`: tokens follow each other, channels lie beside each other."""
    return Inputs(max((one.tokens for one in each), default=0), sum(one.like_state for one in each))


def join(each: Sequence[Embedded], channels: int, dtype: torch.dtype) -> tuple[Tokens | None, Tensor | None]:
    """The tokens of all conditions, one after the other, with `channels` channels; and all that is like the state.

    Values of tokens that do not exist are set to zero, so whatever is stored there has no influence. Tokens with fewer
    channels than others are filled up with zeros.
    """
    found = [one.tokens for one in each if one.tokens is not None]
    likes = [one.like_state.to(dtype) for one in each if one.like_state is not None]
    like_state = torch.cat(likes, dim=channel_axis(likes[0].ndim)) if likes else None
    if not found:
        return None, like_state
    widened = [functional.pad(values.to(dtype), (0, channels - values.shape[-1])) for values, _ in found]
    mask = torch.cat([mask for _, mask in found], 1)
    return Tokens(torch.cat(widened, 1).where(mask[..., None], 0.0), mask), like_state


def beside_each_other(state: State, like_state: Tensor | None = None) -> Tensor:
    """The channels of all fields of a state, after those of `like_state`, as channels like a state.

    Where `like_state` `[B, M, channels]` is of fewer elements than the state, it is zero for the others.
    """
    parts = list(fields(state).values())
    if like_state is not None:
        if like_state.ndim == 3:
            like_state = functional.pad(like_state, (0, 0, 0, parts[0].shape[1] - like_state.shape[1]))
        parts = [like_state.to(parts[0].dtype), *parts]
    return torch.cat(parts, dim=channel_axis(parts[0].ndim))


def channels_beside(state: State) -> int | None:
    """The number of channels of `beside_each_other`; None if the fields differ in more than their channels."""
    parts = list(fields(state).values())
    axis = channel_axis(parts[0].ndim)
    others = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts if part.ndim == parts[0].ndim}
    alike = len(others) == 1 and all(part.ndim == parts[0].ndim for part in parts)
    return sum(part.shape[axis] for part in parts) if alike else None


def channel_axis(ndim: int) -> int:
    """The axis of the channels of `ndim` axes: the last of `[B, N, channels]`, the first after the batch of a grid."""
    return 2 if ndim == 3 else 1


def require_embedded(name: str, found: Tensor | Embedded, inputs: Inputs, batch: int, width: int) -> Embedded:
    """`found`, what the condition's embedding returned, as a record.

    Raises `UserError` unless it has the parts that `Condition.inputs` announces, in the right shapes; a vector
    `[1, width]` would otherwise be broadcast over the batch.
    """
    embedded = Embedded(found) if isinstance(found, Tensor) else found
    if not isinstance(embedded, Embedded):
        raise UserError(f"{_of(name)} returned {type(found).__name__}; it must return a tensor [B, width] or Embedded")
    vector, tokens, like_state = embedded
    given = Inputs(
        0 if tokens is None else tokens.values.shape[-1],
        0 if like_state is None else like_state.shape[channel_axis(like_state.ndim)],
    )
    if given != inputs:
        raise UserError(f"{_of(name)} returned {_words(given)}, and `inputs` of the condition says {_words(inputs)}")
    if vector is not None and tuple(vector.shape) != (batch, width):
        raise UserError(f"{_of(name)} returned a vector {[*vector.shape]}; it must be {[batch, width]}")
    if tokens is not None:
        values, mask = tokens
        if values.ndim != 3 or values.shape[0] != batch or mask.shape != values.shape[:2] or mask.dtype != torch.bool:
            kind = str(mask.dtype).removeprefix("torch.")
            raise UserError(
                f"{_of(name)} returned tokens {[*values.shape]} with a mask {kind} {[*mask.shape]}; they must be "
                f"[{batch}, L, {inputs.tokens}] and bool [{batch}, L]"
            )
    if like_state is not None and like_state.shape[0] != batch:
        raise UserError(f"{_of(name)} returned `like_state` {[*like_state.shape]} for {batch} samples")
    return embedded


def _of(name: str) -> str:
    return f"the embedding of the condition {name!r}"


def _words(inputs: Inputs) -> str:
    parts = [f"{getattr(inputs, name)} channels of {name}" for name in inputs.names]
    return " and ".join(parts) or "no tokens and nothing like the state"
