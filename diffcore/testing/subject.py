"""What the checks of a plugin look at: its record, small settings, and the parts made of them once."""

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.denoiser import Denoiser
from diffcore.plugins.contract import Contract
from diffcore.plugins.data import Codec, Data, Encoded
from diffcore.plugins.records import Component, Modality
from diffcore.plugins.registry import Registry, choose
from diffcore.process.gaussian import perturb
from diffcore.runs.model import Model, build_data, build_model
from diffcore.runs.settings import RunSettings, choices, compose
from diffcore.states.level import Level
from diffcore.states.noise import generator_for
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields, first_field, map_fields

BATCH = 8
"""Examples that a check puts through the network."""

_TRAIN = {
    "steps": 4,
    "batch_size": BATCH,
    "log_every": 1,
    "checkpoint_every": 2,
    "keep_checkpoints": 2,
    "sample_every": 1_000_000,
    "evaluate": 0,
    "condition_dropout": 0.5,
}


@dataclass(frozen=True)
class Noisy:
    """A noisy batch, as a denoiser takes it, and what it was made of."""

    x: State
    level: Level
    conditions: Conditions
    mask: Mask
    x0: State
    noise: State

    def __getitem__(self, chosen: Any) -> "Noisy":
        """The samples `chosen`, by their indices."""
        return Noisy(
            self.x[chosen],
            Level(self.level.alpha[chosen], self.level.sigma[chosen]),  # type: ignore[index]
            {name: value[chosen] for name, value in self.conditions.items()},
            None if self.mask is None else self.mask[chosen],
            self.x0[chosen],
            self.noise[chosen],
        )


@dataclass(frozen=True)
class Subject:
    """A kind of data under examination, with the default preset made small; parts are made when first asked for."""

    registry: Registry
    modality: Modality
    denoiser_name: str | None = None

    @cached_property
    def settings(self) -> RunSettings:
        """The preset `default`, with each part's `small` options, on the CPU."""
        chosen = {} if self.denoiser_name is None else {"denoiser": self.denoiser_name}
        usual = compose(self.registry, self.modality.name, "default", chosen=chosen, task="denoise")
        small: dict[str, Any] = {"device": "cpu", "train": _TRAIN}
        for kind in ("data", "denoiser"):
            part = self._chosen(kind, usual)
            small[kind] = {"name": part.name, **part.small}
        return compose(self.registry, self.modality.name, "default", small, origin="the small options")

    def _chosen(self, kind: str, settings: RunSettings) -> Component:
        return choose(choices(self.modality, self.registry)[kind], getattr(settings, kind).name, kind)

    @cached_property
    def denoiser(self) -> Component:
        """The denoiser under examination."""
        return self._chosen("denoiser", self.settings)

    @property
    def network(self) -> str:
        """The name of the denoiser under examination."""
        preset = self.modality.presets["default"].values.get("denoiser", {})
        return self.denoiser_name or preset.get("name", self.modality.denoisers[0].name)

    @cached_property
    def data(self) -> Data:
        return build_data(self.settings, self.registry)

    @cached_property
    def model(self) -> Model:
        """The model with its initial weights."""
        return self.fresh()

    def fresh(self) -> Model:
        """Another model with the same initial weights."""
        return build_model(self.settings, self.data.facts, self.registry)

    @property
    def codec(self) -> Codec:
        return self.model.codec

    @property
    def space(self) -> Space:
        return self.codec.space

    @cached_property
    def contract(self) -> Contract:
        return Contract() if self.modality.contract is None else self.modality.contract(self.codec)

    def examples(self, count: int) -> TensorDict:
        """Up to so many training examples, chosen at random, always the same."""
        available = self.data.examples
        chosen = torch.randperm(len(available), generator=generator_for(0, "examples"))[:count]
        return available[chosen]

    def encoded(self, count: int) -> Encoded:
        """The same, encoded without augmentation."""
        return self.codec.encode(self.examples(count))

    def noisy(self, count: int = BATCH) -> Noisy:
        """Encoded examples with noise, from little to much; a third of all conditions is not given."""
        encoded = self.encoded(count)
        x0, mask = encoded.state, encoded.mask
        batch = x0.shape[0]
        level = self.model.schedule.level(self.model.schedule.log_snr(_times(batch)))
        noise = self.space.project(self.space.noise(normal(x0, "noise"), mask), mask)
        conditions = dict(encoded.conditions)
        dropped = torch.arange(batch) % 3 == 2
        for condition in self.codec.conditions:
            conditions[condition.name] = torch.where(dropped, condition.null(batch), conditions[condition.name])
        return Noisy(perturb(x0, noise, level), level, conditions, mask, x0, noise)  # type: ignore[arg-type]

    @cached_property
    def awake(self) -> Denoiser:
        """The network with random numbers where weights begin at zero, so that nothing hides behind a closed gate."""
        network = copy.deepcopy(self.model.denoiser)
        generator = generator_for(0, "awake")
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.numel() and not parameter.any():
                    inputs = parameter[0].numel() if parameter.ndim > 1 else 100
                    drawn = torch.randn(parameter.shape, generator=generator) / inputs**0.5
                    parameter.copy_(drawn.to(parameter))
        return network.eval()

    @torch.no_grad()
    def say(self, noisy: Noisy, network: Denoiser | None = None) -> State:
        """What the network says of a batch, in its parameterisation, projected to the space as in sampling."""
        network = self.awake if network is None else network
        prediction = network(noisy.x, noisy.level, noisy.conditions, noisy.mask)
        return self.space.project(prediction.output, noisy.mask)

    def reached(self, like: State, mask: Mask) -> State:
        """Which entries of states noise reaches, a state of booleans: those that exist and are not held at zero."""
        noise = self.space.noise(normal(like, "reached"), mask)
        return map_fields(lambda field: field != 0, noise)

    def with_network(self, network: nn.Module) -> Model:
        """The model with another network of the same kind."""
        return replace(self.model, network=network)  # type: ignore[arg-type]


def _times(batch: int) -> Tensor:
    return (torch.arange(batch, dtype=torch.float64) + 0.5) / batch


def normal(like: State, purpose: str) -> State:
    """Standard normal numbers of the shape and type of `like`, always the same for a purpose."""
    generator = generator_for(0, "check", purpose)
    return map_fields(lambda f: torch.randn(f.shape, generator=generator, dtype=torch.float32).to(f), like)


def relative(first: State, second: State) -> tuple[float, str]:
    """The largest difference of two states, field by field relative to the second's largest entry; and its field.

    Infinite where one of them is not finite or shapes differ.
    """
    worst, where = 0.0, ""
    for (name, a), b in zip(fields(first).items(), fields(second).values(), strict=True):
        if a.shape != b.shape or not bool((a - b).isfinite().all()):
            return float("inf"), name
        if not b.numel():
            continue
        found = ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()
        if found > worst:
            worst, where = found, name
    return worst, where


def batch_of(state: State) -> int:
    """How many samples a state holds."""
    return len(first_field(state))


def place_of(thing: Any) -> str:
    """Where something is written: its name, file and line."""
    target = inspect.unwrap(thing) if callable(thing) else thing
    if not (inspect.isclass(target) or inspect.isroutine(target)):
        target = type(target)
    name = f"{target.__module__}.{target.__qualname__}"
    try:
        return f"{name} ({inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]})"
    except (OSError, TypeError):
        return name


def named(names: Iterable[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
