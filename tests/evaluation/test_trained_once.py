"""Weights of judges in the cache."""

import torch
from safetensors.torch import save
from torch import nn

from diffcore.evaluation.trained_once import trained_once
from diffcore.system.cache import write_entry


class Trained:
    """A network with weights of its own, and a function that trains it and counts its calls."""

    def __init__(self, size=3, value=2.0):
        torch.manual_seed(0)
        self.network, self.value, self.calls = nn.Linear(size, 1), value, 0
        self.before = None

    def train(self):
        self.calls += 1
        self.before = self.network.weight.detach().clone()
        nn.init.constant_(self.network.weight, self.value)

    def once(self, path):
        trained_once(self.network, path, self.train)
        return self


def test_weights_are_trained_once_and_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "weights"
    assert Trained().once(path).calls == 1
    again = Trained().once(path)
    assert again.calls == 0
    assert (again.network.weight == 2).all()
    stored = path.read_bytes()
    for place in range(0, len(stored), 7):
        path.write_bytes(stored[:place] + bytes([stored[place] ^ 64]) + stored[place + 1 :])
        damaged = Trained().once(path)
        assert damaged.calls == 1
        assert (damaged.network.weight == 2).all()
        assert path.read_bytes() == stored


def test_weights_of_another_network_do_not_touch_the_first_weights_of_this_one(tmp_path):
    path = tmp_path / "weights"
    Trained(3).once(path)
    other = Trained(4)
    first = other.network.weight.detach().clone()
    assert other.once(path).calls == 1
    assert torch.equal(other.before, first)


def test_weights_that_are_not_finite_are_neither_cached_nor_read(tmp_path):
    path = tmp_path / "weights"
    Trained(value=float("nan")).once(path)
    assert not path.exists()
    write_entry(path, save({"weight": torch.full((1, 3), float("inf")), "bias": torch.zeros(1)}))
    assert Trained().once(path).calls == 1
