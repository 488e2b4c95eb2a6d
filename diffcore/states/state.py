"""States: what is diffused.

A batch of states is one `torch.Tensor` `[B, ...]` or a `tensordict.TensorDict` of named tensors, batch
first. Everything in the core is written with the arithmetic that both have (`a * x + b * y`); the few
operations where they differ stand here.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from tensordict import TensorDict
from torch import Tensor

State: TypeAlias = Tensor | TensorDict


def per_sample(weight: Tensor | float, like: State) -> Tensor | float:
    """`weight` `[B]` in a form that multiplies each sample of `like` by its own value.

    A float is returned as it is. A tensor is cast to the type of `like` and gets trailing axes of size one; a
    TensorDict broadcasts `[B]` over its fields by itself.
    """
    if not isinstance(weight, Tensor):
        return weight
    weight = weight.to(first_field(like).dtype)
    return weight.reshape(-1, *[1] * (like.ndim - 1)) if isinstance(like, Tensor) and weight.ndim else weight


def first_field(state: State) -> Tensor:
    """A tensor of the state, which tells its type and device."""
    return state if isinstance(state, Tensor) else next(iter(state.values()))


def fields(state: State) -> dict[str, Tensor]:
    """The named tensors of a state; a single tensor is the field `""`."""
    return {"": state} if isinstance(state, Tensor) else dict(state.items())


def map_fields(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` to matching fields of `states` and return a state of the same structure, of any batch size."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    mapped = {name: function(*(state[name] for state in states)) for name in first.keys()}  # type: ignore[index]
    return TensorDict(mapped, batch_size=[len(next(iter(mapped.values())))])


def combine(*terms: tuple[Tensor | float, State]) -> State:
    """The sum of weight * state over `terms`; weights are floats, or tensors `[B]`.

    Float weights take one pass over memory a term, and one new tensor in all.
    """

    def total(*tensors: Tensor) -> Tensor:
        (weight, _), *rest = terms
        result = per_sample(weight, tensors[0]) * tensors[0]
        for (weight, _), tensor in zip(rest, tensors[1:], strict=True):
            if isinstance(weight, Tensor):
                result = result + per_sample(weight, tensor) * tensor
            else:
                result = result.add_(tensor, alpha=weight)
        return result

    return map_fields(total, *(state for _, state in terms))


def extrapolate(start: State, end: State, weight: float) -> State:
    """start + weight (end - start): `end` at 1, beyond it further on."""
    return map_fields(lambda a, b: torch.lerp(a, b, weight), start, end)


def concatenate(states: list[State]) -> State:
    """Join states along the batch axis."""
    return torch.cat(states)  # type: ignore[arg-type]
