"""The report of a run made again, and a page that compares several runs."""

from collections.abc import Sequence
from pathlib import Path

from diffcore.api.evaluating import with_own_grid
from diffcore.api.opened import OpenedRun
from diffcore.errors import UserError
from diffcore.evaluation.comparison import ComparedRun, comparison
from diffcore.evaluation.evaluate import pictures_of, read_metrics, write_report
from diffcore.evaluation.request import PICTURED, EvaluationRequest
from diffcore.runs.folder import RunFolder, read_log
from diffcore.states.noise import seed_number
from diffcore.system.files import write_atomically


def report(run: OpenedRun, seed: int = 0, n: int = PICTURED) -> list[str]:
    """Write report.html of the run again, with new pictures of `n` samples of `seed` and the metrics that are kept.

    Returns the reasons for parts that could not be made.
    """
    return write_report(RunFolder(run.path), run.model, run.data, _request(run, seed, n))


def compare(runs: Sequence[OpenedRun], out: Path, seed: int = 0, n: int = PICTURED) -> Path:
    """Write a page that shows the runs side by side, with `n` samples of the same seed each, to the new file `out`.

    Raises `UserError` for fewer than two runs, and if `out` exists.
    """
    if len(runs) < 2:
        raise UserError("give at least two runs to compare")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists already: choose another `out`")
    names = _names([run.path for run in runs])
    shown = [_compared(run, name, _request(run, seed, n)) for run, name in zip(runs, names, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, comparison(shown).encode(errors="backslashreplace"))
    return out


def _compared(run: OpenedRun, name: str, request: EvaluationRequest) -> ComparedRun:
    folder = RunFolder(run.path)
    losses = [(row["step"], row["loss"]) for row in read_log(folder)]
    settings = run.settings.model_dump(mode="json")
    return ComparedRun(
        name, read_metrics(folder), losses, settings, lambda: pictures_of(run.model, run.data, request)[:1]
    )


def _request(run: OpenedRun, seed: int, n: int) -> EvaluationRequest:
    """What a task is asked to show, as at the end of its training."""
    seed = seed_number(seed)
    model, config = run.config({})
    if model.task.draws:
        config = with_own_grid(run, model, config)
    return EvaluationRequest(run.settings, config, n, seed, together=False, run=run.path)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path where others have the same."""
    last = [path.resolve().name for path in paths]
    return [name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)]
