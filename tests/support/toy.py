"""A modality for tests: points on two circles, a state of two fields, an MLP."""

import math

import torch
from pydantic import Field
from tensordict import TensorDict
from torch import nn

from diffcore.denoising.conditions import ClassCondition
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component, Modality, Preset, Settings
from diffcore.plugins.registry import Provided, load
from diffcore.states.spaces import Euclidean, Product


class ToyData(Settings):
    n: int = Field(200, ge=1)
    scale: float = 1.0


class ToyFacts(Settings):
    scale: float = 1.0


class ToyNet(Settings):
    width: int = Field(16, ge=1)
    dropout: float = 0.0


def points(options):
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(options.n, generator=generator)
    label = torch.arange(options.n) % 2
    radius = options.scale * (1.0 + label)
    place = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return Data(ToyFacts(scale=options.scale), TensorDict({"place": place, "label": label}, batch_size=[options.n]))


class ToyClassifierOptions(Settings):
    width: int = Field(32, ge=1)


class ToyCodec:
    space = Product({"place": Euclidean((2,)), "radius": Euclidean((1,))})
    conditions = (ClassCondition("ring", ("inner", "outer")),)
    sizes = None

    def __init__(self, facts):
        self.scale = facts.scale

    def encode(self, examples, draws=None):
        place = examples["place"] / self.scale
        state = TensorDict({"place": place, "radius": place.norm(dim=1, keepdim=True) - 1.5}, batch_size=[len(place)])
        return Encoded(state, {"ring": examples["label"]})

    def decode(self, state, mask=None):
        return state["place"] * self.scale


class ToyBackbone(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(
            nn.Linear(3 + width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 3),
        )  # fmt: skip

    def forward(self, x, conditioning, mask=None):
        output = self.net(torch.cat([x["place"], x["radius"], conditioning], 1))
        return TensorDict({"place": output[:, :2], "radius": output[:, 2:]}, batch_size=x.batch_size)


class ToyClassifier(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(3 + width, width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, x, conditioning, mask=None):
        return self.net(torch.cat([x["place"], x["radius"], conditioning], 1))


class ToyWriter:
    endings = (".csv",)

    def __init__(self, codec):
        pass

    def each(self, samples, folder, names, captions=()):
        paths = [folder / f"{name}.csv" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            path.write_text(",".join(f"{value:.4f}" for value in sample.tolist()))
        return paths

    def together(self, samples, path, columns, captions=()):
        path.write_text("\n".join(",".join(f"{value:.4f}" for value in row) for row in samples.tolist()))

    def html(self, samples, columns, captions=(), trajectories=False):
        return f"<p>{len(samples)} points</p>"


def evaluator(codec, data, cache):
    def metrics(samples, conditions):
        asked = codec.scale * (1.0 + conditions["ring"])
        return [
            Metric("radius_error", (samples.norm(dim=1) - asked).abs().mean().item(), "mean distance from the ring")
        ]

    return metrics


TOY = Modality(
    name="toy",
    summary="points on two rings",
    datasets=(Component("rings", "two rings", points, ToyData), Component("again", "the same", points, ToyData)),
    denoisers=(Component("mlp", "a small MLP", lambda o, space: ToyBackbone(o.width, o.dropout), ToyNet),),
    classifiers=(
        Component(
            "mlp", "a small MLP", lambda o, space, outputs: ToyClassifier(o.width, outputs), ToyClassifierOptions
        ),
    ),
    presets={
        "default": Preset("short", {"train": {"steps": 40, "batch_size": 32, "log_every": 10, "evaluate": 20}}),
        "teller": Preset(
            "tells the ring",
            {
                "task": "classify",
                "classifier": {"width": 24},
                "train": {"steps": 300, "batch_size": 64, "log_every": 50, "learning_rate": 1e-2, "warmup_steps": 10},
            },
        ),
        "timed": Preset("timed", {"train": {"minutes": 2.0}, "data": {"name": "again", "n": 50}}),
    },
    facts=ToyFacts,
    codec=ToyCodec,
    writer=ToyWriter,
    evaluator=evaluator,
)


def toy_registry():
    """The core's own parts and the toy, without what is installed."""
    registry = load([])
    registry.modalities["toy"] = Provided(TOY, "diffcore-toy", "1.0")
    return registry


def put_in_place(patch, registry):
    """Let every command of the command line see `registry` alone."""
    patch.setattr("diffcore.plugins.registry.installed", lambda: registry)


DENOISE = toy_registry().task("denoise")
