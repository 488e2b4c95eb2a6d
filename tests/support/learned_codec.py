"""The toy's data behind a codec with weights: an orthogonal map of the places, as a first stage would have learned."""

from dataclasses import replace

import torch
from tensordict import TensorDict
from torch import nn

from diffcore.denoising.conditions import ClassCondition
from diffcore.plugins.data import Encoded
from diffcore.plugins.registry import Provided, load
from diffcore.states.spaces import Euclidean
from tests.support.toy import TOY, ToyBackbone

CALLS: list[tuple[str, int, bool]] = []
"""What the codecs were asked to do: the method, the number of samples, and whether gradients were recorded."""


class TurningCodec(nn.Module):
    """State = Q place, with an orthogonal matrix Q of weights, which depend on the seed of the run."""

    space = Euclidean((2,))
    conditions = (ClassCondition("ring", ("inner", "outer")),)
    sizes = None

    def __init__(self, facts):
        super().__init__()
        self.scale = facts.scale
        self.turn = nn.Parameter(torch.linalg.qr(torch.randn(2, 2)).Q)

    def prepare(self, examples, draws=None):
        CALLS.append(("prepare", len(examples), torch.is_grad_enabled()))
        turned = examples["place"] / self.scale @ self.turn.T
        return TensorDict({"turned": turned, "label": examples["label"]}, batch_size=[len(turned)])

    def encode(self, examples, draws=None):
        CALLS.append(("encode", len(examples), torch.is_grad_enabled()))
        return Encoded(examples["turned"], {"ring": examples["label"]})

    def decode(self, state, mask=None):
        CALLS.append(("decode", len(state), torch.is_grad_enabled()))
        return state @ self.turn * self.scale


class FlatBackbone(ToyBackbone):
    """The toy's network for a state of two numbers."""

    def __init__(self, width, dropout):
        super().__init__(width, dropout)
        self.net = nn.Sequential(nn.Linear(2 + width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, conditioning, mask=None):
        return self.net(torch.cat([x, conditioning], 1))


class FlatClassifier(FlatBackbone):
    def __init__(self, width, outputs):
        super().__init__(width, 0.0)
        self.net = nn.Sequential(nn.Linear(2 + width, width), nn.SiLU(), nn.Linear(width, outputs))


TURNED = replace(
    TOY,
    name="turned",
    denoisers=(replace(TOY.denoisers[0], build=lambda o, space: FlatBackbone(o.width, o.dropout)),),
    classifiers=(replace(TOY.classifiers[0], build=lambda o, space, outputs: FlatClassifier(o.width, outputs)),),
    codec=TurningCodec,
)


def turned_registry():
    registry = load([])
    registry.modalities["turned"] = Provided(TURNED, "diffcore-turned", "1.0")
    return registry
