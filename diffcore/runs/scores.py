"""Values of single samples by name, from the modality and from Python functions of the user."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from diffcore.errors import RAISED_BY_PLUGINS, UserError, did_you_mean, told
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Data
from diffcore.plugins.functions import load_function
from diffcore.plugins.output import Scorer, Value
from diffcore.runs.model import Model

DataOf = Callable[[], Data | None]
"""The data of a run, read when they are needed."""

Functions = Sequence[str] | Mapping[str, Callable[..., Any]]
"""Functions of the user: `module:function` or `NAME=module:function`, or the functions themselves by name."""


def functions_of(given: Functions) -> dict[str, Callable[..., Any]]:
    """The functions by name. Raises `UserError` if one does not exist, or if two have the same name."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Callable[..., Any]] = {}
    for text in given:
        name, function = load_function(text)
        if name in found:
            raise UserError(f"`properties`: two functions are called {name!r}; write NAME={text}")
        found[name] = function
    return found


SIMILARITY = "similarity"
"""The name of the value that says how similar a sample is to the reference."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """The scores of a model's samples: those of its modality, and functions of the user.

    Without a scorer of the modality, a function takes a decoded sample, such as a row of a tensor. With `reference`,
    decoded samples, the value `similarity` is that to the most similar of them, where the scorer can tell.
    """

    model: Model
    data: DataOf = lambda: None
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    reference: Any = None

    @cached_property
    def scorer(self) -> Scorer | None:
        """The scorer of the modality, if it has one."""
        if self.model.modality.scorer is None:
            return None
        made: Scorer = part_of(self.model.modality, "scorer", self.model.codec, self.data, self.functions)
        return made

    @property
    def columns(self) -> tuple[str, ...]:
        """The usual columns of a table, with the functions of the user."""
        own = () if self.scorer is None else tuple(self.scorer.columns)
        return tuple(dict.fromkeys((*own, *self.functions)))

    @property
    def known(self) -> tuple[str, ...]:
        """All names that are listed in messages."""
        more = () if self.scorer is None else self.scorer.more
        return tuple(dict.fromkeys((*self.columns, *more, *([SIMILARITY] if self._compares else []))))

    @property
    def _compares(self) -> bool:
        """Whether samples can be compared with the reference."""
        return self.reference is not None and hasattr(self.scorer, "similarity")

    @property
    def identity(self) -> str:
        """The name of the value that equal samples share. Raises `UserError` if there is none."""
        if self.scorer is None or self.scorer.identity is None:
            raise UserError(f"samples of {self.model.modality.name} have no identity, so none can be called unique")
        return self.scorer.identity

    def require(self, names: Sequence[str]) -> None:
        """Raise `UserError` for a name that does not exist."""
        names = [name for name in names if name != SIMILARITY or not self._compares]
        if self.scorer is not None:
            self.scorer.require(names)
            return
        for name in names:
            if name not in self.functions:
                known = ", ".join(self.functions)
                have = f"there are: {known}" if known else "name a function of yours with `properties`"
                raise UserError(f"no value is called {name!r}{did_you_mean(name, [*self.functions])}; {have}")

    def __call__(self, samples: Any, names: Sequence[str]) -> dict[str, list[Value]]:
        """The values of these names, one for each sample. Raises `UserError` for a name that does not exist."""
        names = list(dict.fromkeys(names))
        self.require(names)
        if self._compares and SIMILARITY in names:
            assert self.scorer is not None
            alike = [max(row) for row in self.scorer.similarity(samples, self.reference)]
            rest = self(samples, [name for name in names if name != SIMILARITY])
            return {**rest, SIMILARITY: [_plain(value) for value in alike]}
        if self.scorer is not None:
            found = self.scorer.score(samples, names)
            return {name: [_plain(value) for value in found[name]] for name in names}
        return {name: [_called(name, self.functions[name], sample) for sample in samples] for name in names}


def _called(name: str, function: Callable[..., Any], sample: Any) -> Value:
    try:
        return _plain(function(sample))
    except RAISED_BY_PLUGINS as error:  # the code of a user may raise any exception
        raise UserError(f"the function {name!r} failed for a sample: {told(error)}") from error


def _plain(value: Any) -> Value:
    """A value as a number, a text or a truth value; None for what is not finite."""
    if isinstance(value, torch.Tensor) or hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
