"""Trained runs that several tests use."""

import hashlib
import json
import shutil
from pathlib import Path

from filelock import FileLock

from diffcore import cli


class TrainedRuns:
    """Runs by the flags of `diffcore train`: the first process that needs one trains it, and all get copies.

    Whoever asks for runs of a modality that is not installed has put it in place.
    """

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, out, *flags):
        """A run with these flags in the folder `out`, which is not there yet."""
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
