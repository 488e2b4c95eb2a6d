"""Figures of targets, against denoisers whose samples are known."""

import itertools
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from diffcore.denoising.conditions import ClassCondition, ScalarCondition
from diffcore.denoising.denoiser import Denoiser, from_x0
from diffcore.denoising.sizes import Sizes
from diffcore.evaluation.property_metrics import _SAMPLES_PER_TARGET, GUIDANCE, property_metrics
from diffcore.plugins.builtin import guidance_builders
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.guidance import GuidanceContext, with_effect
from diffcore.plugins.records import NoOptions
from diffcore.process.schedules import Cosine
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.sampling.solvers import adams
from diffcore.states.spaces import Euclidean
from diffcore.states.state import per_sample
from diffcore.testing.oracles import gaussian
from tests.support.toy import DENOISE

QUANTILES = tuple(torch.linspace(-1, 3, 9).tolist())
HEIGHT = ScalarCondition("height", 1.0, 0.5, QUANTILES, "m")
TABLE = ((0.5, 0.3), (1.0, 0.3), (1.6, 0.4))
SIZES = Sizes(3, {1: 5, 2: 10, 3: 20}, {"height": TABLE})


def missed(c):
    """By how much a sample misses what it was asked to be."""
    return 0.3 * torch.sin(100 * c)


class Told(Denoiser):
    """Every entry of a sample is what it was asked to be, and `missed` of it; zero where nothing was asked."""

    def __init__(self, conditions):
        backbone = nn.Identity()
        backbone.width = 4
        super().__init__(backbone, conditions)

    def forward(self, x, level, conditions=None, mask=None):
        c = conditions["height"]
        value = torch.where(c.isnan(), 0.0, c + missed(c))
        return from_x0(per_sample(value, x) * torch.ones_like(x), x, level)


@dataclass
class Codec:
    """States of up to three entries; a sample is the mean of those that exist."""

    conditions: tuple = (HEIGHT,)
    sizes: Sizes | None = SIZES
    space = Euclidean((3,))

    def encode(self, examples, draws=None):
        mask = None if self.sizes is None else self.sizes.mask(examples["size"])
        values = {c.name: examples[c.name] for c in self.conditions}
        return Encoded(torch.zeros(len(examples), 3), values, mask)

    def decode(self, state, mask=None):
        return state.mean(1) if mask is None else state.sum(1) / mask.sum(1)


class Evaluator:
    """Samples above `highest` have no value."""

    def __init__(self, highest=math.inf):
        self.highest = highest

    def measure(self, samples):
        return {"height": torch.where(samples > self.highest, math.nan, samples).double()}


def examples(n, seed, lacking=0):
    g = torch.Generator().manual_seed(seed)
    size = torch.randint(1, 4, (n,), generator=g)
    height = 0.4 * size + 0.3 * torch.randn(n, generator=g)
    height[:lacking] = math.nan
    return TensorDict({"size": size, "height": height}, batch_size=[n])


def model(codec, network=None):
    network = Told(codec.conditions) if network is None else network
    modality = SimpleNamespace(name="heights")
    return Model(modality, codec, network, Cosine(), torch.device("cpu"), DENOISE)


HELD_OUT = examples(40, 1, lacking=10)
GIVEN = HELD_OUT["height"][10:].double()
DATA = Data(NoOptions(), examples(60, 0), HELD_OUT)
RECIPE = SamplingConfig(adams(), steps=4)


def values_of(metrics):
    return {metric.name: metric.value for metric in metrics}


def meanings_of(metrics):
    return {metric.name: metric.meaning for metric in metrics}


def listed(kind, options, codec, network=None):
    """A guidance of the core, as a list makes it."""
    context = GuidanceContext(None, codec, codec.conditions, lambda source, task: network)
    build = getattr(guidance_builders, kind.replace("-", "_"))
    return replace(build(SimpleNamespace(against={}, **options), context), name=kind, options=options)


def free(weight):
    return with_effect([listed("classifier-free", {"weight": weight}, Codec())])


@pytest.mark.parametrize(("weight", "tried"), [(1.0, GUIDANCE), (3.0, 3.0)])
def test_errors_are_those_of_the_samples(weight, tried):
    """Guided samples are w (c + missed(c)), as what is asked for nothing is zero."""
    metrics = property_metrics(model(Codec()), replace(RECIPE, guides=free(weight)), Evaluator(), DATA, 400, 0)
    found, meant = values_of(metrics), meanings_of(metrics)
    assert found["height_mae_conditional"] == pytest.approx(missed(GIVEN).abs().mean().item(), abs=1e-4)
    guided = (tried * (GIVEN + missed(GIVEN)) - GIVEN).abs().mean().item()
    assert found["height_mae_guided"] == pytest.approx(guided, abs=1e-3)
    assert (
        meant["height_mae_guided"]
        == f"mean |requested - obtained| (m) of 30 samples; classifier-free (weight {tried:g})"
    )
    assert meant["height_mae_conditional"].endswith("(m) of 30 samples; conditions, without guidance")
    assert found["height_measured_conditional"] == found["height_measured_guided"] == 1


def test_bounds_are_sums_by_hand():
    found = values_of(property_metrics(model(Codec()), RECIPE, Evaluator(), DATA, 400, 0))
    values = GIVEN.tolist()
    pairs = [abs(a - b) for a, b in itertools.permutations(values, 2)]
    assert found["height_mae_shuffled"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
    mean = {size: row[0] for size, row in zip(SIZES.counts, TABLE, strict=True)}
    alone = [abs(c - mean[size]) for c, size in zip(values, HELD_OUT["size"][10:].tolist(), strict=True)]
    assert found["height_mae_size_only"] == pytest.approx(sum(alone) / len(alone), rel=1e-9)


def test_a_size_that_training_has_not_met_is_guessed_the_mean():
    sizes = Sizes(3, {1: 5, 3: 20}, {"height": (TABLE[0], TABLE[2])})
    found = values_of(property_metrics(model(Codec(sizes=sizes)), RECIPE, Evaluator(), DATA, 400, 0))
    mean = {1: 0.5, 2: HEIGHT.mean, 3: 1.6}
    alone = [abs(c - mean[n]) for c, n in zip(GIVEN.tolist(), HELD_OUT["size"][10:].tolist(), strict=True)]
    assert found["height_mae_size_only"] == pytest.approx(sum(alone) / len(alone), rel=1e-9)
    whole = values_of(property_metrics(model(Codec(sizes=None)), RECIPE, Evaluator(), DATA, 400, 0))
    assert "height_mae_size_only" not in whole
    assert whole["height_mae_conditional"] == pytest.approx(missed(GIVEN).abs().mean().item(), abs=1e-4)


def test_samples_without_a_value_are_a_share_and_no_error():
    obtained = GIVEN + missed(GIVEN)
    highest = obtained.sort().values[11:13].mean().item()
    found = values_of(property_metrics(model(Codec()), RECIPE, Evaluator(highest), DATA, 400, 0))
    assert found["height_measured_conditional"] == pytest.approx(12 / 30)
    kept = missed(GIVEN)[obtained <= highest].abs().mean().item()
    assert found["height_mae_conditional"] == pytest.approx(kept, abs=1e-4)
    none = values_of(property_metrics(model(Codec()), RECIPE, Evaluator(-9.0), DATA, 400, 0))
    assert none["height_measured_conditional"] == 0
    assert "height_mae_conditional" not in none


def test_targets_are_a_share_of_the_samples_and_of_training_where_nothing_is_held_out():
    metrics = meanings_of(property_metrics(model(Codec()), RECIPE, Evaluator(), DATA, 10 * _SAMPLES_PER_TARGET, 0))
    assert "of 10 samples" in metrics["height_mae_conditional"]
    alone = replace(DATA, held_out=None)
    found = values_of(property_metrics(model(Codec()), RECIPE, Evaluator(), alone, 60 * _SAMPLES_PER_TARGET, 0))
    expected = missed(alone.examples["height"].double()).abs().mean().item()
    assert found["height_mae_conditional"] == pytest.approx(expected, abs=1e-4)


def test_few_targets():
    one = replace(DATA, held_out=HELD_OUT[9:11])
    found = values_of(property_metrics(model(Codec()), RECIPE, Evaluator(), one, 400, 0))
    assert found["height_mae_conditional"] == pytest.approx(missed(GIVEN[0]).abs().item(), abs=1e-4)
    assert "height_mae_shuffled" not in found  # there is no other target
    none = replace(DATA, held_out=HELD_OUT[:10])
    assert property_metrics(model(Codec()), RECIPE, Evaluator(), none, 400, 0) == []


def test_there_are_no_figures_without_numbers_or_without_what_measures_them():
    assert property_metrics(model(Codec()), RECIPE, lambda samples, conditions: [], DATA, 400, 0) == []
    codec = Codec((ClassCondition("kind", ("a", "b")),), None)
    assert property_metrics(model(codec), RECIPE, Evaluator(), DATA, 400, 0) == []

    class Blind(Evaluator):
        def measure(self, samples):
            return {}

    names = {metric.name for metric in property_metrics(model(Codec()), RECIPE, Blind(), DATA, 400, 0)}
    assert names == {"height_mae_shuffled", "height_mae_size_only"}


class Normal(Denoiser):
    """Data N(0, 1), whatever is asked."""

    def __init__(self, conditions=()):
        backbone = nn.Identity()
        backbone.width = 4
        super().__init__(backbone, conditions)

    def forward(self, x, level, conditions=None, mask=None):
        return gaussian(0.0, 1.0)(x, level, conditions, mask)


STD = 0.4


def teller():
    """What is asked for is the first entry of x0 ~ N(0, 1) with noise of the standard deviation `STD`."""

    def log_likelihood(x, level, conditions, mask=None):
        total = level.alpha**2 + level.sigma**2
        c, mean = conditions["height"], level.alpha * x[:, 0] / total
        variance = level.sigma**2 / total + STD**2
        return torch.where(c.isnan(), 0.0, -((c.nan_to_num() - mean) ** 2) / (2 * variance))

    return SimpleNamespace(conditions=(HEIGHT,), log_likelihood=log_likelihood)


class First(Codec):
    def decode(self, state, mask=None):
        return state[:, 0]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("others", [(), (ScalarCondition("depth", 0.0, 1.0, QUANTILES),)], ids=["none", "depth"])
def test_a_predictor_alone_meets_targets_as_the_posterior_does(guidance, others):
    """x0 given c is N(c / (1 + s^2), s^2 / (1 + s^2)), so |x0 - c| has the mean of a folded normal distribution.

    The model does not know the condition, so guidance by the model's own conditions has no part in it.
    """
    drawing = model(First(others, None), Normal(others))
    both = [
        listed("classifier-free", {"weight": guidance}, drawing.codec),
        listed("classifier", {"run": "teller", "weight": 1.0}, drawing.codec, teller()),
    ]
    config = SamplingConfig(adams(), steps=20, guides=with_effect(both))
    data = Data(NoOptions(), TensorDict({"depth": torch.zeros(9)}, batch_size=[9]))
    metrics = property_metrics(drawing, config, Evaluator(), data, 2000 * _SAMPLES_PER_TARGET, 0)
    found, meant = values_of(metrics), meanings_of(metrics)
    targets = torch.tensor(QUANTILES, dtype=torch.float64)
    shares = torch.full((9,), 1 / 8, dtype=torch.float64)  # of evenly spaced shares the nearest quantile
    shares[[0, -1]] /= 2
    bias, spread = targets * STD**2 / (1 + STD**2), STD / math.sqrt(1 + STD**2)
    normal = torch.distributions.Normal(0.0, 1.0)
    folded = spread * math.sqrt(2 / math.pi) * torch.exp(-(bias**2) / (2 * spread**2))
    folded = folded + bias * (1 - 2 * normal.cdf(-bias / spread))
    assert found["height_mae_guided"] == pytest.approx((shares * folded).sum().item(), abs=0.02)
    assert meant["height_mae_guided"].endswith("of 2000 samples; classifier (run teller, weight 1)")
    assert "height_mae_conditional" not in found  # the model itself cannot be asked for it
    assert "height_mae_size_only" not in found
    values = [value for value, share in zip(QUANTILES, shares.tolist(), strict=True) for _ in range(round(16 * share))]
    pairs = [abs(a - b) for a in values for b in values]
    assert found["height_mae_shuffled"] == pytest.approx(sum(pairs) / len(pairs), rel=2e-3)


def test_a_predictor_that_knows_nothing_of_a_number_is_no_guide_to_it():
    """It is left out, and the weight of guidance is tried instead."""
    other = SimpleNamespace(conditions=(ClassCondition("kind", ("a", "b")),), log_likelihood=None)
    config = replace(RECIPE, guides=(listed("classifier", {"run": "other", "weight": 1.0}, Codec(), other),))
    metrics = property_metrics(model(Codec()), config, Evaluator(), DATA, 400, 0)
    assert meanings_of(metrics)["height_mae_guided"].endswith("samples; classifier-free (weight 2)")
