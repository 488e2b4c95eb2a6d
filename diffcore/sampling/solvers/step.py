"""What a solver is: a function that moves a state from one level to the next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffcore.denoising.denoiser import Prediction
from diffcore.states.level import Level
from diffcore.states.state import State

Evaluate = Callable[[State, Level], Prediction]
"""A denoiser with its guidance, conditions and mask already given."""


@dataclass(frozen=True)
class Move:
    """One step of a trajectory, the `index`-th from 0.

    `noise()` draws fresh noise of the state's space. `history` is where a solver keeps what it remembers of this
    trajectory, oldest first; it belongs to the sampling call, never to the solver.
    """

    now: Level
    next: Level
    noise: Callable[[], State]
    history: list[Any] = field(default_factory=list)
    index: int = 0


class Step(Protocol):
    """x at `move.now` to x at `move.next`; may evaluate the denoiser more than once."""

    def __call__(self, evaluate: Evaluate, x: State, move: Move) -> State: ...
