import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from diffcore.cli import main
from diffcore.states.noise import generator_for
from diffcore_image.options import ScenesOptions
from diffcore_image.scenes.dataset import scenes
from diffcore_image.scenes.draw import RADII, placed, random_scenes
from diffcore_image.scenes.judge import judge
from diffcore_image.scenes.metrics import scene_metrics, scene_summary
from diffcore_image.scenes.render import render
from diffcore_image.scenes.scene import BACKGROUND, COLOURS, RELATIONS, SHAPES, SIDE, SIZES, Scenes
from diffcore_image.scenes.score import compare
from diffcore_image.scenes.sentences import read, write
from diffcore_image.scenes.shapes import coverage, outside
from diffcore_image.scenes.split import held_out


@pytest.fixture(scope="module")
def real():
    """Random scenes, where they lie and their pictures."""
    generator = generator_for(0, "real scenes")
    drawn = placed(random_scenes(600, generator), generator)
    return drawn, render(drawn)


@pytest.fixture(scope="module")
def made():
    return scenes(ScenesOptions(pictures=400, held_out=400))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_pictures_show_two_objects_as_asked_for(share):
    data = scenes(ScenesOptions(pictures=200, held_out=4, two_objects=share))
    texts = [data.texts[row[0]] for row in data.examples["captions"].tolist()]
    two = read(texts).count == 2
    assert two.sum() == 200 * share
    assert two[:100].sum() == 100 * share  # mixed evenly


def sentences_of(data, part):
    return [[data.texts[number] for number in row if number >= 0] for row in part["captions"].tolist()]


def row(scene, number=0):
    """One scene in words: count, (size, colour, shape) of each object, and the relation."""
    named = [
        (SIZES[size], [*COLOURS][colour], SHAPES[shape])
        for size, colour, shape in zip(
            *(getattr(scene, n)[number].tolist() for n in ("size", "colour", "shape")), strict=True
        )
        if shape >= 0
    ]
    relation = int(scene.relation[number])
    return int(scene.count[number]), named, RELATIONS[relation] if relation >= 0 else None


# What is held out


def test_the_combinations_that_are_held_out():
    split, colours = held_out(), [*COLOURS]
    pairs = {(colours[colour], SHAPES[shape]) for colour, shape in split.pairs.nonzero().tolist()}
    assert pairs == {
        ("red", "circle"),
        ("orange", "square"),
        ("yellow", "diamond"),
        ("green", "triangle"),
        ("blue", "cross"),
    }
    named = {
        (SHAPES[first], RELATIONS[relation], SHAPES[second])
        for relation, first, second in split.arrangements.nonzero().tolist()
    }
    assert {each for each in named if each[1] in ("left", "above")} == {
        ("square", "left", "triangle"),
        ("triangle", "left", "circle"),
        ("diamond", "left", "square"),
        ("square", "above", "circle"),
        ("diamond", "above", "cross"),
        ("cross", "above", "square"),
    }
    assert len(named) == 12
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    assert named == {(second, opposite[relation], first) for first, relation, second in named}


def test_training_has_no_combination_that_is_held_out_and_all_others(made):
    asked = read([text for own in sentences_of(made, made.examples) for text in own])
    assert (asked.count > 0).all()
    assert not held_out().contains(asked).any()
    assert {*asked.colour.flatten().tolist()} == {-1, *range(len(COLOURS))}
    shapes_at = {
        (relation, *shapes) for relation, shapes in zip(asked.relation.tolist(), asked.shape.tolist(), strict=True)
    }
    for relation in range(len(RELATIONS)):
        for place in (1, 2):
            assert {each[place] for each in shapes_at if each[0] == relation} == {*range(len(SHAPES))}


def test_examples_for_evaluation_are_in_turn_of_four_kinds(made):
    own = sentences_of(made, made.held_out)
    assert {len(each) for each in own} == {1}
    asked = read([text for (text,) in own])
    assert asked.count.tolist() == [1, 2] * (len(asked) // 2)
    assert held_out().contains(asked).tolist() == [False, False, True, True] * (len(asked) // 4)
    two = asked.count == 2
    assert (asked.size[:, 0] >= 0).all()
    assert (asked.size[two] >= 0).all()
    assert (asked.relation[two] >= 0).all()


def test_the_same_seed_gives_the_same_pictures_and_sentences(made):
    again, other = (
        scenes(ScenesOptions(pictures=400, held_out=400)),
        scenes(ScenesOptions(pictures=400, held_out=400, seed=1)),
    )
    assert torch.equal(again.examples["pixels"], made.examples["pixels"])
    assert again.texts == made.texts
    assert not torch.equal(other.examples["pixels"], made.examples["pixels"])


# Pictures


AREAS = {
    "circle": math.pi,
    "square": 1.8**2,
    "triangle": 3 * math.sqrt(3) / 4 * 1.3**2,
    "diamond": 2 * 1.15**2,
    "cross": 2 * 2.2 * 0.76 - 0.76**2,
}
"""Areas of the shapes of r = 1."""


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_part_of_a_pixel_inside_the_shape(shape):
    # The second implementation counts which of 20 x 20 points of each pixel lie inside.
    radius, fine = torch.tensor(5.3), 20
    pixels = torch.arange(19) - 9.2
    points = (pixels[:, None] + (torch.arange(fine) + 0.5) / fine - 0.5).flatten()
    inside = (outside(shape, points[None, :], points[:, None], radius) < 0).double()
    counted = inside.view(19, fine, 19, fine).mean((1, 3))
    computed = coverage(shape, pixels[None, :], pixels[:, None], radius).double()
    assert (computed - counted).abs().max() < 0.3  # at corners
    assert (computed - counted).abs().sum() < 0.05 * counted.sum()
    assert computed.sum().item() == pytest.approx(AREAS[shape] * 5.3**2, rel=0.02)
    # the centroid is the origin
    for axis in (0, 1):
        moment = (inside.sum(axis) * points).sum() / inside.sum()
        assert moment.abs() < 0.05


def test_pictures_have_the_colours_of_their_objects_and_the_background(real):
    drawn, pixels = real
    assert pixels.dtype == torch.uint8
    assert (pixels[:, :, 0, 0] == torch.tensor(BACKGROUND)).all()  # nothing comes nearer to the border than a pixel
    colours = torch.tensor([*COLOURS.values()])
    for thing in (0, 1):
        rows = (drawn.scenes.count > thing).nonzero()[:, 0]
        x, y = drawn.centre[rows, thing].floor().long().unbind(1)
        assert torch.equal(pixels[rows, :, y, x].long(), colours[drawn.scenes.colour[rows, thing]])


def test_objects_lie_as_their_relation_says(real):
    drawn, _ = real
    two = drawn.scenes.count == 2
    first, second = drawn.centre[two].unbind(1)
    offset = second - first
    direction = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])[drawn.scenes.relation[two]]
    along = (offset * direction).sum(1)
    across = (offset * direction.flip(1)).sum(1).abs()
    least = 2 * RADII[0][0] * 0.65 + 2  # the triangle reaches 0.65 r below its centre
    assert (along > least).all()
    assert (across <= 0.45 * along).all()


# Sentences


def test_sentences_say_what_a_scene_is(real):
    known = real[0].scenes
    told = compare(read(write(known, generator_for(0, "words"), complete=True)), known)
    assert all(bool((value.isnan() | (value == 1)).all()) for value in told.values())
    assert not told["size"].isnan().any()
    assert torch.equal(told["relation"].isnan(), known.count == 1)


def test_wordings_vary_and_may_leave_something_out(real):
    known = real[0].scenes
    sentences = write(known, generator_for(1, "words"))
    asked = read(sentences)
    assert len({*sentences}) > 550
    assert (asked.count == known.count).all()
    assert 0.05 < (asked.size[:, 0] < 0).double().mean() < 0.15
    assert 0.05 < (asked.relation[asked.count == 2] < 0).double().mean() < 0.15
    first_kept = (asked.colour == known.colour).all(1)[known.count == 2].double().mean()
    assert 0.4 < first_kept < 0.6


@pytest.mark.parametrize(
    ("sentence", "meaning"),
    [
        ("A big red circle.", (1, [("big", "red", "circle")], None)),
        ("there is a tiny plus in orange", (1, [("small", "orange", "cross")], None)),
        (
            "a small red box to the left of an orange rhombus",
            (2, [("small", "red", "square"), (SIZES[-1], "orange", "diamond")], "left"),
        ),
        (
            "a huge blue disc with a little green triangle below it",
            (2, [("small", "green", "triangle"), ("big", "blue", "circle")], "below"),
        ),
        (
            "a big black cross at the top and a big cyan cross at the bottom",
            (2, [("big", "black", "cross"), ("big", "cyan", "cross")], "above"),
        ),
        ("a red", (0, [], None)),
        ("", (0, [], None)),
        ("a big red circle left of", (0, [], None)),
    ],
)
def test_reading_of_sentences(sentence, meaning):
    assert row(read([sentence])) == meaning
    if "rhombus" in sentence:
        assert read([sentence]).size[0, 1] == -1


@pytest.mark.parametrize(
    ("wording", "relation"),
    [
        ("{a} left of {b}", "left"),
        ("{a} to the left of {b}", "left"),
        ("{a} on the left and {b} on the right", "left"),
        ("{a} right of {b}", "right"),
        ("{a} to the right of {b}", "right"),
        ("{b} with {a} to its right", "right"),
        ("{a} above {b}", "above"),
        ("{a} over {b}", "above"),
        ("{a} at the top and {b} at the bottom", "above"),
        ("{b} with {a} above it", "above"),
        ("{a} below {b}", "below"),
        ("{a} under {b}", "below"),
        ("{a} beneath {b}", "below"),
        ("{b} with {a} below it", "below"),
        ("{a} and {b}", None),
    ],
)
def test_reading_of_relations(wording, relation):
    found = row(read([wording.format(a="a big red circle", b="a tiny blue cross")]))
    assert found == (2, [("big", "red", "circle"), ("small", "blue", "cross")], relation)


# The judge


def part_right(drawn, pixels):
    return compare(drawn.scenes, judge(pixels))["all"].mean().item()


def test_the_judge_reads_real_pictures(real):
    drawn, pixels = real
    assert part_right(drawn, pixels) >= 0.995


def test_the_judge_reads_pictures_with_noise_and_pale_colours(real):
    drawn, pixels = real
    noise = torch.randn(pixels.shape, generator=generator_for(0, "noise"))
    noisy = (pixels.float() + 12 * noise).round().clamp(0, 255)
    pale = (255 - 0.85 * (255 - pixels.float()) + 6 * noise).round().clamp(0, 255)
    assert part_right(drawn, noisy.to(torch.uint8)) >= 0.995
    assert part_right(drawn, pale.to(torch.uint8)) >= 0.99


def picture(*shapes):
    """A picture that Pillow draws: rectangles, ellipses and polygons by their corners."""
    image = Image.new("RGB", (8 * SIDE, 8 * SIDE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for kind, colour, corners in shapes:
        getattr(draw, kind)([8 * corner for corner in corners], fill=COLOURS[colour])
    image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1)


DISC = ("ellipse", "blue", (4, 10, 15, 21))
BOX = ("rectangle", "orange", (20, 14, 25.5, 19.5))
KITE = ("polygon", "red", (22, 4, 25.5, 7.5, 22, 11, 18.5, 7.5))


@pytest.mark.parametrize(
    ("shapes", "count", "found"),
    [
        ((), 0, []),
        ((DISC,), 1, [("big", "blue", "circle")]),
        ((BOX,), 1, [("small", "orange", "square")]),
        ((DISC, BOX), 2, [("big", "blue", "circle"), ("small", "orange", "square")]),
        ((DISC, ("rectangle", "orange", (15, 14, 20.5, 19.5))), 2, None),  # they touch
        ((DISC, BOX, KITE), 3, [("big", "blue", "circle"), ("small", "orange", "square")]),
        ((BOX, ("rectangle", "red", (2, 2, 4, 4))), 1, [("small", "orange", "square")]),  # too small to be an object
    ],
)
def test_the_judge_reads_pictures_of_another_program(shapes, count, found):
    read_off = row(judge(picture(*shapes)[None]))
    assert read_off[0] == count
    if found is not None:
        assert read_off[1] == found
    assert read_off[2] == ("left" if count >= 2 else None)


def test_a_shape_that_is_none_of_them_is_unknown():
    bar = judge(picture(("rectangle", "green", (3, 14, 29, 17)))[None])
    assert int(bar.count) == 1
    assert [*COLOURS][int(bar.colour[0, 0])] == "green"
    assert int(bar.shape[0, 0]) == int(bar.size[0, 0]) == -1


# Scores


def scene(text):
    return read([text])


@pytest.mark.parametrize(
    ("asked", "found", "wrong"),
    [
        ("a big red circle", "a big red circle", set()),
        ("a big red circle", "a big red square", {"shape"}),
        ("a red circle", "a small red circle", set()),
        ("a big red circle", "a big red circle above a big blue square", {"count"}),
        ("a big red circle left of a small blue box", "a small blue box right of a big red circle", set()),
        ("a big red circle left of a small blue box", "a big red circle right of a small blue box", {"relation"}),
        ("a big red circle left of a small blue box", "a big blue circle left of a small red box", {"colour"}),
        (
            "a big red circle left of a small blue box",
            "a big red circle",
            {*["count", "colour", "shape", "size", "relation"]},
        ),
    ],
)
def test_comparison_takes_the_better_order(asked, found, wrong):
    right = compare(scene(asked), scene(found))
    assert {name for name, value in right.items() if value == 0} - {"all"} == wrong
    assert bool(right["all"]) is not bool(wrong)


def test_metrics_of_real_pictures_and_the_control(made):
    held = made.held_out
    sentences = [text for (text,) in sentences_of(made, held)]
    found = {metric.name: metric for metric in scene_metrics(held["pixels"], sentences)}
    for group in ("seen_one_object", "held_out_one_object", "seen_two_objects", "held_out_two_objects"):
        assert found[f"{group}_all"].value >= 99
        assert found[f"{group}_count"].value >= 99
        chance = float(found[f"{group}_all"].meaning.split("; ")[1].split()[0])
        assert chance < 20
        assert (f"{group}_relation" in found) is ("two" in group)
    turned = {metric.name: metric.value for metric in scene_metrics(held["pixels"].roll(4, 0), sentences)}
    assert turned["seen_two_objects_all"] < 5


def test_a_summary_counts_what_is_right():
    pictures = torch.stack([picture(DISC), picture(DISC, BOX), picture(DISC), picture(BOX)])
    asked = ["a big blue circle", "a big blue disc over a small orange square", "hello", "a big box in red"]
    right = "count 3 of 3, colour 2 of 3, shape 3 of 3, size 2 of 3, relation 0 of 1"
    assert scene_summary(pictures, asked) == [f"1 of 3 pictures show what was asked for ({right})"]
    assert scene_summary(pictures[:1], ["hello"]) == []


def test_sentences_in_other_words_do_not_count(made):
    assert scene_metrics(made.held_out["pixels"][:2], ["hello", ""]) == []


def test_scenes_are_a_batch_of_rows(real):
    known = real[0].scenes
    some = known[torch.tensor([3, 1])]
    assert isinstance(some, Scenes)
    assert len(some) == 2
    twice = known.swapped().swapped()
    assert all(torch.equal(getattr(twice, name), getattr(known, name)) for name in vars(known))


# With the text condition


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    small = [
        "--denoiser.width",
        "12",
        "--denoiser.depth",
        "1",
        "--train.steps",
        "2",
        "--train.batch-size",
        "4",
        "--sample.steps",
        "1",
    ]
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    return trained(
        folder,
        "--modality",
        "image",
        "--data",
        "scenes",
        "--data.held-out",
        "40",
        "--data.pictures",
        "100",
        *small,
        "--train.evaluate",
        "12",
    )


def test_a_run_is_evaluated_with_the_sentences_of_held_out_pictures(run):
    found = {metric["name"]: metric["meaning"] for metric in json.loads((run / "metrics.json").read_text())}
    for group in ("seen_one_object", "held_out_one_object", "seen_two_objects", "held_out_two_objects"):
        for name in ("count", "colour", "shape", "size", "all"):
            assert found[f"{group}_{name}"].startswith("% of 3 samples; ")
        assert (f"{group}_relation" in found) is ("two" in group)


def test_the_preset_and_the_guidance_are_those_of_scenes(run):
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["denoiser"]["name"] == "dit"
    assert settings["sample"]["guidance"] == 5


def test_a_sentence_gives_a_picture(run, tmp_path, capsys):
    arguments = ["sample", str(run), "--n", "2", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--prompt", "a small red box left of a big blue disc"]) == 0
    assert " of 2 pictures show what was asked for (count " in capsys.readouterr().err
    assert main([*arguments, "--prompt", "a small scarlet box"]) == 2
    assert "scarlet" in capsys.readouterr().err


def test_the_example_draws_a_grid_of_prompts(run, tmp_path, monkeypatch, capsys):
    example = Path(__file__).parents[2] / "examples" / "text_to_image.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(example), str(run)])
    prompts = runpy.run_path(str(example), run_name="__main__")["PROMPTS"]
    asked = read(prompts)
    assert held_out().contains(asked).tolist() == 12 * [False] + 4 * [True]
    assert capsys.readouterr().out.startswith("text-to-image.png\n")
    with Image.open(tmp_path / "text-to-image.png") as picture:
        assert picture.width > 4 * 128
