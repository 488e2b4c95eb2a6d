import itertools
import math
import signal

import pytest
import torch

from diffcore.errors import UserError
from diffcore.runs.checkpoints import (
    EMA,
    MODEL,
    TRAINING,
    Progress,
    checkpoints,
    find_checkpoint,
    read_progress,
    read_tensors,
    write_checkpoint,
)
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, read_log
from diffcore.runs.model import build_data, build_model
from diffcore.system.files import write_atomically
from diffcore.training.learning_rate import learning_rate
from diffcore.training.loop import Callbacks, train
from tests.support.toy import ToyBackbone, toy_registry

REGISTRY = toy_registry()


def start(path, checkpoint=None, stop_at=None, dropout=0.0, **train_values):
    """Train a toy run; `stop_at` interrupts it as Ctrl-C would."""
    values = {"steps": 40, "batch_size": 32, "log_every": 5, **train_values}
    settings = compose(REGISTRY, "toy", file={"train": values, "denoiser": {"dropout": dropout}})
    data = build_data(settings, REGISTRY)
    run = RunFolder(path)
    path.mkdir(exist_ok=True)
    callbacks = Callbacks(log=lambda line: signal.raise_signal(signal.SIGINT) if line.step == stop_at else None)
    return run, train(run, settings, build_model(settings, data.facts, REGISTRY), data, callbacks, checkpoint)


def assert_same_checkpoint(a, b):
    for name in (MODEL, EMA, TRAINING):
        first, second = read_tensors(a, name), read_tensors(b, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def losses(run):
    return [(row["step"], row["loss"]) for row in read_log(run)]


def test_a_resumed_run_is_an_unbroken_one_bit_for_bit(tmp_path):
    whole, _ = start(tmp_path / "whole")
    broken, outcome = start(tmp_path / "broken", stop_at=15)
    assert outcome.interrupted
    assert outcome.progress.step == 15
    _, outcome = start(tmp_path / "broken", find_checkpoint(broken))
    assert not outcome.interrupted
    assert losses(broken) == losses(whole)
    assert_same_checkpoint(find_checkpoint(broken), find_checkpoint(whole))


def test_a_longer_run_goes_on_exactly_where_a_shorter_one_ended(tmp_path):
    whole, _ = start(tmp_path / "whole")
    grown, _ = start(tmp_path / "grown", steps=20)
    start(tmp_path / "grown", find_checkpoint(grown))
    assert losses(grown) == losses(whole)
    assert_same_checkpoint(find_checkpoint(grown), find_checkpoint(whole))


def test_muon_is_resumed_exactly_too(tmp_path):
    whole, _ = start(tmp_path / "whole", optimizer="muon")
    broken, _ = start(tmp_path / "broken", stop_at=15, optimizer="muon")
    start(tmp_path / "broken", find_checkpoint(broken), optimizer="muon")
    assert_same_checkpoint(find_checkpoint(broken), find_checkpoint(whole))
    moments = read_tensors(find_checkpoint(whole), TRAINING)
    assert {"exp_avg/backbone.net.0.weight", "exp_avg_sq/backbone.net.0.bias"} <= moments.keys()
    assert "exp_avg_sq/backbone.net.0.weight" not in moments


@pytest.mark.parametrize("optimizers", [("adam", "muon"), ("muon", "adam")])
def test_a_run_goes_on_with_the_optimiser_that_it_began_with(tmp_path, optimizers):
    first, second = optimizers
    broken, _ = start(tmp_path / "broken", stop_at=15, optimizer=first)
    with pytest.raises(UserError, match=f"`train.optimizer` is {second}, but .* the state of the optimiser {first}"):
        start(tmp_path / "broken", find_checkpoint(broken), optimizer=second)


def test_dropout_is_resumed_exactly_too(tmp_path):
    whole, _ = start(tmp_path / "whole", dropout=0.3)
    broken, _ = start(tmp_path / "broken", stop_at=15, dropout=0.3)
    start(tmp_path / "broken", find_checkpoint(broken), dropout=0.3)
    assert_same_checkpoint(find_checkpoint(broken), find_checkpoint(whole))


def test_running_statistics_of_layers_are_those_of_training(tmp_path, monkeypatch):
    plain = ToyBackbone.__init__

    def with_statistics(self, width, dropout):
        plain(self, width, dropout)
        self.net = torch.nn.Sequential(torch.nn.BatchNorm1d(3 + width), *self.net)

    monkeypatch.setattr(ToyBackbone, "__init__", with_statistics)
    run, outcome = start(tmp_path / "run")
    kept, own = (read_tensors(find_checkpoint(run), name) for name in (EMA, MODEL))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(kept[f"backbone.net.0.{name}"], own[f"backbone.net.0.{name}"])
    assert own["backbone.net.0.num_batches_tracked"] == 40
    assert torch.equal(outcome.model.network.backbone.net[0].running_var, own["backbone.net.0.running_var"])


def test_metrics_after_the_checkpoint_are_written_anew(tmp_path):
    """A run that was killed between two checkpoints has lines of steps that are run again."""
    run, _ = start(tmp_path / "run", steps=20, checkpoint_every=10)
    start(tmp_path / "run", checkpoints(run)[0])
    assert [step for step, _ in losses(run)] == [5, 10, 15, 20, 25, 30, 35, 40]


def test_pictures_do_not_change_training(tmp_path):
    plain, _ = start(tmp_path / "plain")
    settings = compose(
        REGISTRY, "toy", file={"train": {"steps": 40, "batch_size": 32, "log_every": 5, "sample_every": 7}}
    )
    data = build_data(settings, REGISTRY)
    run = RunFolder(tmp_path / "pictures")
    run.path.mkdir()
    seen = []
    callbacks = Callbacks(sample=lambda model, step: seen.append((step, torch.randn(3))))
    train(run, settings, build_model(settings, data.facts, REGISTRY), data, callbacks)
    assert [step for step, _ in seen] == [7, 14, 21, 28, 35]
    assert losses(run) == losses(plain)


def test_the_loss_that_is_written_is_the_mean_of_its_steps(tmp_path):
    each, _ = start(tmp_path / "each", log_every=1, steps=10)
    mean, _ = start(tmp_path / "mean", log_every=5, steps=10)
    single = [loss for _, loss in losses(each)]
    assert losses(mean) == [(5, pytest.approx(sum(single[:5]) / 5)), (10, pytest.approx(sum(single[5:]) / 5))]


def test_training_learns(tmp_path):
    run, _ = start(tmp_path / "run", steps=600, learning_rate=1e-2, log_every=100)
    first, *_, last = (loss for _, loss in losses(run))
    assert last < 0.8 * first


def test_minutes_end_a_run(tmp_path, monkeypatch):
    """With a clock that advances by a hundredth of a second at each reading."""
    asked = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: next(asked) / 100)
    _, outcome = start(tmp_path / "run", steps=None, minutes=0.02)
    assert outcome.progress.seconds == pytest.approx(1.2, abs=0.05)
    assert outcome.progress.step > 20


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    with pytest.raises(UserError, match=r"the loss is nan at step \d+; .*; lower `train.learning_rate`"):
        start(tmp_path / "run", learning_rate=1e30, warmup_steps=0, gradient_clip=1e30)


def test_learning_rate_warms_up_and_falls_with_the_root():
    options = compose(REGISTRY, "toy").train.model_copy(
        update={"learning_rate": 1.0, "warmup_steps": 10, "decay_after": 100}
    )
    assert learning_rate(options, 0) == pytest.approx(0.1)
    assert learning_rate(options, 50) == 1
    assert learning_rate(options, 400) == pytest.approx(0.5)


def test_a_cooldown_takes_the_learning_rate_to_zero_at_the_last_step():
    values = {"learning_rate": 2.0, "warmup_steps": 0, "decay_after": 10**6, "steps": 100, "cooldown": 0.4}
    options = compose(REGISTRY, "toy").train.model_copy(update=values)
    assert [learning_rate(options, step) for step in (0, 60, 80, 99)] == pytest.approx([2, 2, 1, 0.05])
    assert learning_rate(options, 100) == 0
    assert learning_rate(options.model_copy(update={"steps": None}), 99) == 2


# Checkpoints


def a_checkpoint(run, step=1, keep=5):
    return write_checkpoint(run, Progress(step, 2.5), {MODEL: {"w": torch.arange(1000.0)}}, keep)


def test_a_checkpoint_reads_back(tmp_path):
    path = a_checkpoint(RunFolder(tmp_path))
    assert read_progress(path) == Progress(1, 2.5)
    assert torch.equal(read_tensors(path, MODEL)["w"], torch.arange(1000.0))


def test_the_newest_are_kept(tmp_path):
    run = RunFolder(tmp_path)
    for step in (5, 10, 15, 20):
        a_checkpoint(run, step, keep=2)
    assert [path.name for path in checkpoints(run)] == ["step-00000015", "step-00000020"]
    assert find_checkpoint(run).name == "step-00000020"
    assert find_checkpoint(run, "step-00000015").name == "step-00000015"
    with pytest.raises(UserError, match="no checkpoint 'step-1'; there are: step-00000015, step-00000020"):
        find_checkpoint(run, "step-1")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:100], "is damaged: 100 bytes, expected"),
        (lambda content: b"", "is damaged: 0 bytes"),
        (lambda content: content[:-1] + b"\x7f", "does not match its checksum"),
    ],
    ids=["truncated", "empty", "changed"],
)
def test_damaged_weights_are_refused_in_a_line(tmp_path, damage, said):
    run = RunFolder(tmp_path)
    a_checkpoint(run, 1)
    path = a_checkpoint(run, 2)
    file = path / MODEL
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=said) as caught:
        read_tensors(path, MODEL)
    assert "try `checkpoint` step-00000001" in str(caught.value)


def test_a_damaged_manifest_is_refused_in_a_line(tmp_path):
    path = a_checkpoint(RunFolder(tmp_path))
    for content in ("", "{}", "[]", '{"step": "x", "seconds": 1}'):
        (path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json"):
            read_progress(path)
        with pytest.raises(UserError, match=r"manifest\.json"):
            read_tensors(path, MODEL)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    a_checkpoint(run, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        a_checkpoint(run, 2)
    monkeypatch.undo()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]
    assert math.isfinite(read_tensors(find_checkpoint(run), MODEL)["w"].sum())


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
