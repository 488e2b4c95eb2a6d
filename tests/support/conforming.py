"""The beads as a plugin that passes all checks, and faulty variants of it, each with the check that must fail."""

import random
from dataclasses import dataclass, replace

import torch
from pydantic import Field, model_serializer
from tensordict import TensorDict
from torch import nn
from torch.nn.functional import silu

from diffcore.plugins.contract import Contract
from diffcore.plugins.records import Component, Modality, Preset
from diffcore.plugins.symmetries import permutation, rotation, translation
from diffcore.states.spaces import Product, ZeroCentred
from tests.support import sized_toy as toy


def restored(examples, samples):
    """The largest difference of the places of each sample; infinite where kinds differ."""
    differences = []
    for index, sample in enumerate(samples):
        mask = examples["kinds"][index] >= 0
        same_kinds = torch.equal(sample.kinds, examples["kinds"][index][mask])
        largest = (sample.places - examples["places"][index][mask]).abs().max()
        differences.append(largest if same_kinds else torch.inf)
    return torch.tensor(differences)


CONTRACT = Contract(
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


def beads(contract=CONTRACT, **changed):
    """The record of the beads with a contract and small parts, and with the fields of `changed`."""
    usual = {"datasets": (data(),), "denoisers": (network(),), "contract": lambda codec: contract}
    return replace(toy.BEADS, **{**usual, **changed})


# Networks


class Spare(toy.Network):
    """Has a layer that it does not use."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.spare = nn.Linear(2, 2)


class SinglePrecision(toy.Network):
    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).float()


class Neighbours(toy.Network):
    """Scales its output by a mean over the whole batch."""

    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        return output.apply(lambda f: f * (1 + conditioning.mean()))


class Ordered(toy.Network):
    """Scales the output of each element by its index."""

    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        row = torch.arange(output["place"].shape[1])[:, None]
        return output.apply(lambda f: f + 0.1 * row * f)


class ReadsAbsent(toy.Network):
    """Sums over absent elements too."""

    def forward(self, x, conditioning, mask=None):
        count = x["place"].shape[1]
        c = conditioning[:, None].expand(-1, count, -1)
        h = silu(self.each(torch.cat([x["place"], x["kind"], c], -1)))
        h = silu(self.both(torch.cat([h, h.sum(1, keepdim=True).expand_as(h) / toy.LARGEST], -1)))
        output = self.last(h)
        return TensorDict({"place": output[..., :2], "kind": output[..., 2:]}, batch_size=x.batch_size)


class CountsAbsent(toy.Network):
    """Divides by the number of elements, absent ones included."""

    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).apply(lambda f: f * (toy.LARGEST / f.shape[1]))


class Faint(toy.Network):
    """Has an output so small that it learns too slowly."""

    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).apply(lambda f: 1e-4 * f)


class Forgetful(toy.Network):
    """Counts training steps outside its buffers, and uses the count in evaluation mode."""

    steps = 0

    def forward(self, x, conditioning, mask=None):
        self.steps += self.training
        weight = 1.0 if self.training else 1 + 0.1 * self.steps
        return super().forward(x, conditioning, mask).apply(lambda f: weight * f)


class Counting(toy.Network):
    """Counts training steps outside its buffers, and uses the count in training mode."""

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
    """Scales places to a standard deviation of 1/3."""

    def __init__(self, facts):
        super().__init__(facts.model_copy(update={"place_std": 3 * facts.place_std}))


class Loose(ZeroCentred):
    """Noise whose mean is not zero."""

    def noise(self, normal, mask=None):
        return normal if mask is None else normal * mask[..., None]


class Loud(ZeroCentred):
    """Noise with a standard deviation of 1.2."""

    def noise(self, normal, mask=None):
        return 1.2 * super().noise(normal, mask)


class Trembling(toy.BeadCodec):
    """Decoding adds small random numbers."""

    def decode(self, state, mask=None):
        return [toy.Beads(b.places + 1e-5 * torch.randn(2), b.kinds) for b in super().decode(state, mask)]


class Losing(toy.BeadCodec):
    """Decodes three samples of four states, and other batches completely."""

    def decode(self, state, mask=None):
        decoded = super().decode(state, mask)
        return decoded[:3] if len(decoded) == 4 else decoded


def in_space(place):
    """A codec whose places are in another space."""

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


@dataclass(frozen=True)
class Fault:
    """A plugin with one fault: the check that must fail, words of what it measures, and the slow checks to run."""

    check: str
    modality: Modality
    measured: str
    slow_checks: tuple[str, ...]


SLOW = ("seeds_decide", "overfits_one_batch", "checkpoint_round_trip", "exact_resume")
"""The checks that draw or train; they take three quarters of the time of all checks.

All other checks are run on every faulty plugin. A slow check is run only where the fault can change its result:

- `NONE`: the fault is in the writer, the contract, the declared symmetries, the JSON of facts, or a preset other than
  `default`. The slow checks use none of these, so they do exactly what they do with the sound plugin, which passes.
  `test_slow_checks_do_not_use_what_is_faulty` runs them on a plugin in which each of these raises when it is used.
- `DECODING`: the fault is in `decode`, which only `seeds_decide` calls. The same test runs the other three checks with
  a codec whose `decode` raises.
- `FUNCTION`: network, encoding or space compute a wrong result, but always the same one for the same arguments.
  `seeds_decide`, `checkpoint_round_trip` and `exact_resume` compare two computations of the same result, and these
  agree whatever the function is; only `overfits_one_batch` depends on it.
  `test_faulty_functions_pass_the_slow_checks_that_compare` runs those three on a plugin with all these faults at once.
- `SLOW`, all four: data or network differ from one time to the next, or the plugin cannot be built.
"""

NONE: tuple[str, ...] = ()
DECODING = ("seeds_decide",)
FUNCTION = ("overfits_one_batch",)

FAULTS = {
    "it cannot be made": Fault("builds", beads(codec=Raising), "RuntimeError: no such table", SLOW),
    "an expected failure is misspelt": Fault(
        "builds", beads(replace(CONTRACT, expected_failures={"symetries": "none"})), "symetries", SLOW
    ),
    "a preset has an unknown option": Fault(
        "configuration_round_trip", beads(presets=with_preset({"denoiser": {"widht": 3}})), "widht", NONE
    ),
    "an option is not written": Fault(
        "configuration_round_trip",
        beads(denoisers=(network(options=Hidden),), presets=with_preset({"denoiser": {"width": 7}})),
        "width",
        FUNCTION,
    ),
    "a fact is not written": Fault(
        "configuration_round_trip",
        beads(datasets=(data(commented),), facts=LossyFacts),
        "comment = 'drawn in May' becomes ''",
        NONE,
    ),
    "decoding is off": Fault("decode_restores", beads(codec=Shifted), "by at most 0.05", DECODING),
    "codes are not of unit variance": Fault("encoded_statistics", beads(codec=Wide), "place: mean", FUNCTION),
    "noise leaves the space": Fault(
        "noise_in_space", beads(codec=in_space(Loose)), "place: projection to the space changes noise", FUNCTION
    ),
    "noise is too loud": Fault("noise_in_space", beads(codec=in_space(Loud)), "per degree of freedom", FUNCTION),
    "encoding keeps what it should take out": Fault(
        "encoding_invariances", beads(replace(CONTRACT, moved={"rotation": rotation("places")})), "rotation", NONE
    ),
    "the network forgets the type": Fault(
        "denoiser_keeps_form", beads(denoisers=(network(SinglePrecision),)), "float32", FUNCTION
    ),
    "a parameter is not used": Fault(
        "gradients_reach_all", beads(denoisers=(network(Spare),)), "backbone.spare.weight", FUNCTION
    ),
    "neighbours are seen": Fault(
        "batch_changes_nothing", beads(denoisers=(network(Neighbours),)), "a batch of one", FUNCTION
    ),
    "what is absent is read": Fault(
        "padding_changes_nothing", beads(denoisers=(network(ReadsAbsent),)), "other numbers stored", FUNCTION
    ),
    "what is absent is counted": Fault(
        "padding_changes_nothing", beads(denoisers=(network(CountsAbsent),)), "2 more absent elements", FUNCTION
    ),
    "the order is seen": Fault("symmetries", beads(denoisers=(network(Ordered),)), "permutation: ", FUNCTION),
    "turns are not followed": Fault(
        "symmetries", beads(denoisers=(network(symmetries=("permutation", "rotation")),)), "rotation: place: ", NONE
    ),
    "a symmetry has no meaning": Fault(
        "symmetries", beads(denoisers=(network(symmetries=("scale",)),)), "'scale'", NONE
    ),
    "decoding is random": Fault("seeds_decide", beads(codec=Trembling), "decoded samples: different", DECODING),
    "data are random": Fault("seeds_decide", beads(datasets=(data(unseeded),)), "data: different", SLOW),
    "a file is empty": Fault("samples_decode", beads(writer=lambda codec: SilentWriter()), "missing or empty", NONE),
    "a sample is lost": Fault("samples_decode", beads(codec=Losing), "3 samples", DECODING),
    "nothing is learned": Fault(
        "overfits_one_batch", beads(denoisers=(network(Faint),)), "the loss of one batch", FUNCTION
    ),
    "a count is not written": Fault(
        "checkpoint_round_trip", beads(denoisers=(network(Forgetful),)), "model.safetensors", SLOW
    ),
    "training depends on a count": Fault(
        "exact_resume", beads(denoisers=(network(Counting),)), "losses after resuming", SLOW
    ),
}
"""The faulty plugins, by what is wrong."""


# Plugins that show which slow checks a fault can reach


def unused(*arguments):
    raise AssertionError("this part is used")


class UnusedFacts(toy.BeadFacts):
    @model_serializer
    def unused(self):
        raise AssertionError("the facts are written")


def with_unused_facts(options):
    made = toy.beads(options)
    return replace(made, facts=UnusedFacts(**made.facts.model_dump()))


UNUSED = replace(
    beads(
        datasets=(data(with_unused_facts),),
        denoisers=(network(symmetries=("scale",)),),
        facts=UnusedFacts,
        presets=with_preset({"denoiser": {"widht": 3}}),
        writer=unused,
    ),
    contract=unused,
)
"""A plugin in which everything that no slow check uses raises when it is used, or is wrong."""


class NeverDecodes(toy.BeadCodec):
    decode = unused


class LooseAndLoud(Loud, Loose):
    pass


class FaultyCodec(in_space(LooseAndLoud), Wide):
    pass


class FaultyNetwork(Spare, SinglePrecision, Neighbours, Ordered, CountsAbsent, Faint, ReadsAbsent):
    pass


FAULTY_FUNCTIONS = beads(
    codec=FaultyCodec,
    denoisers=(network(FaultyNetwork, options=Hidden),),
    presets=with_preset({"denoiser": {"width": 7}}),
)
"""A plugin with all faults of `FUNCTION` at once."""
