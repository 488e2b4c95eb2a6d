"""The plugin under test: a modality, small settings, and the parts that are built from them."""

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.conditions import Conditions, with_nulls
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.estimate import self_conditioned, told
from diffcore.denoising.precision import backbone_of
from diffcore.plugins.building import part_of
from diffcore.plugins.contract import Contract
from diffcore.plugins.data import Codec, Data, Encoded
from diffcore.plugins.records import Component, Modality, Settings, Task
from diffcore.plugins.registry import Registry, choose
from diffcore.process.gaussian import perturb
from diffcore.runs.coding import decode, encode, prepared
from diffcore.runs.composing import choices, compose
from diffcore.runs.model import Model, build_data, build_model
from diffcore.runs.settings import RunSettings
from diffcore.states.level import Levels
from diffcore.states.noise import Draws, generator_for
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, combine, map_fields

BATCH_SIZE = 8
"""How many examples the checks pass through the network at once."""

DENOISER = "denoiser"
"""The kind of network of which a user can name the one to check."""

_TRAIN = {
    "steps": 4,
    "batch_size": BATCH_SIZE,
    "log_every": 1,
    "checkpoint_every": 2,
    "keep_checkpoints": 2,
    "sample_every": 1_000_000,
    "evaluate": 0,
    "condition_dropout": 0.5,
}


@dataclass(frozen=True)
class NoisyBatch:
    """A noisy batch x = alpha x0 + sigma noise.

    `x`, `level`, `conditions`, `mask` and `estimate` are the inputs of a denoiser; `x0` and `noise` are what `x` was
    made from. The estimate is None for a denoiser that receives none.
    """

    x: State
    level: Levels
    conditions: Conditions
    mask: Mask
    x0: State
    noise: State
    estimate: State | None = None

    @property
    def given(self) -> Conditions:
        """The conditions with the estimate, as a denoiser receives them."""
        return self.conditions if self.estimate is None else {**self.conditions, **told(self.estimate)}

    def __getitem__(self, indices: Any) -> "NoisyBatch":
        """The samples with these indices."""
        return NoisyBatch(
            self.x[indices],
            self.level.map(lambda scale: scale[indices]),
            {name: value[indices] for name, value in self.conditions.items()},
            None if self.mask is None else self.mask[indices],
            self.x0[indices],
            self.noise[indices],
            None if self.estimate is None else self.estimate[indices],
        )


@dataclass(frozen=True)
class PluginUnderTest:
    """A modality and the parts that the checks examine.

    The parts are built when they are first used, from the preset `default` with each part's `small` options, on the
    CPU. `registry` provides the parts, and `requested_denoiser` names one of the modality's denoisers; if it is None,
    the checks use the denoiser of the preset. `requested_task` names the task; if it is None, that is the default one.
    """

    registry: Registry
    modality: Modality
    requested_denoiser: str | None = None
    requested_dataset: str | None = None
    requested_task: str | None = None
    results: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The results of the checks that have run, by name of the check."""

    @cached_property
    def task(self) -> Task:
        """The record of the task: the requested one, or the first of the core."""
        return self.registry.task(self.requested_task or self.registry.offered("tasks")[0].name)

    @cached_property
    def settings(self) -> RunSettings:
        """The preset `default` with the task, and the `small` options of all chosen parts, on the CPU."""
        requested = {
            "task": self.task.name,
            "data": self.requested_dataset,
            self.task.network: self.requested_denoiser if self.task.network == DENOISER else None,
        }
        chosen = {kind: name for kind, name in requested.items() if name is not None}
        preset = compose(self.registry, self.modality.name, "default", chosen=chosen)
        small: dict[str, Any] = {"device": "cpu", "train": _TRAIN}
        for kind in ("task", "data", self.task.network):
            component = self._component(kind, preset)
            small[kind] = {"name": component.name, **({} if callable(component.small) else component.small)}
        takes_estimate = "estimate" in self._component(self.task.network, preset).accepts
        if takes_estimate and "self_conditioning" in self.task.options.model_fields:
            small["task"]["self_conditioning"] = 0.5
        return compose(self.registry, self.modality.name, "default", small, chosen, origin="the small options")

    def with_task(self, name: str) -> "PluginUnderTest":
        """The same kind of data, with another task."""
        return replace(self, requested_task=name, results={})

    def _component(self, kind: str, settings: RunSettings) -> Component:
        offered = choices(self.modality, self.registry, self.task.name)[kind]
        return choose(offered, getattr(settings, kind).name, kind)

    @cached_property
    def dataset(self) -> Component:
        """The record of the data set."""
        return self._component("data", self.settings)

    @cached_property
    def denoiser(self) -> Component:
        """The record of the denoiser."""
        return self._component(DENOISER, self.settings)

    @property
    def denoiser_name(self) -> str:
        """The name of the denoiser, which is known even if the settings are invalid."""
        preset = self.modality.presets["default"].values.get("denoiser", {})
        return self.requested_denoiser or preset.get("name", self.modality.denoisers[0].name)

    @property
    def data_options(self) -> Settings:
        """The options of the data set."""
        return self.dataset.options(**self.settings.data.model_dump(exclude={"name"}))  # type: ignore[attr-defined]

    @cached_property
    def data(self) -> Data:
        """The data set."""
        return build_data(self.settings, self.registry)

    @cached_property
    def prepared(self) -> Data:
        """The data set with the examples as `Codec.encode` takes them in training."""
        return replace(self.data, examples=prepared(self.codec, self.data.examples, self.model.device))

    @cached_property
    def model(self) -> Model:
        """The model with its initial weights."""
        return self.new_model()

    def new_model(self) -> Model:
        """Build another model with the same initial weights."""
        return build_model(self.settings, self.data.facts, self.registry)

    @property
    def codec(self) -> Codec:
        """The codec of the model."""
        return self.model.codec

    @property
    def space(self) -> Space:
        """The space of the encoded states."""
        return self.codec.space

    @property
    def backbone(self) -> type[nn.Module]:
        """The class of the plugin's network."""
        return type(backbone_of(self.model.network))

    @cached_property
    def contract(self) -> Contract:
        """The modality's contract; an empty one if it has none."""
        return Contract() if self.modality.contract is None else part_of(self.modality, "contract", self.codec)

    def examples(self, count: int) -> TensorDict:
        """At most `count` training examples, chosen at random and always the same."""
        available = self.data.examples
        chosen = torch.randperm(len(available), generator=generator_for(0, "examples"))[:count]
        return available[chosen]

    def encoded(self, count: int) -> Encoded:
        """At most `count` training examples, encoded without augmentation."""
        return self.encode(self.examples(count))

    def encode(self, examples: TensorDict, draws: Draws | None = None) -> Encoded:
        """Encode examples of the data set; with `draws`, with the random augmentations of training."""
        return encode(self.model, examples, draws)

    def decode(self, state: State, mask: Mask = None) -> Any:
        """Decode states."""
        return decode(self.model, state, mask)

    def noisy_batch(self, count: int = BATCH_SIZE) -> NoisyBatch:
        """Encoded examples with noise, from a low to a high level; every third example has no conditions.

        A denoiser that receives an estimate of x0 is given a wrong one, in all examples but the second.
        """
        encoded = self.encoded(count)
        x0, mask = encoded.state, encoded.mask
        batch = x0.shape[0]
        level = self.model.schedule.level(self.model.schedule.log_snr(_times(batch)))
        noise = self.space.project(self.space.noise(seeded_normal(x0, "noise"), mask), mask)
        conditions = dict(encoded.conditions)
        dropped = torch.arange(batch) % 3 == 2
        for condition in self.codec.conditions:
            conditions[condition.name] = with_nulls(condition, conditions[condition.name], dropped)
        estimate = None
        if self_conditioned(self.model.network):
            other = self.space.project(self.space.noise(seeded_normal(x0, "estimate"), mask), mask)
            missing = torch.where(torch.arange(batch) == 1, torch.nan, 0.5)
            estimate = combine((0.5, x0), (missing, other))
        return NoisyBatch(perturb(x0, noise, level), level, conditions, mask, x0, noise, estimate)  # type: ignore[arg-type]

    @cached_property
    def randomised_denoiser(self) -> Denoiser:
        """A `randomised` copy of the denoiser, in evaluation mode."""
        return randomised(self.model.denoiser)

    @torch.no_grad()
    def predict(self, batch: NoisyBatch, denoiser: Denoiser | None = None) -> State:
        """The output of a denoiser in its own parameterisation, projected to the space as in sampling.

        Without `denoiser`, that of `randomised_denoiser`.
        """
        denoiser = self.randomised_denoiser if denoiser is None else denoiser
        prediction = denoiser(batch.x, batch.level, batch.given, batch.mask)
        return self.space.project(prediction.output, batch.mask)

    def entries_with_noise(self, like: State, mask: Mask) -> State:
        """Which entries of a state noise changes, as booleans: those that exist and are not fixed at zero."""
        noise = self.space.noise(seeded_normal(like, "reached"), mask)
        return map_fields(lambda field: field != 0, noise)

    def model_with(self, denoiser: Denoiser) -> Model:
        """The model with another denoiser in place of its own."""
        return replace(self.model, network=denoiser)


Module = TypeVar("Module", bound=nn.Module)


def randomised(network: Module) -> Module:
    """A copy of a network, in evaluation mode, in which random numbers replace all parameters that are zero.

    Many networks begin with gates or last layers of zeros. Their output is then zero whatever the other layers compute,
    and no check could find a fault in it.
    """
    network = copy.deepcopy(network)
    generator = generator_for(0, "awake")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() and not parameter.any():
                inputs = parameter[0].numel() if parameter.ndim > 1 else 100
                drawn = torch.randn(parameter.shape, generator=generator) / inputs**0.5
                parameter.copy_(drawn.to(parameter))
    return network.eval()


def _times(batch: int) -> Tensor:
    return (torch.arange(batch, dtype=torch.float64) + 0.5) / batch


def seeded_normal(like: State, purpose: str) -> State:
    """Standard normal numbers with the shapes and types of `like`, always the same for a `purpose`."""
    generator = generator_for(0, "check", purpose)
    return map_fields(lambda f: torch.randn(f.shape, generator=generator, dtype=torch.float32).to(f), like)
