"""A modality for tests whose conditions are its own: pictures of 4x4 that a sentence, or a picture of 2x2, decides.

A picture has a bright block for each word of its sentence, and noise: x = up(m(words)) + 0.3 noise. The picture of 2x2
has the means of its blocks. So E[x | words] = up(m(words)) and E[x | coarse] = up(coarse).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from tensordict import TensorDict
from torch import nn
from torch.nn import functional

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.denoising.inputs import Embedded, Inputs, Tokens
from diffcore.errors import UserError
from diffcore.nn.builders import dit, unet
from diffcore.nn.options import DiTOptions, UNetOptions
from diffcore.plugins.contract import Contract
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.records import Component, Modality, Preset, Settings
from diffcore.plugins.registry import Provided, load
from diffcore.states.spaces import Euclidean

WORDS = ("north", "east", "south", "west")
LENGTH, BRIGHT, NOISE = 3, 1.5, 0.3
CENTRE, SCALE = 0.75, 0.75


@dataclass(frozen=True)
class Sentence(Condition):
    """At most `length` words of a vocabulary, int64 `[B, length]`, padded with 0; the empty sentence is null."""

    name: str
    words: tuple[str, ...]
    length: int = LENGTH
    channels: int = 8

    @property
    def inputs(self) -> Inputs:
        return Inputs(tokens=self.channels)

    def null(self, batch: int, device: torch.device | str = "cpu") -> torch.Tensor:
        return torch.zeros(batch, self.length, dtype=torch.int64, device=device)

    def given(self, value: torch.Tensor) -> torch.Tensor:
        return (value > 0).any(1)

    def embedding(self, width: int) -> nn.Module:
        return WordEmbedding(len(self.words) + 1, self.channels)

    def ids(self, text: str) -> list[int]:
        words = text.split()
        if unknown := [word for word in words if word not in self.words]:
            raise UserError(f"{self.name}: the model does not know {unknown[0]!r}; it knows {', '.join(self.words)}")
        if len(words) > self.length:
            raise UserError(f"{self.name}: {text!r} has {len(words)} words, at most {self.length} are used")
        return [self.words.index(word) + 1 for word in words] + [0] * (self.length - len(words))

    def parse(self, text: str, indices: Sequence[int], seed: int) -> torch.Tensor:
        return torch.tensor([self.ids(text)]).expand(len(indices), -1)

    def examples(self, batch: int) -> torch.Tensor:
        """One word for each, in turn."""
        first = torch.arange(batch)[:, None] % len(self.words) + 1
        return functional.pad(first, (0, self.length - 1))

    def caption(self, value: torch.Tensor) -> str:
        return " ".join(self.words[index - 1] for index in value.tolist() if index)


class WordEmbedding(nn.Module):
    """Tokens of the words; null values have none."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count, channels)

    def forward(self, value: torch.Tensor) -> Embedded:
        return Embedded(tokens=Tokens(self.table(value), value > 0))


@dataclass(frozen=True)
class Coarse(Condition):
    """A picture `[B, 1, side, side]` that lies below the state; null is nan. A second channel says that it is given."""

    name: str
    side: int
    of: int

    @property
    def inputs(self) -> Inputs:
        return Inputs(like_state=2)

    def null(self, batch: int, device: torch.device | str = "cpu") -> torch.Tensor:
        return torch.full((batch, 1, self.side, self.side), math.nan, device=device)

    def given(self, value: torch.Tensor) -> torch.Tensor:
        return ~value.isnan().flatten(1).any(1)

    def embedding(self, width: int) -> nn.Module:
        return Enlarged(self.of // self.side)

    def parse(self, text: str, indices: Sequence[int], seed: int) -> torch.Tensor:
        values = torch.tensor([float(word) for word in text.split()])
        return values.reshape(1, 1, self.side, self.side).expand(len(indices), -1, -1, -1)


class Enlarged(nn.Module):
    """Repeats each pixel, beside a channel that is one where the picture is given."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, value: torch.Tensor) -> Embedded:
        given = ~value.isnan()
        both = torch.cat([value.where(given, 0.0), given.to(value.dtype)], 1)
        return Embedded(like_state=functional.interpolate(both, scale_factor=float(self.factor)))


class ToldFacts(Settings):
    """What samples can be told: "words", "coarse", "label"."""

    told: tuple[str, ...]


class ToldData(Settings):
    n: int = Field(512, ge=1)
    told: tuple[str, ...] = ("words",)


class Plain(nn.Module):
    """A network that takes only the conditioning vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(16 + width, 32), nn.SiLU(), nn.Linear(32, 16))

    def forward(self, x, conditioning, mask=None):
        return self.net(torch.cat([x.flatten(1), conditioning], 1)).reshape(x.shape)


class Told(nn.Module):
    """A network for the noisy classifier."""

    def __init__(self, width, outputs):
        super().__init__()
        self.width = width
        self.net = nn.Linear(16 + width, outputs)

    def forward(self, x, conditioning, mask=None):
        return self.net(torch.cat([x.flatten(1), conditioning], 1))


class PlainOptions(Settings):
    width: int = 16


def mean_of(ids):
    """m(words) `[B, 1, 4, 4]` of ids `[B, length]`."""
    blocks = BRIGHT * functional.one_hot(ids, len(WORDS) + 1).amax(1)[:, 1:].float()
    return enlarged(blocks.reshape(-1, 1, 2, 2))


def enlarged(coarse):
    return coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)


def pictures(n, seed):
    """Sentences of one or two different words, their pictures and the means of their blocks."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n, len(WORDS), generator=generator).argsort(1) + 1
    count = torch.randint(1, 3, (n, 1), generator=generator)
    ids = functional.pad(order[:, :2] * (torch.arange(2) < count), (0, LENGTH - 2))
    picture = mean_of(ids) + NOISE * torch.randn(n, 1, 4, 4, generator=generator)
    columns = {"picture": picture, "words": ids, "coarse": functional.avg_pool2d(picture, 2), "label": count[:, 0] - 1}
    return TensorDict(columns, batch_size=[n])


def told(options):
    return Data(ToldFacts(told=options.told), pictures(options.n, 0), pictures(64, 1))


class ToldCodec:
    sizes = None
    space = Euclidean((1, 4, 4))

    def __init__(self, facts):
        known = (Sentence("words", WORDS), Coarse("coarse", 2, 4), ClassCondition("label", ("one", "two")))
        self.conditions = tuple(condition for condition in known if condition.name in facts.told)

    def encode(self, examples, draws=None):
        state = (examples["picture"] - CENTRE) / SCALE
        return Encoded(state, {condition.name: examples[condition.name] for condition in self.conditions})

    def decode(self, state, mask=None):
        return state * SCALE + CENTRE


class ToldWriter:
    endings = (".csv",)

    def __init__(self, codec):
        pass

    def each(self, samples, folder, names, captions=()):
        paths = [folder / f"{name}.csv" for name in names]
        for path, sample in zip(paths, samples, strict=True):
            self.together(sample[None], path, 1)
        return paths

    def together(self, samples, path, columns, captions=()):
        path.write_text("".join(",".join(f"{v:.5f}" for v in row) + "\n" for row in samples.flatten(1).tolist()))

    def html(self, samples, columns, captions=(), trajectories=False):
        return f"<p>{len(samples)} pictures</p>"


def contract(codec):
    def restored(examples, samples):
        return (samples - examples["picture"]).abs().flatten(1).amax(1)

    return Contract(restored=restored, tolerance=1e-4)


UNET = Component("unet", "U-Net", unet, UNetOptions, accepts=("tokens", "like_state"), small={"width": 8, "patch": 1})
DIT = Component(
    "dit", "transformer", dit, DiTOptions, accepts=("tokens", "like_state"),
    small={"width": 16, "depth": 2, "heads": 2, "patch": 2},
)  # fmt: skip
PLAIN = Component("plain", "takes a vector only", lambda options, space: Plain(options.width), PlainOptions)
TOLD = Modality(
    name="told",
    summary="pictures that sentences decide",
    datasets=(Component("drawn", "drawn at random", told, ToldData, small={"n": 64}),),
    denoisers=(DIT, UNET, PLAIN),
    classifiers=(Component("linear", "linear", lambda o, space, outputs: Told(o.width, outputs), PlainOptions),),
    presets={
        "default": Preset(
            "short",
            {
                "denoiser": {"width": 32, "depth": 2, "heads": 2, "patch": 4},
                "train": {"steps": 300, "batch_size": 64, "learning_rate": 1e-2, "warmup_steps": 20, "evaluate": 0},
                "sample": {"steps": 8},
            },
        ),
        "teller": Preset("a noisy classifier", {"task": "classify", "train": {"steps": 2}}),
        "plain": Preset("a network that cannot be told", {"denoiser": {"name": "plain"}}),
    },
    facts=ToldFacts,
    codec=ToldCodec,
    writer=ToldWriter,
    contract=contract,
)


def told_registry():
    """The core's own parts and this modality, without what is installed."""
    registry = load([])
    registry.modalities["told"] = Provided(TOLD, "diffcore-told", "1.0")
    return registry
