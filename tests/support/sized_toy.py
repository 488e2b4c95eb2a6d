"""A second modality for tests: up to six beads on a plane. Sizes vary, and samples can be asked for two numbers."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import Field
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from diffcore.denoising.conditions import ScalarCondition
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component, Modality, Preset, Settings
from diffcore.plugins.registry import Provided, load
from diffcore.states.categories import Categories, one_hot
from diffcore.states.spaces import Euclidean, Product, ZeroCentred

LARGEST, WEIGHTS = 6, (1.0, 2.0, 4.0)


class Beads(NamedTuple):
    """A sample: places `[n, 2]` about their mean and kinds `[n]`."""

    places: Tensor
    kinds: Tensor


class ScalarFacts(Settings):
    name: str
    mean: float
    std: float
    quantiles: tuple[float, ...]
    by_size: tuple[tuple[float, float], ...]


class BeadFacts(Settings):
    place_std: float
    shares: tuple[float, float, float]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    scalars: tuple[ScalarFacts, ...]


class BeadData(Settings):
    n: int = Field(600, ge=1)


class BeadNet(Settings):
    width: int = Field(48, ge=1)


def span(sample):
    """sqrt(mean |place|^2); a single bead has none."""
    return sample.places.square().sum(1).mean().sqrt().item() if len(sample.places) > 1 else math.nan


def weight(sample):
    return torch.tensor(WEIGHTS)[sample.kinds].sum().item()


def measured(samples):
    return {
        "span": torch.tensor([span(sample) for sample in samples]),
        "weight": torch.tensor([weight(sample) for sample in samples]),
    }


def drawn(n, seed):
    """Beads of 1, 2, 3, 5 or 6; places are normal, with a scale that differs from sample to sample."""
    g = torch.Generator().manual_seed(seed)
    samples = []
    for size in torch.tensor([1, 2, 3, 5, 6])[torch.multinomial(torch.tensor([1.0, 1, 3, 3, 2]), n, True, generator=g)]:
        places = (0.5 + 2 * torch.rand(1, generator=g)) * torch.randn(int(size), 2, generator=g)
        kinds = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), int(size), True, generator=g)
        samples.append(Beads(places - places.mean(0), kinds))
    return samples


def examples_of(samples):
    """Padded, with kind -1 where there is no bead."""
    places = [pad(sample.places, (0, 0, 0, LARGEST - len(sample.places))) for sample in samples]
    kinds = [pad(sample.kinds, (0, LARGEST - len(sample.kinds)), value=-1) for sample in samples]
    fields = {"places": torch.stack(places), "kinds": torch.stack(kinds), **measured(samples)}
    return TensorDict(fields, batch_size=[len(samples)])


def scalar_facts(name, value, size, sizes):
    known = value[~value.isnan()].double()
    own = [known[size[~value.isnan()] == n] for n in sizes]
    return ScalarFacts(
        name=name,
        mean=known.mean().item(),
        std=known.std(correction=0).item(),
        quantiles=tuple(known.quantile(torch.linspace(0, 1, 21, dtype=torch.float64)).tolist()),
        by_size=tuple(
            (o.mean().item(), o.std(correction=0).item()) if len(o) > 1 else (known.mean().item(), known.std().item())
            for o in own
        ),
    )


def beads(options):
    samples = drawn(options.n, 0)
    examples = examples_of(samples)
    mask = examples["kinds"] >= 0
    size = mask.sum(1)
    sizes, counts = size.unique(return_counts=True)
    kinds = torch.bincount(examples["kinds"][mask], minlength=3) / mask.sum()
    facts = BeadFacts(
        place_std=examples["places"][mask].std().item(),
        shares=tuple(kinds.tolist()),
        sizes=tuple(sizes.tolist()),
        counts=tuple(counts.tolist()),
        scalars=tuple(scalar_facts(name, examples[name], size, sizes) for name in ("span", "weight")),
    )
    return Data(facts, examples, examples_of(drawn(200, 1)))


@dataclass(frozen=True)
class OneOf(Euclidean):
    """`[N, K]`, each row near one of `categories`."""

    categories: Categories


class BeadCodec:
    def __init__(self, facts):
        self.facts = facts
        self.kinds = one_hot(facts.shares)
        self.space = Product({"place": ZeroCentred((LARGEST, 2)), "kind": OneOf((LARGEST, 3), self.kinds)})
        self.conditions = tuple(ScalarCondition(s.name, s.mean, s.std, s.quantiles) for s in facts.scalars)
        counts = dict(zip(facts.sizes, facts.counts, strict=True))
        self.sizes = Sizes(LARGEST, counts, {scalar.name: scalar.by_size for scalar in facts.scalars})

    def encode(self, examples, draws=None):
        mask = examples["kinds"] >= 0
        fields = {
            "place": examples["places"] / self.facts.place_std,
            "kind": self.kinds.encode(examples["kinds"].clamp(min=0)),
        }
        state = self.space.project(TensorDict(fields, batch_size=examples.batch_size), mask)
        return Encoded(state, {c.name: examples[c.name] for c in self.conditions}, mask)

    def decode(self, state, mask=None):
        places, kinds = self.facts.place_std * state["place"], self.kinds.nearest(state["kind"])
        return [Beads(p[m], k[m]) for p, k, m in zip(places, kinds, mask, strict=True)]


class Network(nn.Module):
    """Each bead sees itself and the sum over all that exist."""

    def __init__(self, width, outputs, space):
        super().__init__()
        self.width, self.pools = width, outputs is not None
        self.views = {"kind": space.parts["kind"].categories}
        self.each = nn.Linear(2 + 3 + width, width)
        self.both = nn.Linear(2 * width, width)
        self.last = nn.Linear(width, outputs or 2 + 3)

    def forward(self, x, conditioning, mask=None):
        count = x["place"].shape[1]
        present = x["place"].new_ones(len(conditioning), count) if mask is None else mask.to(conditioning)
        c = conditioning[:, None].expand(-1, count, -1)
        h = silu(self.each(torch.cat([x["place"], x["kind"], c], -1)))
        pooled = (h * present[..., None]).sum(1) / LARGEST
        h = silu(self.both(torch.cat([h, pooled[:, None].expand_as(h)], -1)))
        if self.pools:
            return self.last((h * present[..., None]).sum(1) / LARGEST)
        output = self.last(h)
        return TensorDict({"place": output[..., :2], "kind": output[..., 2:]}, batch_size=x.batch_size)


class BeadWriter:
    endings = (".txt",)

    def each(self, samples, folder, names, captions=()):
        paths = [folder / f"{name}.txt" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            path.write_text(text_of(sample))
        return paths

    def together(self, samples, path, columns, captions=()):
        path.write_text("\n".join(text_of(sample) for sample in samples))

    def html(self, samples, columns, captions=(), trajectories=False):
        return f"<p>{len(samples)} sets of beads</p>"


def text_of(sample):
    rows = zip(sample.places.tolist(), sample.kinds.tolist(), strict=True)
    return "".join(f"{x:.5f} {y:.5f} {kind}\n" for (x, y), kind in rows)


def read_beads(text):
    """The sets of beads of a file, in the form that `BeadWriter` writes."""
    blocks = [[line.split() for line in block.splitlines()] for block in text.strip().split("\n\n")]
    return [
        Beads(torch.tensor([[float(x), float(y)] for x, y, _ in rows]), torch.tensor([int(k) for *_, k in rows]))
        for rows in blocks
    ]


class BeadEvaluator:
    def __init__(self, codec, data, cache):
        self.codec = codec

    def __call__(self, samples, conditions):
        size = sum(len(sample.kinds) for sample in samples) / len(samples)
        return [Metric("size", size, "mean number of beads")]

    def measure(self, samples):
        return measured(samples)


BEADS = Modality(
    name="beads",
    summary="beads on a plane",
    datasets=(Component("drawn", "drawn at random", beads, BeadData),),
    denoisers=(Component("net", "a small network", lambda o, space: Network(o.width, None, space), BeadNet),),
    classifiers=(Component("net", "a small network", lambda o, s, outputs: Network(o.width, outputs, s), BeadNet),),
    presets={
        "default": Preset(
            "short",
            {
                "train": {
                    "steps": 600,
                    "batch_size": 64,
                    "learning_rate": 1e-2,
                    "warmup_steps": 20,
                    "decay_after": 200,
                    "log_every": 100,
                    "evaluate": 400,
                },
                "sample": {"steps": 8},
            },
        )
    },
    facts=BeadFacts,
    codec=BeadCodec,
    writer=lambda codec: BeadWriter(),
    evaluator=BeadEvaluator,
)


def sized_registry():
    """The core's own parts and the beads, without what is installed."""
    registry = load([])
    registry.modalities["beads"] = Provided(BEADS, "diffcore-beads", "1.0")
    return registry
