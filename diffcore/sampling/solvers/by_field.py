"""A step of a solver where the fields of the state have levels of their own.

Each field takes the step that the solver would take for it alone, from its own level to its own next level; only the
evaluations of the denoiser are common, because a prediction for one field depends on all of them. A solver therefore
needs no code for levels by field.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from diffcore.denoising.denoiser import Prediction
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import FieldLevels, Level, equal, level_of, shared
from diffcore.states.state import State, fields, named


def take(step: Step, evaluate: Evaluate, x: State, move: Move) -> State:
    """One step of a solver: of the whole state at once, or field by field if the levels of the fields differ.

    A field whose level does not change in the step, such as a given one, keeps its value. Steps with the attribute
    `of_all_fields` (the function of this name sets it) are called with the whole state in any case.
    """
    if getattr(step, "of_all_fields", False) or not (
        isinstance(move.now, FieldLevels) or isinstance(move.next, FieldLevels)
    ):
        return step(evaluate, x, move)
    return _each_field(step, evaluate, x, move)


def of_all_fields(step: Step) -> Step:
    """Mark a step that changes fields together, such as one that decorates a solver and calls `take` for it."""
    step.of_all_fields = True  # type: ignore[attr-defined]
    return step


class _Asked(BaseException):
    """Ends the step of a field at an evaluation that has not been made yet. No `except Exception` stops it."""

    def __init__(self, x: Tensor, level: Level) -> None:
        super().__init__()
        self.x, self.level = x, level


def _each_field(step: Step, evaluate: Evaluate, x: State, move: Move) -> State:
    """`step` of each field, with common evaluations.

    The step of a field runs until it asks for an evaluation. When all fields have asked, the denoiser is evaluated
    once, and each step is run again from its start with the answers so far. That repeats a few operations on tensors,
    but no evaluation, and no draw of noise: the k-th draw in the step of a field is its part of the k-th common draw.
    """
    values = fields(x)
    if not move.history:
        move.history.append({})
    histories: dict[str, list[Any]] = move.history[0]
    answers: list[Prediction] = []
    draws: list[State] = []
    done: dict[str, Tensor] = {}

    def run(name: str) -> None:
        history = list(histories.get(name, ()))
        now, following = level_of(move.now, name), level_of(move.next, name)
        own = Move(now, following, _repeated(draws, move.noise, name), history, move.index, move.steps)
        done[name] = step(_answered(answers, name), values[name], own)  # type: ignore[assignment]
        histories[name] = history

    waiting = [name for name in values if not equal(level_of(move.now, name), level_of(move.next, name))]
    while waiting:
        asked: dict[str, _Asked] = {}
        for name in waiting:
            try:
                run(name)
            except _Asked as question:
                asked[name] = question
        waiting = list(asked)
        if asked:
            at = {name: level_of(move.next if name in done else move.now, name) for name in values}
            levels = FieldLevels(at | {name: question.level for name, question in asked.items()})
            state = named({**values, **done, **{name: question.x for name, question in asked.items()}})
            answers.append(evaluate(state, shared(levels)))
    return named({**values, **done})


def _answered(answers: Sequence[Prediction], name: str) -> Evaluate:
    """The denoiser as the step of one field sees it: the `answers` in order, then `_Asked`."""
    each = iter(answers)

    def evaluate(x: State, level: Any) -> Prediction:
        answer = next(each, None)
        if answer is None:
            raise _Asked(x, level)  # type: ignore[arg-type]
        return answer.of_field(name)

    return evaluate


def _repeated(draws: list[State], fresh: Callable[[], State], name: str) -> Callable[[], State]:
    """The noise of one field: its parts of the common `draws`, in order, which grow where they do not suffice."""
    count = 0

    def noise() -> State:
        nonlocal count
        count += 1
        if len(draws) < count:
            draws.append(fresh())
        return fields(draws[count - 1])[name]

    return noise
