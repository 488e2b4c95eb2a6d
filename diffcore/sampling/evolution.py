"""An evolutionary search for samples of a high score, where a child is a variation of a sample that was found before.

In each round, some children are drawn. A child of strength s is its parent with noise, denoised again from
sigma / alpha = tan(pi s / 2) (SDEdit, Meng et al. 2022; selected again and again in this way by Schneuing et al. 2024);
at s = 1 it is a free sample, which has no parent. So all children are samples of the model, and the score is only
compared: it may be any function, also one without derivatives.

What the children of a round are is a function of the candidates of the rounds before (`children`), so a search that was
interrupted goes on exactly where it was.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import cycle

STRENGTHS = (0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 1.0)
"""The strengths of children. How many children have each follows from what it has found so far."""
SELECTED = 0.05
"""Parents are the best of all candidates, this fraction of the number of children of a round."""
FEWEST = 5
"""The smallest number of parents, unless a round has fewer children: from fewer, a search soon finds its own again."""
LEAST_SHARE = 0.2
"""This fraction of the children is shared evenly by all strengths."""


@dataclass(frozen=True)
class Candidate:
    """A sample that was drawn and judged.

    * `number`: its place among all candidates, from 0.
    * `round`: the round in which it was drawn, from 1; 0 for what the search starts from.
    * `parent`: the number of its parent; None for a free sample.
    * `strength`: how far it may be from its parent, from 0 to 1.
    * `score`: the higher, the better; None if it has none.
    * `failed`: how many conditions it does not meet.
    * `identity`: what equal candidates share; None for what is nobody's equal.
    """

    number: int
    round: int
    parent: int | None
    strength: float
    score: float | None
    failed: int = 0
    identity: Hashable = None

    @property
    def passes(self) -> bool:
        """Whether it has a score and meets all conditions."""
        return self.score is not None and not self.failed


@dataclass(frozen=True)
class Child:
    """A sample that is to be drawn: a variation of the candidate `parent`, or free if that is None."""

    parent: int | None
    strength: float


def best(candidates: Sequence[Candidate], n: int) -> list[Candidate]:
    """The `n` best different candidates, best first.

    One that passes is better than one that does not; of those that pass, the one of the higher score is better, and of
    the others the one that fails fewer conditions (Deb 2000). Of equals, the earlier is better.
    """
    found: list[Candidate] = []
    seen: set[Hashable] = set()
    for each in sorted(candidates, key=_order):
        if len(found) == n:
            break
        if each.identity is None or each.identity not in seen:
            seen.add(each.identity)
            found.append(each)
    return found


def _order(candidate: Candidate) -> tuple[int, float, int]:
    score = candidate.score if candidate.passes else None
    return candidate.failed + (candidate.score is None), 0.0 if score is None else -score, candidate.number


def standing(candidates: Sequence[Candidate]) -> Callable[[Candidate], float]:
    """A function that says how rare it is that one of `candidates` is as good as another candidate, in nats.

    It is -log((b + 1) / (n + 1)), if b of the n candidates are better: 0 for one that is worse than all of them, and
    log(n + 1) for one that none exceeds. It is the same for every increasing function of the scores.
    """
    ladder = sorted(_order(each)[:2] for each in candidates)
    return lambda each: math.log((len(ladder) + 1) / (bisect_left(ladder, _order(each)[:2]) + 1))


def selected(count: int) -> int:
    """The number of parents of a round of `count` children."""
    return max(min(count, FEWEST), round(SELECTED * count))


def children(
    candidates: Sequence[Candidate], count: int, strengths: Sequence[float] = STRENGTHS, group: int = 1
) -> list[Child]:
    """The `count` children of the next round, given all candidates so far, ordered by strength.

    A strength gets children in proportion to the square of the part of its earlier ones that were successful, which is
    taken as (w + 1) / (t + 2) for w of t. A child is successful if, after its round, it is among the candidates that
    are selected as parents. Later rounds count more: each halves the weight of the ones before. The parents of a
    strength are all selected ones in turn, best first, each with `group` children. Without any candidate, all children
    are free.
    """
    if not candidates:
        return [Child(None, 1.0)] * count
    parents = best(candidates, selected(count))
    shares = _shares(candidates, count, strengths)
    found = []
    for strength, groups in sorted(zip(strengths, _whole(shares, count // group), strict=True)):
        if strength == 1:
            found += [Child(None, 1.0)] * (groups * group)
        else:
            for parent, _ in zip(cycle(parents), range(groups), strict=False):
                found += [Child(parent.number, strength)] * group
    return found


def _shares(candidates: Sequence[Candidate], count: int, strengths: Sequence[float]) -> list[float]:
    """The part of the children that each strength gets; their sum is 1."""
    tries, wins = dict.fromkeys(strengths, 0.0), dict.fromkeys(strengths, 0.0)
    last = max(each.round for each in candidates)
    for number in range(2, last + 1):  # the first round is drawn without a choice
        weight = 0.5 ** (last - number)
        chosen = {each.number for each in best([c for c in candidates if c.round <= number], selected(count))}
        for each in candidates:
            if each.round == number and each.strength in tries:
                tries[each.strength] += weight
                wins[each.strength] += weight * (each.number in chosen)
    rates = [((wins[strength] + 1) / (tries[strength] + 2)) ** 2 for strength in strengths]
    even = 1 / len(strengths)
    return [LEAST_SHARE * even + (1 - LEAST_SHARE) * rate / sum(rates) for rate in rates]


def _whole(shares: Sequence[float], count: int) -> list[int]:
    """Whole numbers near count times each share, with the sum `count`: the largest remainders are rounded up."""
    exact = [share * count for share in shares]
    whole = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: count - sum(whole)]:
        whole[i] += 1
    return whole
