"""Where things are kept that can be made anew."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$DIFFCORE_CACHE`, or `diffcore` in the user's cache folder. It need not exist, nor be writable."""
    if folder := os.environ.get("DIFFCORE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffcore"
