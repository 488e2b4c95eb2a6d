"""The task `distill`: a student learns to draw in a few steps what its teacher, a denoiser, draws in many.

The time of the schedule is divided into n = `segments` segments of equal length. From a state x_t at the beginning t of
a segment, the student predicts the x0 with which one step of DDIM arrives where the teacher's flow is at the end e of
the segment. With a_t = alpha_t / sigma_t::

    x0 = (x_e / sigma_e - x_t / sigma_t) / (a_e - a_t)

x_t is an example with the noise of the level t, and the teacher goes from there to x_e in `path` steps of an accurate
solver. So a student at its optimum draws in n steps of DDIM, from segment to segment, what its teacher draws along the
flow. This is the distillation of Luhman & Luhman 2021 (arXiv 2101.02388), by segments. The student is trained at the n
levels alone at which it is used, since a network is much more accurate at a few levels than at all of them.

A path costs more than a step of training, so each batch is used `reuse` times: a round of batches is drawn, is gone
through so many times, and is replaced by the next round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from diffcore.denoising.denoiser import Denoise, Denoiser, Prediction
from diffcore.denoising.embedded_once import embedded_once
from diffcore.denoising.estimate import self_conditioned
from diffcore.denoising.known import known_in
from diffcore.denoising.losses import field_losses, weighted_loss
from diffcore.errors import UserError
from diffcore.names import Device
from diffcore.plugins import registry as plugins
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.records import Settings
from diffcore.runs.loading import LoadedRun, load_run
from diffcore.runs.model import ChosenNetwork, Model, codec_digest, last_log_snr, require_fit, require_help
from diffcore.runs.settings import RunSettings
from diffcore.sampling.guidance.classifier_free import classifier_free
from diffcore.sampling.loop import integrate, levels_of
from diffcore.sampling.solvers.adams import adams
from diffcore.states.level import Level, Levels, by_field
from diffcore.states.noise import Draws
from diffcore.states.partly import inserted
from diffcore.states.placement import to_device
from diffcore.states.spaces import Space
from diffcore.states.state import State, combine, fields, map_fields
from diffcore.tasks import denoise
from diffcore.tasks.batch import Batch, draw_batch, times
from diffcore.tasks.levels import level_at, log_snrs_of, map_log_snr

SMALLEST = 1e-3
"""c of the pseudo-Huber loss sqrt(l + c^2) - c, where l is the mean squared error of v."""

MOST_IN_A_ROUND = 100
"""The largest number of batches whose paths are kept at once, in the memory of the CPU."""


@dataclass(frozen=True)
class Ends(Batch):
    """A batch of states at the beginnings of segments, with the x0 that lead to their ends."""

    wanted: State
    """The x0 with which DDIM goes from the noisy state to where the teacher's flow is at the end of the segment."""

    def map(self, change: Any) -> "Ends":
        """The batch with `change` applied to each of its tensors, always in the same order."""
        return replace(super().map(change), wanted=map_fields(change, self.wanted))


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


def draw(model: Model, settings: RunSettings, data: Data, step: int) -> Ends:
    """Return the batch of step `step`, with what the student shall predict.

    All fields of an example have the same time, also where the teacher has learned independent ones.
    """
    levels = settings.levels.model_copy(update={"independent": 0.0, "given": 0.0})
    train = settings.train.model_copy(update={"distorted": 0.0})
    number = _number(settings, step)
    batch = draw_batch(model, settings.model_copy(update={"levels": levels, "train": train}), data, number)
    n = _options(settings).segments
    segment = (times(settings, number) * n).floor().long()
    log_snr = log_snrs_of(model.schedule, levels, (segment + 1) / n, 0.0, Draws.of(0, range(len(segment)), "cpu"))[0]
    level = level_at(model.schedule, map_log_snr(lambda value: to_device(value, model.device), log_snr))
    started = Batch(**{**vars(batch), "level": level})
    kept = _KEPT.setdefault(model.network, {})
    if number not in kept:
        for other in [each for each in kept if not 0 <= number - each < MOST_IN_A_ROUND]:
            del kept[other]
        kept[number] = map_fields(Tensor.cpu, _wanted(model, settings, started, segment))
    return Ends(**vars(started), wanted=map_fields(lambda value: to_device(value, model.device), kept[number]))


_KEPT: WeakKeyDictionary[nn.Module, dict[int, State]] = WeakKeyDictionary()
"""What the students that are in training shall predict, by the network of the student and the number of the batch."""


def _number(settings: RunSettings, step: int) -> int:
    """The number of the batch of step `step`: each round of batches is gone through `reuse` times.

    The rounds are as large as they can be for `MOST_IN_A_ROUND`, and all of one size.
    """
    steps, reuse = settings.train.steps or 1, _options(settings).reuse
    rounds = math.ceil(steps / (reuse * MOST_IN_A_ROUND))
    size = math.ceil(steps / (reuse * rounds))
    return step // (size * reuse) * size + step % size


@torch.no_grad()
def _wanted(model: Model, settings: RunSettings, batch: Batch, segment: Tensor) -> State:
    """What the student shall predict for each example, `[B, ...]`, where `segment` `[B]` counts from the data, 0."""
    teacher = _guided_teacher(settings, model)
    found = map_fields(torch.empty_like, batch.x0)
    for number in segment.unique().tolist():
        rows = to_device((segment == number).nonzero()[:, 0], model.device)
        chosen = batch.map(lambda value, rows=rows: value[rows])  # type: ignore[misc]
        levels = path_levels(model, settings, number)
        part = end_of_path(teacher, chosen, levels, chosen.space_of(model.codec))
        for name, value in fields(found).items():
            value[rows] = fields(part)[name]
    return found


def path_levels(model: Model, settings: RunSettings, segment: int) -> list[Levels]:
    """The levels that the teacher passes in a segment, evenly spaced in time, as floats; the last is its end."""
    options = _options(settings)
    n = options.segments
    passed = torch.linspace((segment + 1) / n, segment / n, options.path + 1, dtype=torch.float64)
    if segment == 0:
        return levels_of(model.schedule, model.schedule.log_snr(passed[:-1]), last_log_snr(model.codec))
    return levels_of(model.schedule, model.schedule.log_snr(passed))[:-1]


def end_of_path(teacher: Denoise, batch: Batch, levels: Sequence[Levels], space: Space) -> State:
    """The x0 with which one step of DDIM goes from `batch.noisy` to where the teacher's flow goes along `levels`.

    What is known of a state stays.
    """
    start, given, known = batch.noisy, batch.kept_conditions, known_in(batch.kept_conditions)

    def evaluate(x: State, level: Levels) -> Prediction:
        prediction = teacher(x if known is None else inserted(x, batch.x0, known), level, given, batch.mask)
        return replace(prediction, output=space.project(prediction.output, batch.mask))

    with embedded_once():
        end = integrate(adams(), evaluate, start, levels, _no_noise)

    def of_end(here: Level, there: Level) -> float:
        return 1 / (there.alpha - there.sigma / here.sigma * here.alpha)

    def of_start(here: Level, there: Level) -> float:
        return -there.sigma / here.sigma * of_end(here, there)

    first, last = levels[0], levels[-1]
    return combine((by_field(of_end, first, last), end), (by_field(of_start, first, last), start))


def _no_noise() -> State:
    raise AssertionError("the teacher's flow has no noise")


def loss(model: Model, batch: Ends, settings: RunSettings) -> Tensor:
    """Return sqrt(l + c^2) - c for each example, `[B]`, where l is `weighted_loss` with `wanted` in place of x0."""
    prediction, noise, space = _predict(model, batch)
    squared = weighted_loss(prediction, batch.wanted, noise, space, settings.train.weighting, batch.mask)
    return (squared + SMALLEST**2).sqrt() - SMALLEST


def losses_by_field(model: Model, batch: Ends, settings: RunSettings) -> dict[str, float]:
    """Return the mean squared error of each field of the state, by the name of the field."""
    prediction, noise, space = _predict(model, batch)
    each = field_losses(prediction, batch.wanted, noise, space, settings.train.weighting, batch.mask)
    return {name: value.mean().item() for name, value in each.items()}


def _predict(model: Model, batch: Ends) -> tuple[Prediction, State, Space]:
    """The student's prediction, the noise in x_t = alpha `wanted` + sigma noise, and the space of noise."""
    level, x = batch.level, batch.noisy
    noise = combine(
        (by_field(lambda each: 1 / each.sigma, level), x),
        (by_field(lambda each: -each.alpha / each.sigma, level), batch.wanted),
    )
    prediction = model.denoiser(x, level, batch.kept_conditions, batch.mask)
    return prediction, noise, batch.space_of(model.codec)


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
