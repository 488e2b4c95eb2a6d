"""The beads as a plugin that passes all checks, and faulty variants of it, each with the check that must fail."""

import random
from dataclasses import dataclass, replace

import torch
from pydantic import Field, model_serializer
from tensordict import TensorDict
from torch import nn
from torch.nn.functional import silu

from diffcore.denoising.sizes import Sizes
from diffcore.plugins.contract import Contract
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component, Modality, Preset
from diffcore.plugins.symmetries import permutation, rotation, translation
from diffcore.states.spaces import Product, ZeroCentred
from tests.support import sized_toy as toy
from tests.support import toy as rings_toy


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


def shuffled(options):
    made = toy.beads(options)
    return replace(made, examples=made.examples[torch.randperm(len(made.examples))])


def with_nan(options):
    made = toy.beads(options)
    made.examples["places"][17, 0, 1] = torch.nan
    return made


def not_held_out(options):
    made = toy.beads(options)
    return replace(made, held_out=made.examples)


def encoding(change):
    """A codec whose `encode` returns `change` of what it should."""

    class Changed(toy.BeadCodec):
        def encode(self, examples, draws=None):
            return change(super().encode(examples, draws))

    return Changed


def with_conditions(encoded, **changed):
    """The encoded examples with changed conditions; those that are None are left out."""
    values = {name: value for name, value in {**encoded.conditions, **changed}.items() if value is not None}
    return replace(encoded, conditions=values)


def aligned_right(encoded):
    state = TensorDict({name: value.flip(1) for name, value in encoded.state.items()}, batch_size=[len(encoded.mask)])
    return replace(encoded, state=state, mask=encoded.mask.flip(1))


DividesByZero = encoding(lambda e: replace(e, state=e.state.apply(lambda f: f / 0)))
Silent = encoding(lambda encoded: None)
Misnamed = encoding(lambda e: with_conditions(e, weight=None, wieght=e.conditions["weight"]))
Extra = encoding(lambda e: with_conditions(e, more=e.conditions["weight"]))
OneForAll = encoding(lambda e: with_conditions(e, weight=e.conditions["weight"][:1]))
Flat = encoding(lambda e: replace(e, state=TensorDict({**e.state, "place": e.state["place"][..., :1]}, [len(e.mask)])))
RightAligned = encoding(aligned_right)


class Unsized(toy.BeadCodec):
    def __init__(self, facts):
        super().__init__(facts)
        self.sizes = None


class Unmasked(toy.BeadCodec):
    def encode(self, examples, draws=None):
        return replace(super().encode(examples, draws), mask=None)


def sized(counts, largest=toy.LARGEST, about=None):
    """A codec with other sizes: `counts` of the right counts."""

    class Sized(toy.BeadCodec):
        def __init__(self, facts):
            super().__init__(facts)
            self.sizes = Sizes(largest, counts(dict(self.sizes.counts)), about or {})

    return Sized


class Heavier(toy.BeadCodec):
    """The weight is standardised with the mean of other data."""

    def __init__(self, facts):
        super().__init__(facts)
        span, weight = self.conditions
        self.conditions = (span, replace(weight, mean=3 * weight.mean))


def rings(labels):
    """The toy with two classes, with a contract that it keeps and with other labels."""

    def points(options):
        made = rings_toy.points(options)
        made.examples["label"] = labels(made.examples["label"])
        return made

    contract = Contract(restored=lambda e, samples: (samples - e["place"]).abs().amax(1), tolerance=1e-5)
    rings = Component("rings", "two rings", points, rings_toy.ToyData)
    presets = {"default": rings_toy.TOY.presets["default"]}
    return replace(rings_toy.TOY, datasets=(rings,), presets=presets, contract=lambda codec: contract)


def labels_from(first):
    return lambda label: label + first


class WrongShares(toy.Network):
    """Has the right codes and wrong frequencies."""

    def __init__(self, width, outputs, space):
        super().__init__(width, outputs, space)
        self.views = {"kind": replace(self.views["kind"], frequencies=(0.1, 0.1, 0.8))}


class Normalised(toy.Network):
    """Normalises its output over the batch, in training mode only."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.norm = nn.BatchNorm1d(toy.LARGEST, affine=False)

    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        if output["place"].shape[1] != toy.LARGEST:
            raise ValueError("one number of elements only")
        return TensorDict({**output, "place": self.norm(output["place"])}, batch_size=output.batch_size)


class Infinite(toy.Network):
    def forward(self, x, conditioning, mask=None):
        return super().forward(x, conditioning, mask).apply(lambda f: f + torch.inf)


class Mute(toy.Network):
    def forward(self, x, conditioning, mask=None):
        super().forward(x, conditioning, mask)


class Detached(toy.Network):
    def forward(self, x, conditioning, mask=None):
        return super().forward(x.detach(), conditioning, mask)


class Mixing(toy.Network):
    def forward(self, x, conditioning, mask=None):
        output = super().forward(x, conditioning, mask)
        return output + output.mean(0)


def evaluated(metrics, measure=toy.measured):
    """The beads with an evaluator that returns `metrics()`, and whose `measure` is the given one."""

    class Evaluator(toy.BeadEvaluator):
        def __call__(self, samples, conditions):
            return metrics()

        def measure(self, samples):
            return measure(samples)

    return beads(evaluator=Evaluator)


def list_of_one():
    return [Metric("size", 1.0, "mean number of beads")]


def encoded_beads(codec, samples):
    return codec.encode(toy.examples_of(samples)).state


def read_by(read):
    """The beads with a reader that returns `read(codec, beads)` of a file."""

    class Reader:
        def __init__(self, codec):
            self.codec = codec

        def read(self, path):
            return read(self.codec, toy.read_beads(path.read_text()))

    return beads(reader=Reader)


def predicted_by(build):
    return beads(classifiers=(Component("net", "a small network", build, toy.BeadNet),))


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
    "data are random": Fault("data_repeat", beads(datasets=(data(unseeded),)), "examples differ when they", NONE),
    "data draw from global generators": Fault(
        "data_repeat", beads(datasets=(data(shuffled),)), "examples differ when they are built again", NONE
    ),
    "a number of an example is nan": Fault(
        "data_sound",
        beads(datasets=(data(with_nan),)),
        "place: nan or infinite numbers in 1 of 100 encoded examples, first in row 17 of the training data; the "
        "example's places is not finite",
        SLOW,
    ),
    "encoding divides by zero": Fault(
        "data_sound", beads(codec=DividesByZero), "place: nan or infinite numbers in 100 of 100", SLOW
    ),
    "encoding forgets return": Fault("data_sound", beads(codec=Silent), "`encode` returns None", SLOW),
    "a condition has another name": Fault(
        "data_sound",
        beads(codec=Misnamed),
        "`encode` gives no value of the condition weight; it gives: span, wieght",
        SLOW,
    ),
    "there is a value of no condition": Fault(
        "data_sound", beads(codec=Extra), "`encode` gives more, which is not among the conditions: span, weight", SLOW
    ),
    "one value for all": Fault("data_sound", beads(codec=OneForAll), "weight has the shape [1] for 100 examples", SLOW),
    "labels begin with 1": Fault("data_sound", rings(labels_from(1)), "labels from 1 to 2, and none is 0", SLOW),
    "a label is no class": Fault(
        "data_sound", rings(labels_from(2)), "the label 3 in row 1; its labels are 0 to 1", SLOW
    ),
    "the state has another shape": Fault(
        "data_sound", beads(codec=Flat), "place has the shape [100, 6, 1] instead", SLOW
    ),
    "masks are aligned to the right": Fault(
        "data_sound", beads(codec=RightAligned), "elements that exist must come first", SLOW
    ),
    "masks without sizes": Fault("data_sound", beads(codec=Unsized), "the codec's `sizes` is None", SLOW),
    "sizes without masks": Fault("data_sound", beads(codec=Unmasked), "`encode` returns no mask", SLOW),
    "a size is not counted": Fault(
        "facts_match", beads(codec=sized(lambda counts: {1: 3, 2: 4, 3: 5, 6: 7})), "no size 5", NONE
    ),
    "the counts are of other data": Fault(
        "facts_match",
        beads(codec=sized(lambda counts: dict(zip(counts, (1, 1, 1, 1, 96), strict=True)))),
        "`sizes.counts` is {1: 1, 2: 1, 3: 1, 5: 1, 6: 96}",
        NONE,
    ),
    "the largest size is another": Fault(
        "facts_match", beads(codec=sized(lambda counts: counts, largest=9)), "`sizes.largest` is 9", NONE
    ),
    "a mean by size is nan": Fault(
        "facts_match",
        beads(codec=sized(lambda counts: counts, about={"weight": [(float("nan"), 1.0)] * 5})),
        "`sizes.about['weight']` is not finite",
        NONE,
    ),
    "the mean of a condition is of other data": Fault(
        "facts_match", beads(codec=Heavier), "the condition weight has the mean", FUNCTION
    ),
    "the frequencies of categories are of other data": Fault(
        "facts_match", beads(denoisers=(network(WrongShares),)), "kind: the frequencies of the categories are", FUNCTION
    ),
    "what is held out is trained on": Fault(
        "held_out_differs", beads(datasets=(data(not_held_out),)), "100 of 100 held-out examples are training", NONE
    ),
    "the codec has no inverse": Fault(
        "decode_restores", beads(replace(CONTRACT, restored=None)), "the contract has no `restored`", NONE
    ),
    "batches are normalised": Fault(
        "batch_changes_nothing", beads(denoisers=(network(Normalised),)), "in training mode, other samples", FUNCTION
    ),
    "the output is infinite": Fault("network_runs", beads(denoisers=(network(Infinite),)), "place, kind", SLOW),
    "the network forgets return": Fault(
        "network_memory", beads(denoisers=(network(Mute),)), "it is None instead", SLOW
    ),
    "the evaluator raises": Fault("evaluator_measures", evaluated(lambda: {}["colour"]), "KeyError: 'colour'", NONE),
    "the evaluator forgets return": Fault("evaluator_measures", evaluated(lambda: None), "but returned None", NONE),
    "two metrics have one name": Fault(
        "evaluator_measures", evaluated(lambda: 2 * [Metric("size", 1.0, "mean")]), "two have the same name", NONE
    ),
    "a metric is a tensor": Fault(
        "evaluator_measures", evaluated(lambda: [Metric("size", torch.ones(2), "mean")]), "is a Tensor, not a", NONE
    ),
    "an unknown condition is measured": Fault(
        "evaluator_measures",
        evaluated(list_of_one, lambda samples: {"colour": torch.ones(len(samples))}),
        "'colour', which is no scalar condition; there are: span, weight",
        NONE,
    ),
    "one value is measured for all": Fault(
        "evaluator_measures",
        evaluated(list_of_one, lambda samples: {"span": torch.ones(1)}),
        "span has the shape [1] for 40 samples",
        NONE,
    ),
    "the reader raises": Fault("reader_reads", read_by(lambda codec, beads: {}["colour"]), "KeyError: 'colour'", NONE),
    "the reader forgets return": Fault("reader_reads", read_by(lambda codec, beads: None), "it is None instead", NONE),
    "the reader reads another sample": Fault(
        "reader_reads", read_by(lambda codec, beads: -encoded_beads(codec, beads)), "from another one", NONE
    ),
    "the classifier has too few outputs": Fault(
        "classifier_predicts", predicted_by(lambda o, s, outputs: toy.Network(o.width, outputs - 1, s)), "[8, 3]", NONE
    ),
    "the classifier has no gradient": Fault(
        "classifier_predicts", predicted_by(lambda o, s, outputs: Detached(o.width, outputs, s)), "no gradient", NONE
    ),
    "the classifier sees neighbours": Fault(
        "classifier_predicts", predicted_by(lambda o, s, outputs: Mixing(o.width, outputs, s)), "a batch of one", NONE
    ),
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
