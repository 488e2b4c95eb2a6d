"""Python functions that a user names, as `module:function`."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffcore.errors import RAISED_BY_PLUGINS, UserError, told

NAME = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")
"""How a function is named: `module:function`, or `NAME=module:function`."""


def is_function(text: str) -> bool:
    """Whether a text names a function of a module."""
    return NAME.fullmatch(text) is not None


def load_function(text: str) -> tuple[str, Callable[..., Any]]:
    """The name and the function that `text` names: `module:function`, or `NAME=module:function` for another name.

    Modules are found where Python finds them, and in the current folder. Importing a module runs its code, so `text`
    must come from the user, and not from the configuration of a run of somebody else. Raises `UserError` if there is
    no such function.
    """
    found = NAME.fullmatch(text)
    if found is None:
        raise UserError(f"{text!r} names no function: write module:function, or NAME=module:function")
    try:
        with _current_folder():
            module = importlib.import_module(found["module"])
    except RAISED_BY_PLUGINS as error:  # the code of a user may raise any exception
        raise UserError(f"{text!r}: the module {found['module']} cannot be imported: {told(error)}") from None
    function = getattr(module, found["function"], None)
    if not callable(function):
        has = "no" if function is None else "no function"
        raise UserError(f"{text!r}: the module {found['module']} has {has} {found['function']}")
    return (found["name"] or text).strip(), function


@contextmanager
def _current_folder() -> Iterator[None]:
    """Also find modules in the current folder, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
