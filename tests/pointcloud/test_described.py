"""Sentences about generated furniture, and the judge that measures the same of clouds."""

import math

import numpy
import pytest
import torch

from diffcore.plugins.wordings import UNSAID, read
from diffcore_pointcloud.data.datasets import shapes
from diffcore_pointcloud.data.shapes import points_on, surface
from diffcore_pointcloud.described.judge import judge
from diffcore_pointcloud.described.measure import measure
from diffcore_pointcloud.described.metrics import Seen, prompt_metrics
from diffcore_pointcloud.described.sentences import LEGS, WORDINGS, limits, values_of, write
from diffcore_pointcloud.options import ShapesOptions

CLASSES = ("chair", "stool", "table")
KINDS = torch.tensor([[*WORDINGS["kind"]].index(name) for name in CLASSES])


@pytest.fixture(scope="module")
def made():
    return shapes(ShapesOptions(captions=True, shapes=90, held_out=120, classes=CLASSES, pool=512))


def sentences_of(data, part):
    return [[data.texts[number] for number in row] for row in part["captions"].tolist()]


def posts(places, radius, top=(1.0, 1.0), round_top=False, n=900):
    """Points on a flat top at height 1 and on round posts of a radius at `places` (x, z) below it."""
    rng = numpy.random.default_rng(0)
    x, z = rng.uniform(-1, 1, (2, n))
    if round_top:
        x, z = (part[x**2 + z**2 < 1] for part in (x, z))
    flat = numpy.stack([top[0] * x, numpy.ones(len(x)), top[1] * z], 1)
    each = []
    for place in places:
        angle, y = rng.uniform(0, 2 * math.pi, 80), rng.uniform(0, 1, 80)
        each.append(numpy.stack([place[0] + radius * numpy.cos(angle), y, place[1] + radius * numpy.sin(angle)], 1))
    return numpy.concatenate([flat, *each])


@pytest.mark.parametrize("legs", [1, 3, 4, 5])
def test_legs_are_counted_and_their_radius_is_measured(legs):
    angle = 2 * math.pi * numpy.arange(legs) / legs
    places = numpy.stack([numpy.cos(angle), numpy.sin(angle)], 1) * (0.7 if legs > 1 else 0)
    found = measure(posts(places, 0.05))
    assert found.legs == legs
    assert found.thickness == pytest.approx(0.05, rel=0.02)
    assert found.height == pytest.approx(0.5, rel=0.02)


def test_the_outline_of_a_top_is_measured():
    rectangle, ellipse = posts([(0, 0)], 0.05, (1, 0.5)), posts([(0, 0)], 0.05, (1, 0.5), round_top=True)
    # the part of a square outside of a circle of the radius sqrt(1.15), from its area
    corner = math.sqrt(0.15)
    beyond = math.acos(1 / math.sqrt(1.15))
    inside = 4 * corner + 1.15 * (math.pi - 4 * beyond)
    assert measure(rectangle).corners == pytest.approx(1 - inside / 4, abs=0.03)
    assert measure(ellipse).corners == 0


def test_clouds_without_legs_have_none():
    assert measure(numpy.zeros((100, 3))).legs == 0
    assert measure(posts([], 0.1)).legs == 0


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_measured_follows_the_parameters(kind):
    made = surface(kind, 60, torch.Generator().manual_seed(0))
    clouds, _ = points_on(made.triangles, 512, torch.Generator().manual_seed(1))
    found = [measure(cloud.numpy()) for cloud in clouds]
    counted = made.parameters["legs"].numpy()
    said = numpy.isin(counted, LEGS)
    legs, thickness = (numpy.array([getattr(each, name) for each in found]) for name in ("legs", "thickness"))
    right = legs == counted
    assert right[said].mean() > 0.95
    assert numpy.median(thickness[said & right] / made.parameters["thickness"].numpy()[said & right]) == pytest.approx(
        1, abs=0.04
    )
    numpy.testing.assert_allclose([each.height for each in found], made.parameters["height"].numpy(), rtol=0.06)


def test_values_are_the_thirds_of_the_shapes_of_a_kind():
    low, middle, high = limits("stool", "thickness", 3)
    parameters = {
        "legs": torch.tensor([3.0, 3, 3]),
        "thickness": torch.stack([low - 1e-4, middle, high + 1e-4]),
        "height": limits("stool", "height") + torch.tensor([-0.01, 0, 0.01]),
        "round": torch.tensor([0.0, 1, 1]),
    }
    found = values_of("stool", parameters)
    assert found["thickness"].tolist() == found["height"].tolist() == [0, UNSAID, 1]
    assert found["legs"].tolist() == [1, 1, 1]
    assert found["top"].tolist() == [0, 1, 1]
    assert found["arms"].tolist() == [UNSAID] * 3
    assert limits("stool", "thickness", 2).isnan().all()


def test_sentences_say_what_the_values_are():
    generator = torch.Generator().manual_seed(0)
    count = 600
    values = {name: torch.randint(-1, len(ways), (count,), generator=generator) for name, ways in WORDINGS.items()}
    values["kind"] = torch.arange(count) % len(WORDINGS["kind"])
    found = read(write(values, generator, complete=True), WORDINGS)
    assert all(torch.equal(found[name], values[name]) for name in WORDINGS)
    partly = read(write(values, generator), WORDINGS)
    for name in WORDINGS:
        assert ((partly[name] == values[name]) | (partly[name] == UNSAID)).all()


def test_a_sentence_can_be_like_those_of_the_page():
    values = {"kind": [4, 1], "height": [1, 0], "top": [1, -1], "legs": [1, 2], "thickness": [0, -1], "arms": [-1, 1]}
    tensors = {name: torch.tensor(value).repeat(500) for name, value in values.items()}
    written = set(write(tensors, torch.Generator().manual_seed(0), complete=True))
    assert {"a tall round stool with three thin legs", "a low chair with four legs and arms"} <= written


def test_the_judge_is_right_about_real_clouds_and_the_control_is_not(made):
    sentences = [text for (text,) in sentences_of(made, made.held_out)]
    seen = Seen(made.held_out["positions"].float(), KINDS[made.held_out["label"]], sentences)
    found = {metric.name: metric for metric in prompt_metrics(seen, seen, "held-out shapes")}
    assert [*found] == [f"prompt_{name}" for name in (*WORDINGS, "all")]
    chance = {name: float(each.meaning.split("; ")[1].split()[0]) for name, each in found.items()}
    for name, each in found.items():
        assert each.value >= 96, name
        assert chance[name] < 75, name
    assert chance["prompt_all"] < 15


def test_clouds_that_are_not_finite_are_never_right(made):
    positions = made.held_out["positions"][:2].float()
    positions[1, 3] = torch.nan
    found = judge(positions, KINDS[made.held_out["label"][:2]])
    assert found["height"][0] != UNSAID
    assert all(found[name][1] == UNSAID for name in WORDINGS if name != "kind")


def test_sentences_take_the_place_of_the_classes(made):
    assert made.facts.described == CLASSES
    assert made.facts.classes == ()
    asked = read([text for own in sentences_of(made, made.examples) for text in own], WORDINGS)
    assert torch.equal(asked["kind"], KINDS[made.examples["label"]].repeat_interleave(2))
    with pytest.raises(ValueError, match=r"`data\.rotate` cannot be used"):
        ShapesOptions(captions=True, rotate=True)
