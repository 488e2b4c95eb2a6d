"""The losses of the tasks beside losses computed by hand, and the random state of the caller."""

import ast
import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

import diffcore
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.noise import seed_of
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.objective import Objective, losses_by_field, step_loss
from diffcore.tasks.random_state import keep_random_state, seed_generators
from tests.support.toy import toy_registry

REGISTRY = toy_registry()


def toy(task, dropout=0.0):
    network = {"denoiser": {"dropout": dropout}} if task == "denoise" else {}
    settings = compose(REGISTRY, "toy", chosen={"task": task}, file={"train": {"batch_size": 64}, **network})
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


def test_there_is_a_record_for_each_name():
    tasks = REGISTRY.offered("tasks")
    assert [(task.name, task.network) for task in tasks] == [
        ("denoise", "denoiser"),
        ("distill", "denoiser"),
        ("classify", "classifier"),
        ("encode", "autoencoder"),
    ]
    with pytest.raises(FrozenInstanceError):
        tasks[0].name = "other"


NAMES = {"denoise", "distill", "classify", "encode"}


def questions(text):
    """The places in a source text that ask which task there is, or whether a network is a classifier."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            compared = [each for side in (node.left, *node.comparators) for each in ast.walk(side)]
            if any(isinstance(each, ast.Constant) and each.value in NAMES for each in compared):
                yield node.lineno
        elif isinstance(node, ast.MatchValue):
            if isinstance(node.value, ast.Constant) and node.value.value in NAMES:
                yield node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            if "NoisyClassifier" in ast.unparse(node.args[1]):
                yield node.lineno
        elif getattr(node, "id", getattr(node, "attr", "")) == "is_classifier":
            yield node.lineno


def test_nothing_asks_for_the_name_of_a_task():
    """What differs between tasks is in their records."""
    root = Path(diffcore.__file__).parent
    found = [f"{path}:{line}" for path in root.rglob("*.py") for line in questions(path.read_text())]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "if settings.task == 'classify': pass",
        "if settings.task.name in ('denoise', 'distil'): pass",
        "a = b if model.is_classifier else c",
        "isinstance(network, NoisyClassifier)",
        "match task:\n    case 'classify': pass",
    ],
)
def test_a_question_for_the_name_of_a_task_is_found(text):
    assert len(list(questions(text))) == 1


def test_the_denoising_loss_is_the_mean_squared_error_of_the_noise():
    """With the weighting `eps`: |eps_hat - eps|^2 over the three coordinates of the toy."""
    model, settings, data = toy("denoise")
    batch = draw_batch(model, settings, data, 3)
    with torch.no_grad():
        loss = model.task.loss(model, batch, settings)
        prediction = model.denoiser(batch.noisy, batch.level, batch.kept_conditions)
    squares = sum(((prediction.eps[name] - batch.noise[name]) ** 2).sum(1) for name in ("place", "radius"))
    assert loss.shape == (64,)
    torch.testing.assert_close(loss, squares / 3, rtol=1e-4, atol=1e-5)
    assert step_loss(model, settings, data, 3).item() == pytest.approx((squares / 3).mean().item(), rel=1e-4)


def test_the_classifying_loss_is_the_cross_entropy_of_all_conditions():
    model, settings, data = toy("classify")
    batch = draw_batch(model, settings, data, 3)
    with torch.no_grad():
        loss = model.task.loss(model, batch, settings)
        logits = model.classifier(batch.noisy, batch.level)["ring"]
    entropy = torch.nn.functional.cross_entropy(logits, batch.conditions["ring"], reduction="none")
    torch.testing.assert_close(loss, entropy)
    assert step_loss(model, settings, data, 3).item() == pytest.approx(entropy.mean().item(), rel=1e-6)


@pytest.mark.parametrize(("task", "parts"), [("denoise", {"place", "radius"}), ("classify", {"ring"})])
def test_the_losses_by_field_sum_to_the_loss(task, parts):
    model, settings, data = toy(task)
    batch = draw_batch(model, settings, data, 3)
    found = model.task.losses_by_field(model, batch, settings)
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
