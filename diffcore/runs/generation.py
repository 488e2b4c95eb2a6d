"""Samples from a trained model: solver, grid and guidance put together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from diffcore.denoising.conditions import Conditions, any_given
from diffcore.denoising.denoiser import Denoise
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, known_conditions
from diffcore.sampling.guidance import autoguidance, classifier_free, energy, interval, rescale
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.loop import Evaluation, in_batches, levels_of, sample
from diffcore.sampling.timesteps import grid
from diffcore.states.spaces import Mask
from diffcore.states.state import State, concatenate
from diffcore.system.distributed import gathered, leads, rank_slice


def example_conditions(model: Model, n: int, config: SamplingConfig | None = None) -> Conditions:
    """Conditions that show what there is, for `n` samples; with a config, also what its classifier alone knows."""
    known = model.codec.conditions if config is None else known_conditions(model, config)
    return {condition.name: condition.examples(n) for condition in known}


def require_conditions(model: Model, config: SamplingConfig, conditions: Conditions) -> None:
    """Raise `UserError` where guidance has nothing to go by: no condition is known, or none is given."""
    if config.guidance != 1:
        if not model.codec.conditions:
            raise UserError(
                f"guidance {config.guidance:g} compares samples with and without conditions, and this model was "
                "trained without any: leave it at 1, or guide with `classifier` RUN or `weak` RUN"
            )
        if not any_given(model.codec.conditions, conditions):
            raise UserError(
                f"guidance {config.guidance:g} compares samples with and without conditions, and none is asked for: "
                "give `conditions`, or leave `guidance` at 1"
            )
    if config.classifier is not None and not any_given(known_conditions(model, config), conditions):
        raise UserError("a classifier guides to what is asked for, and nothing is: give `conditions`")


def guided(model: Model, config: SamplingConfig) -> Denoise:
    """The model's denoiser with all guidance of the config.

    From the inside: the comparison with a weaker model, that with and without conditions, the classifier's gradient,
    guides of other kinds, rescaling; all of it within the interval alone, the plain model outside, without conditions
    where guidance is 0.
    """
    known = model.codec.conditions
    plain: Denoise = model.denoiser if config.guidance else classifier_free(model.denoiser, known, 0.0)
    denoise: Denoise = model.denoiser
    if config.weak is not None:
        denoise = autoguidance(denoise, config.weak, config.autoguidance)
    denoise = classifier_free(denoise, known, config.guidance)
    if config.classifier is not None:
        denoise = energy(denoise, model.codec.space, config.classifier.log_likelihood, config.classifier_weight)
    for guide in config.guides:
        denoise = guide(denoise)
    if denoise is model.denoiser:
        return denoise
    denoise = rescale(denoise, plain, model.codec.space, config.guidance_rescale)
    return denoise if config.guidance_interval is None else interval(denoise, plain, *config.guidance_interval)


def unguided(config: SamplingConfig) -> SamplingConfig:
    """The config without what needs something to be asked for."""
    return replace(config, guidance=1.0, classifier=None)


def as_asked(model: Model, config: SamplingConfig, conditions: Conditions) -> SamplingConfig:
    """The config, unguided where there are conditions to guide by but none is given, as none is of numbers alone.

    What shows samples without being told what to ask for draws them so.
    """
    known = known_conditions(model, config)
    return unguided(config) if known and not any_given(known, conditions) else config


def draw_mask(
    model: Model, indices: Sequence[int], conditions: Conditions, seed: int = 0, size: str | None = None
) -> Mask:
    """Which elements exist of the samples `indices` of `seed`, `[B, N]`; None where all always do.

    Sizes are those of the data among examples with such conditions, or as `size` asks for them (`9`, `7..9`).
    """
    sizes = model.codec.sizes
    if sizes is None:
        return None
    if size is None:
        return sizes.mask(sizes.draw(indices, seed, conditions))
    return sizes.mask(sizes.parse(size, indices, seed, conditions))


def resized(model: Model, size: str) -> Model:
    """The model of samples of so many elements, where its samples are sets of any number of them.

    Raises `UserError` for what is no number, and where samples are all of one size.
    """
    resize = getattr(model.codec, "resized", None)
    if resize is None:
        raise UserError(f"`size` {size}: samples of {model.modality.name} are all of one size")
    if not size.isdecimal() or int(size) < 1:
        raise UserError(f"`size` {size!r}: write a whole number, from 1 on")
    return replace(model, codec=resize(int(size)))


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
    rows: Sequence[int] | None = None,
) -> Encoded:
    """Draw `n` samples; `conditions` holds a value for each. Sample i depends on `seed`, i and its conditions alone.

    `mask` `[n, N]` says how large they are; without it that is drawn as `draw_mask` says. `constraint` decorates the
    config's denoiser and step for each batch, as `diffcore.sampling.inverse.editing` does. Where `rows` are
    given only those of the `n` samples are drawn.
    """
    require_conditions(model, config, conditions)
    if mask is None:
        mask = draw_mask(model, range(n), conditions, seed)
    denoise = guided(model, config)
    if config.log_snrs is None:
        log_snrs = grid(config.grid, model.schedule, config.steps)
    else:
        log_snrs = torch.tensor(config.log_snrs, dtype=torch.float64)
    levels = levels_of(model.schedule, log_snrs)
    drawn = []
    model.denoiser.eval()
    rows = range(n) if rows is None else rows
    for indices in in_batches(rows, config.batch_size):
        steered, step = (denoise, config.step) if constraint is None else constraint(denoise, config.step, indices)
        states = sample(
            steered,
            model.codec.space,
            step,
            levels,
            indices=indices,
            seed=seed,
            conditions={name: value[list(indices)].to(model.device) for name, value in conditions.items()},
            mask=None if mask is None else mask[list(indices)].to(model.device),
            device=model.device,
            watch=watch,
        )
        drawn.append(states.cpu())
        after_batch(len(indices))
    states = concatenate(drawn) if drawn else model.codec.space.empty(0)
    if len(rows) < n:
        conditions = {name: value[list(rows)] for name, value in conditions.items()}
        mask = None if mask is None else mask[list(rows)]
    return Encoded(states, conditions, mask)


def generate_together(
    model: Model,
    config: SamplingConfig,
    conditions: Conditions,
    n: int,
    seed: int = 0,
    after_batch: Callable[[int], None] = lambda count: None,
    constraint: Constraint | None = None,
    mask: Mask = None,
) -> Encoded | None:
    """As `generate`, each process drawing a part of the samples: all of them in the leader, None in the others.

    They are those that one process draws, but for the rounding of batches of another size. `after_batch` is told of
    all processes' samples as if each were as far as this one.
    """
    mine = rank_slice(n)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        after_batch(n * done // len(mine) - n * before // len(mine))

    each = gathered(lambda: generate(model, config, conditions, n, seed, report, None, constraint, mask, mine))
    if not leads():
        return None
    masks = [encoded.mask for encoded in each if encoded.mask is not None]
    states = concatenate([encoded.state for encoded in each])
    return Encoded(states, conditions, torch.cat(masks) if masks else None)


@dataclass
class Trace:
    """Collects the states on the way from noise to data, scaled to unit variance."""

    states: list[State] = field(default_factory=list)

    def __call__(self, evaluation: Evaluation) -> None:
        self.states.append(1 / evaluation.prediction.level.total * evaluation.x)


def trajectories(
    model: Model, config: SamplingConfig, conditions: Conditions, n: int, moments: int, seed: int = 0
) -> Encoded:
    """`moments` states of each of `n` trajectories from noise to data, and the result: `[n * (moments + 1)]`.

    States are scaled to unit variance. Sample by sample, so a page with `moments + 1` columns shows a
    trajectory a row.
    """
    trace = Trace()
    final = generate(model, replace(config, batch_size=n), conditions, n, seed, watch=trace)
    count = len(trace.states)
    shown = [trace.states[round(i * (count - 1) / max(moments - 1, 1))].cpu() for i in range(moments)]
    rows = [torch.stack([state[i] for state in [*shown, final.state]]) for i in range(n)]
    each = torch.arange(n).repeat_interleave(moments + 1)
    asked = {name: value[each] for name, value in conditions.items()}
    return Encoded(concatenate(rows), asked, None if final.mask is None else final.mask[each])  # type: ignore[arg-type]
