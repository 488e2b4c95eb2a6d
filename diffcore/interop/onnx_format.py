"""The format `onnx`: an ONNX model with its description in the property `diffcore` of its metadata."""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from diffcore.errors import UserError, first_line
from diffcore.interop.function import Tensors
from diffcore.interop.writing import as_text, written
from diffcore.plugins.registry import Registry

DESCRIPTION = "diffcore"
"""The name of the description among the properties of a model's metadata."""

MOST_BYTES = 2**31 - 2**24
"""Bytes of the weights of a model that is one file, at most; files of protobuf end at 2 GiB."""


def denoiser(run: Path, out: Path, registry: Registry) -> Path:
    """Write the denoiser of a run to the new file `out`; see `diffcore.interop.writing.written`."""
    return written(run, out, registry, "denoiser", save, opened)


def decoder(run: Path, out: Path, registry: Registry) -> Path:
    """Write the decoder of a run that diffuses in latents to the new file `out`."""
    return written(run, out, registry, "decoder", save, opened)


def save(program: ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    """Write the program as a model, and its description.

    Raises `UserError` for weights that do not fit into one file, and if PyTorch cannot translate the program.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*program.state_dict.values()])
    if size > MOST_BYTES:
        raise UserError(f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds 2 GiB: use `format` torch")
    try:
        with _quiet():
            model = torch.onnx.export(
                program,
                (),
                input_names=[value["name"] for value in description["inputs"]],
                output_names=[value["name"] for value in description["outputs"]],
                custom_translation_table=_translations(),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError(f"PyTorch cannot write this network as ONNX: {first_line(cause)}") from error
    assert model is not None
    _name_axes(model.model.graph, description["inputs"])
    model.model.metadata_props[DESCRIPTION] = as_text(description)
    model.save(path, external_data=False)


def _name_axes(graph: Any, inputs: Sequence[Mapping[str, Any]]) -> None:
    """Call the axes that may have any length as the description does, in place of the exporter's symbols."""
    from onnx_ir import Shape, SymbolicDim

    shapes = {value["name"]: value["shape"] for value in inputs}
    names = {
        str(side.value): word
        for value in graph.inputs
        for side, word in zip(value.shape, shapes[value.name], strict=True)
        if isinstance(side, SymbolicDim)
    }
    for value in [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]:
        if value.shape is not None:
            sides = [
                SymbolicDim(names.get(str(s.value), s.value)) if isinstance(s, SymbolicDim) else s for s in value.shape
            ]
            value.shape = Shape(sides)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What the exporter does not know: sqrt(a^2 + b^2), and the places of numbers among sorted ones."""
    from onnxscript import opset18 as op

    def hypot(first: Any, second: Any) -> Any:
        return op.Sqrt(op.Add(op.Mul(first, first), op.Mul(second, second)))

    def searchsorted(sorted_sequence: Any, values: Any, right: bool = False) -> Any:
        values = op.Unsqueeze(values, op.Constant(value_ints=[-1]))
        before = op.LessOrEqual(sorted_sequence, values) if right else op.Less(sorted_sequence, values)
        return op.ReduceSum(op.Cast(before, to=_INT64), op.Constant(value_ints=[-1]), keepdims=0)

    return {torch.ops.aten.hypot.default: hypot, torch.ops.aten.searchsorted.Tensor: searchsorted}


_INT64 = 7
"""The number of this type in ONNX."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress that the exporter prints and the advice that it logs."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def opened(path: Path) -> Callable[[Tensors], Tensors]:
    """The model in a file as a function of its named inputs, by ONNX Runtime where it is installed.

    The reference implementation of the package onnx, which is slow, takes its place.
    """
    names: list[str]
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names, compute = [value.name for value in session.get_outputs()], session.run
    else:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        names, compute = list(evaluator.output_names), evaluator.run

    def call(given: Tensors) -> Tensors:
        found = compute(None, {name: value.numpy() for name, value in given.items()})
        return {name: torch.as_tensor(value) for name, value in zip(names, found, strict=True)}

    return call
