"""Training leaves the global state of its caller as it was, and does not depend on it."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import diffcore as dc
from diffcore.api.modes import float32
from diffcore.errors import UserError
from diffcore.runs.checkpoints import find_checkpoint
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder
from diffcore.runs.model import build_data, build_model
from diffcore.training.loop import Callbacks, train
from diffcore.training.signals import stop_requests
from tests.support.toy import toy_registry
from tests.training.test_loop import assert_same_checkpoint, start

DIVERGING = {"learning_rate": 1e30, "warmup_steps": 0, "gradient_clip": 1e30}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def handlers():
    """Signal handlers of the caller."""
    earlier = [signal.getsignal(number) for number in SIGNALS]
    own = [lambda number, frame: None, lambda number, frame: None]
    for number, handler in zip(SIGNALS, own, strict=True):
        signal.signal(number, handler)
    yield own
    for number, handler in zip(SIGNALS, earlier, strict=True):
        signal.signal(number, handler)


def installed():
    return [signal.getsignal(number) for number in SIGNALS]


class FailedError(Exception):
    pass


def with_callbacks(path, device="cpu", dropout=0.3, **callbacks):
    registry = toy_registry()
    values = {"train": {"steps": 20, "log_every": 5, "sample_every": 5}, "denoiser": {"dropout": dropout}}
    settings = compose(registry, "toy", file={"device": device, **values})
    data = build_data(settings, registry)
    path.mkdir()
    return train(RunFolder(path), settings, build_model(settings, data.facts, registry), data, Callbacks(**callbacks))


def fail(*arguments):
    raise FailedError


# Random numbers


def test_the_random_state_is_restored(tmp_path):
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    start(tmp_path / "run", dropout=0.3)
    assert torch.equal(torch.randn(4), expected)


def test_the_random_state_is_restored_where_training_fails(tmp_path):
    before = torch.get_rng_state()
    with pytest.raises(UserError):
        start(tmp_path / "diverged", **DIVERGING)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(FailedError):
        with_callbacks(tmp_path / "failed", log=fail)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_training_draws_does_not_depend_on_the_random_state(tmp_path):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(start(tmp_path / str(seed), dropout=0.3)[0])
    assert_same_checkpoint(*map(find_checkpoint, runs))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_the_gpu_is_restored(tmp_path):
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    with_callbacks(tmp_path / "run", device="cuda", sample=lambda model, step: torch.randn(3, device="cuda"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])


# Default dtype


@pytest.mark.usefixtures("float64")
def test_the_default_dtype_stays(tmp_path):
    seen = set()
    with_callbacks(tmp_path / "run", log=lambda line: seen.add(torch.get_default_dtype()))
    assert seen == {torch.get_default_dtype()} == {torch.float64}
    with pytest.raises(FailedError):
        with_callbacks(tmp_path / "failed", log=fail)
    assert torch.get_default_dtype() == torch.float64


# Signals


def test_signal_handlers_are_replaced_in_training_and_then_restored(tmp_path, handlers):
    seen = []
    with_callbacks(tmp_path / "run", log=lambda line: seen.append(installed()))
    assert seen
    assert not [handler for pair in seen for handler in pair if handler in handlers]
    assert installed() == handlers


@pytest.mark.parametrize("callback", ["log", "sample", "logged", "saved"])
def test_signal_handlers_are_restored_where_a_callback_fails(tmp_path, handlers, callback):
    with pytest.raises(FailedError):
        with_callbacks(tmp_path / "run", **{callback: fail})
    assert installed() == handlers


def test_signal_handlers_are_restored_where_training_diverges(tmp_path, handlers):
    with pytest.raises(UserError):
        start(tmp_path / "run", **DIVERGING)
    assert installed() == handlers


def test_signal_handlers_are_restored_after_two_interrupts(tmp_path, handlers):
    def interrupt(line):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        with_callbacks(tmp_path / "run", log=interrupt)
    assert installed() == handlers


@pytest.mark.usefixtures("handlers")
def test_a_handler_that_python_cannot_restore_is_left_alone(monkeypatch):
    replaced, plain = [], signal.signal
    monkeypatch.setattr("signal.getsignal", lambda number: None if number == signal.SIGTERM else "known")
    monkeypatch.setattr("signal.signal", lambda number, handler: replaced.append(number) or plain(number, handler))
    with stop_requests() as requested:
        assert signal.SIGTERM not in replaced
        assert signal.SIGINT in replaced
        assert not requested()
    assert signal.SIGTERM not in replaced


# Threads


def test_training_works_in_another_thread(tmp_path, handlers):
    done = []
    thread = threading.Thread(target=lambda: done.append(start(tmp_path / "thread", dropout=0.3)))
    thread.start()
    thread.join()
    ((run, outcome),) = done
    assert not outcome.interrupted
    assert installed() == handlers
    assert_same_checkpoint(find_checkpoint(run), find_checkpoint(start(tmp_path / "main", dropout=0.3)[0]))


def test_models_that_threads_build_beside_training_have_their_own_initial_weights(tmp_path):
    """Dropout of a run in another thread draws from the same global generator."""
    registry = toy_registry()
    settings = compose(registry, "toy", file={"device": "cpu"})
    facts = build_data(settings, registry).facts
    expected = build_model(settings, facts, registry).network.state_dict()
    built, before = [], torch.get_rng_state()
    threads = [threading.Thread(target=lambda i=i: start(tmp_path / str(i), dropout=0.3)) for i in range(2)]
    threads.append(
        threading.Thread(target=lambda: built.extend(build_model(settings, facts, registry) for _ in range(10)))
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 10
    for model in built:
        for name, value in model.network.state_dict().items():
            assert torch.equal(value, expected[name])
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (find_checkpoint(RunFolder(tmp_path / str(i))) for i in range(2))
    assert_same_checkpoint(first, second)


@pytest.mark.usefixtures("toy", "float64")
def test_runs_are_float32_whatever_the_default_dtype_is(tmp_path):
    out = tmp_path / "run"
    run = dc.train("toy", out=out, train={"steps": 4, "evaluate": 4}, sample={"steps": 2})
    samples = run.sample(2)
    assert {value.dtype for value in run.model.network.state_dict().values()} == {torch.float32}
    assert {field.dtype for field in samples.state.values()} == {torch.float32}
    run.evaluate(4)
    run.resume({"steps": 6})
    assert torch.get_default_dtype() == torch.float64


@pytest.mark.usefixtures("float64")
def test_threads_share_float32_and_the_last_one_restores_the_default_dtype():
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with float32():
            first_in.set()
            assert second_in.wait(5)
        first_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(5)
    with float32():
        second_in.set()
        assert first_out.wait(5)
        assert torch.get_default_dtype() == torch.float32
    thread.join()
    assert torch.get_default_dtype() == torch.float64


def test_a_default_dtype_that_is_set_in_the_meantime_stays():
    with float32():
        torch.set_default_dtype(torch.bfloat16)
    assert torch.get_default_dtype() == torch.bfloat16
    torch.set_default_dtype(torch.float32)


def everything(path):
    """The weights and samples of a run that uses all methods."""
    run = dc.train("toy", out=path, train={"steps": 4, "evaluate": 4}, sample={"steps": 2}, denoiser={"dropout": 0.2})
    samples = run.sample(2)
    run.evaluate(4)
    run.log_likelihood(samples)
    run.tune(2, trajectories=2, iterations=2)
    weights = run.resume({"steps": 6}).model.network.state_dict()
    return [*samples.state.values(), *weights.values()]


@pytest.mark.usefixtures("toy")
def test_runs_do_not_depend_on_the_modes_of_their_caller(tmp_path):
    plain = everything(tmp_path / "plain")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        found = everything(tmp_path / "run")
        assert torch.get_default_device().type == "meta"
    for value, expected in zip(found, plain, strict=True):
        assert torch.equal(value, expected)
    with torch.no_grad():
        dc.train("toy", out=tmp_path / "another", train={"steps": 1, "evaluate": 0})


@pytest.mark.usefixtures("toy")
def test_a_run_is_found_from_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    run = dc.train("toy", out="run", train={"steps": 2, "evaluate": 0})
    loaded = dc.load("run")
    monkeypatch.chdir(tmp_path / "other")
    for each in (run, loaded):
        each.evaluate(4)
    run.resume({"steps": 3})
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.usefixtures("toy")
def test_fitting_a_grid_does_not_touch_the_global_generator(tmp_path, monkeypatch):
    """PyTorch's gradient checkpoints would restore a state that another thread had set for a moment."""
    run = dc.train("toy", out=tmp_path / "run", train={"steps": 2, "evaluate": 0})
    assert run.model
    for name in ("torch.get_rng_state", "torch.set_rng_state"):
        monkeypatch.setattr(name, fail)
    run.tune(2, trajectories=2, iterations=2)


STATE = """
import random, numpy, os, signal, sys, warnings, torch
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), os.getcwd()
import diffcore as dc
from diffcore.plugins import registry
from tests.support.toy import toy_registry
registry.installed = toy_registry
dc.train("toy", out=sys.argv[1], train={"steps": 2, "evaluate": 4}, sample={"steps": 1}).sample(1)
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), os.getcwd()
assert "rich.style" in sys.modules
print([a == b for a, b in zip(before, after)])
"""


def test_the_first_training_of_a_process_draws_no_random_numbers_of_its_caller(tmp_path):
    """Modules that are imported on the way may draw some: rich does."""
    command = [sys.executable, "-c", STATE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == str([True] * 4)
