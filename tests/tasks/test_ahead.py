"""A thread reads the examples of the next steps; the steps get what they would have read themselves."""

import threading

import pytest
import torch
from tensordict import TensorDict

from diffcore.system import distributed
from diffcore.system.mapped import mapped
from diffcore.tasks.ahead import BATCHES, Ahead
from diffcore.tasks.batch import batch_indices, read_ahead

N, BATCH = 50, 8


@pytest.fixture
def examples(tmp_path):
    values = torch.arange(N * 3, dtype=torch.int16)
    (tmp_path / "rows").write_bytes(values.numpy().tobytes())
    return TensorDict({"x": mapped(tmp_path / "rows", (N, 3), torch.int16), "label": torch.arange(N)}, [N])


@pytest.fixture
def ahead(examples):
    made = Ahead(examples, lambda step: batch_indices(N, BATCH, step, 0))
    yield made
    made.close()


def same(found, examples, numbers):
    return all(torch.equal(found[name], examples[name][numbers]) for name in ("x", "label"))


def test_steps_get_their_own_examples(ahead, examples):
    """In order, after a jump, and again: the order follows from seed and step alone."""
    for step in [0, 1, 2, 3, 20, 21, 4, 4, 5]:
        numbers = batch_indices(N, BATCH, step, 0)
        assert same(ahead.rows(step, numbers), examples, numbers)


def test_other_numbers_than_expected_are_read(ahead, examples):
    ahead.rows(0, batch_indices(N, BATCH, 0, 0))
    numbers = torch.tensor([4, 2])
    assert same(ahead.rows(1, numbers), examples, numbers)


def test_the_next_batches_are_read_while_a_step_is_done(examples):
    read, done = [], threading.Event()

    def numbers(step):
        read.append(step)
        if step == BATCHES:
            done.set()
        return batch_indices(N, BATCH, step, 0)

    ahead = Ahead(examples, numbers)
    ahead.rows(0, batch_indices(N, BATCH, 0, 0))
    assert done.wait(10)  # nobody has asked for these
    assert read == [1, 2, 3, 4]
    ahead.rows(1, batch_indices(N, BATCH, 1, 0))
    ahead.close()
    assert read in ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert ahead.batches == 1 + len(read)


def test_both_rates_are_told(ahead):
    ahead.batches, ahead.seconds, ahead.waited = 500, 0.25, 0.5
    assert ahead.told(100, 10.0) == (
        "batches are read ahead at 2,000/s alone, and training did 10 steps/s; "
        "it waited for them during 5 % of the time"
    )


@pytest.mark.parametrize("batch", [8, 7])
def test_each_process_reads_its_own_part(examples, monkeypatch, batch):
    """Two processes read different examples, together those of the step; neither reads one of the other."""
    from diffcore.plugins.data import Data
    from diffcore.plugins.records import NoOptions
    from diffcore.plugins.registry import installed
    from diffcore.runs.composing import compose

    settings = compose(installed(), "image", file={"seed": 3, "train": {"batch_size": batch}})
    read = {}
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world", lambda: 2)
        data = read_ahead(Data(NoOptions(), examples), settings, torch.device("cpu"))
        mine = distributed.rank_slice(batch)
        data.ahead.rows(0, batch_indices(N, batch, 0, 3)[mine.start : mine.stop])
        data.ahead.close()
        numbers = [data.ahead._numbers(step).tolist() for step in range(3)]
        read[rank] = numbers
    for step in range(3):
        assert read[0][step] + read[1][step] == batch_indices(N, batch, step, 3).tolist()
        assert {len(read[0][step]), len(read[1][step])} == {batch // 2, batch - batch // 2}


def test_data_in_memory_are_not_read_ahead(examples):
    from diffcore.plugins.data import Data
    from diffcore.plugins.records import NoOptions

    data = Data(NoOptions(), examples.clone())
    assert read_ahead(data, None, torch.device("cpu")) is data
