"""Checkpoints that several processes write in shards, and what reads them: any number of processes, in every bit."""

import json
import math
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffcore import cli
from diffcore.errors import UserError
from diffcore.plugins import registry as plugins
from diffcore.runs.checkpoints import (
    EMA,
    MODEL,
    REST,
    TRAINING,
    checkpoints,
    count_numbers,
    find_checkpoint,
    is_sharded,
    newest_undamaged,
    read_progress,
    read_tensors,
    verify,
    weights_digest,
)
from diffcore.runs.folder import RunFolder, open_run
from diffcore.runs.model import _in_rows, build_data, build_model
from diffcore.runs.tensor_shards import sharded_tensors
from diffcore.system import own_rows
from diffcore.system.distributed import rank
from diffcore.system.own_rows import TouchedAgainError, cut_while_built
from diffcore.system.tensor_file import content_of
from diffcore.training.callbacks import Callbacks
from diffcore.training.checkpointing import resume, save
from diffcore.training.loop_state import LoopState
from diffcore.training.state import TrainState
from tests.support.forked import forked, needs_forks
from tests.support.several import dit, registry, unet
from tests.support.toy import put_in_place

FILES = (MODEL, EMA, TRAINING)
SHORT = ["--train.log-every", "1", "--train.evaluate", "0", "--train.batch-size", "6", "--sample.steps", "2"]
TRAIN = ["train", "--modality", "bars", "--denoiser", "unet", "--denoiser.learned-variance", *SHORT]


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, registry())
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of two processes with checkpoints of the steps 1 and 2."""
    path = tmp_path_factory.mktemp("saved")
    words = [*TRAIN, "--train.steps", "2", "--train.checkpoint-every", "1", "--train.parallel", "fsdp"]
    forked(2, path / "said", lambda: cli._run([*words, "--out", str(path / "run")]))
    return path / "run"


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def rewritten(run, out, parallel, in_rows=True):
    """Restore the training of a run from its newest checkpoint, and save it as a checkpoint of another run."""
    _, description = open_run(run, plugins.installed())
    settings = description.settings
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"parallel": parallel})})
    data = build_data(settings, plugins.installed())
    checkpoint = find_checkpoint(RunFolder(run))
    numbers = count_numbers(checkpoint, MODEL)
    model = build_model(settings, data.facts, plugins.installed(), numbers, in_rows=in_rows and parallel == "fsdp")
    loop = LoopState(RunFolder(out), settings.train, Callbacks(), TrainState(model, settings, data))
    resume(loop, checkpoint)
    assert loop.history
    assert loop.progress.step == 2
    save(loop)


def assert_equal(checkpoint, other):
    """All tensors in every bit."""
    for name in FILES:
        first, second = read_tensors(checkpoint, name), read_tensors(other, name)
        assert first.keys() == second.keys()
        assert len(first) > 50
        for key, tensor in first.items():
            assert tensor.dtype == second[key].dtype
            assert torch.equal(tensor, second[key]), f"{key} of {name}"


# Writing and reading


@needs_forks
def test_each_process_writes_its_own_rows(saved):
    newest = find_checkpoint(RunFolder(saved))
    assert is_sharded(newest)
    assert sorted(path.name for path in newest.iterdir()) == ["ema", "manifest.json", "model", REST, "training"]
    sizes = [path.stat().st_size for path in sorted((newest / "model").iterdir())]
    assert len(sizes) == 2
    assert sum(sizes) < 1.5 * len(content_of(read_tensors(newest, MODEL)))
    assert max(sizes) < 1.1 * min(sizes)
    assert not list(saved.rglob("*.part"))


@needs_forks
@pytest.mark.parametrize(("count", "parallel"), [(1, "ddp"), (3, "fsdp")])
def test_another_number_of_processes_reads_the_same(saved, tmp_path, count, parallel):
    """And what these write, one process reads."""
    if count == 1:
        rewritten(saved, tmp_path / "again", parallel)
    else:
        forked(count, tmp_path / "said", lambda: rewritten(saved, tmp_path / "again", parallel))
    again = find_checkpoint(RunFolder(tmp_path / "again"))
    assert is_sharded(again) == (parallel == "fsdp")
    assert_equal(find_checkpoint(RunFolder(saved)), again)


@needs_forks
def test_consolidated_it_is_what_one_process_writes(saved, copy, tmp_path, capsys):
    newest, before = find_checkpoint(RunFolder(copy)), find_checkpoint(RunFolder(saved))
    sample = ["sample", str(copy), "--n", "3", "--out", str(tmp_path / "drawn")]
    assert cli.main(sample) == 0
    assert cli.main(["consolidate", str(copy), "--checkpoint", newest.name]) == 0
    assert sorted(path.name for path in newest.iterdir()) == sorted([*FILES, "manifest.json"])
    for name in FILES:
        assert (newest / name).read_bytes() == content_of(read_tensors(before, name))
        assert count_numbers(newest, name) == count_numbers(before, name)
    verify(newest)
    assert read_progress(newest) == read_progress(before)
    assert weights_digest(newest) == weights_digest(before)
    capsys.readouterr()
    assert cli.main(sample) == 0  # these are the same weights, so nothing is drawn
    assert "3 of them from an earlier call" in capsys.readouterr().err
    forked(2, tmp_path / "said", lambda: rewritten(copy, tmp_path / "again", "fsdp"))
    assert_equal(before, find_checkpoint(RunFolder(tmp_path / "again")))
    assert cli.main(["consolidate", str(copy)]) == 0
    said = capsys.readouterr().err
    assert f"{newest}: whole already" in said
    assert not any(is_sharded(path) for path in checkpoints(RunFolder(copy)))


# Damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def turned(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@needs_forks
@pytest.mark.parametrize("damage", [cut, turned, lambda path: path.unlink()])
@pytest.mark.parametrize("file", ["model/shard-00002", "training/shard-00001", "rest"])
def test_a_damaged_one_is_passed_over_with_one_line(copy, capsys, file, damage):
    newest = find_checkpoint(RunFolder(copy))
    (path,) = newest.glob(f"{file}*")
    damage(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcore.api.resuming.run_training", lambda *arguments: None)
        patch.setattr("diffcore.cli.resume.ended", lambda *arguments: 0)
        assert cli.main(["resume", str(copy), "--train.steps", "3"]) == 0
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "is skipped" in line]
    assert line.startswith(f"step-00000002 is skipped: {path}")
    assert "going on from step 1" in said


@needs_forks
def test_two_processes_pass_it_over_together(copy, tmp_path):
    """Each of them reads a part of the files, and the second one finds the damage."""
    newest = find_checkpoint(RunFolder(copy))
    turned(newest / "model" / "shard-00002-model-00001-of-00001.safetensors")

    def find():
        found, _ = newest_undamaged(RunFolder(copy), verify)
        assert found.name == "step-00000001"

    said = forked(2, tmp_path / "said", find)
    assert said.count("step-00000002 is skipped") == 1


@needs_forks
def test_one_that_was_cut_in_the_middle_is_not_found(saved, tmp_path):
    """A process fails while it writes: the checkpoints before it stay, and nothing else."""

    def fails():
        def write(**arguments):
            raise OSError(28, "No space left on device", "shard")

        if rank() == 1:
            pytest.MonkeyPatch().setattr("torch.distributed.checkpoint.filesystem._write_files_from_queue", write)
        with pytest.raises(OSError, match="No space left"):
            rewritten(saved, tmp_path / "run", "fsdp")

    shutil.copytree(saved, tmp_path / "run")
    forked(2, tmp_path / "said", fails)
    run = RunFolder(tmp_path / "run")
    assert [path.name for path in checkpoints(run)] == ["step-00000001", "step-00000002"]
    assert not list(run.checkpoints.glob(".*"))


@needs_forks
def test_nothing_that_is_loaded_executes_code(copy, tmp_path):
    """Not even a pickle that somebody has added, as in a checkpoint of PyTorch's own format.

    The two processes that read it have built the whole network first.
    """

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    newest = find_checkpoint(RunFolder(copy))
    for folder in (newest, newest / "model", newest / "ema", newest / "training"):
        (folder / ".metadata").write_bytes(pickle.dumps(Trap()))
        (folder / "more.safetensors").write_bytes(pickle.dumps(Trap()))
    verify(newest)
    forked(2, tmp_path / "said", lambda: rewritten(copy, tmp_path / "again", "fsdp", in_rows=False))
    assert_equal(newest, find_checkpoint(RunFolder(tmp_path / "again")))
    assert not (tmp_path / "sprung").exists()


@needs_forks
@pytest.mark.parametrize("name", ["model/../../../x.safetensors", "model/.x.safetensors", "model/a/b.safetensors"])
def test_paths_that_lead_out_are_refused(copy, name):
    newest = find_checkpoint(RunFolder(copy))
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"][REST]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not describe a checkpoint"):
        read_tensors(newest, MODEL)


def shard(path, rows, offsets):
    info = {"w": {"saved_offsets": offsets}}
    save_file({"w": torch.arange(math.prod(rows)).view(rows)}, path, {"DCP_SHARDING_INFO": json.dumps(info)})
    return path


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (((2, 3), [3, 0]), "rows of 'w' are missing"),
        (((2, 3), [1, 0]), "or there twice"),
        (((2, 2), [2, 0]), "do not fit together"),
        (((2, 3), [2, 1]), "not divided by rows"),
        (((2, 3), [2]), "not divided by rows"),
        (((2, 3), "ab"), "not divided by rows"),
    ],
)
def test_rows_must_be_there_once(tmp_path, second, complaint):
    first = shard(tmp_path / "a", (2, 3), [0, 0])
    with pytest.raises(ValueError, match=complaint):
        sharded_tensors([first, shard(tmp_path / "b", *second)])
    found = sharded_tensors([shard(tmp_path / "c", (1, 3), [2, 0]), first])["w"].tensor()
    assert found.tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


# Building


class Late(nn.Module):
    """A module that changes the weights of a part."""

    def __init__(self, change):
        super().__init__()
        self.part = nn.Linear(4, 5)
        change(self.part.weight)


BUILT = {
    "unet": lambda: unet(type("Options", (), {"learned_variance": True}), None),
    "dit": lambda: dit(None, None),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "filled": lambda: Late(nn.init.zeros_),
    "scaled": lambda: Late(lambda weight: weight.data.mul_(0.5)),
}


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("number", range(3))
def test_a_network_built_in_rows_has_those_of_the_whole_one(monkeypatch, name, number):
    """The random numbers are the same, too, so what is built later is as in one process."""
    monkeypatch.setattr(own_rows, "world", lambda: 3)
    monkeypatch.setattr(own_rows, "rank", lambda: number)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = BUILT[name]()
        after = torch.rand(3)
        torch.manual_seed(1)
        with cut_while_built() as rows:
            network = BUILT[name]()
            rows.cut(network)
        assert torch.equal(torch.rand(3), after)
    found = rows.of(network)
    assert found.keys() == dict(whole.named_parameters()).keys()
    assert all(parameter.is_meta for parameter in network.parameters())
    for key, parameter in whole.named_parameters():
        size = math.ceil(len(parameter) / 3)
        assert torch.equal(found[key], parameter.detach()[number * size : (number + 1) * size])
    for key, buffer in whole.named_buffers():
        assert torch.equal(network.get_buffer(key), buffer)


@pytest.mark.parametrize(
    "change",
    [
        nn.init.normal_,
        lambda weight: weight.data[:2].zero_(),
        lambda weight: weight.data.copy_(torch.eye(5, 4)),
        lambda weight: weight.detach().sum().item(),
    ],
)
def test_what_cannot_be_built_in_rows_is_noticed(monkeypatch, change):
    monkeypatch.setattr(own_rows, "world", lambda: 2)
    with pytest.raises(TouchedAgainError), cut_while_built():
        Late(change)


@pytest.mark.parametrize("change", [nn.init.normal_, lambda weight: weight.data.numpy().fill(2)])
def test_it_is_built_whole_then_with_the_same_weights(monkeypatch, change, caplog):
    def make():
        torch.manual_seed(1)
        return Late(change)

    with torch.random.fork_rng(), caplog.at_level("INFO"):
        network, rows = _in_rows(make)
        assert rows is None
        assert torch.equal(network.part.weight, make().part.weight)
    assert "builds the whole network first" in caplog.text
