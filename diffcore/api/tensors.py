"""Diffusion for those who bring a tensor and a network of their own: a loss, samples and log-likelihoods."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import Condition, Conditions, drop, nulls, parsed, parsed_each
from diffcore.denoising.denoiser import Denoise, Denoiser
from diffcore.denoising.estimate import estimated, self_conditioned, told, told_rows
from diffcore.denoising.given import require_one_each, require_shapes, require_values
from diffcore.denoising.losses import weighted_loss
from diffcore.errors import UserError
from diffcore.likelihood import flow
from diffcore.names import Divergence, Grid, Weighting, require_name
from diffcore.plugins import registry as plugins
from diffcore.process.gaussian import perturb
from diffcore.process.schedules import ByField, Schedule
from diffcore.runs.choices import Choice, build_choice
from diffcore.runs.settings import LevelSettings, validate
from diffcore.sampling.inverse.drawing import draw
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.loop import in_batches
from diffcore.sampling.solvers import Step
from diffcore.sampling.timesteps import grid as time_grid
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Mask, Product, Space
from diffcore.states.state import State, concatenate, fields, first_field
from diffcore.tasks.levels import level_at, log_snrs_of, map_log_snr

Scheduled = Choice | Schedule
"""A noise schedule by name, by name and options, or itself."""


def denoising_loss(
    denoiser: Denoiser,
    x: State,
    *,
    schedule: Scheduled = "cosine",
    conditions: Conditions | None = None,
    mask: Mask = None,
    space: Space | None = None,
    weighting: Weighting = "v",
    condition_dropout: float = 0.1,
    independent: float = 0.0,
    given: float = 0.0,
    self_conditioning: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The denoising loss of a batch of data, a scalar to differentiate.

    The mean over the batch of w(lambda) |x0_hat(x_t, lambda) - x0|^2 per degree of freedom, at times
    t_i = (u + i / B) mod 1 with one random u, which lowers its variance (Kingma et al. 2021, appendix I.1).

    Args:
        denoiser: The denoiser that learns.
        x: The data, `[B, ...]`, of the standard deviation that the denoiser was made with.
        schedule: The noise schedule: how much of the time is spent at which noise level.
        conditions: What is known of the data, values `[B, ...]` by name; each is dropped with `condition_dropout`.
        mask: `[B, N]`, True for the elements that exist.
        space: The space of the data; all tensors of their shape by default.
        weighting: w(lambda), see `diffcore.denoising.losses.WEIGHTINGS`.
        condition_dropout: How often each condition is replaced by its null value.
        independent: For states of several fields, the fraction of the examples in which each field has a noise level
            of its own. The denoiser needs `level_fields`.
        given: The probability that a field of these examples has no noise, so that the others are learned given it.
        self_conditioning: For a denoiser with `self_conditioning`, the fraction of the examples that it predicts twice,
            the second time given its first estimate.
        generator: Draws times, noise and dropped conditions; torch's global one by default.
    """
    schedule, space = _schedule(schedule), _space(x) if space is None else space
    require_name(weighting, Weighting, "weighting")
    batch, like = x.shape[0], first_field(x)
    require_shapes(denoiser.conditioning.shapes if conditions else {}, conditions or {}, batch)
    require_values(denoiser.conditions, conditions or {}, batch)
    u = torch.rand((), generator=generator, dtype=torch.float64)
    t = (u + torch.arange(batch, dtype=torch.float64) / batch) % 1
    draws = Draws.fresh(batch, generator, like.device)
    if independent and not isinstance(schedule, ByField):
        schedule = ByField(schedule, dict.fromkeys(fields(x), 0.0))
    own = validate(LevelSettings, {"independent": independent, "given": given}, "the arguments")
    log_snr = log_snrs_of(schedule, own, t, 0.0, Draws.of(draws.seed, range(batch)))[0]
    level = level_at(schedule, map_log_snr(lambda value: value.to(like.device), log_snr))
    noise = space.noise(draws.normal("noise", x), mask)
    if conditions is not None:
        conditions = drop(
            denoiser.conditions, conditions, condition_dropout, draws.uniform("dropped", len(denoiser.conditions))
        )
    noisy = perturb(x, noise, level)
    if self_conditioned(denoiser) and self_conditioning:
        rows = told_rows(range(batch), self_conditioning, like.device)
        estimate = estimated(denoiser, space, noisy, level, conditions, mask, rows)
        conditions = {**(nulls(denoiser.conditions, batch, like.device) if conditions is None else conditions)}
        conditions |= told(estimate)
    prediction = denoiser(noisy, level, conditions, mask)
    return weighted_loss(prediction, x, noise, space, weighting, mask).mean()


@torch.no_grad()
def sample(
    denoise: Denoise,
    n: int,
    shape: Sequence[int] | None = None,
    *,
    space: Space | None = None,
    steps: int = 20,
    solver: Choice | Step = "adams",
    schedule: Scheduled = "cosine",
    grid: Grid = "tapered",
    conditions: Mapping[str, Any] | None = None,
    mask: Mask = None,
    constraint: Constraint | None = None,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    self_conditioning: bool | None = None,
) -> State:
    """Draw `n` samples of a denoiser, `[n, *shape]`. Sample i of a seed is the same in every batch.

    Args:
        denoise: A `Denoiser`, or any decorator of one, such as those of `diffcore.guidance`.
        n: How many.
        shape: The shape of one sample, for plain tensors; or give `space`.
        space: The space of the samples.
        steps: Steps from noise to data.
        solver: The method, by name, by name and options, or itself (`diffcore.solvers`).
        schedule: The noise schedule whose levels are passed; not necessarily that of training.
        grid: How the steps are spaced.
        conditions: What the samples shall be: a value or a text for all, or `[n, ...]` values or n texts, by name.
        mask: `[n, N]`, True for the elements that exist.
        constraint: What samples have to agree with (`diffcore.inpainting`, `diffcore.upscaling`,
            `diffcore.given_fields`).
        seed: Decides the noise.
        batch_size: Samples that go through the network at once.
        device: Where to compute; that of the denoiser's weights by default.
        self_conditioning: Whether each evaluation is told the x0 of the one before; by default as a `Denoiser` says.
            Give it for a decorated one.

    Raises:
        UserError: For names that do not exist, and where the samples become non-finite.
    """
    if (shape is None) == (space is None):
        raise UserError("give either `shape` or `space`")
    space = Euclidean(tuple(shape)) if space is None else space  # type: ignore[arg-type]
    registry = plugins.installed()
    step: Step = build_choice(solver, registry.offered("solvers"), "solver")
    schedule = _schedule(schedule)
    log_snrs = time_grid(grid, schedule, steps)
    device = _device(denoise) if device is None else device
    values = _conditions(denoise, conditions or {}, n)
    network = denoise if isinstance(denoise, torch.nn.Module) and denoise.training else None
    if network is not None:
        network.eval()
    try:
        drawn = []
        for indices in in_batches(range(n), batch_size):
            rows = list(indices)
            exists = None if mask is None else mask[rows]
            if exists is None and constraint is not None:
                exists = constraint.mask_of(indices)
            states = draw(
                denoise,
                space,
                step,
                schedule,
                log_snrs,
                constraint,
                indices=indices,
                seed=seed,
                conditions={name: value[rows].to(device) for name, value in values.items()} or None,
                mask=exists,
                device=device,
                remember=self_conditioned(denoise) if self_conditioning is None else self_conditioning,
            )
            drawn.append(states)
    finally:
        if network is not None:
            network.train()
    return concatenate(drawn) if drawn else space.empty(0)


def log_likelihood(
    denoise: Denoise,
    x: State,
    *,
    schedule: Scheduled = "cosine",
    space: Space | None = None,
    conditions: Conditions | None = None,
    mask: Mask = None,
    divergence: Divergence = "exact",
    probes: int = 1,
    steps: int | None = None,
    seed: int = 0,
    given: str | Collection[str] = (),
) -> Tensor:
    """log p(x0) of each sample by the probability flow, `[B]` float64, in nats per unit of volume of the space.

    The arguments are those of `diffcore.likelihood.flow.log_likelihood`, which gives formula, accuracy and sources.
    """
    space = _space(x) if space is None else space
    return flow.log_likelihood(
        denoise,
        x,
        space,
        _schedule(schedule),
        conditions=conditions,
        mask=mask,
        divergence=divergence,
        probes=probes,
        steps=steps,
        seed=seed,
        given=given,
    )


def _schedule(schedule: Scheduled) -> Schedule:
    found: Schedule = build_choice(schedule, plugins.installed().offered("schedules"), "schedule")
    return found


def _space(x: State) -> Space:
    """All tensors of the shape of one sample, or of each of its fields."""
    if isinstance(x, Tensor):
        return Euclidean(tuple(x.shape[1:]))
    return Product({name: Euclidean(tuple(value.shape[1:])) for name, value in fields(x).items()})


def _device(denoise: Denoise) -> torch.device:
    parameter = next(denoise.parameters(), None) if isinstance(denoise, torch.nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _conditions(denoise: Denoise, asked: Mapping[str, Any], n: int) -> Conditions:
    """`[n, ...]` values of each condition; those of a denoiser that are not asked for are null."""
    known: tuple[Condition, ...] = getattr(denoise, "conditions", ())
    values = {condition.name: condition.null(n) for condition in known}
    by_name = {condition.name: condition for condition in known}
    for name, value in asked.items():
        each = isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(text, str) for text in value)
        if isinstance(value, str) or each:
            if name not in by_name:
                raise UserError(
                    f"`conditions`: the denoiser has no condition {name!r} that {value!r} could be looked up in"
                )
            values[name] = parsed_each(by_name[name], value) if each else parsed(by_name[name], value, range(n))
        else:
            tensor = torch.as_tensor(value)
            shape = by_name[name].shape if name in by_name else ()
            values[name] = tensor.expand(n, *shape) if tensor.shape == shape else tensor
    if by_name:
        require_values(known, values, n)
    else:  # a function may take any
        for name, value in values.items():
            require_one_each(name, value, n)
    return values
