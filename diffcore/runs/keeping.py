"""Keeping the samples that meet conditions, and ranking samples.

A condition is written as `qed>0.6`, `rings=1..3`, `valid` or `no PAINS`; several are separated by commas and must all
hold. `unique` keeps each sample once. Samples that do not pass are drawn again with the same requested conditions and
another noise, until all pass or there are no tries left, so conditions that few samples meet do not change what was
requested of the others. Try t of sample i has the noise of the sample number i + t 2^40 of the same seed.
"""

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffcore.denoising.conditions import ScalarCondition
from diffcore.denoising.ranges import read_range
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded, joined
from diffcore.plugins.output import Value
from diffcore.runs.coding import decode
from diffcore.runs.drawing import Drawing, Selection
from diffcore.runs.generation import batch_size_of, taken
from diffcore.runs.kept_draws import KeptDraws, tries_of
from diffcore.runs.scores import Scoring
from diffcore.sampling.loop import in_batches
from diffcore.states.noise import TRY
from diffcore.system.distributed import by_leader, from_leader, leads, world

logger = logging.getLogger(__name__)

UNIQUE = "unique"
"""The word that keeps each sample once."""
TARGETS = "targets"
"""The word that ranks by how well the requested numbers are met."""
_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "=": lambda a, b: a == b,
}


@dataclass(frozen=True)
class Term:
    """One condition: the value of this name must pass the test. A sample without the value never passes."""

    text: str
    name: str
    test: Callable[[Value], bool]

    def passes(self, value: Value) -> bool:
        """Whether a value passes."""
        return value is not None and self.test(value)


def terms_of(text: str) -> tuple[Term, ...]:
    """The conditions in a text. Raises `UserError` for what is not one."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UserError(f"`keep` {text!r}: write conditions such as qed>0.6, no PAINS, rings=1..3, separated by commas")
    return tuple(map(_term, parts))


def _term(text: str) -> Term:
    if found := re.fullmatch(r"([^<>=!]+?)\s*(>=|<=|!=|==|=|>|<)\s*(.+)", text):
        name, sign, value = found[1].strip(), found[2].replace("==", "="), found[3].strip()
        return Term(text, name, _test(text, sign, value))
    if found := re.fullmatch(r"(?:no|not)\s+(.+)", text):
        return Term(text, found[1], lambda value: not value)
    if re.search(r"[<>=!]", text):
        raise UserError(f"`keep` {text!r}: write NAME>NUMBER, NAME=A..B, NAME, or no NAME")
    return Term(text, text, bool)


def _test(text: str, sign: str, wanted: str) -> Callable[[Value], bool]:
    if sign in ("=", "!=") and ".." in wanted:
        try:
            low, high = read_range(wanted, float)
        except ValueError:
            raise UserError(f"`keep` {text!r}: {wanted!r} is no range such as 1..3, 1.. or ..3") from None

        def inside(value: Value) -> bool:
            number = _number(text, value)
            return ((low is None or number >= low) and (high is None or number <= high)) == (sign == "=")

        return inside
    try:
        number = float(wanted)
    except ValueError:
        if sign in ("=", "!="):
            return lambda value: (str(value) == wanted) == (sign == "=")
        raise UserError(f"`keep` {text!r}: {wanted!r} is no number") from None
    return lambda value: _COMPARED[sign](_number(text, value), number)


def _number(text: str, value: Value) -> float:
    if isinstance(value, str):
        raise UserError(f"`keep` {text!r} compares with a number, and the value is the text {value[:40]!r}")
    assert value is not None
    return float(value)


@dataclass(frozen=True)
class Wish:
    """Which samples are wanted: those that pass all `keep`, at most `tries` draws each, ordered by `rank`."""

    keep: str = ""
    tries: int = 100
    rank: str = ""

    @property
    def recipe(self) -> dict[str, str | int]:
        """What decides the samples, as values of JSON."""
        return {name: value for name, value in {"keep": self.keep, "rank": self.rank}.items() if value} | (
            {"tries": self.tries} if self.keep else {}
        )


def selected(
    drawing: Drawing,
    scoring: Scoring,
    wish: Wish,
    after_batch: Callable[[int], None] = lambda kept: None,
    folder: Path | None = None,
) -> Drawing:
    """The drawing of those samples that the wish asks for, which are drawn and kept in memory.

    What is drawn is also kept in files of the `folder`, if one is given, so that it is not drawn again after an
    interruption; the caller deletes it.

    `after_batch` receives how many more samples pass. Only the first of several processes scores samples. A line says
    how many were drawn; a warning, if fewer than wanted pass. Raises `UserError` if none passes, or for unknown names.
    """
    terms = terms_of(wish.keep) if wish.keep else ()
    unique = scoring.identity if any(term.text == UNIQUE for term in terms) else None
    terms = tuple(term for term in terms if term.text != UNIQUE)
    rank = _rank_of(drawing, wish.rank)
    names = [*(term.name for term in terms), *rank.names, *([unique] if unique else [])]
    by_leader(lambda: scoring.require(names))  # a mistake is told before anything is drawn
    constraint = drawing.constraint
    settled = None if constraint is None else constraint.settled
    tally = _Tally(drawing.n, terms, unique, constraint.agreement if constraint is not None and settled else "")
    kept = tries_of(folder, drawing)
    for attempt in range(wish.tries if wish.keep or settled else 1):
        pending = from_leader(lambda: tally.pending)
        if not pending:
            break
        for rows in in_batches(pending, batch_size_of(drawing.model, drawing.config) * world()):
            encoded = _drawn(drawing, rows, attempt, kept)
            agrees: Sequence[bool] = ()
            if settled is not None and encoded is not None:
                state, agrees = settled(encoded.state, encoded.mask, rows)
                encoded = replace(encoded, state=state)
            values = functools.partial(_values, drawing, scoring, encoded, names)
            passed = by_leader(lambda: tally.add(rows, attempt, encoded, values(), agrees))  # noqa: B023
            after_batch(passed or 0)

    def chosen() -> tuple[list[int], list[int]]:
        tally.tell(wish)
        order = sorted(tally.found, key=lambda row: (rank.key(row, tally.found[row].values), row))
        return order, [row + tally.found[row].attempt * TRY for row in order]

    order, numbers = from_leader(chosen)
    conditions = {name: value[order] for name, value in drawing.conditions.items()}
    states = Encoded(drawing.model.codec.space.empty(0), {}, None)
    if leads():
        states = joined([tally.found[row].encoded for row in order], conditions)
    selection = Selection(tuple(numbers), states, {**wish.recipe, "of": drawing.n})
    return replace(drawing, n=len(order), conditions=conditions, selection=selection)


def _drawn(drawing: Drawing, rows: Sequence[int], attempt: int, kept: KeptDraws) -> Encoded | None:
    """A batch of tries, drawn by all processes or read by the leader, which gets it; the others get None."""
    numbers = [row + attempt * TRY for row in rows]
    name = hashlib.sha256(f"{world()} {numbers}".encode()).hexdigest()[:16]
    there = kept.read_from(name, len(rows)) if leads() else None
    if from_leader(lambda: there is not None):
        return None if there is None else replace(there, conditions=taken(drawing.conditions, rows))
    drawn = drawing.draw(rows, numbers)
    if drawn is not None:
        kept.write_to(name, drawn, len(rows))
    return drawn


def _values(
    drawing: Drawing, scoring: Scoring, encoded: Encoded | None, names: Sequence[str]
) -> dict[str, list[Value]]:
    """The values of these names for samples that were drawn."""
    if encoded is None or not names:
        return {}
    return scoring(decode(drawing.model, encoded.state, encoded.mask), names)


@dataclass(frozen=True)
class _Kept:
    """A sample that passed: the number of its try, its state and its values."""

    attempt: int
    encoded: Encoded
    values: Mapping[str, Value]


class _Tally:
    """What was drawn, what passed, and how often each condition held."""

    def __init__(self, n: int, terms: Sequence[Term], unique: str | None, agreement: str = "") -> None:
        self.found: dict[int, _Kept] = {}
        self._n, self._terms, self._unique = n, terms, unique
        self._seen: set[Value] = set()
        self._drawn = 0
        self._agreement = agreement
        names = [agreement] * bool(agreement) + [term.text for term in terms] + [UNIQUE] * bool(unique)
        self._held = dict.fromkeys(names, 0)

    @property
    def pending(self) -> list[int]:
        """The samples that have not passed yet."""
        return [row for row in range(self._n) if row not in self.found]

    def add(
        self,
        rows: Sequence[int],
        attempt: int,
        encoded: Encoded | None,
        values: Mapping[str, Sequence[Value]],
        agrees: Sequence[bool] = (),
    ) -> int:
        """Count the samples of a batch, keep those that pass, and return how many these are.

        `agrees` says of each sample whether it agrees with the constraint, if that has to be checked.
        """
        before = len(self.found)
        assert encoded is not None
        for place, row in enumerate(rows):
            own = {name: each[place] for name, each in values.items()}
            self._drawn += 1
            if self._passes(own, *agrees[place : place + 1]):
                mask = None if encoded.mask is None else encoded.mask[place : place + 1]
                self.found[row] = _Kept(attempt, Encoded(encoded.state[place : place + 1], {}, mask), own)
        return len(self.found) - before

    def _passes(self, own: Mapping[str, Value], agrees: bool = True) -> bool:
        held = {term.text: term.passes(own[term.name]) for term in self._terms}
        if self._agreement:
            held[self._agreement] = agrees
        passes = all(held.values())
        if self._unique is not None:
            identity = own[self._unique]
            held[UNIQUE] = identity is not None and identity not in self._seen
            passes = passes and held[UNIQUE]
            if passes:
                self._seen.add(identity)
        for text, holds in held.items():
            self._held[text] += holds
        return passes

    def tell(self, wish: Wish) -> None:
        """Say how many samples were drawn and kept. Raises `UserError` if none was kept."""
        if not self._held:
            return
        shares = ", ".join(f"{text} holds for {count / self._drawn:.0%}" for text, count in self._held.items())
        if not self.found:
            what = "`keep`" if not self._agreement else "what is asked for"
            raise UserError(f"none of {self._drawn:,} samples passes {what} ({shares}): ask for less, or raise `tries`")
        words = f"{len(self.found):,} samples are kept of {self._drawn:,} that were drawn ({shares})"
        if len(self.found) < self._n:
            logger.warning(
                f"{words}; {self._n:,} were asked for, each drawn at most {wish.tries:,} times: ask for less, or raise "
                "`tries`"
            )
        else:
            logger.info(words)


@dataclass(frozen=True)
class _Rank:
    """What samples are ordered by: the names of values, and the key of a sample, smallest first."""

    names: tuple[str, ...]
    key: Callable[[int, Mapping[str, Value]], float]


def _rank_of(drawing: Drawing, text: str) -> _Rank:
    if not text:
        return _Rank((), lambda row, values: 0.0)
    if text != TARGETS:
        found = re.fullmatch(r"(?:(high|low)\s+)?(.+)", text)
        assert found is not None
        sign, name = -1 if found[1] != "low" else 1, found[2].strip()

        def value_of(row: int, values: Mapping[str, Value]) -> float:
            value = values[name]
            if isinstance(value, str):
                raise UserError(f"`rank` {text!r}: the value of a sample is the text {value[:40]!r}, not a number")
            return float("inf") if value is None else sign * float(value)

        return _Rank((name,), value_of)
    asked = [
        condition
        for condition in drawing.known
        if isinstance(condition, ScalarCondition) and condition.given(drawing.conditions[condition.name]).any()
    ]
    if not asked:
        raise UserError("`rank` targets needs a number that is asked for, such as `conditions` logp=2.5")

    def distance(row: int, values: Mapping[str, Value]) -> float:
        return sum(_terms_of_distance(asked, drawing, row, values))

    return _Rank(tuple(condition.name for condition in asked), distance)


def _terms_of_distance(
    asked: Sequence[ScalarCondition], drawing: Drawing, row: int, values: Mapping[str, Value]
) -> Iterator[float]:
    """|asked - obtained| of each requested number in standard deviations of the data; infinite where none was found."""
    for condition in asked:
        wanted = drawing.conditions[condition.name][row : row + 1]
        if bool(condition.given(wanted).all()):
            obtained = values[condition.name]
            if obtained is None or isinstance(obtained, str):
                yield float("inf")
            else:
                yield abs(wanted.item() - float(obtained)) / max(condition.std, 1e-12)
