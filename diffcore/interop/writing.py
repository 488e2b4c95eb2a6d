"""Writing a part of a run to a file of a format: traced, described, checked, and only then put in its place."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from diffcore.errors import UserError
from diffcore.interop.checking import checked
from diffcore.interop.decoder import decoder_function
from diffcore.interop.denoiser import denoiser_function
from diffcore.interop.function import ELEMENTS, Function, Tensors
from diffcore.interop.program import program_of
from diffcore.interop.weights import drawing_run
from diffcore.plugins.registry import Registry
from diffcore.runs.folder import open_run

logger = logging.getLogger(__name__)

PARTS: Mapping[str, Callable[..., Function]] = {"denoiser": denoiser_function, "decoder": decoder_function}
"""The parts of a run that are functions, by name."""

Save = Callable[[ExportedProgram, Mapping[str, Any], Path], None]
"""Writes a program and its description to a path; the inputs and outputs of the description are in their order."""

Open = Callable[[Path], Callable[[Tensors], Tensors]]
"""Opens a file as a function of tensors by name."""


def written(run: Path, out: Path, registry: Registry, part: str, save: Save, opened: Open) -> Path:
    """Write a part of the run, with averaged weights, to the new file `out`, and return `out`.

    The file is opened again and compared with the run. It is at `out` only if it computes the same. Raises `UserError`
    if `out` exists, if the run draws no samples or has no such part, and if the network cannot be written.
    """
    require_new(out)
    loaded = drawing_run(run, registry)
    facts = open_run(run, registry)[1].facts.model_dump(mode="json")
    function, program = program_of(PARTS[part](loaded, facts))
    description = with_values(function)
    part_file = out.with_name(f".{secrets.token_hex(4)}.part{out.suffix}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        save(program, description, part_file)
        difference = checked(function, opened(part_file), "the file")
        require_new(out)
        part_file.replace(out)
    finally:
        part_file.unlink(missing_ok=True)
    logger.info(f"checked: it differs from the run by at most {difference:.1e}")
    return out


def require_new(out: Path) -> None:
    """Raise `UserError` if there is something at `out`."""
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: choose another `out`")


def with_values(function: Function) -> dict[str, Any]:
    """The description of a function with its inputs and its outputs."""
    with torch.no_grad():
        each = [
            function.module(**function.examples(2, n))
            for n in (function.elements, function.elements and function.elements + 1)
        ]
    outputs = []
    for name, value in each[0].items():
        shape = [
            ELEMENTS if side != other else side
            for side, other in zip(value.shape[1:], each[1][name].shape[1:], strict=True)
        ]
        outputs.append({"name": name, "shape": ["batch", *shape], "type": str(value.dtype).removeprefix("torch.")})
    return {**function.description, "inputs": [value.as_json() for value in function.inputs], "outputs": outputs}


def as_text(description: Mapping[str, Any]) -> str:
    """The description as JSON."""
    return json.dumps(description, ensure_ascii=False, allow_nan=False)
