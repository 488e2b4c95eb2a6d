"""A search for samples of a high score: draws the children of each round, judges them, and keeps what was found.

The plan is that of `diffcore.sampling.evolution`. Child i of round r has the noise of the sample i + (r - 1) 2^40 of
the seed, so the search does not depend on the size of batches.
"""

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded, joined
from diffcore.plugins.guidance import Guidance
from diffcore.plugins.output import Value
from diffcore.runs.coding import decode
from diffcore.runs.drawing import Drawing, Selection
from diffcore.runs.generation import batch_size_of
from diffcore.runs.keeping import UNIQUE, Term
from diffcore.runs.scores import Scoring
from diffcore.runs.search_folder import SearchFolder
from diffcore.sampling.evolution import STRENGTHS, Candidate, Child, best, children, selected, standing
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.inverse.strength import varying
from diffcore.sampling.loop import in_batches
from diffcore.sampling.particles import Factor
from diffcore.states.level import Levels
from diffcore.states.noise import TRY
from diffcore.states.spaces import Mask
from diffcore.states.state import State, first_field

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Goal:
    """What is searched for: samples that meet all `terms`, with a high value `name`, or a low one with `minimise`."""

    name: str
    minimise: bool = False
    terms: tuple[Term, ...] = ()

    def score(self, value: Value) -> float | None:
        """The value as a score, of which more is better. Raises `UserError` if it is a text."""
        if isinstance(value, str):
            raise UserError(f"`property` {self.name}: the value of a sample is the text {value[:40]!r}, not a number")
        return None if value is None else -float(value) if self.minimise else float(value)

    def value(self, score: float) -> float:
        """The value of a score."""
        return -score if self.minimise else score


@dataclass(frozen=True)
class Round:
    """What is known after a round.

    * `number`: the round, from 1.
    * `best`, `mean`: the best value and the mean value of the samples of this round that pass; nan if none does.
    * `passed`, `repeated`, `drawn`: how many samples of this round pass, how many of these equal a sample that was
      found before, and how many were drawn.
    * `top`: the mean value of the best samples of all rounds so far.
    * `difference`: the mean of 1 - similarity of two of these; nan if this kind of data has no similarity.
    """

    number: int
    best: float
    mean: float
    passed: int
    repeated: int
    drawn: int
    top: float
    difference: float

    def words(self, of: int, n: int) -> str:
        """The round in a line; `n` is how many samples the search is for."""
        apart = "" if math.isnan(self.difference) else f", {self.difference:.2f} apart"
        return (
            f"round {self.number} of {of}: best {self.best:.4g}, mean {self.mean:.4g} of {self.passed:,} that pass of "
            f"{self.drawn:,} ({self.repeated:,} of them repeated); the {n:,} best so far: mean {self.top:.4g}{apart}"
        )


@dataclass(frozen=True, eq=False)
class Found:
    """What a search has found: the candidates, the rounds, and the drawing of the best ones, which are drawn."""

    candidates: tuple[Candidate, ...]
    rounds: tuple[Round, ...]
    best: tuple[Candidate, ...]
    drawing: Drawing


@dataclass
class _Search:
    """The candidates so far, in order, and the states of those that may still be needed."""

    drawing: Drawing
    scoring: Scoring
    goal: Goal
    wanted: int
    """How many of the best candidates' states are kept."""
    candidates: list[Candidate] = field(default_factory=list)
    states: dict[int, Encoded] = field(default_factory=dict)

    def add(self, candidates: Sequence[Candidate], encoded: Encoded) -> None:
        """Add the candidates of a batch, and forget the states of those that are not among the best any more."""
        self.candidates += candidates
        for row, each in enumerate(candidates):
            self.states[each.number] = _rows(encoded, [row])
        last = self.candidates[-1].round
        earlier = [each for each in self.candidates if each.round < last]  # among them are the parents of this round
        needed = {each.number for some in (self.candidates, earlier) for each in best(some, self.wanted)}
        self.states = {number: state for number, state in self.states.items() if number in needed}

    def judged(self, encoded: Encoded, drawn: Sequence[tuple[int, int, Child]]) -> list[Candidate]:
        """The candidates of a batch; `drawn` are the number, the round and the plan of each.

        The value that is optimised is computed only of samples that meet the conditions and are not known yet.
        """
        goal, scorer = self.goal, self.scoring.scorer
        identity = None if scorer is None else scorer.identity
        names = [*(term.name for term in goal.terms), *([identity] if identity else [])]
        values = self._values(encoded, range(len(drawn)), names)
        equals: Sequence[Hashable] = values[identity] if identity else [None] * len(drawn)
        keys = [("nobody's equal", row) if equal is None else equal for row, equal in enumerate(equals)]
        failed = [sum(not term.passes(values[term.name][row]) for term in goal.terms) for row in range(len(drawn))]
        known = {each.identity: each.score for each in self.candidates if each.passes and each.identity is not None}
        new: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            if not failed[row] and not (identity and equals[row] is None) and key not in known:
                new.setdefault(key, row)
        scored = zip(new, self._values(encoded, [*new.values()], [goal.name])[goal.name], strict=True)
        scores: dict[Hashable, float | None] = {**known, **{key: goal.score(value) for key, value in scored}}
        found = []
        for row, (number, turn, child) in enumerate(drawn):
            score = None if failed[row] else scores.get(keys[row])
            found.append(Candidate(number, turn, child.parent, child.strength, score, failed[row], equals[row]))
        return found

    def _values(self, encoded: Encoded, rows: Sequence[int], names: Sequence[str]) -> dict[str, list[Value]]:
        if not rows or not names:
            return {name: [] for name in names}
        part = _rows(encoded, rows)
        return self.scoring(decode(self.drawing.model, part.state, part.mask), names)

    def summary(self, number: int, n: int) -> Round:
        """What is known after a round, where `n` are searched for."""
        before = {each.identity for each in self.candidates if each.round < number and each.passes}
        own = [each for each in self.candidates if each.round == number]
        passing = [each for each in own if each.passes]
        distinct = {each.identity for each in passing if each.identity is not None} - before
        nobodys = sum(each.identity is None for each in passing)
        values = [self.goal.value(each.score) for each in passing if each.score is not None]
        so_far = [each for each in self.candidates if each.round <= number]
        top = [each for each in best(so_far, n) if each.passes]
        heights = [self.goal.value(each.score) for each in top if each.score is not None]
        return Round(
            number,
            (min if self.goal.minimise else max)(values, default=math.nan),
            _mean(values),
            len(passing),
            len(passing) - len(distinct) - nobodys,
            len(own),
            _mean(heights),
            self._difference(top),
        )

    def _difference(self, top: Sequence[Candidate]) -> float:
        scorer, there = self.scoring.scorer, [each.number for each in top if each.number in self.states]
        if len(there) < 2 or not hasattr(scorer, "similarity"):
            return math.nan
        top_states = joined([self.states[number] for number in there])
        samples = decode(self.drawing.model, top_states.state, top_states.mask)
        matrix = scorer.similarity(samples, samples)  # type: ignore[union-attr]
        pairs = [1 - matrix[i][j] for i in range(len(there)) for j in range(i)]
        return _mean([pair for pair in pairs if math.isfinite(pair)])


def optimised(
    drawing: Drawing,
    scoring: Scoring,
    goal: Goal,
    rounds: int,
    n: int,
    strengths: Sequence[float] = (),
    leads: Encoded | None = None,
    folder: SearchFolder | None = None,
    after_batch: Callable[[int], None] = lambda count: None,
) -> Found:
    """Search in `rounds` of `drawing.n` samples each for the `n` best different ones.

    `strengths` are those of children, by default all of `STRENGTHS`, without free samples if there are `leads`: encoded
    samples that the search starts from. With a `folder`, each batch is written there as soon as it is judged, and what
    an earlier call has written is not drawn again. A line is logged after each round. Raises `UserError` for names of
    values that do not exist, and if no sample passes.

    With K `particles` in the config of the drawing, each K variations are a group: they are of the same sample, and on
    their way they are weighted by the `standing` of their estimates and resampled. Free samples are drawn alone.
    """
    goal = replace(goal, terms=tuple(term for term in goal.terms if term.text != UNIQUE))
    scoring.require([goal.name, *(term.name for term in goal.terms)])
    strengths = strengths or (STRENGTHS if leads is None else [each for each in STRENGTHS if each < 1])
    search = _Search(drawing, scoring, goal, max(n, selected(drawing.n)))
    for candidates, encoded in folder.read() if folder is not None else ():
        search.add(candidates, encoded)
    if leads is not None and not search.candidates:
        numbers = range(leads.state.shape[0])
        _keep(search, folder, search.judged(leads, [(number, 0, Child(None, 0.0)) for number in numbers]), leads)
    first = 0 if leads is None else leads.state.shape[0]
    told = []
    for turn in range(1, rounds + 1):
        done = {each.number for each in search.candidates}
        start = first + (turn - 1) * drawing.n
        pending = [row for row in range(drawing.n) if start + row not in done]
        after_batch(drawing.n - len(pending))
        if pending:
            before = [each for each in search.candidates if each.round < turn]
            planned = children(before, drawing.n, strengths, drawing.config.particles)
            for rows, encoded in _drawn(_weighed(search, before), search.states, planned, pending, turn):
                plan = [(start + row, turn, planned[row]) for row in rows]
                _keep(search, folder, search.judged(encoded, plan), encoded)
                after_batch(len(rows))
        told.append(search.summary(turn, n))
        logger.info(told[-1].words(rounds, n))
    if folder is not None:
        folder.write_rounds(told)
    return _result(search, told, n)


def _weighed(search: _Search, before: Sequence[Candidate]) -> Drawing:
    """The drawing of a round, whose particles are weighted by how good their samples are among the candidates `before`.

    The particles of a group are variations of the same sample; all of them are candidates.
    """
    drawing, config = search.drawing, search.drawing.config
    if config.particles == 1 or not before:
        return drawing
    rarity = standing(before)

    def log_weight(x: State, level: Levels, conditions: Conditions | None, mask: Mask) -> Tensor:
        encoded = Encoded(x.cpu(), {}, None if mask is None else mask.cpu())
        judged = search.judged(encoded, [(0, 0, Child(None, 1.0))] * x.shape[0])
        return torch.tensor([rarity(each) for each in judged], device=first_field(x).device)

    guide = Guidance(lambda denoise, plain: denoise, factor=Factor(log_weight, "x0"), name="score")
    return replace(drawing, config=replace(config, guides=(*config.guides, guide), all_particles=True))


def _keep(search: _Search, folder: SearchFolder | None, candidates: list[Candidate], encoded: Encoded) -> None:
    if folder is not None:
        folder.keep([*search.candidates, *candidates], encoded)
    search.add(candidates, encoded)


def _drawn(
    drawing: Drawing, states: dict[int, Encoded], planned: Sequence[Child], pending: Sequence[int], turn: int
) -> Iterator[tuple[Sequence[int], Encoded]]:
    """Draw the rows `pending` of a round, batch by batch; those of a batch have one strength."""
    space = drawing.model.codec.space
    parents = [None if child.parent is None else states[child.parent] for child in planned]
    any_of_them = next((parent for parent in parents if parent is not None), None)
    filled = [any_of_them if parent is None else parent for parent in parents]  # free samples do not use theirs
    all_parents = joined([parent for parent in filled if parent is not None]) if any_of_them is not None else None
    for strength, group in groupby(pending, lambda row: planned[row].strength):
        own = replace(
            drawing, constraint=Constraint(), config=replace(drawing.config, particles=1, all_particles=False)
        )
        if strength < 1:
            assert all_parents is not None
            own = replace(drawing, constraint=varying(all_parents.state, strength, space, all_parents.mask))
        for rows in in_batches([*group], batch_size_of(drawing.model, drawing.config)):
            encoded = own.draw(rows, [row + (turn - 1) * TRY for row in rows])
            assert encoded is not None  # searches have one process
            yield rows, encoded


def _result(search: _Search, rounds: Sequence[Round], n: int) -> Found:
    top = [each for each in best(search.candidates, n) if each.passes]
    if not top:
        raise UserError(
            f"none of {len(search.candidates):,} samples has a value of {search.goal.name!r} and passes `keep`: ask "
            "for less, or draw more samples in each round"
        )
    if len(top) < n:
        logger.warning(f"{n:,} samples are asked for, and only {len(top):,} different ones were found that pass")
    drawing = search.drawing
    # A sample that the search started from has the conditions of the first row, which are those of all without a list.
    rows = [max(each.number - _leads(search), 0) % drawing.n for each in top]
    numbers = [row + max(each.round - 1, 0) * TRY for row, each in zip(rows, top, strict=True)]
    conditions = {name: value[rows] for name, value in drawing.conditions.items()}
    states = joined([search.states[each.number] for each in top])
    selection = Selection(
        tuple(numbers), Encoded(states.state, conditions, states.mask), {"n": n, "rounds": len(rounds)}
    )
    best_of_all = replace(drawing, n=len(top), conditions=conditions, selection=selection)
    return Found(tuple(search.candidates), tuple(rounds), tuple(top), best_of_all)


def _leads(search: _Search) -> int:
    return sum(each.round == 0 for each in search.candidates)


def _rows(encoded: Encoded, rows: Sequence[int]) -> Encoded:
    return Encoded(encoded.state[list(rows)], {}, None if encoded.mask is None else encoded.mask[list(rows)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
