"""A function as a program of torch.export, for batches of any size and, where possible, sets of any size."""

import logging
import re
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


_LIMIT = re.compile(r"batch = Dim\('batch', max=(\d+)\)")
"""How torch.export says that a network treats larger batches in another way."""


def program_of(function: Function) -> tuple[Function, ExportedProgram]:
    """The program, and the function with the shapes that the program takes.

    If the program cannot be made for any number of elements, it is made for that of training, and if the network treats
    large batches in another way, for the smaller ones; a line and a note of the description say so. Raises `UserError`
    if torch.export cannot trace the function.
    """
    if function.elements:
        try:
            return _for_most_batches(function)
        except Exception as error:
            logger.debug("elements", exc_info=error)
            function = of_one_size(function)
    try:
        return _for_most_batches(function)
    except Exception as error:
        raise UserError(f"torch.export cannot write this network: {first_line(error)}") from error


def _for_most_batches(function: Function) -> tuple[Function, ExportedProgram]:
    try:
        return function, _exported(function, None)
    except torch._dynamo.exc.UserError as error:
        found = _LIMIT.search(str(error))
        if found is None:
            raise
        program = _exported(function, int(found[1]))
        return noted(function, f"batches have at most {found[1]} samples"), program


def _exported(function: Function, most: int | None) -> ExportedProgram:
    """The program for batches of at most `most` samples."""
    batch, elements = Dim("batch", min=1, max=most), Dim(ELEMENTS, min=function.least)
    shapes: dict[str, Any] = {
        value.name: {0: batch, **{axis: elements for axis, side in enumerate(value.shape, 1) if side == ELEMENTS}}
        for value in function.inputs
    }
    given = function.examples(TRACED, function.elements and function.elements + 1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function.module(**given)  # what is kept at the first call is a tensor then, and no symbol of the trace
        return torch.export.export(
            function.module,
            (),
            given,
            dynamic_shapes=shapes,
            strict=False,
            # The number of pairs of elements is a polynomial, about which equations cannot be solved in advance.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def noted(function: Function, note: str) -> Function:
    """The function with a note in its description, which is also logged."""
    logger.info(f"note: {note}")
    return replace(function, description={**function.description, "notes": [*function.description["notes"], note]})


def of_one_size(function: Function) -> Function:
    """The function for the number of elements of training alone."""
    count = function.elements
    inputs = tuple(
        replace(value, shape=tuple(count if side == ELEMENTS else side for side in value.shape))
        for value in function.inputs
    )
    return replace(
        noted(function, f"sets have {count} elements"),
        inputs=inputs,
        examples=lambda batch, _: function.examples(batch, count),
        elements=0,
        least=0,
    )
