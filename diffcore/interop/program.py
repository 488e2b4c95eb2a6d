"""A function as a program of torch.export, for batches of any size and, where possible, sets of any size."""

import logging
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from diffcore.errors import UserError, first_line
from diffcore.interop.function import ELEMENTS, Function

logger = logging.getLogger(__name__)

TRACED = 3
"""The size of the batch that is traced; 0 and 1 would be taken for constants."""

LEAST = 3
"""The smallest number of elements that a program takes."""


def program_of(function: Function) -> tuple[Function, ExportedProgram]:
    """The program, and the function with the shapes that the program takes.

    If the program cannot be made for any number of elements, it is made for that of training, and a line says so.
    Raises `UserError` if torch.export cannot trace the function.
    """
    if function.elements:
        try:
            return function, _exported(function)
        except Exception as error:
            logger.info(f"the program takes sets of {function.elements} elements only: {first_line(error)}")
            function = _of_one_size(function)
    try:
        return function, _exported(function)
    except Exception as error:
        raise UserError(f"torch.export cannot write this network: {first_line(error)}") from error


def _exported(function: Function) -> ExportedProgram:
    batch, elements = Dim("batch", min=1), Dim(ELEMENTS, min=LEAST)
    shapes: dict[str, Any] = {
        value.name: {0: batch, **{axis: elements for axis, side in enumerate(value.shape, 1) if side == ELEMENTS}}
        for value in function.inputs
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            function.module,
            (),
            function.examples(TRACED, function.elements),
            dynamic_shapes=shapes,
            strict=False,
            # The number of pairs of elements is a polynomial, about which equations cannot be solved in advance.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _of_one_size(function: Function) -> Function:
    """The function for the number of elements of training alone."""
    count = function.elements
    inputs = tuple(
        replace(value, shape=tuple(count if side == ELEMENTS else side for side in value.shape))
        for value in function.inputs
    )
    description = {**function.description, "notes": [*function.description["notes"], f"sets have {count} elements"]}
    return replace(
        function,
        inputs=inputs,
        examples=lambda batch, _: function.examples(batch, count),
        elements=0,
        description=description,
    )
