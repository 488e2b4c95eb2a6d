"""Draws what a visitor asks for, and shows the samples while they become clean."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffcore.api.drawing import drawing_of
from diffcore.api.modes import in_own_modes
from diffcore.api.run import Run
from diffcore.demo.limits import Limits
from diffcore.demo.tiles import tiles_of
from diffcore.demo.wanted import Wanted
from diffcore.denoising.conditions.coarse_condition import enlarging_condition
from diffcore.errors import UserError
from diffcore.plugins.reading import read_one
from diffcore.runs.drawing import Drawing
from diffcore.runs.generation import generate
from diffcore.runs.joint import given_sides, side_of
from diffcore.runs.keeping import Wish, selected
from diffcore.runs.measurements import grown, inpainting_of, numbers_in, reader_of, upscaling_of, without
from diffcore.runs.model import numbers_of_a_sample
from diffcore.runs.samples import Samples
from diffcore.runs.sampling_config import SamplingOptions, time_grid
from diffcore.runs.scores import Scoring
from diffcore.runs.variations import variation_of
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.loop import Evaluation
from diffcore.states.level import FieldLevels
from diffcore.states.spaces import Mask
from diffcore.states.state import State, map_fields

TRIES = 10
"""How often samples that must agree with something, such as being in one piece, are drawn."""
REST = 2.0
"""After a picture of unfinished samples, the next one waits so many times as long as it took to make."""

Show = Callable[[list[str], float], None]
"""Called with the fragments of unfinished samples and the fraction of the steps that are done."""


@dataclass(frozen=True, eq=False)
class Sources:
    """What the requests of a visitor name: `file(name)` is the path of a file, `sample` one sample of a result.

    Both raise `UserError` for what the visitor does not have.
    """

    file: Callable[[str], Path]
    sample: Callable[[str, int], tuple[int, Samples]]


@in_own_modes
def draw(run: Run, wanted: Wanted, sources: Sources, limits: Limits, folder: Path, show: Show) -> Samples:
    """Draw the samples. `folder` is for files that are needed in the meantime. What `show` raises ends the drawing.

    Raises `UserError` for requests that are too large or do not fit the run.
    """
    drawing = _drawing(run, wanted, sources, limits, folder)
    constraint = drawing.constraint
    if constraint is not None and constraint.settled is not None:
        drawing = selected(drawing, Scoring(drawing.model), Wish(tries=TRIES), lambda kept: show([], 0.0))
        return drawing.draw_all(lambda count: None)
    if drawing.config.particles > 1:
        return drawing.draw_all(lambda count: show([], 0.0))
    mask = drawing.mask(range(drawing.n))
    shown = _Shown(drawing, mask, show)
    config = replace(drawing.config, batch_size=drawing.n)  # all at once, to show all
    encoded = generate(
        drawing.model, config, drawing.conditions, drawing.n, drawing.seed,
        watch=shown.watch, constraint=constraint, mask=mask,
    )  # fmt: skip
    return shown.samples(encoded.state)


class _Shown:
    """Shows the estimates of the clean samples from time to time, so that this costs a third of the time at most."""

    def __init__(self, drawing: Drawing, mask: Mask, show: Show) -> None:
        self._drawing, self._mask, self._show, self._next = drawing, mask, show, 0.0
        self._grid = time_grid(drawing.model, drawing.config)

    def samples(self, state: Any) -> Samples:
        drawing = self._drawing
        return Samples(
            state.cpu(), drawing.conditions, self._mask, drawing.model, drawing.known, drawing.guide_captions
        )

    def watch(self, evaluation: Evaluation) -> None:
        level = evaluation.prediction.level
        log_snr = min(level.log_snr.values()) if isinstance(level, FieldLevels) else level.log_snr
        done = int((self._grid < float(log_snr) - 1e-4).sum()) / len(self._grid)
        started = time.monotonic()
        if started < self._next:
            self._show([], done)
            return
        self._show(tiles_of(self.samples(evaluation.prediction.x0)), done)
        now = time.monotonic()
        self._next = now + REST * (now - started)


def _drawing(run: Run, wanted: Wanted, sources: Sources, limits: Limits, folder: Path) -> Drawing:
    if wanted.n > limits.samples:
        raise UserError(f"{wanted.n} samples are more than {limits.samples}, the most that this page draws at once")
    if (wanted.steps or 1) > limits.steps:
        raise UserError(f"{wanted.steps} steps are more than {limits.steps}, the most that this page takes")
    known = {component.name for component in run.registry.offered("solvers")}
    if wanted.solver is not None and wanted.solver not in known:
        raise UserError(f"there is no solver {wanted.solver!r}")
    options: SamplingOptions = {"steps": wanted.steps, "solver": wanted.solver, "guidance": wanted.guidance}
    constraint, n = _constraint(run, wanted, sources, folder)
    size = wanted.size
    if wanted.grow and constraint is not None:
        size = grown(constraint, wanted.grow)
    if size is not None and constraint is None and run.model.codec.sizes is None:
        _require_moderate(size)
    drawing = drawing_of(run, n, None, _conditions(run, wanted, sources), wanted.seed, size, constraint, options)
    each, trained = numbers_of_a_sample(drawing.model.codec), numbers_of_a_sample(run.model.codec)
    if drawing.n > limits.samples or each > limits.larger * trained or each * drawing.n > limits.numbers:
        raise UserError("this is too large for the page: ask for fewer or smaller samples, or use `diffcore sample`")
    return drawing


def _require_moderate(size: str) -> None:
    """Raise `UserError` for sizes whose codec alone would need too much memory."""
    if any(float(part or 0) > 2**16 for part in size.replace("..", "x").split("x")):
        raise UserError(f"the size {size} is too large for this page")


def _conditions(run: Run, wanted: Wanted, sources: Sources) -> dict[str, str]:
    """The requested conditions; where one is read from a file, the path of that file of the visitor."""
    read = enlarging_condition(run.model.codec.conditions)
    return {
        name: str(sources.file(value)) if read is not None and name == read.name else value
        for name, value in wanted.conditions.items()
    }


def _constraint(run: Run, wanted: Wanted, sources: Sources, folder: Path) -> tuple[Constraint | None, int]:
    """What the samples have to agree with, and how many there are."""
    model, n = run.model, wanted.n
    if wanted.action == "draw":
        return None, n
    source = _source(run, wanted, sources, folder)
    if wanted.action == "vary":
        return variation_of(model, source, wanted.strength), n
    if wanted.action == "complete" and isinstance(source, Samples) and model.codec.sizes is None:
        missing = _missing(run, wanted, source, sources)
        if missing is not None:
            return inpainting_of(model, source.state, missing), n
    if wanted.action == "given":
        side = wanted.side or ""
        known = side_of(model, side, source.state, source.mask) if isinstance(source, Samples) else source
        return given_sides(model, {side: known}, n)
    path = written(source, folder) if isinstance(source, Samples) else source
    if wanted.action == "complete":
        mask = None if wanted.mask is None else sources.file(wanted.mask)
        return inpainting_of(model, path, mask, gap=wanted.gap or None, free=wanted.free or None), n
    return upscaling_of(model, path), n


def _missing(run: Run, wanted: Wanted, source: Samples, sources: Sources) -> State | None:
    """Where a sample is to be filled in, a state of booleans `[1, ...]`; None if only a file can say so."""
    if wanted.mask:
        missing: State = reader_of(run.model, "inpaint").read_missing(sources.file(wanted.mask))
        return missing
    if wanted.free:
        everything = map_fields(lambda field: torch.ones_like(field, dtype=torch.bool), source.state)
        return map_fields(torch.logical_not, without(everything, numbers_in(wanted.free, "free")))
    return None


def _source(run: Run, wanted: Wanted, sources: Sources, folder: Path) -> Samples | Path:
    """The sample or the file that a request starts from."""
    if wanted.source is not None and wanted.source.file is not None:
        return sources.file(wanted.source.file)
    if wanted.source is None or wanted.source.result is None:
        raise UserError("choose a sample or a file to start from")
    number, sample = sources.sample(wanted.source.result, wanted.source.sample)
    if number == wanted.run:
        return sample
    if sample.model.modality.name != run.model.modality.name:
        raise UserError("this sample is of another kind of data than the run draws")
    return written(sample, folder)  # another run may have another size, scale or autoencoder: states mean other things


def written(sample: Samples, folder: Path) -> Path:
    """The file of one sample, written into a folder. Raises `UserError` for samples that have none."""
    before = set(folder.iterdir())
    sample.save(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path not in before)
    if not files:
        raise UserError("this sample cannot be written to a file, so nothing can start from it: choose another one")
    return files[0]


@in_own_modes
def read_sample(run: Run, path: Path) -> Samples:
    """The sample in a file, as it is after encoding and decoding, for the widgets."""
    reader = reader_of(run.model, "from")
    state, mask = read_one(reader, path, "from", run.model.modality.name)
    nothing = {condition.name: condition.null(1) for condition in run.model.codec.conditions}
    return Samples(state, nothing, mask, run.model, run.model.codec.conditions)
