"""A part of a run as one function of named tensors, which a format writes to a file."""

import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ELEMENTS = "elements"
"""The axis whose length is the number of elements of a set, in the shapes of `Value`."""

Tensors = Mapping[str, Tensor]
"""Tensors by name, batch first."""


@dataclass(frozen=True)
class Value:
    """An input or an output of a function.

    * `shape`: the shape of one sample; `ELEMENTS` is an axis that may have another length in each call.
    * `kind`: the type of its numbers, such as `torch.float32`.
    * `means`: what it is, in words.
    """

    name: str
    shape: tuple[int | str, ...]
    kind: torch.dtype
    means: str

    def as_json(self) -> dict[str, Any]:
        """The value as a description has it."""
        kind = str(self.kind).removeprefix("torch.")
        return {"name": self.name, "shape": ["batch", *self.shape], "type": kind, "means": self.means}


@dataclass(frozen=True)
class Function:
    """A function of named tensors, a second way to compute it, and what there is to say of it.

    * `module`: takes the inputs by their names, and returns the outputs by theirs.
    * `inputs`: its inputs, in their order.
    * `examples(batch, elements)`: inputs to try it with, for sets of so many elements.
    * `eager`: what the run itself computes from these inputs.
    * `elements`: the number of elements of the sets of training; 0 where there is no such axis.
    * `least`: the smallest number of elements.
    * `scales(inputs)`: for each output whose difference counts in other units than its own, the factor `[B]`.
    * `description`: what a caller has to know, as values of JSON.
    """

    module: nn.Module
    inputs: tuple[Value, ...]
    examples: Callable[[int, int], dict[str, Tensor]]
    eager: Callable[[Tensors], dict[str, Tensor]]
    elements: int = 0
    least: int = 0
    scales: Callable[[Tensors], dict[str, Tensor]] = lambda inputs: {}
    description: Mapping[str, Any] = field(default_factory=dict)


class NamedInputs(nn.Module):
    """A module that computes `function(parts, inputs)` from inputs that are its arguments by name.

    * `names`: the names of the arguments, in their order.
    * `parts`: the modules that the function uses, so that their weights are those of this module.
    """

    def __init__(
        self, names: Iterable[str], parts: nn.Module, function: Callable[[Any, Tensors], dict[str, Tensor]]
    ) -> None:
        super().__init__()
        self.names, self.parts, self.function = tuple(names), parts, function
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        # torch.export reads the names of the arguments off the signature.
        self.forward = _with_signature(self._call, [inspect.Parameter(name, kind) for name in self.names])

    def _call(self, *values: Tensor, **named: Tensor) -> dict[str, Tensor]:
        return self.function(self.parts, {**dict(zip(self.names, values, strict=False)), **named})


def _with_signature(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    def call(*values: Any, **named: Any) -> Any:
        return function(*values, **named)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def argument_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A name for each of `names` that Python and ONNX accept for an argument; all are different.

    Other characters than letters, digits and `_` become `_`, and `_` is appended until no other has that name, nor is
    it among those `taken`.
    """
    found: dict[str, str] = {}
    used = {*taken}
    for name in names:
        word = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
        word = f"_{word}" if word[0].isdigit() else word
        while word in used or keyword.iskeyword(word):
            word += "_"
        used.add(word)
        found[name] = word
    return found
