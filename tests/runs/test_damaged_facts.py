"""Facts of data that are damaged, or written by hand, are refused in one line or make a codec that works."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from diffcore.errors import UserError
from diffcore.plugins.building import part_of
from diffcore.plugins.records import Modality
from diffcore.plugins.registry import installed
from diffcore.runs import model
from diffcore.runs.composing import compose
from diffcore.runs.settings import validate
from diffcore.states.spaces import Mask
from diffcore.states.state import fields
from diffcore_audio.plugin import AUDIO
from diffcore_image.plugin import IMAGE
from diffcore_molecule.plugin import MOLECULE
from diffcore_pointcloud.plugin import POINTCLOUD

CLASSES = ["kick", "snare", "hihat"]
SOUNDS = {"rate": 4000, "samples": 480, "channels": 1, "classes": CLASSES, "polarity": False}
MEL = {"kind": "mel", "fft": 64, "hop": 32, "mels": 8, "low": 0.0, "high": 2000.0, "floor": 0.016, "mean": -1.5,
       "std": 1.1, "vocoder": "spectral"}  # fmt: skip
LOGP = {"name": "logp", "unit": "", "mean": 0.3, "std": 0.9, "quantiles": [-2.0, 0.0, 0.5, 3.0],
        "by_size": [[0.1, 0.5], [0.2, 0.6], [0.4, 0.9]], "from_qm9": False}  # fmt: skip
WHOLE = {
    "image": (IMAGE, {
        "channels": 3, "height": 8, "width": 6, "classes": CLASSES, "mean": [0.3, 0.4, 0.5], "std": [0.1, 0.2, 0.3],
        "flip": False, "background": [255, 255, 255],
    }),
    "mel": (AUDIO, {**SOUNDS, "codec": MEL}),
    "complex": (AUDIO, {**SOUNDS, "codec": {"kind": "complex", "fft": 62, "hop": 32, "exponent": 0.3, "scale": 3.9}}),
    "pointcloud": (POINTCLOUD, {
        "points": 16, "classes": CLASSES, "centre": [0.0, 0.1, -0.1], "scale": 0.5, "normals": True, "colours": True,
        "colour_mean": [0.4, 0.5, 0.6], "colour_std": 0.3, "up": "y", "rotate": False, "mirror": False,
    }),
    "molecule": (MOLECULE, {
        "hydrogens": False, "elements": [6, 7, 8], "element_fractions": [0.7, 0.1, 0.2], "charges": [-1, 0, 1],
        "charge_fractions": [0.1, 0.8, 0.1], "bond_fractions": [0.7, 0.2, 0.06, 0.04], "position_std": 1.2,
        "max_atoms": 9, "sizes": [4, 6, 9], "size_counts": [1, 10, 100],
        "properties": [LOGP, {**LOGP, "name": "qed"}],
    }),
}  # fmt: skip
"""A modality and facts of it, as JSON has them."""

GONE = object()


def damaged(value):
    """Values in place of `value`."""
    yield from (GONE, None, {}, [], "", "x" * 100_000, True, 0, -1, 3, 200, 10**15, 1e300, -1e30, 1e-300)
    if isinstance(value, list) and value:
        yield from (value[:-1], value * 2, value[::-1], value[:1] * len(value), [0] * len(value), value * 2000)
        if all(isinstance(item, float | int) for item in value):
            yield from ([-item for item in value], [100 * item for item in value], [1e300] * len(value))


def places(value, place=()):
    """The keys to each value of nested tables and lists; of a list, to its first value."""
    if place:
        yield place, value
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


def changed(facts, place, value):
    """The facts with another value at the place, or without it."""
    facts = copy.deepcopy(facts)
    table = facts
    for key in place[:-1]:
        table = table[key]
    if value is GONE:
        del table[place[-1]]
    else:
        table[place[-1]] = value
    return facts


def read(modality: Modality, facts):
    """The facts as a run folder's are read."""
    return validate(modality.facts, json.loads(json.dumps(facts)), "config.json: facts")


def use(modality: Modality, facts):
    """Draw a size, ask for conditions and decode a sample, with the codec of the facts."""
    codec = part_of(modality, "codec", facts)
    values = {condition.name: condition.null(1) for condition in codec.conditions}
    for condition in codec.conditions:
        condition.caption(condition.examples(1)[0])
        condition.warning(condition.parse("0..0.5" if hasattr(condition, "quantiles") else "#0", [0], 0))
    mask: Mask = None
    if codec.sizes is not None:
        codec.sizes.parse("1..", [0], 0, values)
        mask = codec.sizes.mask(codec.sizes.draw([0], 0, values))
    with torch.device("meta"):
        large = sum(field.numel() for field in fields(codec.space.empty(1)).values()) > 20_000
    if not large:
        codec.decode(codec.space.empty(1), mask)


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_facts_are_refused_or_work(kind):
    modality, facts = WHOLE[kind]
    use(modality, read(modality, facts))
    refused = tried = 0
    for place, value in places(facts):
        for other in damaged(value):
            tried += 1
            try:
                use(modality, read(modality, changed(facts, place, other)))
            except UserError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"{place} as {repr(other)[:80]}: {error!r}") from error
    assert tried > 150
    assert refused > tried / 2


@pytest.mark.parametrize(
    ("kind", "place", "value", "said"),
    [
        ("image", ("std",), [0.1, 0.2], "mean and std need 3 numbers each"),
        ("image", ("classes",), ["a", "b", "a"], "classes: the name 'a' occurs twice"),
        ("mel", ("classes", 0), "", "classes.0: string should have at least 1 character"),
        ("mel", ("codec", "low"), 2000.0, "low must be less than high; they are 2000 and 2000 Hz"),
        ("mel", ("codec", "high"), 3000.0, "codec.high 3000 Hz is more than half of the rate 4000 Hz"),
        ("mel", ("codec", "high"), 1e-9, "8 of 8 mel bands contain no frequency"),
        ("mel", ("codec", "hop"), 33, "a hop of 33 samples is more than half of a window of 64"),
        ("mel", ("codec", "std"), 0.0, "codec.mel.std: input should be greater than or equal to 0.000001"),
        ("mel", ("samples",), 32, "sounds of 32 samples are shorter than half a window of 64"),
        ("complex", ("codec", "hop"), 33, "a hop of 33 samples leaves gaps between windows of 62"),
        ("complex", ("codec", "fft"), 2**20, "codec.complex.fft: input should be less than or equal to 65536"),
        ("complex", ("codec", "exponent"), 1e-3, "codec.complex.exponent: input should be greater than or equal to"),
        ("pointcloud", ("scale",), 0.0, "scale: input should be greater than or equal to"),
        ("pointcloud", ("colour_mean", 0), 127.0, "colour_mean.0: input should be less than or equal to 1"),
        ("pointcloud", ("classes",), ["a", "a"], "the name 'a' occurs twice"),
        ("molecule", ("elements", 2), 119, "elements.2: input should be less than or equal to 118"),
        ("molecule", ("elements",), [6, 8, 7], "elements must increase"),
        ("molecule", ("elements",), [6, 7], "element_fractions has 3 entries for 2 elements"),
        ("molecule", ("element_fractions",), [0.7, 0.1, 0.1], "element_fractions must have the sum 1; it is 0.9"),
        ("molecule", ("charges",), [-1, -1, 1], "charges must increase"),
        ("molecule", ("charge_fractions",), [0.5, 0.5], "charge_fractions has 2 entries for 3 charges"),
        ("molecule", ("bond_fractions",), [0.0, 0.0, 0.0, 0.5], "bond_fractions must have the sum 1; it is 0.5"),
        ("molecule", ("sizes",), [4, 6, 10], "sizes has 10 atoms, but max_atoms is 9"),
        ("molecule", ("size_counts",), [1], "size_counts has 1 entries for 3 sizes"),
        ("molecule", ("size_counts", 0), 0, "size_counts.0: input should be greater than or equal to 1"),
        ("molecule", ("properties", 0, "by_size"), [[0.0, 1.0]], "by_size of 'logp' has 1 entries for 3 sizes"),
        ("molecule", ("properties", 0, "quantiles"), [0.0, 2.0, 1.0], "quantiles must not decrease"),
        ("molecule", ("properties", 1, "name"), "logp", "two properties have the name 'logp'"),
    ],
)
def test_facts_that_contradict_each_other_are_named(kind, place, value, said):
    modality, facts = WHOLE[kind]
    with pytest.raises(UserError) as error:
        use(modality, read(modality, changed(facts, place, value)))
    assert said in str(error.value)


def test_data_whose_facts_are_not_valid_are_refused(monkeypatch):
    """Statistics of a user's data can be as wrong as a file: here, a property of 1e31."""
    modality, facts = WHOLE["molecule"]
    wrong = {**facts, "properties": [{**LOGP, "mean": 1e31}]}
    dataset = replace(modality.datasets[0], build=lambda options: modality.facts(**wrong))
    registry = installed()
    monkeypatch.setattr(model, "choices", lambda *arguments: {"data": (dataset,)})
    settings = compose(registry, "molecule")
    with pytest.raises(
        UserError, match=r"the data set 'embedded' has values .* properties\.0\.mean: input should be less"
    ):
        model.build_data(settings, registry)


def test_only_the_first_of_many_errors_are_described():
    modality, facts = WHOLE["molecule"]
    with pytest.raises(UserError) as error:
        read(modality, {**facts, "size_counts": [0] * 10_000})
    assert "size_counts.9: input should be greater" in str(error.value)
    assert str(error.value).endswith("(it is 0); and 9,990 more")
    assert len(str(error.value)) < 1000


def test_molecules_of_one_atom_have_no_fractions_of_bonds():
    modality, facts = WHOLE["molecule"]
    use(modality, read(modality, {**facts, "bond_fractions": [0, 0, 0, 0]}))
