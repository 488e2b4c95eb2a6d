"""The beads as a plugin that keeps all rules, and the same with one thing wrong, by the check that finds it."""

import random
from dataclasses import replace

import torch
from pydantic import Field
from tensordict import TensorDict
from torch import nn
from torch.nn.functional import silu

from diffcore.plugins.contract import Contract
from diffcore.plugins.records import Component, Preset
from diffcore.plugins.symmetries import permutation, rotation, translation
from diffcore.states.spaces import Product, ZeroCentred
from tests.support import sized_toy as toy


def restored(examples, samples):
    """The largest difference of a place; infinite where kinds differ."""
    found = []
    for index, sample in enumerate(samples):
        mask = examples["kinds"][index] >= 0
        same = torch.equal(sample.kinds, examples["kinds"][index][mask])
        found.append((sample.places - examples["places"][index][mask]).abs().max() if same else torch.inf)
    return torch.tensor(found)


PROMISES = Contract(
    restored=restored,
    tolerance=1e-3,
    symmetries={"permutation": permutation(), "rotation": rotation("place")},
    moved={"translation": translation("places")},
)


def network(kind=toy.Network, options=toy.BeadNet, symmetries=("permutation",)):
    return Component(
        "net", "a small network", lambda o, space: kind(o.width, None, space), options,
        symmetries=symmetries, small={"width": 24},
    )  # fmt: skip


def data(build=toy.beads):
    return Component("drawn", "drawn at random", build, toy.BeadData, small={"n": 100})


def beads(contract=PROMISES, **changed):
    """The record of the beads with contract and small parts, and what is `changed` in it."""
    usual = {"datasets": (data(),), "denoisers": (network(),), "contract": lambda codec: contract}
    return replace(toy.BEADS, **{**usual, **changed})


# Networks


class Spare(toy.Network):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.spare = nn.Linear(2, 2)


class SinglePrecision(toy.Network):
    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).float()


class OutOfShape(toy.Network):
    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        return output if len(output) != 8 or mask is None else output.exclude("kind")


class Neighbours(toy.Network):
    """Speaks as loudly as the whole batch would have it."""

    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        return output.apply(lambda f: f * (1 + conditioning.mean()))


class Ordered(toy.Network):
    """Tells an element its place in the row."""

    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        row = torch.arange(output["place"].shape[1])[:, None]
        return output.apply(lambda f: f + 0.1 * row * f)


class ReadsAbsent(toy.Network):
    """Sums over all elements that are stored."""

    def forward(self, x, conditioning, mask=None):
        count = x["place"].shape[1]
        c = conditioning[:, None].expand(-1, count, -1)
        h = silu(self.each(torch.cat([x["place"], x["kind"], c], -1)))
        h = silu(self.both(torch.cat([h, h.sum(1, keepdim=True).expand_as(h) / toy.LARGEST], -1)))
        output = self.last(h)
        return TensorDict({"place": output[..., :2], "kind": output[..., 2:]}, batch_size=x.batch_size)


class CountsAbsent(toy.Network):
    """Divides by the number of elements that are stored."""

    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).apply(lambda f: f * (toy.LARGEST / f.shape[1]))


class Faint(toy.Network):
    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).apply(lambda f: 1e-4 * f)


class Restless(toy.Network):
    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).apply(lambda f: f + 1e-6 * torch.randn_like(f))


class Forgetful(toy.Network):
    """Counts steps, uses the count when it draws, and writes it nowhere."""

    steps = 0

    def forward(self, x, conditioning, mask=None):
        self.steps += self.training
        weight = 1.0 if self.training else 1 + 0.1 * self.steps
        return super().forward(x, conditioning, mask).apply(lambda f: weight * f)


class Counting(toy.Network):
    """Counts steps, uses the count when it learns, and writes it nowhere."""

    steps = 0

    def forward(self, x, conditioning, mask=None):
        self.steps += self.training
        weight = 1 + 0.01 * self.steps if self.training else 1.0
        return super().forward(x, conditioning, mask).apply(lambda f: weight * f)


# Codecs and spaces


class Raising(toy.BeadCodec):
    def __init__(self, facts):
        raise RuntimeError("no such table")


class Shifted(toy.BeadCodec):
    def decode(self, state, mask=None):
        return [toy.Beads(b.places + 0.05, b.kinds) for b in super().decode(state, mask)]


class Wide(toy.BeadCodec):
    """Places of another size than unit variance."""

    def __init__(self, facts):
        super().__init__(facts.model_copy(update={"place_std": 3 * facts.place_std}))


class Loose(ZeroCentred):
    """Noise that is not centred."""

    def noise(self, normal, mask=None):
        return normal if mask is None else normal * mask[..., None]


class Loud(ZeroCentred):
    def noise(self, normal, mask=None):
        return 1.2 * super().noise(normal, mask)


class Trembling(toy.BeadCodec):
    def decode(self, state, mask=None):
        return [toy.Beads(b.places + 1e-5 * torch.randn(2), b.kinds) for b in super().decode(state, mask)]


class Losing(toy.BeadCodec):
    """The last of four samples is lost; larger batches are whole."""

    def decode(self, state, mask=None):
        decoded = super().decode(state, mask)
        return decoded[:3] if len(decoded) == 4 else decoded


def in_space(place):
    """A codec whose places live in another space."""

    class Moved(toy.BeadCodec):
        def __init__(self, facts):
            super().__init__(facts)
            self.space = Product({**self.space.parts, "place": place((toy.LARGEST, 2))})

    return Moved


# Settings, data and files


class Hidden(toy.BeadNet):
    width: int = Field(48, ge=1, exclude=True)


class LossyFacts(toy.BeadFacts):
    comment: str = Field("", exclude=True)


def commented(options):
    made = toy.beads(options)
    return replace(made, facts=LossyFacts(**made.facts.model_dump(), comment="drawn in May"))


def unseeded(options):
    made = toy.beads(options)
    order = list(range(len(made.examples)))
    random.SystemRandom().shuffle(order)
    return replace(made, examples=made.examples[order])


class SilentWriter(toy.BeadWriter):
    def each(self, samples, folder, names, captions=()):
        paths = super().each(samples, folder, names)
        paths[-1].write_text("")
        return paths


def with_preset(values):
    return {"default": toy.BEADS.presets["default"], "other": Preset("another", values)}


BROKEN = {
    "it cannot be made": ("builds", beads(codec=Raising), "RuntimeError: no such table"),
    "an expected failure is misspelt": (
        "builds", beads(replace(PROMISES, expected_failures={"symetries": "none"})), "symetries",
    ),
    "a preset has an unknown option": (
        "configuration_round_trip", beads(presets=with_preset({"denoiser": {"widht": 3}})), "widht",
    ),
    "an option is not written": (
        "configuration_round_trip",
        beads(denoisers=(network(options=Hidden),), presets=with_preset({"denoiser": {"width": 7}})), "width",
    ),
    "a fact is not written": (
        "configuration_round_trip", beads(datasets=(data(commented),), facts=LossyFacts), "comment = 'drawn in May'",
    ),
    "decoding is off": ("decode_restores", beads(codec=Shifted), "0.05"),
    "codes are not of unit variance": ("encoded_statistics", beads(codec=Wide), "place: mean"),
    "noise leaves the space": ("noise_in_space", beads(codec=in_space(Loose)), "place: noise is"),
    "noise is too loud": ("noise_in_space", beads(codec=in_space(Loud)), "per degree of freedom"),
    "encoding keeps what it should take out": (
        "encoding_invariances", beads(replace(PROMISES, moved={"rotation": rotation("places")})), "rotation",
    ),
    "the network forgets the type": ("denoiser_keeps_form", beads(denoisers=(network(SinglePrecision),)), "float32"),
    "a parameter is not used": ("gradients_reach_all", beads(denoisers=(network(Spare),)), "backbone.spare.weight"),
    "neighbours are seen": ("batch_changes_nothing", beads(denoisers=(network(Neighbours),)), "a batch of one"),
    "what is absent is read": ("padding_changes_nothing", beads(denoisers=(network(ReadsAbsent),)), "what is stored"),
    "what is absent is counted": (
        "padding_changes_nothing", beads(denoisers=(network(CountsAbsent),)), "2 more absent elements",
    ),
    "the order is seen": ("symmetries", beads(denoisers=(network(Ordered),)), "permutation: "),
    "turns are not followed": (
        "symmetries", beads(denoisers=(network(symmetries=("permutation", "rotation")),)), "rotation: place: ",
    ),
    "a symmetry has no meaning": ("symmetries", beads(denoisers=(network(symmetries=("scale",)),)), "'scale'"),
    "decoding is random": ("seeds_decide", beads(codec=Trembling), "what one state is decoded to"),
    "data are random": ("seeds_decide", beads(datasets=(data(unseeded),)), "data: not equal"),
    "a file is empty": ("samples_decode", beads(writer=lambda codec: SilentWriter()), "missing or empty"),
    "a sample is lost": ("samples_decode", beads(codec=Losing), "3 samples"),
    "nothing is learned": ("overfits_one_batch", beads(denoisers=(network(Faint),)), "the loss of one batch"),
    "a count is not written": ("checkpoint_round_trip", beads(denoisers=(network(Forgetful),)), "model.safetensors"),
    "training depends on a count": ("exact_resume", beads(denoisers=(network(Counting),)), "losses of the steps"),
}  # fmt: skip
"""By what is wrong: the check that finds it, the record, and words of what was measured."""
