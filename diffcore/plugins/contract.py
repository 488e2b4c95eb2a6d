"""What a modality promises of itself, so that `diffcore check-plugin` can hold it to that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from diffcore.states.spaces import Mask
from diffcore.states.state import State

if TYPE_CHECKING:
    from tensordict import TensorDict


def _same(mask: Tensor) -> Tensor:
    return mask


class Transform(NamedTuple):
    """A transform of a batch of states, and what it does to their mask."""

    state: Callable[[State], State]
    mask: Callable[[Tensor], Tensor] = _same


Act = Callable[[State, Mask, torch.Generator], Transform]
"""A random transform of states like the given ones: takes them and their mask, draws the transform, and returns it to
be applied to any states of that shape. `diffcore.plugins.symmetries` makes the usual ones."""


@dataclass(frozen=True)
class Contract:
    """What can be checked of a kind of data, all of it optional.

    * `restored(examples, samples)`: how far the decoded samples of encoded examples are from what went in, `[B]`, in
      the data's own unit; not more than `tolerance`.
    * `std`: the standard deviation of each field of encoded data, by name, where it is meant to be other than 1.
    * `symmetries`: how the transforms that denoisers name in `Component.symmetries` act on states. A denoiser f that
      names T has f(T x) = T f(x), up to `symmetry_tolerance` relative to the largest entry.
    * `moved`: transforms of examples that encoding takes out, such as where a shape lies: encode(T x) = encode(x).
    * `expected_failures`: checks that are known to fail, by name, each with the reason.
    """

    restored: Callable[["TensorDict", Any], Tensor] | None = None
    tolerance: float = 0.0
    std: Mapping[str, float] = field(default_factory=dict)
    symmetries: Mapping[str, Act] = field(default_factory=dict)
    symmetry_tolerance: float = 1e-4
    moved: Mapping[str, Act] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)
