"""States: tensors or named tensors that are diffused, and the operations on them.

A batch of states is one `torch.Tensor` `[B, ...]` or a `tensordict.TensorDict` of named tensors, batch first. The core
uses the arithmetic that both have (`a * x + b * y`); the few operations in which they differ are defined here.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tensordict import TensorDict

State: TypeAlias = Union[Tensor, "TensorDict"]
"""A batch of states, `[B, ...]`."""

Weight: TypeAlias = Tensor | float | Mapping[str, Tensor | float]
"""A factor of a state: a float, a tensor `[B]`, or one of these for each field, by its name."""


def named(tensors: Mapping[str, Tensor]) -> "TensorDict":
    """A state of the named `tensors`, each `[B, ...]`, of which there is at least one.

    The module tensordict is imported here, when a state has several fields, and not with this module: it also loads
    the compiler of PyTorch, which takes as long as PyTorch itself.
    """
    from tensordict import TensorDict

    return TensorDict(dict(tensors), batch_size=[next(iter(tensors.values())).shape[0]])


def per_sample(weight: Tensor | float, like: State) -> Tensor | float:
    """`weight` `[B]` in the shape that multiplies each sample of `like` by its own number.

    A float is returned unchanged. A tensor is cast to the type of `like` and, if `like` is a tensor, gets trailing axes
    of size one; a TensorDict broadcasts `[B]` over its fields by itself.
    """
    if not isinstance(weight, Tensor):
        return weight
    weight = weight.to(first_field(like).dtype)
    return weight.reshape(-1, *[1] * (like.ndim - 1)) if isinstance(like, Tensor) and weight.ndim else weight


def first_field(state: State) -> Tensor:
    """The first tensor of the state; all fields have its type and device."""
    return state if isinstance(state, Tensor) else next(iter(state.values()))


def fields(state: State) -> dict[str, Tensor]:
    """The named tensors of a state; a single tensor is the field `""`."""
    return {"": state} if isinstance(state, Tensor) else dict(state.items())


def from_fields(tensors: Mapping[str, Tensor]) -> State:
    """The state with these fields: the inverse of `fields`."""
    return tensors[""] if "" in tensors else named(tensors)


def map_fields(function: Callable[..., Tensor], *states: State) -> State:
    """The state whose fields are `function` of the corresponding fields of `states`.

    It has the fields of the first state; `function` may change the batch size.
    """
    first, *others = map(fields, states)
    mapped = {name: function(value, *(other[name] for other in others)) for name, value in first.items()}
    if isinstance(states[0], Tensor):
        return mapped[""]
    return named(mapped)


def combine(*terms: tuple[Weight, State]) -> State:
    """The sum of weight * state over `terms`; weights are floats or tensors `[B]`, or mappings from fields to these.

    With float weights, each term takes one pass over memory, and only one new tensor is allocated. A field whose weight
    in a mapping is the float 0 has no part in the sum, also where its value is not finite.
    """
    states = [state for _, state in terms]
    weights: list[Any] = [weight for weight, _ in terms]
    if any(isinstance(weight, Mapping) for weight in weights):
        return _combined_by_field(weights, states)

    def total(*tensors: Tensor) -> Tensor:
        result = per_sample(weights[0], tensors[0]) * tensors[0]
        for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
            if isinstance(weight, Tensor):
                result = result + per_sample(weight, tensor) * tensor
            else:
                result = result.add_(tensor, alpha=weight)
        return result

    return map_fields(total, *states)


def _combined_by_field(weights: list[Any], states: list[State]) -> State:
    """`combine` where a weight is a mapping: the sum of each field by itself."""
    each = [fields(state) for state in states]
    sums = {}
    for name, value in each[0].items():
        own = [weight[name] if isinstance(weight, Mapping) else weight for weight in weights]
        terms = [(w, state[name]) for w, state in zip(own, each, strict=True) if isinstance(w, Tensor) or w != 0]
        sums[name] = combine(*terms) if terms else torch.zeros_like(value)
    return named(sums)


def dot(first: State, second: State) -> Tensor:
    """The inner product of two states, over all entries of all fields of each sample, `[B]`."""
    products = map_fields(lambda a, b: (a * b).flatten(1).sum(1), first, second)
    return torch.stack(list(fields(products).values())).sum(0)


def extrapolate(start: State, end: State, weight: float) -> State:
    """start + weight (end - start): `start` at weight 0, `end` at 1; other weights extrapolate."""
    return map_fields(lambda a, b: torch.lerp(a, b, weight), start, end)


def concatenate(states: list[State]) -> State:
    """The samples of all `states`, which have the same fields, in one batch."""
    return map_fields(lambda *tensors: torch.cat(tensors), *states)
