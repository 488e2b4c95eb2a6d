"""Editing: samples that agree with what is known, by a model that was never trained for it.

What is known is a measurement y = A x0 + noise_std * eps of the sample (`diffcore.sampling.inverse.operators`):
some of its entries (inpainting), its block means (super-resolution), any linear function. Two ways lead there:
`measured` decorates the denoiser, which then estimates x0 given x and y, and `repaint` decorates the solver's step.
Both compose with every solver, guidance and space.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.process.gaussian import perturb, transition
from diffcore.sampling.inverse.operators import Coarse, Keep, Operator, check_measurement, keep
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, fields, map_fields

Constraint = Callable[[Denoise, Step, Sequence[int]], tuple[Denoise, Step]]
"""How drawing is steered: the denoiser and the step, decorated, for a batch of samples of those indices."""


class Correct(Protocol):
    """How x0_hat is corrected by what it fails to explain.

    `residual` is y - A x0_hat; `lift(u)` is V A^T u with V = Cov[x0 | x]. The correction is V A^T S^-1 residual, and
    a method is what it takes for S, the covariance of the residual.
    """

    def __call__(self, residual: State, lift: Callable[[State], State], operator: Operator) -> State: ...


def mmps(noise_std: float = 0.0, iterations: int = 2) -> Correct:
    """Moment matching: S = A V A^T + noise_std^2, by conjugate gradients. Rozet et al. 2024 (MMPS).

    Exact where x0 given x is Gaussian, so for Gaussian data. Each iteration takes one vector-Jacobian product of the
    denoiser; A V A^T of rank r takes r of them, and fewer are a regularisation: directions of large variance are
    corrected first. On networks two were best. A network's Jacobian is neither quite symmetric nor positive, so a
    sample stops before a direction whose variance is less than a hundredth of the largest it met, or that would make
    the residual ten times larger.
    """

    def correct(residual: State, lift: Callable[[State], State], operator: Operator) -> State:
        direction, left = residual, _dot(residual, residual)
        corrections: list[tuple[Tensor | float, State]] = []
        largest = torch.zeros_like(left)
        going = left > 0
        for _ in range(iterations):
            lifted = lift(direction)
            answer = combine((1.0, operator(lifted)), (noise_std**2, direction))
            variance = _ratio(_dot(direction, answer), _dot(direction, direction))
            largest = torch.maximum(largest, variance)
            going = going & (variance > 0.01 * largest)
            size = torch.where(going, _ratio(left, _dot(direction, answer)), 0.0)
            residual = combine((1.0, residual), (-size, answer))
            before, left = left, _dot(residual, residual)
            going = going & (left < 100 * before)
            corrections.append((torch.where(going, size, 0.0), lifted))
            direction = combine((1.0, residual), (_ratio(left, before), direction))
        return combine(*corrections)

    return correct


def _noise_ratio(level: Level) -> float | Tensor:
    """sigma^2 / alpha, and 0 at alpha = 0."""
    alpha, sigma = level
    if isinstance(alpha, Tensor):
        return torch.where(alpha > 0, sigma**2 / alpha, 0.0)
    return sigma**2 / alpha if alpha > 0 else 0.0


def dps(noise_std: float = 0.0, weight: float = 1.0) -> Correct:
    """Diffusion posterior sampling: S = |residual| / (sqrt(M) weight), a number, for residuals of M entries.

    Then the correction is sigma^2 / alpha times the gradient of -weight sqrt(M) |y - A x0_hat(x)|: Chung et al. 2023,
    algorithm 1 with |y - A x0_hat| in the denominator of its step size, but as a part of x0_hat, so that it does not
    depend on the number of steps. S is at least noise_std^2. It takes one vector-Jacobian product, and it leaves out
    how uncertain x0 given x is: what comes out is a compromise of the prior and the measurement, not the posterior.
    """

    def correct(residual: State, lift: Callable[[State], State], operator: Operator) -> State:
        entries = sum(value[0].numel() for value in fields(residual).values())
        size = (_dot(residual, residual) / entries).sqrt() / weight
        return lift(combine((1 / size.clamp(min=max(noise_std**2, 1e-12)), residual)))

    return correct


METHODS: Mapping[str, Callable[[float], Correct]] = {"mmps": mmps, "dps": dps}
"""The corrections by name."""


def measured(
    denoise: Denoise, operator: Operator, measurement: State, space: Space, correct: Correct | None = None
) -> Denoise:
    """The denoiser of x0 given x and a measurement y = A x0 + noise: E[x0 | x, y] where `correct` says how.

    x0 = x0_hat + V A^T S^-1 (y - A x0_hat), where V = Cov[x0 | x] = sigma^2 / alpha d x0_hat / dx (Tweedie's formula
    of second order). The derivative is taken along the noise of the space: with space.noise = L, V = sigma^2 / alpha
    (d x0_hat / dx) L L^T, so x0 stays in the space. `measurement` is a state `[B, ...]`, or `[1, ...]` for all samples
    alike. This decorator goes outermost, around classifier-free guidance.
    At alpha = 0, where V cannot be told from x, nothing is corrected. Raises `UserError` where the measurement
    does not fit.
    """
    check_measurement(operator, measurement, space)
    correct = mmps() if correct is None else correct

    def given(x: State, level: Level, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        with torch.enable_grad():
            along = map_fields(lambda value: torch.zeros_like(value).requires_grad_(), x)
            prediction = denoise(combine((1.0, x), (1.0, space.noise(along, mask))), level, conditions, mask)
            x0 = space.project(prediction.x0, mask)
            explained = operator(x0)
        leaves, explanations = list(fields(along).values()), fields(explained)
        ratio = _noise_ratio(level)

        def lift(u: State) -> State:
            values = fields(u)
            gradients = torch.autograd.grad(
                list(explanations.values()),
                leaves,
                [values[name] for name in explanations],
                retain_graph=True,
                materialize_grads=True,
            )
            return combine((ratio, space.noise(_like(x, gradients), mask)))

        residual = map_fields(lambda y, found: y - found.detach(), _matched(measurement, explained), explained)
        shift = correct(residual, lift, operator)
        corrected = map_fields(lambda value, change: value.detach() + change, x0, shift)
        return Prediction(x, level, corrected, "x0", prediction.variance)

    return given


def repaint(step: Step, kept: Operator, known: State, space: Space, resamplings: int = 10) -> Step:
    """The step of a solver, after which what is known is replaced by a draw of its own. Lugmayr et al. 2022, alg. 1.

    `kept` is a projection (`Keep`, `KeepElements`) and `known` a state `[B, ...]` or `[1, ...]` whose kept part
    counts. A step from level t to s is followed by x <- x - kept(x) + kept(alpha_s known + sigma_s noise), at the
    clean end by the known values themselves. Then x jumps back to t by the forward process and all is done again,
    `resamplings` times in all, so that the free part comes to agree with the known one. A jump is as long as a step
    (theirs are ten of a thousand steps).

    Each turn gives the solver an empty memory: after a jump the states that a multistep method remembers are of
    another path. So dpmpp-2m takes first-order steps here.
    """
    assert resamplings >= 1, "at least one turn"

    def repainting(evaluate: Evaluate, x: State, move: Move) -> State:
        source = _matched(known, x)
        for turn in range(resamplings):
            if turn:
                jump = transition(move.next, move.now)
                x = combine((jump.scale, x), (jump.std, move.noise()))
            x = step(evaluate, x, replace(move, history=[]))
            x = _exchange(x, kept(x), kept(perturb(source, move.noise(), move.next)))
        return x

    return repainting


def pasted(step: Step, kept: Operator, known: State) -> Step:
    """The step of a solver; the one to the clean end puts the known values in."""

    def pasting(evaluate: Evaluate, x: State, move: Move) -> State:
        x = step(evaluate, x, move)
        return x if move.next.sigma > 0 else _exchange(x, kept(x), kept(_matched(known, x)))

    return pasting


def _of(state: State, indices: Sequence[int]) -> State:
    """The samples `indices` of `state`, or the one that is for all."""
    return state if state.shape[0] == 1 else state[list(indices)]


def _matched(state: State, like: State) -> State:
    """`state` `[B, ...]` or `[1, ...]` with the batch, the type and the device of `like`."""
    return map_fields(lambda value, wanted: value.to(wanted).expand(wanted.shape), state, like)


def _exchange(x: State, kept: State, known: State) -> State:
    """x - kept + known, in the fields that `kept` has. Where x is kept as it is, known comes out bit by bit."""
    old, new = fields(kept), fields(known)
    changed = [value - old[name] + new[name] if name in old else value for name, value in fields(x).items()]
    return _like(x, changed)


def _like(state: State, values: Sequence[Tensor]) -> State:
    """`values` as the fields of a state like `state`."""
    if isinstance(state, Tensor):
        return values[0]
    return TensorDict(dict(zip(state.keys(), values, strict=True)), batch_size=state.batch_size)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and zero where `below` is."""
    return torch.where(below == 0, 0.0, above / torch.where(below == 0, 1.0, below))


def _dot(first: State, second: State) -> Tensor:
    """The inner product of each sample, `[B]`."""
    products = map_fields(lambda a, b: (a * b).flatten(1).sum(1), first, second)
    return torch.stack(list(fields(products).values())).sum(0)


def inpainting(
    known: State, mask: State, space: Space, method: str = "mmps", noise_std: float = 0.0, resamplings: int = 10
) -> Constraint:
    """Samples that are `known` where `mask` is True, by "mmps", "dps" or "repaint".

    `known` and `mask` are whole states, `[1, ...]` for all samples alike or `[N, ...]` with one for each index that is
    drawn. `resamplings` belong to "repaint", `noise_std` to the others. Without noise the known values are put in at
    the end, so that they come out exactly. Raises `UserError` where the two do not fit the space.
    """
    masks = keep(mask, space).mask
    check_measurement(lambda x0: x0, known, space)

    def constrain(denoise: Denoise, step: Step, indices: Sequence[int]) -> tuple[Denoise, Step]:
        kept, values = Keep(_of(masks, indices)), _of(known, indices)
        if method == "repaint":
            return denoise, repaint(step, kept, values, space, resamplings)
        steered = measured(denoise, kept, kept(values), space, METHODS[method](noise_std))
        return steered, step if noise_std else pasted(step, kept, values)

    return constrain


def upscaling(coarse: State, factor: int, space: Space, method: str = "mmps", noise_std: float = 0.0) -> Constraint:
    """Samples whose means over blocks of `factor` are `coarse`, by "mmps" or "dps".

    `coarse` is `[1, ...]` for all samples alike, or `[N, ...]` with a value for each index that is drawn.
    """
    operator = Coarse(factor, next(iter(fields(coarse))))
    check_measurement(operator, coarse, space)

    def constrain(denoise: Denoise, step: Step, indices: Sequence[int]) -> tuple[Denoise, Step]:
        return measured(denoise, operator, _of(coarse, indices), space, METHODS[method](noise_std)), step

    return constrain
