"""The contract of loggers: they take what a run tells them, and go on in a folder that they were used in before."""

import base64
import math
import tempfile
from pathlib import Path
from typing import Any

from diffcore.plugins.output import Metric
from diffcore.testing.checks.check import Check, Measurement
from diffcore.testing.parts.part import PartUnderTest

_ROW = {"step": 2.0, "seconds": 1.5, "loss": 0.25, "learning_rate": 1e-3, "examples_per_second": 100.0}
_SETTINGS = {"modality": "check", "preset": "default", "seed": 0}
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def builds(part: PartUnderTest) -> Measurement:
    """The builder takes the options, the folder of a run and its settings, and returns a logger."""
    with tempfile.TemporaryDirectory() as folder:
        logger = part.build(Path(folder), _SETTINGS)
        logger.close()
    return Measurement(True, f"a {type(logger).__name__}", "a logger", part.where)


def listens(part: PartUnderTest) -> Measurement:
    """It takes rows of the training log, pictures, metrics (also nan) and the end, and changes none of them."""
    with tempfile.TemporaryDirectory() as folder:
        row = _tell(part, Path(folder), 2)
    return Measurement(row == {**_ROW, "step": 2}, f"the row is {row} afterwards", "an unchanged row", part.where)


def goes_on(part: PartUnderTest) -> Measurement:
    """A second logger in the same folder goes on, as after `diffcore resume`."""
    with tempfile.TemporaryDirectory() as folder:
        _tell(part, Path(folder), 2)
        _tell(part, Path(folder), 4)
    return Measurement(True, "a second logger in the same folder goes on", "no exception", part.where)


def _tell(part: PartUnderTest, folder: Path, step: int) -> dict[str, Any]:
    """Tell a new logger what a short run tells; the row that it got."""
    (folder / "samples").mkdir(exist_ok=True)
    pictures = [folder / "samples" / f"step-{step}{ending}" for ending in (".png", ".csv")]
    pictures[0].write_bytes(_PNG)
    pictures[1].write_text("1,2\n")
    logger, row = part.build(folder, _SETTINGS), {**_ROW, "step": step}
    logger.row(row)
    for path in pictures:
        logger.picture(step, path)
    logger.metrics(step, [Metric("distance", 0.5, "of samples"), Metric("absent", math.nan, "nan: there is none")])
    logger.close()
    return row


CHECKS = (
    Check("builds", "the builder returns a logger", builds),
    Check("listens", "it takes rows, pictures, metrics and the end", listens, ("builds",)),
    Check("goes_on", "it goes on in the folder of a resumed run", goes_on, ("builds", "listens")),
)
