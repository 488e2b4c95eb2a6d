"""The contract of solvers, held to oracles: denoisers in closed form, whose flows are known."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffcore.process.schedules import Cosine
from diffcore.sampling.loop import integrate, levels_of, prior
from diffcore.sampling.loop import sample as draw
from diffcore.sampling.solvers import Evaluate, Move, Step
from diffcore.sampling.timesteps import tapered, uniform_in_log_snr
from diffcore.states.level import CLEAN, Level
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import State, map_fields
from diffcore.testing.checks.check import Check, Measurement, NotApplicableError
from diffcore.testing.checks.common import ROUNDING, combined, field_prefix, relative_difference
from diffcore.testing.oracles import gaussian, gaussian_flow, largest_difference
from diffcore.testing.parts.part import PartUnderTest, built

MEAN, STD = 0.5, 0.4
_DENOISE = gaussian(MEAN, STD)
_FIELDS = Product({"place": ZeroCentred((4, 2)), "pair": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
_MASK = torch.tensor([[True] * 4, [True, True, True, False]])


def builds(part: PartUnderTest) -> Measurement:
    """The builder returns a function step(evaluate, x, move)."""
    return built(part)


def keeps_form(part: PartUnderTest) -> Measurement:
    """A step returns a state of the same form in the space, which may be named fields with a mask.

    It does not change the state that it was given, and works from pure noise (alpha = 0) to the clean end.
    """
    step = part.build()
    levels = [Level(0.0, 1.0), Level(0.6, 0.8), Level(0.9, math.sqrt(0.19)), CLEAN]
    inputs: list[tuple[State, State]] = []

    def watched(evaluate: Evaluate, x: State, move: Move) -> State:
        inputs.append((x, map_fields(torch.clone, x)))
        moved: State = step(evaluate, x, move)
        return moved

    x = draw(_DENOISE, _FIELDS, watched, levels, indices=range(2), mask=_MASK)
    outside = relative_difference(_FIELDS.project(x, _MASK), x)
    kept = all(largest_difference(*pair) == 0 for pair in inputs)
    return combined(
        Measurement(kept, f"the state is {'not ' if kept else ''}changed in place", "a new state", part.where),
        Measurement(
            outside.value <= ROUNDING,
            f"{field_prefix(outside.field)}projection to the space changes the result by {outside.value:.2g}",
            f"at most {ROUNDING:g}: a step stays in the space",
            part.where,
        ),
    )


def no_memory(part: PartUnderTest) -> Measurement:
    """The same seed gives the same samples again, in any batch: what a step remembers is in `move.history`."""
    step, levels = part.build(), levels_of(Cosine(), tapered(Cosine(), 6))

    def samples(indices: Sequence[int]) -> State:
        return draw(_DENOISE, Euclidean((3,)), step, levels, indices=indices)

    first = samples(range(3))
    again, alone = relative_difference(samples(range(3)), first), relative_difference(samples([2]), first[2:])
    return combined(
        *(
            Measurement(
                difference.value <= ROUNDING,
                f"{what} changes samples by {difference.value:.2g}",
                f"at most {ROUNDING:g}",
                part.where,
            )
            for what, difference in (("drawing again", again), ("a batch of one", alone))
        )
    )


def _error(step: Step, steps: int) -> tuple[float, bool]:
    """The error of the flow from log-SNR -8 to 2, and whether the step draws noise of its own."""
    schedule, space = Cosine(-8, 8), Euclidean((64,))
    levels = levels_of(schedule, torch.linspace(-8.0, 2.0, steps + 1, dtype=torch.float64))[:-1]
    x = prior(space, Draws.of(0, range(4)), levels[0])
    assert isinstance(x, Tensor)
    x, drawn = x.double(), False

    def fresh() -> Tensor:
        nonlocal drawn
        drawn = True
        return torch.randn(x.shape, dtype=x.dtype)

    end = integrate(step, lambda state, level: _DENOISE(state, level), x, levels, fresh)
    return largest_difference(end, gaussian_flow(x, levels[0], levels[-1], MEAN, STD)), drawn


def order(part: PartUnderTest) -> Measurement:
    """On Gaussian data the error of a deterministic solver falls at least like 1 / steps.

    The probability flow of Gaussian data is known; errors of 64 and 128 steps are compared with it. Solvers that draw
    noise follow another path, and are held to `distribution` alone.
    """
    (coarse, drawn), (fine, _) = (_error(part.build(), steps) for steps in (64, 128))
    if drawn:
        raise NotApplicableError("the solver draws noise")
    found = math.log2(coarse / fine) if fine > 0 and coarse > 0 else math.inf
    return Measurement(
        fine < 1e-6 or found >= 0.8,
        f"errors of {coarse:.2g} and {fine:.2g} in 64 and 128 steps: order {found:.2f}",
        "order 1 or more: half the error in twice the steps",
        part.where,
    )


def distribution(part: PartUnderTest) -> Measurement:
    """Samples of Gaussian data have their mean and standard deviation, in 200 steps."""
    schedule = Cosine()
    levels = levels_of(schedule, uniform_in_log_snr(schedule, 200))
    samples = draw(_DENOISE, Euclidean((5000,)), part.build(), levels, indices=range(2))
    assert isinstance(samples, Tensor)
    mean, std = samples.mean().item(), samples.std().item()
    return Measurement(
        abs(mean - MEAN) <= 0.1 * STD and abs(std - STD) <= 0.1 * STD,
        f"mean {mean:.3f} and standard deviation {std:.3f}",
        f"{MEAN:g} and {STD:g}, within {0.1 * STD:.2g}",
        part.where,
    )


_NEEDS = ("builds", "keeps_form")

CHECKS = (
    Check("builds", "the builder returns a step", builds),
    Check("keeps_form", "a step returns a new state in the space", keeps_form, ("builds",)),
    Check("no_memory", "a sample depends on its seed alone", no_memory, _NEEDS),
    Check("order", "the error falls with the number of steps", order, _NEEDS),
    Check("distribution", "samples have the distribution of the data", distribution, _NEEDS),
)
