"""Batches of similar sizes, weights of fields, and states with more noise than the network is told."""

from dataclasses import replace

import pytest
import torch

from diffcore.denoising.denoiser import from_x0
from diffcore.denoising.losses import field_losses, weighted_loss
from diffcore.errors import UserError
from diffcore.plugins.data import Encoded
from diffcore.process.schedules import Cosine
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.level import FieldLevels
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs
from diffcore.states.state import named
from diffcore.tasks.batch import batch_indices, draw_batch
from diffcore.tasks.buckets import sorted_indices, trimmed, with_sizes
from tests.support.toy import toy_registry

REGISTRY = toy_registry()


def toy(**values):
    settings = compose(REGISTRY, "toy", file={"train": {"batch_size": 64, **values}})
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


def test_the_batches_of_a_window_have_all_its_examples_and_similar_sizes():
    sizes = torch.arange(1000) % 23
    indices = batch_indices(1000, 10 * 64, 1, seed=0)
    batches = sorted_indices(indices, sizes, 64, seed=0, window=1)
    assert sorted(batches.flatten().tolist()) == sorted(indices.tolist())
    ranges = sizes[batches]
    assert (ranges.amax(1) - ranges.amin(1)).max() <= 4, "of 22"
    assert not (ranges.diff(dim=1) >= 0).all(), "within a batch they are mixed"
    means = ranges.float().mean(1)
    assert means.diff().sign().unique().numel() > 1, "and so are the batches"


def test_absent_elements_behind_the_largest_example_are_cut_off():
    space = Product({"place": Euclidean((12, 3)), "pairs": SymmetricPairs((12, 12, 2)), "kind": Euclidean((12, 1))})
    mask = torch.arange(12) < torch.tensor([[3], [5]])
    state = named({"place": torch.rand(2, 12, 3), "pairs": torch.rand(2, 12, 12, 2), "kind": torch.rand(2, 12, 1)})
    short = trimmed(Encoded(state, {}, mask), space, 5)
    assert torch.equal(short.mask, mask[:, :8])
    assert torch.equal(short.state["pairs"], state["pairs"][:, :8, :8])
    assert torch.equal(short.state["place"], state["place"][:, :8])
    assert trimmed(Encoded(state, {}, mask), space, 11).mask.shape == (2, 12)


def test_data_of_one_size_have_no_buckets():
    model, _, data = toy()
    with pytest.raises(UserError, match=r"`train.buckets`: all examples of toy have the same number of elements"):
        with_sizes(model, data)


def test_weights_multiply_the_terms_of_their_fields():
    space = Product({"a": Euclidean((2,)), "b": Euclidean((4,))})
    x0, noise = (named({"a": torch.randn(3, 2), "b": torch.randn(3, 4)}) for _ in range(2))
    level = Cosine().level(torch.zeros(3, dtype=torch.float64))
    for levels in (level, FieldLevels({"a": level, "b": level})):
        prediction = from_x0(named({"a": torch.zeros(3, 2), "b": torch.ones(3, 4)}), x0, levels)
        parts = field_losses(prediction, x0, noise, space)
        weighted = weighted_loss(prediction, x0, noise, space, field_weights={"b": 3.0})
        torch.testing.assert_close(weighted, parts["a"] + 3 * parts["b"])
        own = field_losses(prediction, x0, noise, space, field_weights={"b": 3.0})
        torch.testing.assert_close(own["b"], 3 * parts["b"])
    with pytest.raises(UserError, match=r"`train.field_weights` has 'bond', no field of these data"):
        toy(field_weights={"bond": 1.0})


def test_distorted_states_have_more_noise_than_the_level_says_and_the_same_target():
    plain, own = draw_batch(*toy(), 3), draw_batch(*toy(distorted=0.5, distortion=0.75), 3)
    ratio = own.noise["place"] / plain.noise["place"]
    clean = plain.level.log_snr > 0
    assert (ratio[~clean] == 1).all()
    kinds = {round(value, 3) for value in ratio[clean].flatten().tolist()}
    assert kinds == {1.0, 1.25}, "sqrt(1 + 0.75^2) = 1.25"
    assert torch.equal(own.x0["place"], plain.x0["place"])
    assert torch.equal(own.level.log_snr, plain.level.log_snr)


def test_a_network_sees_the_same_of_a_shorter_batch(molecules):
    """The batch of a step with sizes has the examples of one without them, less the places that none of them needs."""
    model, settings, data = molecules
    ready = with_sizes(model, data)
    assert torch.equal(ready.sizes, (data.examples["numbers"] > 0).sum(1))
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"buckets": 4})})
    seen, shapes = [], set()
    for step in range(4):
        batch = draw_batch(model, settings, ready, step)
        largest = int(batch.mask.sum(1).max())
        shapes.add(batch.x0.shape[0:1] + batch.mask.shape[1:])
        assert batch.mask.shape[1] == min(-(-largest // 4) * 4, 9)
        assert batch.x0["bonds"].shape[1:3] == (batch.mask.shape[1],) * 2
        assert model.task.loss(model, batch, settings).isfinite().all()
        seen.append(batch.mask.sum(1))
    chosen = batch_indices(len(data.examples), 32, 0, settings.seed)
    assert sorted(torch.cat(seen).tolist()) == sorted(ready.sizes[chosen].tolist())
    assert len(shapes) > 1


@pytest.fixture(scope="module")
def molecules():
    pytest.importorskip("diffcore_molecule")
    from diffcore.plugins.registry import installed

    file = {"denoiser": {"width": 16, "pair_width": 16, "depth": 1}, "train": {"batch_size": 8}}
    settings = compose(installed(), "molecule", file={"data": {"properties": []}, **file})
    data = build_data(settings, installed())
    order = (data.examples["numbers"] > 0).sum(1).argsort()
    data = replace(data, examples=data.examples[torch.cat([order[:32], order[-32:]])])
    return build_model(settings, data.facts, installed()), settings, data
