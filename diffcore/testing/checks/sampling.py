"""A check of seeds, and the samples that it and other checks draw."""

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.denoising.conditions import nulls
from diffcore.runs.generation import generate
from diffcore.runs.sampling_config import sampling_config
from diffcore.states.noise import Draws
from diffcore.states.state import State
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import combined, field_prefix, relative_difference, same_states, source_location
from diffcore.testing.plugin import BATCH_SIZE, PluginUnderTest


def seeds_decide(plugin: PluginUnderTest) -> Measurement:
    """A seed determines initial weights, encoding and samples bit for bit, and two seeds give different samples.

    Otherwise no result could be reproduced. A usual cause of a failure is the global random state.
    """
    examples = plugin.examples(BATCH_SIZE)
    weights = plugin.new_model().network.state_dict()

    def encode(seed: int | None = None, start: int = 0) -> State:
        draws = None if seed is None else Draws.of(seed, range(start, len(examples)))
        return plugin.encode(examples[start:], draws).state

    first, again, other = (draw_samples(plugin, seed) for seed in (0, 0, 1))
    same_weights = all(torch.equal(v, weights[name]) for name, v in plugin.model.network.state_dict().items())
    network = source_location(plugin.backbone)
    codec, decode = source_location(type(plugin.codec)), source_location(plugin.codec.decode)
    return combined(
        _repeats("initial weights", same_weights, network),
        _repeats("encoded examples, without augmentation", same_states(encode(), encode()), codec),
        _repeats("encoded examples, with augmentation", same_states(encode(0), encode(0)), codec),
        _own_rows(encode(0, len(examples) // 2), encode(0)[len(examples) // 2 :], codec),
        _repeats("states of samples", same_states(first.state, again.state), network),
        _repeats("decoded samples", _same_samples(first.decoded, again.decoded), decode),
        _two_seeds_differ(first.state, other.state, source_location(type(plugin.space))),
    )


def _repeats(what: str, same: bool, where: str) -> Measurement:
    found = "identical" if same else "different"
    return Measurement(same, f"{what}: {found} the second time", "identical for the same seed, bit for bit", where)


def _own_rows(part: State, rows: State, where: str) -> Measurement:
    difference = relative_difference(part, rows)
    return Measurement(
        difference.value <= 1e-4,
        f"{field_prefix(difference.field)}encoded with augmentation, the second half of a batch alone differs from "
        f"that half in the whole batch by {difference.value:.2g}",
        "at most 0.0001 of the largest entry: the numbers of an example come from `draws`, which has some for each",
        where,
    )


def _two_seeds_differ(first: State, other: State, where: str) -> Measurement:
    differ = not same_states(first, other)
    found = "different" if differ else "identical"
    return Measurement(differ, f"states of samples: {found} for two seeds", "different for two seeds", where)


@dataclass(frozen=True)
class DrawnSamples:
    """Samples: their states, and decoded to the modality's own form."""

    state: State
    decoded: Any


def draw_samples(plugin: PluginUnderTest, seed: int, n: int = 4) -> DrawnSamples:
    """Draw `n` samples in 4 steps from the initial weights, without guidance."""
    settings = plugin.settings.sample.model_copy(update={"steps": 4, "guidance": 1.0})
    model = plugin.new_model()
    config = sampling_config(settings, plugin.registry, model)
    conditions = {c.name: c.examples(n) for c in plugin.codec.conditions}
    drawn = generate(model, config, conditions or nulls((), n), n, seed)
    return DrawnSamples(drawn.state, plugin.decode(drawn.state, drawn.mask))


def _same_samples(first: Any, second: Any) -> bool:
    """Whether samples in the modality's own form are equal, as far as their attributes show it."""
    if isinstance(first, Tensor | TensorDict):
        return same_states(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same_samples, first, second))
    if hasattr(first, "__dict__") and not callable(first):
        return _same_samples([*vars(first).values()], [*vars(second).values()])
    same = first == second
    return bool(same.all()) if hasattr(same, "all") else bool(same)
