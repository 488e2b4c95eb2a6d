"""Draw samples from a trained model with a solver, a time grid and guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from diffcore.denoising.conditions import Conditions, any_given, nulls
from diffcore.denoising.denoiser import Denoise, at_unit_variance
from diffcore.denoising.estimate import self_conditioned
from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded, joined
from diffcore.plugins.guidance import Guidance, guided_by, without_conditions
from diffcore.runs.model import Model, last_log_snr, numbers_of_a_sample
from diffcore.runs.particles import particles_of, without_factors
from diffcore.runs.sampling_config import SamplingConfig, known_conditions, time_grid
from diffcore.sampling.inverse.drawing import draw
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.loop import Evaluation, in_batches
from diffcore.states.spaces import Mask, Whole, space_of
from diffcore.states.state import State, concatenate
from diffcore.system.distributed import gathered, leads, rank_slice


def example_conditions(model: Model, n: int, config: SamplingConfig | None = None) -> Conditions:
    """Example values of the conditions of the model, and of the classifier of `config`, for `n` samples.

    Where another condition has examples, texts are null: a text of one example does not fit the class of another.
    """
    known = model.codec.conditions if config is None else known_conditions(model, config)
    values = {condition.name: condition.examples(n) for condition in known}
    texts = [condition for condition in known if isinstance(condition, TextCondition)]
    others = [condition for condition in known if not isinstance(condition, TextCondition)]
    return {**values, **nulls(texts, n)} if any_given(others, values) else values


def require_conditions(model: Model, config: SamplingConfig, conditions: Conditions) -> None:
    """Raise `UserError` if guidance needs conditions and the model has none, or none is given."""
    for guide in config.guides:
        if guide.towards is None or any_given(guide.towards, conditions):
            continue
        without = "leave `guidance` at 1" if guide.name == "classifier-free" else "leave it out"
        if guide.towards:
            raise UserError(
                f"the guidance {guide.words} needs conditions, and none is given: give `conditions`, or {without}"
            )
        raise UserError(
            f"the guidance {guide.words} needs conditions, and this model was trained without any: {without}, or "
            "guide with another run, `classifier` or `weak`"
        )


def guided(model: Model, config: SamplingConfig) -> Denoise:
    """The model's denoiser with all guidance of the config."""
    return guided_by(config.guides, model.denoiser)


def unguided(config: SamplingConfig) -> SamplingConfig:
    """The config without guidance that needs conditions."""
    return replace(config, guides=without_conditions(config.guides))


def unguided_without_conditions(model: Model, config: SamplingConfig, conditions: Conditions) -> SamplingConfig:
    """The config, `unguided` if the model has conditions but `conditions` gives none; otherwise unchanged.

    It is for samples of `example_conditions`, which give no values for conditions that are numbers.
    """
    known = known_conditions(model, config)
    return unguided(config) if known and not any_given(known, conditions) else config


def draw_mask(
    model: Model,
    indices: Sequence[int],
    conditions: Conditions,
    seed: int = 0,
    size: str | None = None,
    constraint: Constraint | None = None,
    guides: Sequence[Guidance] = (),
) -> Mask:
    """The mask `[B, N]` of the elements that exist, for the samples `indices` of `seed`; None if all always exist.

    Sizes are drawn from the sizes of examples with such conditions, or as `size` specifies (`9`, `7..9`), so that all
    elements that a `constraint` or `guides` give exist. Samples of which whole fields are given have the mask of the
    given fields. Raises `UserError` if elements that are known cannot exist, or if such a mask is missing.
    """
    if constraint is not None and (given := constraint.mask_of(indices)) is not None:
        if size is not None:
            raise UserError(f"`size` {size}: the values that are given have a size, which is that of the samples")
        return given
    sizes = model.codec.sizes
    if sizes is None:
        return None
    given_fields = {} if constraint is None else constraint.given_values(indices)
    if size is None and any(has_elements(model, name) for name in given_fields):
        raise UserError(
            f"the number of elements of {model.modality.name} varies, and the given fields do not say which exist: "
            "give `given_fields` the `mask` of the samples that the values are from, or give `size`"
        )
    if given_fields and hasattr(model.codec, "about_sizes"):
        conditions = {**conditions, **model.codec.about_sizes(given_fields)}
    least = None if constraint is None else constraint.least_sizes(indices)
    if most := max((guide.least_size for guide in guides), default=0):
        least = torch.full((len(indices),), most) if least is None else least.clamp(min=most)
    if size is None:
        return sizes.mask(sizes.draw(indices, seed, conditions, least))
    return sizes.mask(sizes.parse(size, indices, seed, conditions, least))


def has_elements(model: Model, field: str) -> bool:
    """Whether a field of the state is one of elements whose number varies."""
    return not isinstance(space_of(model.codec.space, field), Whole)


def resized(model: Model, size: str) -> Model:
    """The model for samples of another size, if its samples can have any size.

    Raises `UserError` for sizes that the codec refuses, if all samples of this kind of data have the same size, and if
    the network takes samples of one size only, which its attribute `any_size` then says.
    """
    resize = getattr(model.codec, "resized", None)
    if resize is None:
        raise UserError(f"`size` {size}: all samples of {model.modality.name} have the same size")
    require_any_size(model, f"`size` {size}")
    return replace(model, codec=resize(size))


def require_any_size(model: Model, what: str) -> None:
    """Raise `UserError` if the network takes samples of one size only; `what` needs another one."""
    if not getattr(getattr(model.network, "backbone", None), "any_size", True):
        raise UserError(f"{what}: the network of this run takes samples of the size of the training data only")


MOST_AT_ONCE = 2**23
"""Maximum number of values in the states of a batch of more than one sample. A network takes many times the memory."""


def fitting_at_once(model: Model, most: int) -> int:
    """How many samples a network may take at once: `most`, or fewer of large samples, and at least one."""
    return max(1, min(most, MOST_AT_ONCE // max(1, numbers_of_a_sample(model.codec))))


def batch_size_of(model: Model, config: SamplingConfig) -> int:
    """The number of samples that are drawn at once: `config.batch_size` trajectories, or fewer of large samples."""
    groups = max(1, fitting_at_once(model, config.batch_size) // config.particles)
    return groups * config.particles if config.all_particles else groups


class Kept(Protocol):
    """Batches that are kept, so that they are not drawn again (`diffcore.runs.kept_draws`)."""

    def read(self, rows: range) -> State | None:
        """The states of these samples; None if they are not kept."""
        ...

    def write(self, rows: range, state: State) -> None:
        """Keep the states of these samples."""
        ...


def generate(
    model: Model,
    config: SamplingConfig,
    conditions: Conditions,
    n: int,
    seed: int = 0,
    after_batch: Callable[[int], None] = lambda count: None,
    watch: Callable[[Evaluation], None] | None = None,
    constraint: Constraint | None = None,
    mask: Mask = None,
    rows: range | None = None,
    kept: Kept | None = None,
) -> Encoded:
    """Draw `n` samples. Sample i depends only on `seed`, i and its conditions.

    * `conditions`: one value per sample, `[n, ...]`.
    * `after_batch`: called after each batch with the number of its samples; `batch_size_of` limits batches.
    * `watch`: called after each evaluation of the denoiser; batches are then not limited.
    * `constraint`: decorates the denoiser and the step of each batch, as `diffcore.sampling.inverse.editing` does.
    * `mask`: the elements of each sample that exist, `[n, N]`; without it, it is drawn with `draw_mask`. Raises
      `UserError` if elements that the `constraint` gives do not exist.
    * `rows`: draw only these of the `n` samples.
    * `kept`: batches that are there need not be drawn, and those that are drawn are added.
    """
    require_conditions(model, config, conditions)
    if mask is None:
        mask = draw_mask(model, range(n), conditions, seed, constraint=constraint, guides=config.guides)
    draw = batches_of(model, config, seed, watch, constraint)
    drawn = []
    rows = range(n) if rows is None else rows
    size = batch_size_of(model, config) if watch is None else config.batch_size
    for indices in in_batches(rows, size):
        at, batch = list(indices), range(indices[0], indices[-1] + 1)
        state = None if kept is None else kept.read(batch)
        if state is None:
            state = draw(indices, taken(conditions, indices), None if mask is None else mask[at]).state
            if kept is not None:
                kept.write(batch, state)
        drawn.append(state)
        after_batch(len(indices))
    states = concatenate(drawn) if drawn else model.codec.space.empty(0)
    if len(rows) < n:
        conditions = taken(conditions, rows)
        mask = None if mask is None else mask[list(rows)]
    return Encoded(states, conditions, mask)


DrawBatch = Callable[[Sequence[int], Conditions, Mask], Encoded]
"""Draws the samples with the given indices at once; there is a value of each condition, and a mask, for each sample."""


def batches_of(
    model: Model,
    config: SamplingConfig,
    seed: int = 0,
    watch: Callable[[Evaluation], None] | None = None,
    constraint: Constraint | None = None,
) -> DrawBatch:
    """A function that draws a batch of the samples of `seed`, on the CPU. The other arguments are those of `generate`.

    Sample i is the same in every batch, except for rounding.
    """
    particles, last = particles_of(config), last_log_snr(model.codec)
    denoise = guided(model, config) if particles is None else guided(model, without_factors(config))
    log_snrs = time_grid(model, config)
    model.denoiser.eval()

    def batch(indices: Sequence[int], conditions: Conditions, mask: Mask) -> Encoded:
        states = draw(
            denoise,
            model.codec.space,
            config.step,
            model.schedule,
            log_snrs,
            constraint,
            indices=indices,
            seed=seed,
            conditions={name: value.to(model.device) for name, value in conditions.items()},
            mask=mask,
            device=model.device,
            watch=watch,
            last=last,
            particles=particles,
            remember=self_conditioned(model.denoiser),
        )
        return Encoded(states.cpu(), conditions, mask)

    return batch


def taken(conditions: Conditions, rows: Sequence[int]) -> Conditions:
    """The values of some of the samples."""
    return {name: value[list(rows)] for name, value in conditions.items()}


def generate_together(
    model: Model,
    config: SamplingConfig,
    conditions: Conditions,
    n: int,
    seed: int = 0,
    after_batch: Callable[[int], None] = lambda count: None,
    constraint: Constraint | None = None,
    mask: Mask = None,
    kept: Kept | None = None,
) -> Encoded | None:
    """Like `generate`, where each process draws a part. Returns all samples in the leader, None in the other processes.

    The samples are those that one process draws, except for rounding, which depends on the size of the batches.
    `after_batch` receives an estimate for all processes, which assumes that they are as fast as this one.
    """
    mine = rank_slice(n)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        after_batch(n * done // len(mine) - n * before // len(mine))

    each = gathered(lambda: generate(model, config, conditions, n, seed, report, None, constraint, mask, mine, kept))
    if not leads():
        return None
    return joined(each, conditions)


@dataclass
class Trace:
    """Records the states from noise to data, scaled to unit variance, as `watch` of `generate`."""

    states: list[State] = field(default_factory=list)

    def __call__(self, evaluation: Evaluation) -> None:
        self.states.append(at_unit_variance(evaluation.x, evaluation.prediction.level)[0])


def trajectories(
    model: Model, config: SamplingConfig, conditions: Conditions, n: int, moments: int, seed: int = 0
) -> Encoded:
    """`moments` states of each of `n` trajectories from noise to data, and the sample: `[n * (moments + 1)]`.

    The states are scaled to unit variance. They are ordered by trajectory, so a page with `moments + 1` columns shows
    one trajectory per row.
    """
    trace = Trace()
    final = generate(model, replace(config, batch_size=n), conditions, n, seed, watch=trace)
    count = len(trace.states)
    shown = [trace.states[round(i * (count - 1) / max(moments - 1, 1))].cpu() for i in range(moments)]
    rows = [torch.stack([state[i] for state in [*shown, final.state]]) for i in range(n)]
    each = torch.arange(n).repeat_interleave(moments + 1)
    repeated = {name: value[each] for name, value in conditions.items()}
    return Encoded(concatenate(rows), repeated, None if final.mask is None else final.mask[each])  # type: ignore[arg-type]
