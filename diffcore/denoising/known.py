"""Entries of a state that are known while the others have noise, as a network is told of them.

A network that accepts `known` receives a state of booleans, True for the entries that are known. In the noisy state
that it receives, these entries have the values of the clean state, at every noise level.

The booleans travel with the conditions, under names that no condition has. So guidance, which evaluates a denoiser with
several sets of conditions in one batch, takes them along, and drops them never.
"""

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.states.state import State, fields, from_fields

_PREFIX = "known: "


def told(known: State) -> dict[str, Tensor]:
    """The booleans `known` `[B, ...]` as entries of a mapping of conditions."""
    return {_PREFIX + name: flag for name, flag in fields(known).items()}


def known_in(conditions: Conditions | None) -> State | None:
    """The booleans that are among the `conditions`; None if nothing is known."""
    found = {name.removeprefix(_PREFIX): value for name, value in (conditions or {}).items() if _is_known(name)}
    return from_fields(found) if found else None


def without_known(conditions: Conditions | None) -> Conditions | None:
    """The conditions alone; None if there are none."""
    rest = {name: value for name, value in (conditions or {}).items() if not _is_known(name)}
    return rest or None


def clean_where_known(inputs: State, x: State, known: State) -> State:
    """What a network receives: `inputs`, and the clean values that `x` has where `known` is True."""
    kept = {name: torch.where(flag, fields(x)[name], fields(inputs)[name]) for name, flag in fields(known).items()}
    return from_fields({**fields(inputs), **kept})


def _is_known(name: str) -> bool:
    return name.startswith(_PREFIX)
