"""Searching for samples of a run that have a high value."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffcore.api.asked import Asked, Prompt
from diffcore.api.choosing import data_for_scores
from diffcore.api.drawing import drawing_of
from diffcore.api.opened import OpenedRun
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded, joined
from diffcore.plugins.functions import is_function
from diffcore.plugins.output import Value
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.coding import decode
from diffcore.runs.drawing import Drawing
from diffcore.runs.keeping import terms_of
from diffcore.runs.measurements import Source, read_whole
from diffcore.runs.optimising import Found, Goal, Round, optimised
from diffcore.runs.output import write_samples
from diffcore.runs.particles import with_noise
from diffcore.runs.place import Place, require_free, search_place
from diffcore.runs.samples import Samples, is_single_file
from diffcore.runs.sampling_config import SamplingOptions
from diffcore.runs.scores import Functions, Scoring, functions_of
from diffcore.runs.search_folder import search_folder
from diffcore.runs.tables import ENDINGS, TableWriter, columns_of, require_parquet
from diffcore.sampling.evolution import Candidate
from diffcore.sampling.inverse.editing import Constraint
from diffcore.states.state import fields
from diffcore.system.distributed import world
from diffcore.system.progress import counter

Property = str | Callable[..., Any]
"""What is optimised: the name of a value, `module:function`, `NAME=module:function`, or a function of a sample."""


@dataclass(frozen=True, eq=False)
class Optimised:
    """What a search has found.

    * `samples`: the best different samples, best first; `values` are their values.
    * `rounds`: the best value, the mean and more of each round.
    * `candidates`: all samples that were judged, with their scores: minus the value if it is minimised.
    * `folder`: where all of this is kept; None if nothing was written.
    """

    samples: Samples
    values: tuple[float, ...]
    rounds: tuple[Round, ...]
    candidates: tuple[Candidate, ...]
    folder: Path | None = None


@dataclass(frozen=True)
class Request:
    """What `diffcore.api.run.Run.optimise` is asked for, beside how samples are drawn."""

    property: Property
    rounds: int
    per_round: int
    n: int
    minimise: bool
    keep: str
    properties: Functions
    start: Sequence[Source | Samples]
    strengths: Sequence[float]


def optimise(
    run: OpenedRun,
    request: Request,
    label: str | None,
    prompt: Prompt | None,
    conditions: Asked | None,
    seed: int,
    size: str | int | None,
    options: SamplingOptions,
    out: str | os.PathLike[str] | None = None,
    replaced: bool = False,
    write: Mapping[str, Any] | None = None,
    columns: str | Sequence[str] | None = None,
) -> Optimised:
    """What `Run.optimise` does. Raises `UserError` as it says."""
    _require(request)
    name, functions = _functions(request)
    goal = Goal(name, request.minimise, terms_of(request.keep) if request.keep else ())
    leads, digests = _leads(run, request.start)
    recipe = {
        "task": "optimise",
        "property": name,
        "minimise": request.minimise,
        "keep": request.keep,
        "per_round": request.per_round,
        "strengths": [*request.strengths],
        "from": digests,
    }
    constraint = Constraint(recipe=recipe)
    drawing = drawing_of(run, request.per_round, label, conditions, seed, size, constraint, options, prompt, write)
    if drawing.config.particles > 1:
        _require_groups(drawing)
        config = with_noise(drawing.model, drawing.config, options.get("solver") is not None)
        drawing = replace(drawing, config=config)
    known = None if leads is None else decode(drawing.model, leads.state, leads.mask)
    scoring = Scoring(drawing.model, data_for_scores(run), functions, known)
    place = None if out is None else _place(drawing, Path(out), request, replaced)
    names = columns_of(scoring, columns)
    with ExitStack() as stack:
        folder = None
        if place is not None:
            folder = stack.enter_context(search_folder(search_place(place), drawing.recipe, replaced))
        after_batch = stack.enter_context(counter("optimising", request.rounds * request.per_round))
        found = optimised(
            drawing, scoring, goal, request.rounds, request.n, request.strengths, leads, folder, after_batch
        )
    if place is not None:
        more = _columns(found, goal)
        tabled = lambda writer, asked: TableWriter(writer, scoring, names, asked, more)  # noqa: E731
        write_samples(replace(found.drawing, tabled=tabled), place.out, replaced)
    samples = found.drawing.draw_all(lambda count: None)
    values = tuple(goal.value(each.score) for each in found.best if each.score is not None)
    return Optimised(samples, values, found.rounds, found.candidates, None if place is None else search_place(place))


def _columns(found: Found, goal: Goal) -> dict[str, list[Value]]:
    """Further columns of the table of the best samples."""
    return {
        "value": [None if each.score is None else goal.value(each.score) for each in found.best],
        "round": [each.round for each in found.best],
    }


def _require(request: Request) -> None:
    for name in ("rounds", "per_round", "n"):
        if (number := getattr(request, name)) < 1:
            raise UserError(f"`{name}` {number}: give at least 1")
    for strength in request.strengths:
        if not 0 < strength <= 1:
            raise UserError(f"`strength` {strength:g}: give numbers above 0, to 1, which is a free sample")
    if request.start and tuple(request.strengths) == (1.0,):
        raise UserError("`strength` 1 draws free samples, which `start` does not change: give less")
    if world() > 1:
        raise UserError("a search is for one process: start it without torchrun")


def _require_groups(drawing: Drawing) -> None:
    """Raise `UserError` if the samples of a round are no whole groups of particles with equal conditions."""
    count = drawing.config.particles
    if drawing.n % count:
        raise UserError(f"`per_round` {drawing.n}: give a multiple of `particles`, which are {count}")
    for name, value in drawing.conditions.items():
        if not bool((value[:1] == value).logical_or(value != value).all()):
            raise UserError(f"`particles` in a search need one value of {name!r} for all samples")


def _functions(request: Request) -> tuple[str, dict[str, Callable[..., Any]]]:
    """The name of the value that is optimised, and the functions of the user by name."""
    functions = functions_of(request.properties)
    given = request.property
    if isinstance(given, str):
        if not is_function(given):
            return given, functions
        own = functions_of([given])
    else:
        called = getattr(given, "__name__", "")
        own = {called if called.isidentifier() else "property": given}  # a lambda has no name
    (name,) = own
    return name, {**functions, **own}


def _leads(run: OpenedRun, start: Sequence[Source | Samples]) -> tuple[Encoded | None, list[str]]:
    """The encoded samples that a search starts from, and digests of them."""
    each: list[Encoded] = []
    for source in start:
        if isinstance(source, Samples):
            each.append(Encoded(source.state, {}, source.mask))
        elif isinstance(source, str | Path):
            state, mask = read_whole(run.model, Path(source), "from")
            each.append(Encoded(state, {}, mask))
        elif run.model.codec.sizes is not None:
            raise UserError(
                f"`start`: the number of elements of {run.model.modality.name} varies, and an encoded sample does not "
                "say which exist: give a file, or `Samples`"
            )
        else:
            each.append(Encoded(source, {}))
    if not each:
        return None, []
    return joined(each), [tensors_digest(fields(lead.state)) for lead in each]


def _place(drawing: Drawing, out: Path, request: Request, replaced: bool) -> Place:
    """Where the best samples go. Raises `UserError` if they could not be written there, before anything is drawn."""
    require_parquet(out)
    place = Place(out, out.suffix.lower() in ENDINGS or is_single_file(out, drawing.model, drawing.writer))
    selection = {"n": request.n, "rounds": request.rounds}
    require_free(place, {**drawing.recipe, "selection": selection}, replaced)
    return place
