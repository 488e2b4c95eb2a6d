"""The end of a run as steps that can be continued: what has been made after training, for which weights.

After the last training step, a picture of samples, the metrics and the report are made. Each of them is noted in
`end.json` when it is complete, so that `diffcore resume` makes the others if the process was killed in between.
"""

from collections.abc import Iterable
from pathlib import Path

from diffcore.errors import UserError
from diffcore.runs.checkpoints import weights_digest
from diffcore.runs.folder import RunFolder
from diffcore.system.files import read_json, write_json

PARTS = ("picture", "metrics", "report")
"""What is made at the end of a run, in this order."""


def made_parts(run: RunFolder, checkpoint: Path, evaluate: int) -> frozenset[str]:
    """The parts that were made for the weights of this checkpoint, with metrics of `evaluate` samples."""
    if not run.end.exists():
        return frozenset()
    try:
        content = read_json(run.end)
    except UserError:  # it is made again
        return frozenset()
    if not isinstance(content, dict) or content.get("weights") != weights_digest(checkpoint):
        return frozenset()
    made = content.get("made")
    found = frozenset(part for part in PARTS if isinstance(made, list) and part in made)
    return found if content.get("evaluate") == evaluate else found & {"picture"}


def note_parts(run: RunFolder, checkpoint: Path, evaluate: int, made: Iterable[str]) -> None:
    """Note in end.json what has been made for the weights of this checkpoint."""
    content = {"weights": weights_digest(checkpoint), "evaluate": evaluate, "made": sorted(made)}
    write_json(run.end, content)
