"""Build the parts of a run from its settings, and load the weights of its network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from diffcore.denoising.conditions import Condition
from diffcore.denoising.denoiser import Denoiser, require_defined
from diffcore.denoising.given import require_accepted
from diffcore.denoising.inputs import together
from diffcore.denoising.noisy_classifier import NoisyClassifier, heads_of
from diffcore.errors import UserError
from diffcore.plugins.building import build, part_of
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.records import Modality, Settings, places
from diffcore.plugins.registry import Registry, choose
from diffcore.process.schedules import Schedule
from diffcore.runs.checkpoints import EMA, read_tensors, tensors_digest
from diffcore.runs.composing import choices
from diffcore.runs.settings import RunSettings, explain
from diffcore.states.global_random import seeded
from diffcore.states.noise import seed_of
from diffcore.states.state import fields
from diffcore.system.limits import SLACK, at_most, room


@dataclass(frozen=True)
class Model:
    """A network on its device, the noise schedule that it is trained with, and the codec of its data."""

    modality: Modality
    codec: Codec
    network: Denoiser | NoisyClassifier
    schedule: Schedule
    device: torch.device

    @property
    def is_classifier(self) -> bool:
        """Whether the network is a classifier."""
        return isinstance(self.network, NoisyClassifier)

    @property
    def denoiser(self) -> Denoiser:
        """The network that draws samples. Raises `UserError` if the run trained a classifier."""
        if isinstance(self.network, Denoiser):
            return self.network
        raise UserError(
            "this run trained a classifier, which cannot draw samples; use it to guide a model of the same data"
        )

    @property
    def classifier(self) -> NoisyClassifier:
        """The network that predicts conditions. Raises `UserError` if the run trained a denoiser."""
        if isinstance(self.network, NoisyClassifier):
            return self.network
        raise UserError("this run trained a denoiser, not a classifier; train a classifier with `task` classify")


def device_for(name: str) -> torch.device:
    """The device of that name, where `auto` means a GPU if there is one. Raises `UserError` if there is no such GPU."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("`device` cuda: PyTorch finds no CUDA device here; use `device` cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def build_data(settings: RunSettings, registry: Registry) -> Data:
    """Load the data set of the settings. Raises `UserError` if the facts of the data are not valid."""
    try:
        return _build(settings, "data", registry)
    except ValidationError as error:
        name = settings.data.name  # type: ignore[attr-defined]
        raise UserError(f"the data set {name!r} has values that cannot be used: {explain(error)}") from error


def data_of(path: Path, settings: RunSettings, registry: Registry) -> Data:
    """Load the data set that the run in the folder `path` was trained on."""
    try:
        return build_data(settings, registry)
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


def build_model(settings: RunSettings, facts: Any, registry: Registry, weights: int | None = None) -> Model:
    """A model with initial weights that depend on the seed only.

    `weights` is the number of weights in the checkpoint that will be loaded, or None if there is no checkpoint. Raises
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
    if isinstance(codec, nn.Module):
        codec.to(device).eval().requires_grad_(False)
    size = numbers_of_a_sample(codec)
    if size > MOST_OF_A_SAMPLE:
        raise UserError(f"a sample would have {size:,} numbers; at most {MOST_OF_A_SAMPLE:,} are supported")
    most = room() if weights is None else min(2 * weights + SLACK, room())
    network: Denoiser | NoisyClassifier
    with at_most(most, "the configuration"), seeded(seed_of(settings.seed, "weights")):
        if settings.task == "classify":
            predicted = _predictable(codec.conditions)
            outputs = sum(head.outputs for head in heads_of(predicted).values())
            network = NoisyClassifier(_build(settings, "classifier", registry, codec.space, outputs), predicted)
        else:
            backbone = _backbone(settings, registry, codec)
            network = Denoiser(backbone, codec.conditions, settings.parameterisation)
    return Model(modality, codec, network.to(device), schedule, device)


def _predictable(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions that a noisy classifier can predict. Raises `UserError` if there are none."""
    if not conditions:
        raise UserError("these data have no conditions, so there is nothing to predict")
    predictable = tuple(condition for condition in conditions if condition.head is not None)
    if not predictable:
        names = ", ".join(condition.name for condition in conditions)
        raise UserError(f"a classifier can predict none of the conditions of these data: {names}")
    return predictable


def _backbone(settings: RunSettings, registry: Registry, codec: Codec) -> Any:
    """The network of the denoiser. Raises `UserError` if it does not accept what the conditions of the data yield."""
    offered = choices(registry.modality(settings.modality), registry, settings.task)["denoiser"]
    chosen = choose(offered, settings.denoiser.name, "denoiser")  # type: ignore[attr-defined]
    inputs = together([condition.inputs for condition in codec.conditions])
    able = [part.name for part in offered if {*inputs.names} <= {*part.accepts}]
    advice = f"; use `denoiser` {' or '.join(able)}" if able else f"; no network of {settings.modality} does"
    require_accepted(codec.conditions, chosen.accepts, f"the denoiser {chosen.name!r}", advice)
    return _build(settings, "denoiser", registry, codec.space, *((inputs,) if chosen.accepts else ()))


def build_additions(
    registry: Registry, kind: str, modality: str, chosen: Mapping[str, Settings], *context: Any
) -> dict[str, Any]:
    """The `chosen` parts of a `kind` of the registry, by name, each built from its options and the `context`."""
    offered = registry.offered(kind, modality)
    return {
        name: build(kind.removesuffix("s"), choose(offered, name, kind.removesuffix("s")), options, *context)
        for name, options in chosen.items()
    }


def load_weights(model: Model, checkpoint: Path, file: str = EMA) -> None:
    """Load the weights of a checkpoint into the network of the model."""
    tensors, network = read_tensors(checkpoint, file), model.network
    require_fit({name: own.shape for name, own in network.state_dict().items()}, tensors, str(checkpoint / file))
    network.load_state_dict(tensors)


def require_fit(network: Mapping[str, torch.Size], tensors: Mapping[str, torch.Tensor], source: str) -> None:
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
    component = choose(choices(registry.modality(settings.modality), registry, settings.task)[kind], named.name, kind)
    return build(kind, component, component.options(**named.model_dump(exclude={"name"})), *context)
