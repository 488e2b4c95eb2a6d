"""What a modality promises of itself, so that `diffcore check-plugin` can hold it to that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.spaces import Mask
from diffcore.state import State

Act = Callable[[State, Mask, torch.Generator], Callable[[State], State]]
"""A random transform of states like the given ones: takes them, draws the transform, and returns it to be applied to
any state of that shape and mask."""


@dataclass(frozen=True)
class Promises:
    """What can be checked of a kind of data, all of it optional.

    * `restored(examples, samples)`: how far the decoded samples of encoded examples are from what went in, `[B]`, in
      the data's own unit; not more than `tolerance`.
    * `symmetries`: how the transforms that denoisers name in `Component.symmetries` act on states. A denoiser f that
      names T has f(T x) = T f(x), up to `symmetry_tolerance` relative to the largest entry.
    * `moved`: transforms of examples that encoding takes out, such as where a shape lies: encode(T x) = encode(x).
    * `expected_failures`: checks that are known to fail, by name, each with the reason.
    * `small`: what the checks change in the preset `default` so that they are quick, nested as in TOML.
    """

    restored: Callable[[TensorDict, Any], Tensor] | None = None
    tolerance: float = 0.0
    symmetries: Mapping[str, Act] = field(default_factory=dict)
    symmetry_tolerance: float = 1e-4
    moved: Mapping[str, Callable[[TensorDict, torch.Generator], TensorDict]] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
