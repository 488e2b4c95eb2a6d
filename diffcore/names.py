"""The values of options that are chosen by name, as `Literal` types. This module does not import torch."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, get_args

from diffcore.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
"""Where a run computes; `auto` uses a GPU if there is one."""

Precision = Literal["float32", "bfloat16"]
"""The type of the numbers inside of a network."""

Parallel = Literal["ddp", "fsdp"]
"""How several processes share the weights of a network."""

OptimizerName = Literal["adam", "muon"]
"""Optimisers; see `diffcore.training.muon`."""

OnDivergence = Literal["stop", "step-back"]
"""What training does when the loss diverges: stop, or return to an earlier checkpoint."""

Parameterisation = Literal["eps", "x0", "v"]
"""What the network of a denoiser predicts."""

Weighting = Literal["eps", "x0", "v", "min-snr", "sparse"]
"""Weightings of the denoising loss; see `diffcore.denoising.losses.WEIGHTINGS`."""

Grid = Literal["tapered", "karras", "time", "log-snr", "segments"]
"""Time grids; see `diffcore.sampling.timesteps.GRIDS`."""

Clock = Literal["alpha", "log-snr"]
"""The variable in which the solver `adams` approximates x0 by a polynomial."""

GradientOf = Literal["x", "x0"]
"""Whether the log-weight of energy guidance is a function of the noisy state x or of the estimate x0."""

InverseMethod = Literal["learned", "repaint", "mmps", "dps"]
"""Methods to draw samples that agree with a measurement; see `diffcore.sampling.inverse.editing`."""

Divergence = Literal["exact", "hutchinson"]
"""How the divergence of the probability flow is computed; see `diffcore.likelihood.flow.log_likelihood`."""

CheckStatus = Literal["passed", "failed", "expected", "unexpected", "skipped"]
"""The result of one check of a plugin."""

CheckedKind = Literal[
    "modality", "dataset", "denoiser", "solver", "schedule", "guidance", "metric", "logger", "task", "text-encoder"
]
"""The kinds of parts that `diffcore check-plugin` checks."""

PluginKind = Literal[
    "modality", "task", "solver", "schedule", "guidance", "metric", "dataset", "logger", "text-encoder"
]
"""The kinds of plugin packages that `diffcore new-plugin` writes."""

ClassLevel = Literal["auto", "first", "last", "none"]
"""Which folders of a user's data are classes; see `diffcore.plugins.layouts`."""


def names_in(names: str | Iterable[str]) -> tuple[str, ...]:
    """The names in a list of names. A string is one name: `"radius"` is the same as `("radius",)`."""
    return (names,) if isinstance(names, str) else tuple(names)


def require_name(value: Any, names: Any, argument: str) -> None:
    """Raise `UserError` unless `value` is one of the `names`, a `Literal` type of this module or a list of names.

    `argument` is what the value was given for; a message without it would not say where to look.
    """
    known = get_args(names) or tuple(names)
    if value not in known:
        close = get_close_matches(str(value), known, 1)
        hint = f"; perhaps you meant {close[0]!r}" if close else ""
        raise UserError(f"`{argument}` {value!r} does not exist; there are: {', '.join(known)}{hint}")
