"""What a GPU needs of a training step, checked without one: no value is asked for, and a compiler need not split it."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.tasks.batch import draw_batch
from diffcore.training.state import TrainState

SMALL = {
    "image": {"denoiser": {"width": 8}},
    "audio": {"data": {"sounds": 20}, "denoiser": {"width": 16}},
    "molecule": {"denoiser": {"width": 16, "depth": 1}},
    "pointcloud": {"data": {"shapes": 64, "held_out": 16}, "denoiser": {"width": 32, "depth": 1}},
}


@pytest.fixture(scope="module", params=SMALL)
def state(request):
    """The state of a small training after two steps, in which what is computed once is computed."""
    file = {"device": "cpu", "train": {"batch_size": 4}, **SMALL[request.param]}
    settings = compose(installed(), request.param, "default", file=file)
    data = build_data(settings, installed())
    state = TrainState(build_model(settings, data.facts, installed()), settings, data)
    for step in range(2):
        state.advance(step, 1e-4)
    return settings, data, state


class Asked(TorchDispatchMode):
    """Counts the operations for whose result a program waits on a GPU: values, and shapes that depend on values."""

    names = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"})

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.names or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_what_waits_is_counted():
    x = torch.arange(4.0)
    with Asked() as asked:
        x[1].item(), bool(x[0] > 1), x[x > 1], x.nonzero(), torch.equal(x, x)
    assert asked.found == {"_local_scalar_dense": 2, "index": 1, "nonzero": 1, "equal": 1}


def test_a_training_step_asks_for_no_value(state):
    *_, state = state
    with Asked() as asked:
        state.advance(2, 1e-4)
    assert not asked.found


def test_a_compiler_does_not_split_the_network(state):
    """Dynamo traces the backbone as one graph, which computes what the network computes."""
    settings, data, state = state
    model = state.model
    batch = draw_batch(model, settings, data, 5)
    torch._dynamo.reset()
    whole = torch.compile(model.denoiser.backbone, backend="eager", fullgraph=True)
    seen = []
    handle = model.denoiser.backbone.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((args, kwargs, output)), with_kwargs=True
    )
    with torch.no_grad():
        model.denoiser(batch.noisy, batch.level, batch.conditions, batch.mask)
        handle.remove()
        (args, kwargs, output) = seen[0]
        found = whole(*args, **kwargs)
    torch.testing.assert_close(found, output)
