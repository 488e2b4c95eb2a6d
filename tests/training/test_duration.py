"""The time that is left, in closed form, and the clock that it is measured with."""

import json
import signal
from contextlib import suppress

import pytest

from diffcore.errors import UserError
from diffcore.runs.checkpoints import Progress, find_checkpoint
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder
from diffcore.runs.model import build_data, build_model
from diffcore.runs.settings import TrainSettings
from diffcore.tasks import batch
from diffcore.training.clock import Clock
from diffcore.training.duration import require_end, seconds_left, share_done
from diffcore.training.loop import Callbacks, train
from tests.support.toy import toy_registry

REGISTRY = toy_registry()


@pytest.fixture
def time(monkeypatch):
    """A clock that moves only where a test moves it."""

    class Time:
        now = 100.0

        def sleep(self, seconds):
            self.now += seconds

    time = Time()
    monkeypatch.setattr("time.perf_counter", lambda: time.now)
    return time


def test_seconds_left_of_steps():
    """400 steps in 100 s in an earlier session, then 50 in 200 s: 4 s a step, whatever was before."""
    options, since, now = TrainSettings(steps=1000), Progress(400, 100.0), Progress(450, 300.0)
    assert seconds_left(options, now, since) == (1000 - 450) * 4.0
    assert seconds_left(options, Progress(1000, 2500.0), since) == 0


def test_seconds_left_of_minutes():
    options, since = TrainSettings(minutes=10), Progress(400, 100.0)
    assert seconds_left(options, Progress(450, 300.0), since) == 300
    assert seconds_left(options, Progress(450, 601.0), since) == 0


def test_the_end_that_is_reached_first_counts():
    since, now = Progress(0, 0.0), Progress(50, 100.0)
    assert seconds_left(TrainSettings(steps=100, minutes=10), now, since) == 100
    assert seconds_left(TrainSettings(steps=1000, minutes=10), now, since) == 500
    assert share_done(TrainSettings(steps=100, minutes=10), now) == 0.5


def test_training_needs_an_end():
    with pytest.raises(UserError, match=r"give `train.steps` or `train.minutes`"):
        require_end(TrainSettings())


def test_a_clock_can_be_stopped(time):
    clock = Clock()
    time.sleep(3)
    with clock.stopped():
        time.sleep(10)
    time.sleep(2)
    assert clock.seconds == 5
    with suppress(KeyError), clock.stopped():
        time.sleep(10)
        raise KeyError
    assert clock.seconds == 5


def test_the_time_left_of_a_resumed_run_is_by_its_own_steps(tmp_path, time, monkeypatch):
    """1 s a step at first, 3 s a step after the run is resumed; checkpoints, pictures and loggers do not count."""
    values = {"steps": 40, "log_every": 5, "checkpoint_every": 10, "sample_every": 10}
    settings = compose(REGISTRY, "toy", file={"train": values})
    data, run = build_data(settings, REGISTRY), RunFolder(tmp_path)
    draw_batch = batch.draw_batch

    def session(seconds_per_step, stop_at=None, checkpoint=None):
        lines = []

        def draw(*arguments):
            time.sleep(seconds_per_step)
            return draw_batch(*arguments)

        def log(line):
            lines.append(line)
            if line.step == stop_at:
                signal.raise_signal(signal.SIGINT)

        def pause(*arguments):
            time.sleep(1000)

        monkeypatch.setattr(batch, "draw_batch", draw)
        callbacks = Callbacks(log, pause, pause, pause)
        train(run, settings, build_model(settings, data.facts, REGISTRY), data, callbacks, checkpoint)
        return lines

    first = session(1, stop_at=20)
    assert [(line.step, line.seconds, line.seconds_left) for line in first] == [
        (step, step, 40 - step) for step in (5, 10, 15, 20)
    ]
    second = session(3, checkpoint=find_checkpoint(run))
    assert [(line.step, line.done) for line in second] == [(step, step / 40) for step in (25, 30, 35, 40)]
    assert [line.seconds for line in second] == [20 + 3 * (step - 20) for step in (25, 30, 35, 40)]
    assert [line.seconds_left for line in second] == [3 * (40 - step) for step in (25, 30, 35, 40)]
    assert {line.examples_per_second for line in second} == {settings.train.batch_size / 3}
    rows = [json.loads(row) for row in run.train_log.read_text().splitlines()]
    assert [row["seconds"] for row in rows] == [5, 10, 15, 20, 35, 50, 65, 80]
