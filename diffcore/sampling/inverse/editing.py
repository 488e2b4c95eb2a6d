"""Inverse problems: samples that agree with a measurement, drawn by a model that was not trained for it.

The measurement is y = A x0 + noise_std * eps, with a linear operator A (`diffcore.sampling.inverse.operators`): some
entries of the sample (inpainting), its block means (super-resolution), or any linear function. There are two ways:
`measured` decorates the denoiser, which then estimates x0 given x and y, and `repaint` decorates the solver's step.
Both can be combined with every solver, guidance and space.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import UserError
from diffcore.names import InverseMethod, require_name
from diffcore.process.gaussian import perturb, transition
from diffcore.process.schedules import Schedule
from diffcore.sampling.inverse.learned import keeping, knowing
from diffcore.sampling.inverse.operators import (
    Bounds,
    Coarse,
    Operator,
    check_measurement,
    elements_of,
    existing,
    of_samples,
    require_known,
    within_space,
)
from diffcore.sampling.inverse.unplaced import Unplaced, sized, up_to
from diffcore.sampling.loop import require_given, require_mask
from diffcore.sampling.solvers.by_field import of_all_fields, take
from diffcore.sampling.solvers.step import Evaluate, Move, Step
from diffcore.states.level import Level, Levels, by_field, is_clean
from diffcore.states.noise import Draws
from diffcore.states.partly import partly, placed
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, dot, fields, from_fields, map_fields, named

Decorate = Callable[[Denoise, Step, Sequence[int], Mask], tuple[Denoise, Step]]

DrawStates = Callable[[Denoise, Schedule, Sequence[int], Draws, Conditions, Mask], State]
"""Draws the samples with the given indices in place of the sampling loop: clean states `[B, ...]`."""


def undecorated(denoise: Denoise, step: Step, indices: Sequence[int], mask: Mask = None) -> tuple[Denoise, Step]:
    """The denoiser and the step as they are."""
    return denoise, step


@dataclass(frozen=True, eq=False)
class Start:
    """Where trajectories begin: at x = alpha `values` + sigma noise, at the level of a log-SNR.

    * `values`: a state `[1, ...]` for all samples alike, or `[N, ...]` with one for each index that is drawn.
    * `log_snr`: infinity for samples that are the values themselves.
    """

    values: State
    log_snr: float


@dataclass(frozen=True, eq=False)
class Constraint:
    """What samples have to agree with.

    * `decorate`: decorates a denoiser and a solver's step for the batch of the samples with the given indices and the
      given mask, and returns both. Calling the constraint calls it.
    * `known`: a state of booleans, `[1, ...]` for all samples alike or `[N, ...]`, True for the entries that are given
      exactly; None if none are.
    * `recipe`: everything that decides what the constraint does, as values of JSON; None if that is not described.
    * `given`: the values of whole fields that are known, by name, each `[1, ...]` for all samples alike or `[N, ...]`.
      These fields have no noise from the beginning (`diffcore.sampling.loop.sample`).
    * `mask`: the elements that exist in the samples that these values are from, bool `[1, N]` or `[n, N]`; the samples
      that are drawn have the same elements. None if this is not known, or if all elements always exist.
    * `codec`: the codec of the samples, if it is another one than that of the model (`diffcore.plugins.output.Edit`).
    * `start`: where trajectories begin; None for the noise of the first level.
    * `stops`: log-SNRs that the time grid has to contain.
    * `draw`: draws the samples in place of the sampling loop; None for the loop.
    * `within`: the space of the noise of the samples with the given indices and the given mask, if a part of them has
      none; see `diffcore.states.partly`. None for the space of the samples.
    * `agreement`, `settled`: what samples have to agree with beyond what is known, in a word, and a function of states
      `[B, ...]`, their mask and their indices that returns the samples to take in their place and whether each agrees.
      Those that do not are drawn again (`diffcore.runs.keeping`).
    """

    decorate: Decorate = undecorated
    known: State | None = None
    recipe: Mapping[str, Any] | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Mask = None
    codec: Any = None
    start: Start | None = None
    stops: tuple[float, ...] = ()
    draw: DrawStates | None = None
    within: Callable[[Sequence[int], Mask], Space] | None = None
    agreement: str = ""
    settled: Callable[[State, Mask, Sequence[int]], tuple[State, Sequence[bool]]] | None = None

    @property
    def steers(self) -> bool:
        """Whether the path of a sample is changed by more than what is known, which the model has not learned."""
        return self.decorate is not undecorated and self.within is None

    def __call__(self, denoise: Denoise, step: Step, indices: Sequence[int], mask: Mask = None) -> tuple[Denoise, Step]:
        """The denoiser and the step for the samples `indices`.

        Raises `UserError` if their mask `[B, N]` lacks an element of which an entry is known, or of which a given field
        has a value, or if it differs from that of the given fields.
        """
        own = self.mask_of(indices)
        if own is not None and (mask is None or not torch.equal(own, mask.to(own.device))):
            raise UserError("`mask` differs from that of the values that are given: leave it out of one of them")
        elements = None if mask is None else self.known_elements(indices)  # without a mask, states need not be sets
        if mask is not None and elements is not None and bool((elements & ~mask.to(elements.device)).any()):
            raise UserError(
                "the mask of the samples lacks elements that are known: give masks in which all of them exist"
            )
        for name, value in self.given_values(indices).items():
            if mask is not None and value.shape[1:2] == mask.shape[1:]:
                there = value.flatten(2).any(2) if value.ndim > 2 else value.bool()
                if bool((there & ~mask.to(there.device)).any()):
                    raise UserError(
                        f"the given field {name!r} has values of elements that do not exist in the samples: give the "
                        "`mask` or the `size` of the samples that the values are from"
                    )
        return self.decorate(denoise, step, indices, mask)

    def given_values(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The values of the given fields for the samples `indices`, `[B, ...]` by name."""
        return {
            name: of_samples(value, indices).expand(len(indices), *value.shape[1:])
            for name, value in self.given.items()
        }

    def mask_of(self, indices: Sequence[int]) -> Mask:
        """The mask `[B, N]` of the samples `indices` that the given fields determine; None if they do not."""
        return None if self.mask is None else of_samples(self.mask, indices).expand(len(indices), -1)  # type: ignore[union-attr]

    def known_elements(self, indices: Sequence[int]) -> Tensor | None:
        """The elements of sets of which an entry is known, `[B, N]`: the positions along the first axis of a sample."""
        if self.known is None:
            return None
        flags = torch.stack([elements_of(flag) for flag in fields(self.known).values()])
        return of_samples(flags.any(0), indices).expand(len(indices), -1)

    def least_sizes(self, indices: Sequence[int]) -> Tensor | None:
        """How many elements each sample must have for all known ones to exist, int64 `[B]`; None without any."""
        elements = self.known_elements(indices)
        if elements is None:
            return None
        return (elements * torch.arange(1, elements.shape[1] + 1, device=elements.device)).amax(1).cpu()


class Correct(Protocol):
    """A method of posterior sampling: returns the correction V A^T S^-1 (y - A x0_hat) of the estimate x0_hat.

    `residual` is y - A x0_hat, and `lift(u)` computes V A^T u with V = Cov[x0 | x]. Methods differ in their
    approximation of S, the covariance of the residual.
    """

    def __call__(self, residual: State, lift: Callable[[State], State], operator: Operator) -> State: ...


def mmps(noise_std: float = 0.0, iterations: int = 2) -> Correct:
    """Moment matching: S = A V A^T + noise_std^2 I, solved by conjugate gradients. Rozet et al. 2024 (MMPS).

    It is exact if x0 given x is Gaussian, as for Gaussian data. Each of the `iterations` takes one vector-Jacobian
    product of the denoiser. If A V A^T has rank r, r iterations solve the system; fewer act as a regularisation,
    because directions of large variance are corrected first. With trained networks, two gave the best samples. The
    Jacobian of a network is not exactly symmetric, nor exactly positive, so the iterations of a sample end before a
    direction whose variance is less than 1 % of the largest so far, or that would make |residual| ten times larger.
    """

    def correct(residual: State, lift: Callable[[State], State], operator: Operator) -> State:
        direction, squared = residual, dot(residual, residual)
        corrections: list[tuple[Tensor | float, State]] = []
        largest = torch.zeros_like(squared)
        active = squared > 0
        for _ in range(iterations):
            lifted = lift(direction)
            product = combine((1.0, operator(lifted)), (noise_std**2, direction))  # S direction
            variance = _ratio(dot(direction, product), dot(direction, direction))
            largest = torch.maximum(largest, variance)
            active = active & (variance > 0.01 * largest)
            size = torch.where(active, _ratio(squared, dot(direction, product)), 0.0)
            residual = combine((1.0, residual), (-size, product))
            previous, squared = squared, dot(residual, residual)
            active = active & (squared < 100 * previous)
            corrections.append((torch.where(active, size, 0.0), lifted))
            direction = combine((1.0, residual), (_ratio(squared, previous), direction))
        return combine(*corrections)

    return correct


def _noise_ratio(level: Level) -> float | Tensor:
    """sigma^2 / alpha of one level, and 0 at alpha = 0."""
    alpha, sigma = level
    if isinstance(alpha, Tensor):
        return torch.where(alpha > 0, sigma**2 / alpha, 0.0)
    return sigma**2 / alpha if alpha > 0 else 0.0


def dps(noise_std: float = 0.0, weight: float = 1.0) -> Correct:
    """Diffusion posterior sampling: S = |residual| / (sqrt(M) weight), a number, for residuals of M entries.

    The correction is then sigma^2 / alpha times the gradient of -weight sqrt(M) |y - A x0_hat(x)|. This is algorithm 1
    of Chung et al. 2023 with |y - A x0_hat| in the denominator of its step size, but added to x0_hat, so that the
    result does not depend on the number of steps. S is at least noise_std^2. One correction takes one vector-Jacobian
    product. It ignores the covariance of x0 given x, so the samples are a compromise between the prior and the
    measurement, not draws of the posterior.
    """

    def correct(residual: State, lift: Callable[[State], State], operator: Operator) -> State:
        entries = sum(value[0].numel() for value in fields(residual).values())
        size = (dot(residual, residual) / entries).sqrt() / weight
        return lift(combine((1 / size.clamp(min=max(noise_std**2, 1e-12)), residual)))

    return correct


METHODS: Mapping[str, Callable[[float], Correct]] = {"mmps": mmps, "dps": dps}
"""The corrections by name, each a function of `noise_std`."""


def measured(
    denoise: Denoise, operator: Operator, measurement: State, space: Space, correct: Correct | None = None
) -> Denoise:
    """A denoiser that estimates E[x0 | x, y], given a measurement y = A x0 + noise, by the method `correct`.

        x0 = x0_hat + V A^T S^-1 (y - A x0_hat),   V = Cov[x0 | x] = (sigma^2 / alpha) d x0_hat / dx

    (the second-order Tweedie formula). The derivative is taken along the noise of the space: if L is the linear map
    `space.noise`, V = (sigma^2 / alpha) (d x0_hat / dx) L L^T, so x0 stays in the space. At alpha = 0, where this V is
    undefined, x0_hat is not corrected.

    `measurement` is a state `[B, ...]`, or `[1, ...]` for all samples alike; `correct` is `mmps()` if None. Apply this
    decorator last, outside of classifier-free guidance. Raises `UserError` if the measurement does not fit `operator`
    and `space`.
    """
    check_measurement(operator, measurement, space)
    correct = mmps() if correct is None else correct

    def given(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        with torch.enable_grad():
            along = map_fields(lambda value: torch.zeros_like(value).requires_grad_(), x)
            prediction = denoise(combine((1.0, x), (1.0, space.noise(along, mask))), level, conditions, mask)
            x0 = space.project(prediction.x0, mask)
            explained = operator(x0)
        leaves, explanations = list(fields(along).values()), fields(explained)
        ratio = by_field(_noise_ratio, level)

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

        residual = map_fields(lambda y, estimate: y - estimate.detach(), _matched(measurement, explained), explained)
        shift = correct(residual, lift, operator)
        corrected = map_fields(lambda value, change: value.detach() + change, x0, shift)
        return Prediction(x, level, corrected, "x0", prediction.variance)

    return given


def repaint(step: Step, operator: Operator, values: State, resamplings: int = 10) -> Step:
    """RePaint: after each step, the known part of x is replaced by a draw of q(x_s | x_0). Lugmayr et al. 2022, alg. 1.

    `operator` A is a projection onto the known part (`Keep`, `KeepElements`), and `values` a state `[B, ...]` or
    `[1, ...]` of which only that part is used. A step from level t to s is followed by

        x <- x - A x + A (alpha_s values + sigma_s noise),

    which puts in the known values themselves at the clean end. Then the forward process takes x back to t and the step
    is done again, `resamplings` times in all, so that the unknown part comes to agree with the known part. A jump back
    is as long as one step (theirs: ten of a thousand steps).

    The solver starts each time with an empty history: after a jump, the states that a multistep method has kept belong
    to another trajectory. dpmpp-2m, for example, takes first-order steps here.
    """
    assert resamplings >= 1, "each step is done at least once"

    def repainting(evaluate: Evaluate, x: State, move: Move) -> State:
        clean = _matched(values, x)
        for repetition in range(resamplings):
            if repetition:
                scale = by_field(lambda *ends: transition(*ends).scale, move.next, move.now)
                std = by_field(lambda *ends: transition(*ends).std, move.next, move.now)
                x = combine((scale, x), (std, move.noise()))
            x = take(step, evaluate, x, replace(move, history=[]))
            x = _exchange(x, operator(x), operator(perturb(clean, move.noise(), move.next)))
        return x

    return of_all_fields(repainting)


def pasted(step: Step, operator: Operator, values: State) -> Step:
    """The step of a solver; after the step to the clean end, the known part of x is replaced by that of `values`.

    `operator` is a projection onto the known part, and `values` a state `[B, ...]` or `[1, ...]`, as in `repaint`.
    """

    def pasting(evaluate: Evaluate, x: State, move: Move) -> State:
        x = take(step, evaluate, x, move)
        return x if not is_clean(move.next) else _exchange(x, operator(x), operator(_matched(values, x)))

    return of_all_fields(pasting)


def settled(step: Step, operator: Coarse, coarse: State, bounds: Bounds | None = None) -> Step:
    """The step of a solver; after the step to the clean end, x is moved to the nearest state with the block means.

    `coarse` is a state `[B, ...]` or `[1, ...]`. With `bounds`, the entries also lie between these states.
    """

    def settling(evaluate: Evaluate, x: State, move: Move) -> State:
        x = take(step, evaluate, x, move)
        return x if not is_clean(move.next) else operator.matched(x, _matched(coarse, operator(x)), bounds)

    return of_all_fields(settling)


def _matched(state: State, like: State) -> State:
    """`state` `[B, ...]` or `[1, ...]` with the batch size, type and device of `like`."""
    return map_fields(lambda value, target: value.to(target).expand(target.shape), state, like)


def _exchange(x: State, old: State, new: State) -> State:
    """x - old + new in the fields that `old` has. Where `old` equals x, the result is `new` bit for bit."""
    before, after = fields(old), fields(new)
    changed = [value - before[name] + after[name] if name in before else value for name, value in fields(x).items()]
    return _like(x, changed)


def _like(state: State, values: Sequence[Tensor]) -> State:
    """`values` as the fields of a state like `state`."""
    if isinstance(state, Tensor):
        return values[0]
    return named(dict(zip(state.keys(), values, strict=True)))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and zero where `below` is zero."""
    return torch.where(below == 0, 0.0, above / torch.where(below == 0, 1.0, below))


def inpainting(
    values: State,
    known: State,
    space: Space,
    method: InverseMethod = "mmps",
    noise_std: float = 0.0,
    resamplings: int = 10,
    unplaced: Unplaced | None = None,
) -> Constraint:
    """Draw samples that have the `values` where `known` is True.

    The methods "mmps", "dps" and "repaint" work with every model, and approximate what is drawn. With "learned", the
    model is one that has learned states of which a part is known (`levels.known`), and is told what it is
    (`diffcore.sampling.inverse.learned`).

    * `values`: a state of the space, `[1, ...]` for all samples alike, or `[N, ...]` with one for each index that is
      drawn. Its unknown entries are ignored, but must be finite.
    * `known`: a state of booleans, likewise. Where entries of the space depend on each other, whole elements can be
      known (`diffcore.sampling.inverse.operators.keep`).
    * `noise_std`: for "mmps" and "dps", the standard deviation of the noise in `values`. At 0 the known values are put
      in at the end, so that samples have them exactly.
    * `resamplings`: for "repaint", how often each step is done.
    * `unplaced`: for "mmps" and "dps", what the known part may become, if its place and size are not known but drawn.

    Raises `UserError` if `values` or `known` do not fit the space, or if all or none is known.
    """
    require_name(method, InverseMethod, "method")
    if unplaced is not None and method not in METHODS:
        raise UserError(f"`method` {method} needs a part of known place and size; use {' or '.join(METHODS)}")
    require_known(known, space)
    check_measurement(lambda x0: x0, values, space)
    known = map_fields(lambda flag: flag.bool(), known)
    if method == "learned":
        return _learned(values, known, space)
    within_space(known, space)  # a mistake is told at once

    def constrain(denoise: Denoise, step: Step, indices: Sequence[int], mask: Mask) -> tuple[Denoise, Step]:
        flags, given = existing(of_samples(known, indices), space, mask), of_samples(values, indices)
        if given.shape[0] < flags.shape[0]:
            given = map_fields(lambda value: value.expand(flags.shape[0], *value.shape[1:]), given)
        own: Any = within_space(flags, space)
        if method == "repaint":
            return denoise, repaint(step, own, given, resamplings)
        if unplaced is not None:
            own = up_to(own, unplaced)
        steered = measured(denoise, own, own(given), space, METHODS[method](noise_std))
        if unplaced is not None:
            steered = sized(steered, unplaced)
        return steered, step if noise_std else pasted(step, own, given)

    return Constraint(constrain, known if unplaced is None else None)


def _learned(values: State, known: State, space: Space) -> Constraint:
    """The constraint of the method "learned"; fields that `known` lacks are unknown."""
    nothing = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in fields(space.empty(1)).items()}
    known = from_fields({name: fields(known).get(name, flag) for name, flag in nothing.items()})

    def rows(indices: Sequence[int], mask: Mask) -> State:
        return existing(of_samples(known, indices), space, mask)

    def constrain(denoise: Denoise, step: Step, indices: Sequence[int], mask: Mask) -> tuple[Denoise, Step]:
        flags = rows(indices, mask)
        own = map_fields(lambda value, flag: value.expand(flag.shape), of_samples(values, indices), flags)
        given = placed(own, partly(space, flags))
        return knowing(denoise, given, flags), keeping(step, given, flags)

    return Constraint(constrain, known, within=lambda indices, mask: partly(space, rows(indices, mask)))


def given_fields(
    values: Mapping[str, Tensor], space: Space, recipe: Mapping[str, Any] | None = None, mask: Mask = None
) -> Constraint:
    """Draw the other fields of samples, given the `values` of some fields, by a model of levels by field.

    The model must have been trained with `levels.independent` and `levels.given`, so that it knows states of which some
    fields have no noise. Unlike `inpainting`, this is not an approximation: the model has learned p(others | given).

    * `values`: a tensor for each given field, `[1, ...]` for all samples alike, or `[N, ...]` with one for each index
      that is drawn.
    * `recipe`: describes the values as JSON (`Constraint.recipe`).
    * `mask`: where the number of elements varies, the elements that exist in the samples that the values are from,
      bool `[1, N]` or `[n, N]`, such as `Samples.mask`. The samples that are drawn have the same elements.

    Raises `UserError` if the values do not fit the fields of the space, are not finite, or if all fields are given, and
    for a mask that is not of booleans.
    """
    if mask is not None:
        require_mask(mask)
    for name, value in values.items():
        if not value.isfinite().all():
            raise UserError(f"the given field {name!r} holds values that are not finite")
    require_given({name: value[:1] for name, value in values.items()}, space, 1)
    return Constraint(undecorated, None, recipe, dict(values), mask)


def upscaling(
    coarse: State,
    factor: int,
    space: Space,
    method: InverseMethod = "mmps",
    noise_std: float = 0.0,
    bounds: Bounds | None = None,
) -> Constraint:
    """Draw samples whose means over blocks of `factor` entries (`Coarse`) are `coarse`, by "mmps" or "dps".

    * `coarse`: a state of one field, `[1, ...]` for all samples alike, or `[N, ...]` with one for each index that is
      drawn.
    * `noise_std`: the standard deviation of the noise in it. At 0, samples are moved to the nearest state with these
      means at the end, so that they have them exactly.
    * `bounds`: the smallest and the largest state that can be decoded, if decoding clips others. The samples then lie
      between them, so that clipping does not change the means.

    Raises `UserError` if `coarse` does not fit the space.
    """
    require_name(method, METHODS, "method")
    operator = Coarse(factor, next(iter(fields(coarse))))
    check_measurement(operator, coarse, space)

    def constrain(denoise: Denoise, step: Step, indices: Sequence[int], mask: Mask) -> tuple[Denoise, Step]:
        given = of_samples(coarse, indices)
        steered = measured(denoise, operator, given, space, METHODS[method](noise_std))
        return steered, step if noise_std else settled(step, operator, given, bounds)

    return Constraint(constrain)
