"""The losses of the tasks beside losses computed by hand, and the random state of the caller."""

import math
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import get_args

import pytest
import torch

import diffcore
from diffcore import names
from diffcore.runs.composing import NETWORKS, compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.noise import seed_of
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.objective import Objective, losses_by_field, step_loss
from diffcore.tasks.random_state import keep_random_state, seed_generators
from diffcore.tasks.task import TASKS
from tests.support.toy import toy_registry

REGISTRY = toy_registry()


def toy(task, dropout=0.0):
    network = {"denoiser": {"dropout": dropout}} if task == "denoise" else {}
    settings = compose(REGISTRY, "toy", task=task, file={"train": {"batch_size": 64}, **network})
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


def test_there_is_a_record_for_each_name():
    assert set(TASKS) == set(get_args(names.Task)) == set(NETWORKS)
    assert all(task.name == name for name, task in TASKS.items())
    with pytest.raises(FrozenInstanceError):
        TASKS["denoise"].name = "other"


@pytest.mark.parametrize("package", ["tasks", "training"])
def test_what_a_task_does_is_in_its_record(package):
    for path in (Path(diffcore.__file__).parent / package).glob("*.py"):
        assert "task ==" not in path.read_text()
        assert "is_classifier" not in path.read_text()


def test_the_denoising_loss_is_the_mean_squared_error_of_the_noise():
    """With the weighting `eps`: |eps_hat - eps|^2 over the three coordinates of the toy."""
    model, settings, data = toy("denoise")
    batch = draw_batch(model, settings, data, 3)
    with torch.no_grad():
        loss = TASKS["denoise"].loss(model, batch, settings)
        prediction = model.denoiser(batch.noisy, batch.level, batch.kept_conditions)
    squares = sum(((prediction.eps[name] - batch.noise[name]) ** 2).sum(1) for name in ("place", "radius"))
    assert loss.shape == (64,)
    torch.testing.assert_close(loss, squares / 3, rtol=1e-4, atol=1e-5)
    assert step_loss(model, settings, data, 3).item() == pytest.approx((squares / 3).mean().item(), rel=1e-4)


def test_the_classifying_loss_is_the_cross_entropy_of_all_conditions():
    model, settings, data = toy("classify")
    batch = draw_batch(model, settings, data, 3)
    with torch.no_grad():
        loss = TASKS["classify"].loss(model, batch, settings)
        logits = model.classifier(batch.noisy, batch.level)["ring"]
    entropy = torch.nn.functional.cross_entropy(logits, batch.conditions["ring"], reduction="none")
    torch.testing.assert_close(loss, entropy)
    assert step_loss(model, settings, data, 3).item() == pytest.approx(entropy.mean().item(), rel=1e-6)


@pytest.mark.parametrize(("task", "parts"), [("denoise", {"place", "radius"}), ("classify", {"ring"})])
def test_the_losses_by_field_sum_to_the_loss(task, parts):
    model, settings, data = toy(task)
    batch = draw_batch(model, settings, data, 3)
    found = TASKS[task].losses_by_field(model, batch, settings)
    assert found.keys() == parts
    assert sum(found.values()) == pytest.approx(step_loss(model, settings, data, 3).item(), rel=1e-5)
    assert min(found.values()) > 0.05 * sum(found.values())
    assert losses_by_field(Objective(model, settings), batch) == pytest.approx(found)


def test_data_that_are_not_finite_are_returned_alone():
    model, settings, data = toy("denoise")
    batch = draw_batch(model, settings, data, 3)
    batch.x0["radius"][5] = math.inf
    found = losses_by_field(Objective(model, settings), batch)
    assert list(found) == ["radius of the data"]
    assert math.isnan(found["radius of the data"])


# Random state


def test_the_loss_of_a_step_does_not_depend_on_the_random_state_and_leaves_it():
    model, settings, data = toy("denoise", dropout=0.5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = step_loss(model, settings, data, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert step_loss(model, settings, data, 3).item() == first.item()


def test_generators_are_seeded_as_pytorch_does():
    cpu = torch.device("cpu")
    with keep_random_state(cpu):
        torch.manual_seed(seed_of(0, "dropout", 7))
        expected = torch.randn(5)
        seed_generators(cpu, seed_of(0, "dropout", 7))
        assert torch.equal(torch.randn(5), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generators_of_a_gpu_are_seeded_and_restored_too():
    gpu = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    with keep_random_state(gpu):
        torch.manual_seed(7)
        expected = torch.randn(5, device=gpu)
        seed_generators(gpu, 7)
        assert torch.equal(torch.randn(5, device=gpu), expected)
    assert torch.equal(torch.cuda.get_rng_state(), before)
