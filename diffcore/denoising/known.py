"""Entries of a state that are known while the others have noise, as a network is told of them.

A network that accepts `known` receives a state of booleans, True for the entries that are known. In the noisy state
that it receives, these entries have the values of the clean state, at every noise level.
"""

import torch
from torch import Tensor

from diffcore.denoising import along
from diffcore.denoising.conditions import Conditions
from diffcore.states.state import State, fields, from_fields


def told(known: State) -> dict[str, Tensor]:
    """The booleans `known` `[B, ...]` as entries of a mapping of conditions."""
    return along.told("known", known)


def known_in(conditions: Conditions | None) -> State | None:
    """The booleans that are among the `conditions`; None if nothing is known."""
    return along.told_in("known", conditions)


def clean_where_known(inputs: State, x: State, known: State) -> State:
    """What a network receives: `inputs`, and the clean values that `x` has where `known` is True."""
    kept = {name: torch.where(flag, fields(x)[name], fields(inputs)[name]) for name, flag in fields(known).items()}
    return from_fields({**fields(inputs), **kept})
