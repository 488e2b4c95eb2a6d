"""Energy guidance: the distribution of samples multiplied by any differentiable function."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoise, Prediction
from diffcore.errors import UserError
from diffcore.names import GradientOf, Parameterisation, require_name
from diffcore.states.form import form_difference
from diffcore.states.level import FieldLevels, Level, Levels, by_field
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, Weight, combine, dot, fields, map_fields


class LogWeight(Protocol):
    """log h, the logarithm of the factor on the density of each sample, `[B]` nats; differentiable in `x`."""

    def __call__(self, x: State, level: Levels, conditions: Conditions | None, mask: Mask) -> Tensor: ...


def energy(denoise: Denoise, space: Space, log_weight: LogWeight, weight: float = 1.0, of: GradientOf = "x") -> Denoise:
    """Add w grad_x log h to the score: eps = eps - sigma w grad_x log h, with log h = `log_weight`, w = `weight`.

    * `of` = "x": `log_weight` receives the noisy x and must take the noise into account. With log p(c | x_t) this is
      classifier guidance (Dhariwal & Nichol 2021, algorithm 2). It is exact for log h_t(x_t) = log E[h(x0) | x_t].
    * `of` = "x0": `log_weight` receives the estimate x0_hat = E[x0 | x], and the gradient goes through the denoiser
      (Chung et al. 2023, theorem 1; Bansal et al. 2023, section 3.1). log h(x0_hat) stands for log E[h(x0) | x] there.
      At high noise that is far too steep, and samplers of few steps diverge. So the change of x0_hat, D = w V g with
      V = Cov[x0 | x] = (sigma^2 / alpha) d x0_hat / dx and g = grad log h, is multiplied by

          s = w g.D / (w g.D - w D.H D),   with H the second derivative of log h, and w D.H D at most 0, so 0 <= s <= 1:

      x0_hat + s D maximises w log h(x0) - (x0 - x0_hat).V^-1 (x0 - x0_hat) / 2 along D, to second order. That is
      E[x0 | x] of the guided distribution for a Gaussian V and a log-weight whose curvature is the same in all
      directions of D, and s = 1 for a linear one. The curvature is a difference of two gradients of `log_weight`, taken
      over at most one standard deviation of the data per entry.

    The gradient is that of the space, `space.gradient`. It is added to the prediction's output in its own view. At
    alpha = 0 the state holds no information about the data, so an exact log-weight is constant: nothing is added.

    Raises `UserError` for another `of`, and, when the denoiser is called, for a log-weight that is not `[B]`, or that
    is neither zero nor differentiable in the state.
    """
    require_name(of, GradientOf, "of")

    def guided(x: State, level: Levels, conditions: Conditions | None = None, mask: Mask = None) -> Prediction:
        def log_h(state: State) -> Tensor:
            return log_weight(state, level, conditions, mask)

        if of == "x":
            prediction = denoise(x, level, conditions, mask)
            gradient = space.gradient(_derivative(log_h, x, level), mask)
        else:
            inner: list[Prediction] = []

            def of_estimate(leaf: State) -> Tensor:
                inner[:] = [denoise(leaf, level, conditions, mask)]
                return log_h(space.project(inner[0].x0, mask))

            gradient = space.gradient(_derivative(of_estimate, x, level), mask)
            prediction = inner[0] if _tracked(x) else _detached(inner[0], x)
            change = combine((_slopes("x0", level, weight), gradient))
            damping = _damping(lambda s: weight * log_h(s), space.project(prediction.x0, mask), change, level)
            gradient = combine((damping, gradient))
        slope = _slopes(prediction.view, level, weight)
        return replace(prediction, output=combine((1.0, prediction.output), (slope, gradient)))

    return guided if weight else denoise


def _slopes(view: Parameterisation, level: Levels, weight: float) -> Weight:
    """`_slope` of the level, by field where levels are."""
    return by_field(lambda each: _slope(view, each, weight), level)


def _slope(view: Parameterisation, level: Level, weight: float) -> float | Tensor:
    """The factor of the gradient in the output: -sigma w for eps, and for x0 and v times d x0 / d eps, d v / d eps."""
    alpha, sigma = level
    if view == "eps":
        return -weight * sigma
    factor = sigma**2 if view == "x0" else -level.total * sigma
    if isinstance(alpha, Tensor):
        return torch.where(alpha > 0, weight * factor / alpha, 0.0)
    return weight * factor / alpha if alpha > 0 else 0.0


def _damping(log_factor: Callable[[State], Tensor], x0: State, change: State, level: Levels) -> Tensor:
    """The factor s of `energy` for each sample, `[B]`, constant for autograd; `log_factor` is w log h."""
    x0, change = map_fields(torch.detach, x0), map_fields(torch.detach, change)
    entries = sum(field[0].numel() for field in fields(x0).values())
    length = (dot(change, change) / entries).sqrt()
    share = torch.where(length > 1, 1 / length, 1.0)
    here = map_fields(torch.detach, _derivative(log_factor, x0, level))
    there = map_fields(torch.detach, _derivative(log_factor, combine((1.0, x0), (share, change)), level))
    rise = dot(here, change)
    bend = (dot(there, change) - rise) / share  # nan where the log-weight is not defined so far away: no guidance
    return torch.where(rise > 0, rise / (rise - bend.clamp(max=0)), 0.0).nan_to_num(0.0)


def _derivative(function: Callable[[State], Tensor], x: State, level: Levels) -> State:
    """The derivative of `function` `[B]` with respect to each entry of `x`; zero for fields that it does not depend on.

    Gradients are enabled here, also if the caller has disabled them. If the caller differentiates through x, the
    derivative is part of its graph.
    """
    tracked = _tracked(x)
    with torch.enable_grad():
        leaf = x if tracked else map_fields(lambda f: f.detach().requires_grad_(), x)
        values = function(leaf)
        if difference := form_difference(values, {"": (x.shape[0],)}):
            raise UserError(f"a log-weight must have one value for each sample: {difference}")
        tensors = list(fields(leaf).values())
        derivatives: Sequence[Tensor | None] = [None]
        if values.requires_grad:
            derivatives = torch.autograd.grad(values.sum(), tensors, create_graph=tracked, allow_unused=True)
    if all(derivative is None for derivative in derivatives):
        _require_constant(values, level)
        return map_fields(torch.zeros_like, x)
    each = iter(derivatives)
    return map_fields(lambda f: torch.zeros_like(f) if (derivative := next(each)) is None else derivative, x)


def _require_constant(values: Tensor, level: Levels) -> None:
    """Raise `UserError` for a log-weight that does not depend on the state, unless it is zero or alpha is.

    Such a log-weight was detached from the state, by `torch.no_grad`, `detach` or `item`, and would not guide at all.
    """
    alphas = level.alpha.values() if isinstance(level, FieldLevels) else [level.alpha]
    if any(bool(torch.as_tensor(alpha > 0).any()) for alpha in alphas) and bool((values != 0).any()):
        raise UserError(
            "the log-weight has no gradient with respect to the state: compute it from the state with operations of "
            "torch, without `torch.no_grad`, `detach` or `item`"
        )


def _tracked(x: State) -> bool:
    """Whether the caller differentiates through `x`."""
    return torch.is_grad_enabled() and any(field.requires_grad for field in fields(x).values())


def _detached(prediction: Prediction, x: State) -> Prediction:
    """The prediction at `x`, detached from the graph of autograd."""
    variance, unguided = prediction.variance, prediction.unguided
    return replace(
        prediction,
        x=x,
        output=map_fields(torch.detach, prediction.output),
        variance=None if variance is None else map_fields(torch.detach, variance),
        unguided=None if unguided is None or unguided is prediction else _detached(unguided, x),
    )
