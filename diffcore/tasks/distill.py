"""The task `distill`: a student learns to draw in a few steps what its teacher, a denoiser, draws in many.

The time of the schedule is divided into n = `segments` segments of equal length. From a state x_t on a trajectory of
the teacher's flow, the student predicts the x0 with which one step of DDIM arrives where the trajectory is at the end
e of its segment. A student at its optimum draws in n steps of DDIM, from segment to segment, what its teacher draws
along the flow. With one segment this is a consistency model (Song et al. 2023), with several a multistep consistency
model (Heek et al. 2024, arXiv 2403.06807).

With a_t = alpha_t / sigma_t, one step of DDIM with an estimate x0 moves x / sigma by (a_s - a_t) x0. So the x0 of a
path of several steps is the mean of those of its steps, weighted by the changes of a. The path from t to e is a short
step of the teacher to the level r, with its x0_T, and the rest, for which the student itself is asked at x_r without
gradient::

    target = (1 - w) x0_T + w x0_student(x_r, r),   w = (a_e - a_r) / (a_e - a_t)

The teacher's step takes two evaluations. It ends at e at first. In equal stages of the training, its length is halved
until `finest` such steps lead from noise to data, so that the student's own errors count when they are small (Geng et
al. 2024, "Consistency Models Made Easy", arXiv 2406.14548).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from diffcore.denoising.denoiser import Denoise, Denoiser, Prediction
from diffcore.denoising.estimate import self_conditioned
from diffcore.denoising.known import known_in
from diffcore.denoising.losses import field_losses, weighted_loss
from diffcore.errors import UserError
from diffcore.names import Device
from diffcore.plugins import registry as plugins
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.records import Settings
from diffcore.process.variances import LogSnr
from diffcore.runs.loading import LoadedRun, load_run
from diffcore.runs.model import ChosenNetwork, Model, codec_digest, last_log_snr, require_fit, require_help
from diffcore.runs.settings import LevelSettings, RunSettings
from diffcore.sampling.guidance.classifier_free import classifier_free
from diffcore.states.level import Level, Levels, by_field
from diffcore.states.noise import Draws
from diffcore.states.partly import inserted
from diffcore.states.placement import to_device
from diffcore.states.spaces import Space
from diffcore.states.state import State, combine
from diffcore.tasks import denoise
from diffcore.tasks.batch import Batch, draw_batch, times
from diffcore.tasks.levels import CLEAN_LOG_SNR, level_at, log_snrs_of, map_log_snr

SMALLEST = 1e-3
"""c of the pseudo-Huber loss sqrt(l + c^2) - c, where l is the mean squared error of v."""

NO_STEP = 1e-6
"""A change of alpha below which the teacher stays where it is."""


@dataclass(frozen=True)
class Steps(Batch):
    """A batch with the ends of the teacher's step from each noisy state, and with the ends of the segments."""

    near: Levels
    """The level r at which the teacher's step ends, `[B]` or by field."""
    share: Any
    """w, the weight of the student's own estimate in the target, `[B]` or by field."""

    def map(self, change: Any) -> "Steps":
        """The batch with `change` applied to each of its tensors, always in the same order."""
        share = map_log_snr(change, self.share)
        return replace(super().map(change), near=self.near.map(change), share=share)


def network(options: Settings, codec: Codec, settings: RunSettings, backbone: ChosenNetwork) -> Denoiser:
    """Return a denoiser like that of the teacher.

    Raises `UserError` without a teacher and without a number of training steps.
    """
    own: Any = options
    if own.teacher is None:
        raise UserError("`task` distill needs `task.teacher`, the folder of a trained run; see diffcore distill --help")
    if settings.train.steps is None:
        raise UserError("`task` distill needs `train.steps`: its stages are parts of the training")
    return denoise.network(options, codec, settings, backbone)


def initialise(model: Model, settings: RunSettings) -> None:
    """Begin with the weights of the teacher. Raises `UserError` for a teacher that does not draw such samples."""
    teacher, options = teacher_of(settings, model).model, _options(settings)
    if self_conditioned(teacher.denoiser):
        raise UserError(
            f"the teacher {options.teacher} was trained with `task.self_conditioning`, which a student does not have: "
            "use a run without it"
        )
    own, weights = model.network.state_dict(), teacher.network.state_dict()
    require_fit({name: value.shape for name, value in own.items()}, weights, f"the teacher {options.teacher}")
    model.network.load_state_dict(weights)


def draw(model: Model, settings: RunSettings, data: Data, step: int) -> Steps:
    """Return the batch of step `step`, with the levels to which the teacher goes.

    All fields of an example have the same time, also where the teacher has learned independent ones.
    """
    levels = settings.levels.model_copy(update={"independent": 0.0, "given": 0.0})
    batch = draw_batch(model, settings.model_copy(update={"levels": levels}), data, step)
    t, options = times(settings, step), _options(settings)
    end = (t * options.segments).floor() / options.segments
    near = torch.maximum(t - _length(settings, step), end)
    now, at_near, at_end = (_log_snr(model, levels, time) for time in (t, near, end))
    share = _by_field(_share, now, at_near, at_end)
    moved = map_log_snr(lambda value: to_device(value, model.device), at_near)
    shares = map_log_snr(lambda value: to_device(value.float(), model.device), share)
    return Steps(**vars(batch), near=level_at(model.schedule, moved), share=shares)


def _length(settings: RunSettings, step: int) -> float:
    """The length of the teacher's steps in time: that of a segment, halved at the beginning of each further stage."""
    options, steps = _options(settings), settings.train.steps or 1
    halvings = max(0, math.ceil(math.log2(options.finest / options.segments)))
    return 1 / options.segments / 2 ** min(step * (halvings + 1) // steps, halvings)


def _log_snr(model: Model, levels: LevelSettings, t: Tensor) -> LogSnr:
    """The log-SNR at the times `t`, or those of the fields, at most `CLEAN_LOG_SNR`, which stands for no noise."""
    draws = Draws.of(0, range(len(t)), "cpu")  # not used, as all fields have the same time
    found = log_snrs_of(model.schedule, levels, t, 0.0, draws)[0]
    at_zero = (t == 0) & (last_log_snr(model.codec) is None)
    return map_log_snr(lambda value: torch.where(at_zero, CLEAN_LOG_SNR, value.clamp(max=CLEAN_LOG_SNR)), found)


def _share(now: Tensor, near: Tensor, end: Tensor) -> Tensor:
    """w = (a_e - a_r) / (a_e - a_t) with a = exp(log-SNR / 2); 0 where e = r."""
    rest, whole = (-torch.expm1((level - end) / 2) for level in (near, now))
    return torch.where(near < end, rest / whole, 0.0)


def _by_field(function: Any, *values: LogSnr) -> Any:
    first = values[0]
    if not isinstance(first, dict):
        return function(*values)
    return {name: function(*(value[name] for value in values)) for name in first}  # type: ignore[index]


def loss(model: Model, batch: Steps, settings: RunSettings) -> Tensor:
    """Return sqrt(l + c^2) - c for each example, `[B]`, where l is `weighted_loss` with the target in place of x0."""
    prediction, target, noise, space = _predict(model, batch, settings)
    squared = weighted_loss(prediction, target, noise, space, settings.train.weighting, batch.mask)
    return (squared + SMALLEST**2).sqrt() - SMALLEST


def losses_by_field(model: Model, batch: Steps, settings: RunSettings) -> dict[str, float]:
    """Return the mean squared error of each field of the state, by the name of the field."""
    prediction, target, noise, space = _predict(model, batch, settings)
    each = field_losses(prediction, target, noise, space, settings.train.weighting, batch.mask)
    return {name: value.mean().item() for name, value in each.items()}


def _predict(model: Model, batch: Steps, settings: RunSettings) -> tuple[Prediction, State, State, Space]:
    """The student's prediction, its target, the noise in x_t = alpha target + sigma noise, and the space of noise."""
    space, level, x = batch.space_of(model.codec), batch.level, batch.noisy
    with torch.no_grad():
        wanted = target(_guided_teacher(settings, model), model.denoiser, batch, space)
        noise = combine(
            (by_field(lambda each: 1 / each.sigma, level), x),
            (by_field(lambda each: -each.alpha / each.sigma, level), wanted),
        )
    prediction = model.denoiser(x, level, batch.kept_conditions, batch.mask)
    return prediction, wanted, noise, space


def target(teacher: Denoise, student: Denoise, batch: Steps, space: Space) -> State:
    """The x0 that the student shall predict for `batch.noisy`: (1 - w) x0_T + w x0_student(x_r, r).

    x0_T is the mean of the teacher's estimates at both ends of its step, weighted by `_latter`, and x_r is where the
    step with x0_T ends. What is known of a state stays.
    """
    x, level, near, given = batch.noisy, batch.level, batch.near, batch.kept_conditions
    known = known_in(given)

    def x0_of(denoiser: Denoise, state: State, at: Levels) -> State:
        return space.project(denoiser(state, at, given, batch.mask).x0, batch.mask)

    def moved(x0: State) -> State:
        kept = by_field(lambda here, there: there.sigma / here.sigma, level, near)
        new = by_field(lambda here, there: there.alpha - there.sigma * here.alpha / here.sigma, level, near)
        found = combine((kept, x), (new, x0))
        return found if known is None else inserted(found, batch.x0, known)

    first = x0_of(teacher, x, level)
    x0 = _mixed(first, x0_of(teacher, moved(first), near), by_field(_latter, level, near))
    return _mixed(x0, x0_of(student, moved(x0), near), batch.share)


def _latter(here: Level, there: Level) -> Tensor:
    """The weight of the estimate at the end of a step, `[B]`, if x0 is linear in c = alpha / t between both ends.

    Here t^2 = alpha^2 + sigma^2. The mean of c over the step, by a = alpha / sigma, is
    (t_r / sigma_r - t / sigma) / (a_r - a). For data of unit variance, x0 along the flow is linear in c, as in the
    clock "alpha" of the solver `adams`.
    """
    first, last = (level.alpha / level.total for level in (here, there))
    rise = there.alpha / there.sigma - here.alpha / here.sigma
    mean = (there.total / there.sigma - here.total / here.sigma) / rise
    return torch.where(last - first > NO_STEP, (mean - first) / (last - first), 0.5)


def _mixed(first: State, second: State, weight: Any) -> State:
    """(1 - w) first + w second, with a weight `[B]` or weights by field."""
    others = {name: 1 - value for name, value in weight.items()} if isinstance(weight, dict) else 1 - weight
    return combine((others, first), (weight, second))


def _options(settings: RunSettings) -> Any:
    return settings.task  # type: ignore[attr-defined]


def _guided_teacher(settings: RunSettings, model: Model) -> Denoise:
    """The teacher's denoiser, with guidance if the student learns guided samples."""
    teacher = teacher_of(settings, model).model
    if codec_digest(teacher.codec) != codec_digest(model.codec):
        raise UserError(f"the teacher {_options(settings).teacher} has other latents than its student")
    return classifier_free(teacher.denoiser, teacher.codec.conditions, _options(settings).teacher_guidance)


_TEACHERS: WeakKeyDictionary[nn.Module, LoadedRun] = WeakKeyDictionary()
"""The teachers of the students that are in use, by the network of the student."""


def teacher_of(settings: RunSettings, model: Model) -> LoadedRun:
    """The teacher, loaded when it is needed first. Raises `UserError` for a run that cannot be the teacher."""
    if model.network not in _TEACHERS:
        options, device = _options(settings), cast(Device, model.device.type)
        loaded = load_run(Path(options.teacher), plugins.installed(), device, options.checkpoint)
        require_help(loaded.model, "teacher", options.teacher)
        if loaded.model.modality.name != model.modality.name:
            raise UserError(
                f"`task.teacher` {options.teacher} draws {loaded.model.modality.name}, and its student "
                f"{model.modality.name}"
            )
        _TEACHERS[model.network] = loaded
    return _TEACHERS[model.network]
