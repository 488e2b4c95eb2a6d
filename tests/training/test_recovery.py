"""A loss that diverges is reported with its step and field; training stops or steps back, and is resumed exactly."""

import json
import math
import signal

import pytest
import torch

from diffcore.errors import UserError
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, checkpoints, find_checkpoint, read_progress, read_tensors
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, read_log
from diffcore.runs.model import build_data, build_model
from diffcore.tasks.batch import draw_batch
from diffcore.training import divergence
from diffcore.training.divergence import DivergedError, check_losses, extended, non_finite
from diffcore.training.learning_rate import learning_rate
from diffcore.training.loop import Callbacks, train
from tests.support.toy import ToyBackbone, toy_registry

REGISTRY = toy_registry()


def start(path, checkpoint=None, callbacks=None, task="denoise", **values):
    values = {"steps": 60, "batch_size": 32, "log_every": 5, "checkpoint_every": 10, **values}
    settings = compose(REGISTRY, "toy", file={"train": values, "task": task})
    data = build_data(settings, REGISTRY)
    path.mkdir(exist_ok=True)
    run = RunFolder(path)
    model = build_model(settings, data.facts, REGISTRY)
    return run, train(run, settings, model, data, callbacks or Callbacks(), checkpoint)


@pytest.fixture
def at_step(monkeypatch):
    """Do something to the batch of a step, or learn which step is done."""

    def arrange(act):
        plain = draw_batch

        def draw(model, settings, data, step):
            batch = plain(model, settings, data, step)
            act(step, batch)
            return batch

        monkeypatch.setattr("diffcore.tasks.batch.draw_batch", draw)

    return arrange


@pytest.fixture
def step_now(at_step):
    """The number of the step that is done."""
    now = []
    at_step(lambda step, batch: now.append(step))
    return lambda: now[-1] if now else None


def lines(run):
    return [json.loads(line) for line in run.train_log.read_text().splitlines()]


def test_the_step_and_the_field_are_named_and_the_last_good_weights_stay(tmp_path, step_now, monkeypatch):
    plain = ToyBackbone.forward

    def forward(self, x, conditioning, mask=None):
        output = plain(self, x, conditioning, mask)
        if step_now() == 26:
            output["radius"] = output["radius"] * math.nan
        return output

    monkeypatch.setattr(ToyBackbone, "forward", forward)
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("the loss is nan at step 27; it is nan in the field 'radius' in step 27; ")
    assert "the last good weights are those of step 20" in said
    run = RunFolder(tmp_path / "run")
    assert find_checkpoint(run).name == "step-00000020"
    assert all(t.isfinite().all() for name in (MODEL, EMA) for t in read_tensors(find_checkpoint(run), name).values())
    assert [row["step"] for row in lines(run)] == [5, 10, 15, 20, 25]


def test_data_that_are_not_finite_are_named(tmp_path, at_step):
    """Through the network they spoil every field of the output."""
    at_step(lambda step, batch: batch.x0["radius"].fill_(math.nan) if step == 26 else None)
    with pytest.raises(UserError, match="it is nan in the field 'radius of the data' in step 27;"):
        start(tmp_path / "run")
    with pytest.raises(UserError, match="it is nan in the field 'radius of the data' in step 27;"):
        start(tmp_path / "classifier", task="classify")


def test_before_the_first_checkpoint_too(tmp_path):
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run", learning_rate=1e30, warmup_steps=0, gradient_clip=1e30)
    assert "the last good weights are those of step 0, the initial ones" in str(caught.value)
    assert "at step 2" in str(caught.value)
    assert not checkpoints(RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("step", [7, 9])
def test_a_gradient_that_is_not_finite_is_named_by_its_parameter(tmp_path, step_now, monkeypatch, step):
    """The loss of that step is finite, the weights after it are not: seen in the next step, or at the checkpoint."""
    plain = ToyBackbone.__init__

    def init(self, *options):
        plain(self, *options)
        self.net[3].bias.register_hook(lambda gradient: gradient * math.nan if step_now() == step else gradient)

    monkeypatch.setattr(ToyBackbone, "__init__", init)
    with pytest.raises(UserError) as caught:
        start(tmp_path / "run")
    seen = "the loss is nan at step 9" if step == 7 else "backbone.net.0.bias of model.safetensors is no longer finite"
    assert str(caught.value).startswith(seen)
    assert f"it began in step {step + 1}, where the gradient of backbone.net.3.bias is no" in str(caught.value)
    assert not checkpoints(RunFolder(tmp_path / "run"))


def spoil_once(at_step):
    """Data of step 30 are a thousand times as large, the first time that this step is taken."""
    left = [1]

    def spoil(step, batch):
        if step == 29 and left:
            left.pop()
            batch.x0["place"].mul_(1e3)

    at_step(spoil)


def explode(path, checkpoint=None, callbacks=None, **values):
    """Training that steps back where its loss explodes."""
    return start(
        path, checkpoint, callbacks, learning_rate=1e-3, warmup_steps=5, steps=80,
        on_divergence="step-back", step_back_rate=0.03, explosion=20.0, checkpoint_every=20, **values,
    )  # fmt: skip


def test_a_step_back_lowers_the_learning_rate_and_is_written_down(tmp_path, caplog, at_step):
    spoil_once(at_step)
    run, outcome = explode(tmp_path / "run")
    back = outcome.progress.steps_back
    assert back == 1
    steps_back = [row for row in lines(run) if "steps_back" in row]
    assert [row["steps_back"] for row in steps_back] == list(range(1, back + 1))
    assert steps_back[-1]["learning_rate"] == pytest.approx(1e-3 * 0.03**back)
    assert read_progress(find_checkpoint(run)).steps_back == back
    said = caplog.text
    assert said.count("stepping back to step") == back
    assert "of it is in the field" in said
    steps = [row["step"] for row in read_log(run)]
    assert steps == list(range(5, 85, 5))  # each step once, in order
    options = compose(REGISTRY, "toy", file={"train": {"learning_rate": 1.0, "warmup_steps": 0}}).train
    assert learning_rate(options, 10, 2) == pytest.approx(0.25)


def test_a_run_that_stepped_back_is_resumed_exactly(tmp_path, at_step):
    spoil_once(at_step)
    whole, outcome = explode(tmp_path / "whole")
    assert outcome.progress.steps_back == 1
    for stop in (15, 45):
        path = tmp_path / f"broken-{stop}"
        spoil_once(at_step)
        callbacks = Callbacks(log=lambda line, stop=stop: signal.raise_signal(2) if line.step == stop else None)
        broken, outcome = explode(path, callbacks=callbacks)
        assert outcome.interrupted
        explode(path, find_checkpoint(broken))
        # Only the times may differ.
        assert [strip(row) for row in lines(broken)] == [strip(row) for row in lines(whole)]
        for name in (MODEL, EMA, TRAINING):
            first, second = (read_tensors(find_checkpoint(run), name) for run in (whole, broken))
            assert all(torch.equal(first[key], second[key]) for key in first)


def strip(row):
    return {key: value for key, value in row.items() if key not in ("seconds", "examples_per_second")}


def test_training_stops_after_so_many_steps_back(tmp_path):
    with pytest.raises(UserError, match=r"training has stepped back 2 times; lower `train.learning_rate`"):
        start(
            tmp_path / "run", learning_rate=1e30, warmup_steps=0, gradient_clip=1e30,
            on_divergence="step-back", most_steps_back=2,
        )  # fmt: skip


def test_what_counts_as_diverged():
    calm = [1.0, 0.5, 0.4, 0.4, 0.4, 0.4]
    check_losses([1.9, 1.9], 12, calm, 5.0)
    with pytest.raises(DivergedError, match=r"exploded from 0\.4 to 2\.6") as caught:
        check_losses([1.2, 4.0], 12, calm, 5.0)
    assert caught.value.step == 12
    with pytest.raises(DivergedError, match="the loss is inf") as caught:
        check_losses([0.1, math.inf, math.nan], 12, calm, 5.0)
    assert caught.value.step == 11
    check_losses([9.0], 12, calm[:4], 5.0)  # too early to tell
    check_losses([9.0], 12, calm, 0.0)
    check_losses([0.9], 12, [1.0, *[0.01] * 8], 5.0)  # not worse than untrained
    check_losses([-1.0], 12, [1.0, *[-3.0] * 8], 5.0)  # a log-likelihood may be negative
    history = []
    for loss in range(30):
        history = extended(history, float(loss))
    assert history == [0.0, *map(float, range(10, 30))]
    assert len(history) == divergence.WINDOW + 1


def test_weights_that_are_not_finite_are_named():
    files = {MODEL: {"a": torch.ones(3), "steps": torch.tensor(3)}, EMA: {"b": torch.tensor([1.0, -math.inf])}}
    assert non_finite(files) == "b of ema.safetensors is no longer finite"
    assert non_finite({MODEL: files[MODEL]}) is None
