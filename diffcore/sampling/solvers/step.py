"""The interface of solvers: a function that takes a state from one level to the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffcore.denoising.denoiser import Prediction
from diffcore.states.level import Level, Levels
from diffcore.states.state import State

Evaluate = Callable[[State, Levels], Prediction]
"""The denoiser as solvers see it: a function of x and the level; guidance, conditions and mask are already applied."""


@dataclass(frozen=True)
class Move:
    """What a solver knows about one step of a trajectory.

    * `now`, `next`: the levels at the start and at the end of the step. A solver gets one level of floats: where the
      fields of the state have levels of their own, it is called for each field. Only steps that are marked as `whole`
      see the levels of all fields (`diffcore.sampling.solvers.by_field`).
    * `noise()`: draws fresh standard noise of the state's space, `[B, ...]`.
    * `history`: a list in which the solver may keep values of earlier steps, oldest first. It belongs to the sampling
      call, so that a solver holds no state of its own.
    * `index`: the number of the step, from 0. `steps`: the number of all steps.
    """

    now: Level
    next: Level
    noise: Callable[[], State]
    history: list[Any] = field(default_factory=list)
    index: int = 0
    steps: int = 1


class Step(Protocol):
    """A solver: takes x at the level `move.now`, returns x at `move.next`. It may evaluate the denoiser repeatedly.

    It must be a function of its arguments: with the same predictions and the same noise it returns the same result.
    """

    def __call__(self, evaluate: Evaluate, x: State, move: Move) -> State: ...
