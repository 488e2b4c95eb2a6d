"""Reads folders in the layout of diffusers, which anybody may have made: JSON and safetensors, and nothing else."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcore.errors import UserError
from diffcore.system.files import MOST_JSON, memory, parse_json, read_regular, utf8_lines
from diffcore.system.tensor_file import tensors_in

WEIGHTS, TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"
"""The names of the files of weights of diffusers and of transformers."""
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
_INFINITE = re.compile(rb'("lambda_min_clipped"\s*:\s*)-Infinity')
"""The one value that diffusers writes and JSON does not have: no limit."""
MOST_SHARDS = 1000


def table(path: Path) -> dict[str, Any]:
    """The table of a JSON file. Raises `UserError` if it is not one."""
    require_no_link(path)
    try:
        found = parse_json(_INFINITE.sub(rb"\1null", read_regular(path, MOST_JSON)))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a table")
    return found


def lines(path: Path) -> list[str]:
    """The lines of a text file. Raises `UserError` if it is none."""
    require_no_link(path)
    try:
        return utf8_lines(read_regular(path, MOST_JSON), str(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None


def weights(folder: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """All tensors of a part of a model by name, from the file `name` or from the shards that its index names.

    A file in half precision, `*.fp16.safetensors`, is read where there is no other. Raises `UserError` if there is none
    in safetensors, and if the index names a file outside of the folder, a tensor that is not there, or not all that
    are.
    """
    index, whole = folder / f"{name}.index.json", folder / name
    if not index.exists() and not index.is_symlink():
        half = whole.with_suffix(".fp16.safetensors")
        return _tensors(half if half.exists() and not whole.exists() and not whole.is_symlink() else whole)
    places = table(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{index} has no weight_map of file names")
    files = sorted(set(places.values()))
    if wrong := next((name for name in files if not _SHARD.fullmatch(name)), None):
        raise UserError(f"{index} names {wrong[:80]!r}, which is not a safetensors file of the same folder")
    if len(files) > MOST_SHARDS:
        raise UserError(f"{index} names {len(files):,} files; at most {MOST_SHARDS:,} are read")
    found: dict[str, Tensor] = {}
    for file in files:
        own = _tensors(folder / file)
        expected = {tensor for tensor, place in places.items() if place == file}
        if different := sorted(expected ^ own.keys()):
            raise UserError(f"{folder / file} does not hold what {index.name} says: {different[0][:200]!r}")
        found |= own
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    require_no_link(path)
    try:
        return tensors_in(read_regular(path, memory() // 2))
    except FileNotFoundError:
        others = sorted(each.name for each in path.parent.glob("*.bin")) if path.parent.is_dir() else []
        why = f"; {others[0]} may hold code and is not read: convert it to safetensors" if others else ""
        raise UserError(f"{path} is missing{why}") from None
    except ValueError as error:
        raise UserError(f"{path} contains no readable tensors ({error})") from None


def require_no_link(path: Path) -> None:
    """Raise `UserError` if the path is a link, which could lead out of the folder."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not followed: copy the folder with its content, cp -rL")
