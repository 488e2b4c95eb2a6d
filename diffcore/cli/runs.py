"""`diffcore runs`: a table of all runs in a folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffcore.cli.selectors import take
from diffcore.errors import UserError, printable
from diffcore.runs.listing import ListedRun, list_runs, sorted_runs

_USAGE = """usage: diffcore runs [FOLDER] [--sort NAME] [--metrics NAME,NAME] [--json]

The runs in a folder and below it, by default in `runs`: what they were trained on, how long, their first metrics, and
the size of their files. Nothing is loaded, so it is quick.

  --sort NAME          a column, or a metric by its name; the largest first
  --metrics NAME,NAME  the metrics to show, in place of the first two of each run
  --json               all values of all runs as JSON
"""

_SHOWN = 2
"""The number of metrics of a run that are shown."""


def main(arguments: Sequence[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(_USAGE, end="")
        return 0
    as_json = "--json" in arguments
    rest, by = take([word for word in arguments if word != "--json"], "sort")
    rest, chosen = take(rest, "metrics")
    if unknown := next((word for word in rest if word.startswith("-")), None):
        raise UserError(f"unknown option {unknown!r}; diffcore runs takes --sort, --metrics and --json")
    if len(rest) > 1:
        raise UserError(f"give one folder, not {len(rest)}: {rest[0]} and {rest[1]}")
    folder = Path(rest[0] if rest else "runs")
    runs = list_runs(folder) if rest or folder.is_dir() else []
    runs = runs if by is None or not runs else sorted_runs(runs, by)
    names = [] if chosen is None else [name.strip() for name in chosen.split(",")]
    for name in names:
        if not any(name in run.metrics for run in runs):
            raise UserError(f"--metrics {name}: no run in {folder} has a metric of this name; --json shows all")
    if as_json:
        print(json.dumps([run.values() for run in runs], indent=2))
    elif not runs:
        print(f"no runs in {folder}: diffcore train makes one")
    else:
        print(table(runs, folder, names))
    return 0


def table(runs: Sequence[ListedRun], folder: Path, metrics: Sequence[str] = ()) -> str:
    """The runs as lines of text, with a line of the names of the columns."""
    head = ("run", "modality", "data", "task", "preset", "steps", "minutes", "size", "state", "metrics")
    rows = [head, *(_cells(run, folder, metrics) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = {head.index(name) for name in ("steps", "minutes", "size")}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cells(run: ListedRun, folder: Path, metrics: Sequence[str]) -> tuple[str, ...]:
    shown = metrics or [*run.metrics][:_SHOWN]
    figures = "  ".join(f"{name} {run.metrics[name]:.4g}" for name in shown if name in run.metrics)
    steps = "" if run.steps is None else f"{run.steps:,}"
    if run.planned is not None and run.steps is not None and run.steps < run.planned:
        steps = f"{steps} of {run.planned:,}"
    cells = (
        str(run.path.relative_to(folder)) if run.path != folder else str(run.path),
        run.modality,
        run.data,
        run.task,
        run.preset,
        steps,
        "" if run.minutes is None else f"{run.minutes:.1f}",
        _bytes(run.size),
        run.state,
        f"cannot be read: {run.problem}" if run.problem else figures,
    )
    return tuple(printable(cell)[:120] for cell in cells)


def _bytes(size: int) -> str:
    """A size in units of powers of 1000."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"
