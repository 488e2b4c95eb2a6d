"""Putting a run's parts together out of its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffcore.denoising.conditions import Condition
from diffcore.denoising.denoiser import Denoise, Denoiser, require_defined
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.errors import UserError
from diffcore.names import Grid
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.records import Modality, Settings
from diffcore.plugins.registry import Registry, choose
from diffcore.process.schedules import Schedule
from diffcore.runs.checkpoints import EMA, read_tensors
from diffcore.runs.settings import RunSettings, SampleSettings, choices
from diffcore.sampling.solvers import Step
from diffcore.states.noise import seed_of
from diffcore.states.spaces import describe_difference
from diffcore.states.state import fields
from diffcore.system.limits import SLACK, at_most, room


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw: a solver's step, the number of steps and their grid, and guidance.

    `classifier` and `weak` are other networks that guide, where they are given; what their weights and the rest of the
    guidance mean is said in `diffcore.runs.settings.SampleSettings`.
    """

    step: Step
    steps: int = 20
    grid: Grid = "tapered"
    guidance: float = 1.0
    batch_size: int = 250
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    classifier: NoisyClassifier | None = None
    classifier_weight: float = 1.0
    weak: Denoise | None = None
    autoguidance: float = 2.0
    guides: tuple[Callable[[Denoise], Denoise], ...] = ()
    """Guidance of other kinds, each a decorator of the denoiser, the innermost first."""
    log_snrs: tuple[float, ...] | None = None
    """Levels that were tuned, in place of `grid`; as many as there are steps."""


@dataclass(frozen=True)
class Model:
    """A trained network, the schedule it was trained with, and the codec."""

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
        """The network that draws samples, or a `UserError` where the run trained a classifier."""
        if isinstance(self.network, Denoiser):
            return self.network
        raise UserError("this run is a classifier, which draws no samples: let it guide a model of the same data")

    @property
    def classifier(self) -> NoisyClassifier:
        """The network that tells conditions, or a `UserError` where the run trained a denoiser."""
        if isinstance(self.network, NoisyClassifier):
            return self.network
        raise UserError("this run draws samples and predicts nothing: train one with `task` classify")


def device_for(asked: str) -> torch.device:
    """`auto` takes a GPU where there is one; a GPU that was asked for must be there."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError("`device` cuda: PyTorch finds no CUDA device here; use `device` cpu or auto")
    return torch.device("cuda" if asked != "cpu" and available else "cpu")


def build_data(settings: RunSettings, registry: Registry) -> Data:
    """Load the data set that the settings name."""
    return _build(settings, "data", registry)


def data_of(path: Path, settings: RunSettings, registry: Registry) -> Data:
    """Load the data set that the run in the folder `path` was trained on."""
    try:
        return build_data(settings, registry)
    except UserError as error:
        raise UserError(f"{path} needs the data that it was trained on: {error}") from None


MOST_OF_A_SAMPLE = 2**28
"""Numbers of a sample's state, at most: 1 GiB."""


def build_model(settings: RunSettings, facts: Any, registry: Registry, weights: int | None = None) -> Model:
    """A model with the initial weights that the seed decides.

    Raises `UserError` where the parameterisation is not defined all along the schedule, where a sample would be larger
    than `MOST_OF_A_SAMPLE`, and where the network would have more than twice the `weights` that its checkpoint holds,
    or without one more than this machine can train.
    """
    schedule = _build(settings, "schedule", registry)
    require_defined(settings.parameterisation, schedule)
    modality = registry.modality(settings.modality)
    codec = modality.codec(facts)
    with torch.device("meta"):
        size = sum(field.numel() for field in fields(codec.space.empty(1)).values())
    if size > MOST_OF_A_SAMPLE:
        raise UserError(f"a sample would have {size:,} numbers; at most {MOST_OF_A_SAMPLE:,} are supported")
    device = device_for(settings.device)
    most = room() if weights is None else min(2 * weights + SLACK, room())
    network: Denoiser | NoisyClassifier
    with at_most(most, "the configuration"), torch.random.fork_rng():
        torch.manual_seed(seed_of(settings.seed, "weights"))
        if settings.task == "classify":
            if not codec.conditions:
                raise UserError("these data have no conditions, so there is nothing to predict")
            outputs = sum(condition.outputs for condition in codec.conditions)
            network = NoisyClassifier(_build(settings, "classifier", registry, codec.space, outputs), codec.conditions)
        else:
            backbone = _build(settings, "denoiser", registry, codec.space)
            network = Denoiser(backbone, codec.conditions, settings.parameterisation)
    return Model(modality, codec, network.to(device), schedule, device)


def sampling_config(
    sampling: SampleSettings,
    registry: Registry,
    step: Step | None = None,
    classifier: NoisyClassifier | None = None,
    weak: Denoise | None = None,
    guides: tuple[Callable[[Denoise], Denoise], ...] = (),
) -> SamplingConfig:
    """How the settings say samples are drawn; `step` is a solver that is made already, the others guide."""
    if step is None:
        solver = registry.solver(sampling.solver)
        step = solver.build(solver.options())
    values = sampling.model_dump(exclude={"solver", "precision", "compile"})
    return SamplingConfig(step, classifier=classifier, weak=weak, guides=guides, **values)


def build_additions(
    registry: Registry, kind: str, modality: str, chosen: Mapping[str, Settings], *context: Any
) -> dict[str, Any]:
    """The parts of that kind of the registry that are `chosen`, by name, each made from its options and the context."""
    offered = registry.offered(kind, modality)
    return {
        name: choose(offered, name, kind.removesuffix("s")).build(options, *context) for name, options in chosen.items()
    }


def known_conditions(model: Model, config: SamplingConfig) -> tuple[Condition, ...]:
    """What samples can be asked to be: the model's conditions, and those that the config's classifier alone knows."""
    own = model.codec.conditions
    names = {condition.name for condition in own}
    others = () if config.classifier is None else config.classifier.conditions
    return (*own, *(condition for condition in others if condition.name not in names))


def check_helper(model: Model, helper: Model, what: str) -> None:
    """Raise `UserError` where a network of another run cannot guide this model.

    Its kind of data, the shape of its states and the meaning of the conditions that both have must be the same.
    """
    if helper.modality.name != model.modality.name:
        raise UserError(f"{what} is of {helper.modality.name}, this model of {model.modality.name}: they do not fit")
    if difference := describe_difference(helper.codec.space, model.codec.space):
        raise UserError(f"{what} was trained on data of another form than this model: {difference}")
    own = {condition.name: condition for condition in model.codec.conditions}
    for condition in helper.codec.conditions:
        if own.get(condition.name, condition) != condition:
            raise UserError(
                f"{what} means something else by {condition.name!r} than this model: the values that they were trained "
                "on differ"
            )


def load_weights(model: Model, checkpoint: Path, file: str = EMA) -> None:
    """Put a checkpoint's weights into the model's network."""
    tensors, network = read_tensors(checkpoint, file), model.network
    require_fit({name: own.shape for name, own in network.state_dict().items()}, tensors, str(checkpoint / file))
    network.load_state_dict(tensors)


def require_fit(network: Mapping[str, torch.Size], tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise `UserError` unless the tensors of a file have the names and shapes of those of a network."""
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
    """The part of that kind, made by its component from its own options."""
    named = getattr(settings, kind)
    component = choose(choices(registry.modality(settings.modality), registry, settings.task)[kind], named.name, kind)
    return component.build(component.options(**named.model_dump(exclude={"name"})), *context)
