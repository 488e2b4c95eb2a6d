"""Build the parts of a run from its settings, and load the weights of its network."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from diffcore.denoising.denoiser import Denoiser, require_defined
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.denoising.text import TextEncoder
from diffcore.errors import RAISED_BY_PLUGINS, UserError, quoted, told
from diffcore.plugins.building import build, of_samples, part_of
from diffcore.plugins.data import Codec, Data, sides_of
from diffcore.plugins.records import WORDS, Component, Modality, Settings, Task, places
from diffcore.plugins.registry import Registry, choose
from diffcore.plugins.text import with_text
from diffcore.process.schedules import ByField, Schedule, ending_at
from diffcore.runs.checkpoints import EMA, read_tensors, tensors_digest
from diffcore.runs.composing import autoencoders_for, choices
from diffcore.runs.latents import LatentCodec
from diffcore.runs.settings import FirstStage, LevelSettings, RunSettings, explain, validate
from diffcore.runs.tensor_shards import Sharded
from diffcore.states.global_random import seeded
from diffcore.states.noise import seed_of
from diffcore.states.state import fields
from diffcore.system.distributed import machines, world
from diffcore.system.limits import SLACK, at_most, room
from diffcore.system.own_rows import cut_while_built, moved

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A module on its device, the task that trains it, the noise schedule, and the codec of its data.

    `rows` are those of each weight, by name, that one of several processes keeps, if it has built the network in rows
    (`diffcore.system.own_rows`): the weights themselves are on the meta device then, until training shards them.
    """

    modality: Modality
    codec: Codec
    network: nn.Module
    schedule: Schedule
    device: torch.device
    task: Task
    rows: dict[str, Tensor] | None = None

    @property
    def denoiser(self) -> Denoiser:
        """The network that draws samples. Raises `UserError` if the task is not one that trains a denoiser."""
        require_draws(self)
        return cast(Denoiser, self.network)

    @property
    def classifier(self) -> NoisyClassifier:
        """The network that predicts conditions. Raises `UserError` if the task does not train a classifier."""
        require_help(self, "classifier", "this run")
        return cast(NoisyClassifier, self.network)


def require_draws(model: Model, run: Path | None = None) -> None:
    """Raise `UserError` if the task of the model is not one that draws samples; `run` is the folder of the model."""
    if not model.task.draws:
        place = "this run" if run is None else str(run)
        advice = told_advice(model.task, "RUN" if run is None else quoted(run))
        raise UserError(f"{place} has the task {model.task.name}, which draws no samples{advice and f'; {advice}'}")


def require_flow(model: Model, what: str, run: Path) -> None:
    """Raise `UserError` if the network of the run has no probability flow, which `what` needs."""
    require_draws(model, run)
    if not model.task.flow:
        raise UserError(
            f"{what} needs a network that predicts the mean of x0 at every level of noise, and that of {run} does not: "
            f"it has the task {model.task.name} and predicts the ends of its own steps; use the run that was its "
            "teacher"
        )


def told_advice(task: Task, run: str) -> str:
    """What can be done with the run in the folder `run`, which draws no samples; empty if there is no such advice."""
    return task.advice.replace("{run}", run)


def require_help(model: Model, option: str, what: str, tasks: Sequence[Any] = ()) -> None:
    """Raise `UserError` if a run of the model's task, called `what`, cannot be given for that option of sampling.

    The message names those of `tasks`, all that there are, whose runs can.
    """
    if option not in model.task.helps:
        others = " or ".join(task.name for task in tasks if option in task.helps)
        hint = f"; that of a run with `task` {others} can" if others else ""
        raise UserError(f"{what} has the task {model.task.name}, whose network cannot be used as `{option}`{hint}")


def device_for(name: str) -> torch.device:
    """The device of that name, where `auto` means a GPU if there is one. Raises `UserError` if there is no such GPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("`device` cuda: PyTorch finds no CUDA device here; use `device` cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def build_data(settings: RunSettings, registry: Registry, encoder: TextEncoder | None = None) -> Data:
    """Load the data set of the settings, with its texts as ids.

    `encoder` is the text encoder of a run that is trained already; without it, that of the settings learns from the
    texts. Raises `UserError` if the facts of the data are not valid.
    """
    try:
        data: Data = _build(settings, "data", registry)
        part = getattr(settings, "text", None)
        if part is None:
            return with_text(data, None, None)
        offered = choices(registry.modality(settings.modality), registry, settings.task.name)["text"]  # type: ignore[attr-defined]
        component = choose(offered, part.name, WORDS["text"])
        if not data.texts and component is not offered[0]:
            raise UserError(f"`text` {part.name}: these data have no captions")
        return with_text(data, component, component.options(**part.model_dump(exclude={"name"})), encoder)
    except ValidationError as error:
        name = settings.data.name  # type: ignore[attr-defined]
        raise UserError(f"the data set {name!r} has values that cannot be used: {explain(error)}") from error


def data_of(path: Path, settings: RunSettings, registry: Registry, encoder: TextEncoder | None = None) -> Data:
    """Load the data set that the run in the folder `path` was trained on; `encoder` as for `build_data`."""
    try:
        return build_data(settings, registry, encoder)
    except UserError as error:
        moved = " or ".join(f"`data.{name}`" for name in places(type(settings.data)))  # type: ignore[attr-defined]
        advice = f"; if the data have moved, name their place with {moved}" if moved else ""
        raise UserError(f"{path} needs the data that it was trained on: {error}{advice}") from None


def codec_digest(codec: Codec) -> str | None:
    """A SHA-256 of the weights of a codec, or None if it has none."""
    weights = codec.state_dict() if isinstance(codec, nn.Module) else {}
    return tensors_digest(weights) if weights else None


MOST_OF_A_SAMPLE = 2**28
"""Maximum number of values in the state of one sample: 1 GiB."""


def numbers_of_a_sample(codec: Codec) -> int:
    """The number of values in the state of one sample."""
    with torch.device("meta"):
        return sum(field.numel() for field in fields(codec.space.empty(1)).values())


def build_model(
    settings: RunSettings,
    facts: Any,
    registry: Registry,
    weights: int | None = None,
    first_stage: FirstStage | None = None,
    in_rows: bool = False,
) -> Model:
    """A model with initial weights that depend on the seed only.

    With `in_rows`, each of several processes keeps its rows of the weights only, where the network can be built so.

    `weights` is the number of weights in the checkpoint that will be loaded, or None if there is no checkpoint. With a
    `first_stage`, the model is one of its latents; the weights of its networks must be loaded too. Raises
    `UserError` if the parameterisation is not defined at all levels of the schedule, if a sample would have more values
    than `MOST_OF_A_SAMPLE`, and if the network would have more than twice `weights` weights, or, without a checkpoint,
    more than this machine can train.
    """
    schedule = _build(settings, "schedule", registry)
    require_defined(settings.parameterisation, schedule)
    modality = registry.modality(settings.modality)
    device = device_for(settings.device)
    with at_most(room(), "the configuration"), seeded(seed_of(settings.seed, "codec")):
        codec = part_of(modality, "codec", facts)
        if first_stage is not None:
            codec = _latent_codec(codec, first_stage, modality, registry)
    if isinstance(codec, nn.Module):
        codec.to(device).eval().requires_grad_(False)
    size = numbers_of_a_sample(codec)
    if size > MOST_OF_A_SAMPLE:
        raise UserError(f"a sample would have {size:,} numbers; at most {MOST_OF_A_SAMPLE:,} are supported")
    schedule = ending_at(_with_levels(schedule, settings, codec), last_log_snr(codec))
    most = room() * (machines() if in_rows else 1)
    most = most if weights is None else min(2 * weights + SLACK, most)
    task = registry.task(settings.task.name)  # type: ignore[attr-defined]

    def make() -> nn.Module:
        with at_most(most, "the configuration"), seeded(seed_of(settings.seed, "weights")):
            options = settings.task.model_dump(exclude={"name"})  # type: ignore[attr-defined]
            backbone = ChosenNetwork(task.network, settings, registry)
            network: nn.Module = build("task", task, task.options(**options), codec, settings, backbone)
            return network

    changed = weights is None and task.initialise is not None
    network, rows = _in_rows(make) if in_rows and world() > 1 and not changed else (make(), None)
    network = moved(network, lambda tensor: tensor.to(device))
    model = Model(modality, codec, network, schedule, device, task, rows)
    if changed:
        task.initialise(model, settings)  # type: ignore[misc]
    return model


def _in_rows(make: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Tensor] | None]:
    """The network that `make` builds, and the rows of its weights that this process keeps.

    The whole network, and None, if its constructors use weights of their parts, or if it is used before training.
    """
    try:
        with cut_while_built() as rows:
            network = make()
            rows.cut(network)
    except UserError:
        raise
    except RAISED_BY_PLUGINS as error:  # such as `TouchedAgainError`; a failure of its own comes again
        logger.info(f"each process builds the whole network first, as its constructors use their parts: {told(error)}")
        return make(), None
    if any(callable(getattr(module, "keep_texts", None)) for module in network.modules()):
        return make(), None
    return network, rows.of(network)


def _latent_codec(codec: Codec, stage: FirstStage, modality: Modality, registry: Registry) -> LatentCodec:
    """The codec of the latents of a first stage, with initial weights.

    Raises `UserError` if a condition has the form of the samples, as latents have another one.
    """
    if sides := sides_of(codec):
        raise UserError(f"joint states cannot be diffused in latents; this one has the sides {', '.join(sides)}")
    if shaped := [condition.name for condition in codec.conditions if "like_state" in condition.inputs.names]:
        raise UserError(f"the condition {shaped[0]} has the form of the samples, so it cannot be given in latents")
    first = part_of(modality, "codec", validate(modality.facts, stage.facts, "the facts of the first stage"))
    values = dict(stage.autoencoder)
    component = choose(autoencoders_for(modality, registry), str(values.pop("name", "")), "autoencoder")
    options = validate(component.options, values, "the autoencoder of the first stage")
    return LatentCodec(codec, first, build("autoencoder", component, options, first), stage)


def last_log_snr(codec: Codec) -> float | None:
    """The log-SNR at which sampling ends; None where it ends without noise, as for most codecs."""
    return getattr(codec, "last_log_snr", None)


def level_fields(codec: Codec, settings: RunSettings) -> tuple[str, ...]:
    """The names of the fields whose noise levels a network is told; none if all fields have one level."""
    return tuple(fields(codec.space.empty(1))) if levels_of(settings, codec).by_field else ()


def levels_of(settings: RunSettings, codec: Codec) -> LevelSettings:
    """The settings of the noise levels, with the defaults for the states of the codec."""
    return settings.levels.of_state(joint=bool(sides_of(codec)))


def _with_levels(schedule: Schedule, settings: RunSettings, codec: Codec) -> Schedule:
    """The schedule of the states of the codec: with levels by field if the settings have any.

    Raises `UserError` for settings that do not fit the fields.
    """
    levels, names = levels_of(settings, codec), [*fields(codec.space.empty(1))]
    there = ", ".join(names) if any(names) else "none, as a sample is one tensor"
    if unknown := sorted(levels.shifts.keys() - {*names}):
        raise UserError(f"`levels.shifts` has {unknown[0]!r}, which is not a field of these data; there are: {there}")
    if strange := sorted(settings.train.field_weights.keys() - {*names}):
        raise UserError(f"`train.field_weights` has {strange[0]!r}, no field of these data; there are: {there}")
    if levels.given and not levels.independent:
        raise UserError("`levels.given` needs a fraction `levels.independent` of the examples")
    if levels.independent and len(names) < 2:
        raise UserError("`levels.independent` needs data of several fields; here a sample has one")
    if levels.known and not hasattr(codec, "draw_known"):
        raise UserError(f"`levels.known`: {settings.modality} does not say which parts of a sample may be known")
    if not levels.by_field:
        return schedule
    return ByField(schedule, {name: levels.shifts.get(name, 0.0) for name in names})


@dataclass(frozen=True)
class ChosenNetwork:
    """The network that a run has chosen, which `backbone(*context)` builds, for `Task.build`."""

    kind: str
    settings: RunSettings
    registry: Registry

    @property
    def offered(self) -> tuple[Component, ...]:
        """All networks that the run could have chosen."""
        task = self.settings.task.name  # type: ignore[attr-defined]
        return choices(self.registry.modality(self.settings.modality), self.registry, task)[self.kind]

    @property
    def component(self) -> Component:
        """The record of the network."""
        return choose(self.offered, getattr(self.settings, self.kind).name, self.kind)

    def __call__(self, *context: Any) -> nn.Module:
        """Build the network from its options and the context that its kind takes."""
        network: nn.Module = _build(self.settings, self.kind, self.registry, *context)
        return network


def build_additions(
    registry: Registry, kind: str, modality: str, chosen: Mapping[str, Settings], *context: Any
) -> dict[str, Any]:
    """The `chosen` parts of a `kind` of the registry, by name, each built from its options and the `context`."""
    offered = registry.offered(kind, modality)
    context = tuple(map(of_samples, context))
    return {
        name: build(kind.removesuffix("s"), choose(offered, name, kind.removesuffix("s")), options, *context)
        for name, options in chosen.items()
    }


def load_weights(model: Model, checkpoint: Path, file: str = EMA) -> None:
    """Load the weights of a checkpoint into the network of the model."""
    tensors, network = read_tensors(checkpoint, file), model.network
    require_fit({name: own.shape for name, own in network.state_dict().items()}, tensors, str(checkpoint / file))
    network.load_state_dict(tensors)


def require_fit(network: Mapping[str, torch.Size], tensors: Mapping[str, Tensor | Sharded], source: str) -> None:
    """Raise `UserError` unless the tensors of the file `source` have the names and shapes that the network has."""
    for name in {**network, **tensors}:
        if name not in tensors:
            reason = f"{name} is missing"
        elif name not in network:
            reason = f"{name[:200]!r} is not in it"
        elif tensors[name].shape != network[name]:
            reason = f"{name} is {[*tensors[name].shape]}, in the network {[*network[name]]}"
        else:
            continue
        raise UserError(f"{source} does not fit the network of config.json: {reason}")


def _build(settings: RunSettings, kind: str, registry: Registry, *context: Any) -> Any:
    """The part of that kind, built by its component from the options in the settings."""
    named = getattr(settings, kind)
    task = settings.task.name  # type: ignore[attr-defined]
    component = choose(choices(registry.modality(settings.modality), registry, task)[kind], named.name, kind)
    return build(kind, component, component.options(**named.model_dump(exclude={"name"})), *context)
