"""A step of training asks for no value of a tensor, which would make the CPU wait for the GPU."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.training.state import TrainState

SMALL = {"image": {}, "molecule": {}, "audio": {"sounds": 10}, "pointcloud": {"shapes": 32, "held_out": 8}}
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.masked_select", "aten._unique2")
"""Operations whose result, or its shape, depends on values of tensors."""


class Counted(TorchDispatchMode):
    """Counts the operations that wait."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).rsplit(".", 1)[0]
        chosen = args[1] if name == "aten.index" else ()
        if name in WAITING or any(index is not None and index.dtype == torch.bool for index in chosen):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def test_the_counter_sees_what_waits():
    with Counted() as counted:
        torch.ones(3).sum().item()
        torch.ones(3)[torch.tensor([True, False, True])]
        torch.ones(3).nonzero()
    assert counted.found["aten._local_scalar_dense"] == 1
    assert counted.found["aten.nonzero"] == counted.found["aten.index"] == 1


@pytest.mark.parametrize("modality", SMALL)
def test_a_step_asks_for_no_value(modality):
    registry = installed()
    file = {"device": "cpu", "data": SMALL[modality], "train": {"batch_size": 4}}
    settings = compose(registry, modality, "default", file=file)
    data = build_data(settings, registry)
    state = TrainState(build_model(settings, data.facts, registry), settings, data)
    state.advance(0, 1e-4)
    with Counted() as counted:
        state.advance(1, 1e-4)
    assert not counted.found
