"""Trained runs that several tests use."""

import hashlib
import json
import shutil
from pathlib import Path

from filelock import FileLock

from diffcore import cli

PICTURED = ("diffcore.api.session.PICTURED", "diffcore.api.evaluating.PICTURED")
"""Where the number of samples of pictures is read."""


class TrainedRuns:
    """Trains each run once in a test session, in the first process that needs it, and copies it for each test.

    A modality that is not installed must be put in place before.
    """

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, out, *flags):
        """Train with these flags of `diffcore train`, or copy the run; `out` must not exist. Returns `out`."""
        words = [str(flag) for flag in flags]
        kept = self.folder / hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.is_dir():
                half = kept.with_suffix(".half")
                shutil.rmtree(half, ignore_errors=True)
                assert cli.main(["train", *words, "--out", str(half)]) == 0
                half.rename(kept)
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copytree(kept, out)
