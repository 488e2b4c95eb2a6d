"""What the page offers for a run: its conditions, its sizes, and what can be done with samples and files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffcore.api.run import Run
from diffcore.demo.controls import controls_of
from diffcore.demo.limits import Limits
from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.data import sides_of
from diffcore.runs.measurements import reader_of
from diffcore.runs.model import require_draws
from diffcore.runs.samples import Samples
from diffcore.runs.tables import ENDINGS

ZIP = ".zip"
"""The ending of an archive with a file for each sample."""


def names_of(paths: Sequence[Path]) -> list[str]:
    """The names of run folders on the page: the last parts of each path, as many as tell it from the others."""
    ends = []
    for path in paths:
        others = [other for other in paths if other != path]
        lengths = range(1, len(path.parts))
        few = next(
            (k for k in lengths if all(path.parts[-k:] != other.parts[-k:] for other in others)), len(path.parts)
        )
        ends.append("/".join(path.parts[-few:]))
    return ends


def offer_of(run: Run, name: str, limits: Limits) -> dict[str, Any]:
    """The offer as values of JSON, where `name` is that of the run on the page.

    Raises `UserError` for runs that draw no samples.
    """
    require_draws(run.model, run.path)
    model, settings = run.model, run.settings
    sampling, sizes = settings.sample, model.codec.sizes
    conditions = controls_of(model.codec.conditions)
    return {
        "name": name,
        "modality": model.modality.name,
        "preset": settings.preset,
        "checkpoint": run.loaded.checkpoint.name,
        "conditions": [asdict(control) for control in conditions],
        "sizes": None if sizes is None else [min(sizes.counts), sizes.largest],
        "resizes": sizes is None and hasattr(model.codec, "resized"),
        "n": min(16, limits.samples),
        "most": limits.samples,
        "steps": sampling.steps,
        "solver": sampling.solver_name,
        "solvers": sorted(component.name for component in run.registry.offered("solvers")),
        "guidance": sampling.guidance if conditions else None,
        "actions": _actions(run),
        "sides": sorted(sides_of(model.codec)),
        "endings": list(_endings(run)),
        "downloads": list(downloads_of(run)),
        "widgets": {widget.argument: widget.label for widget in model.modality.widgets},
    }


def downloads_of(run: Run) -> tuple[str, ...]:
    """The endings of the files that samples of the run can be written to."""
    writer = part_of(run.model.modality, "writer", run.model.codec)
    tables = ENDINGS[:1] if run.model.modality.scorer is not None else ()
    return tuple(dict.fromkeys((*writer.endings, *tables, ZIP)))


def _actions(run: Run) -> dict[str, list[str]]:
    """What can be done with a sample or a file, each with the arguments that it takes."""
    found: dict[str, list[str]] = {"vary": ["strength"]}
    try:
        reader: Any = reader_of(run.model, "inpaint")
    except UserError:
        return found
    if hasattr(reader, "read_missing"):
        found["complete"] = ["mask"]
    elif hasattr(reader, "read_gap"):
        found["complete"] = ["gap"]
    elif hasattr(reader, "read_part"):
        found["complete"] = ["free"] if run.model.codec.sizes is None else ["free", "grow"]
    if hasattr(reader, "read_coarse"):
        found["enlarge"] = []
    if sides_of(run.model.codec):
        found["given"] = ["side"]
    return found


def _endings(run: Run) -> tuple[str, ...]:
    """The endings of the files that the run reads; empty for any, if its reader names none."""
    try:
        return tuple(getattr(reader_of(run.model, "from"), "endings", ()))
    except UserError:
        return ()


def widget_of(run: Run, argument: str, sample: Samples) -> str:
    """The HTML fragment with which a visitor sets the argument for a sample. Raises `UserError` if there is none."""
    for widget in run.model.modality.widgets:
        if widget.argument == argument:
            return widget.html(sample.codec, sample.decoded)
    raise UserError(f"there is no widget for {argument!r}")
