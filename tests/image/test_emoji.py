import itertools
import json
import math
import re

import numpy
import pytest
import torch
from PIL import Image, ImageDraw

from diffcore.cli import main
from diffcore.errors import UserError
from diffcore.evaluation.effort import few_steps
from diffcore_image.emoji.dataset import emoji
from diffcore_image.emoji.judge import bags_of, trained_judge
from diffcore_image.emoji.metrics import EmojiMetrics
from diffcore_image.emoji.names import Named, codes_of, has_skin_tone, read_names
from diffcore_image.emoji.retrieval import found_among, nearest
from diffcore_image.options import EmojiOptions

COLOURS = ("red", "green", "blue", "orange", "purple", "grey", "black")
SHAPES = ("circle", "square", "bar", "pole", "ring")
CODES = {(colour, shape): 0x1F600 + number for number, (colour, shape) in enumerate(itertools.product(COLOURS, SHAPES))}


def drawn(colour, shape, size=32):
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw, box = ImageDraw.Draw(picture), [size // 4, size // 4, 3 * size // 4, 3 * size // 4]
    match shape:
        case "circle":
            draw.ellipse(box, fill=colour)
        case "ring":
            draw.ellipse(box, outline=colour, width=size // 8)
        case "square":
            draw.rectangle(box, fill=colour)
        case "bar":
            draw.rectangle([0, 3 * size // 8, size, 5 * size // 8], fill=colour)
        case "pole":
            draw.rectangle([3 * size // 8, 0, 5 * size // 8, size], fill=colour)
    return picture


def written(folder, size=32):
    """35 emoji as PNG files that are named after their code points."""
    folder.mkdir(parents=True)
    for (colour, shape), code in CODES.items():
        drawn(colour, shape, size).save(folder / f"{code:x}.png")
    return folder


def with_metadata(folder):
    rows = [
        {
            "file_name": f"{code:x}.png",
            "text": f"{colour} {shape}",
            "tags": [shape, f"{colour}ish"],
            "subcategory": "toy",
        }
        for (colour, shape), code in CODES.items()
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return with_metadata(written(tmp_path_factory.mktemp("emoji") / "toy"))


@pytest.fixture(scope="module")
def made(root):
    return emoji(EmojiOptions(root=str(root), held_out=0.2))


def texts_of(data, part):
    return [[data.texts[number] for number in row if number >= 0] for row in part["captions"].tolist()]


# Names


def test_a_description_has_the_name_and_the_tags_that_say_something_new():
    named = Named(("red apple", "apple"), ("apple", "fruit", "Red", "ripe fruit", "fruit"))
    assert named.description == "red apple, fruit, ripe fruit"
    assert named.wordings == (
        "red apple, fruit, ripe fruit",
        "red apple",
        "apple",
        "red apple, fruit",
        "red apple, ripe fruit",
    )
    assert Named(("ghost",)).wordings == ("ghost",)


@pytest.mark.parametrize(
    ("stem", "codes"),
    [
        ("1f600", (0x1F600,)),
        ("emoji_u1f469_200d_1f680", (0x1F469, 0x200D, 0x1F680)),
        ("0023-fe0f-20e3", (0x23, 0x20E3)),
        ("23-20E3", (0x23, 0x20E3)),
        ("U+1F600", None),
        ("grinning", None),
    ],
)
def test_the_code_points_of_a_file(stem, codes):
    assert codes_of(stem) == codes


def test_a_skin_tone_alone_is_an_emoji_and_after_another_one_a_variant():
    assert has_skin_tone((0x1F44B, 0x1F3FD))
    assert not has_skin_tone((0x1F3FD,))
    assert not has_skin_tone((0x1F44B,))


def test_names_in_the_tables_of_packages(tmp_path):
    package, base = tmp_path / "emoji-datasource-google", tmp_path / "emojibase-data"
    (base / "en").mkdir(parents=True)
    (base / "versions").mkdir()
    package.mkdir()
    (package / "emoji.json").write_text(
        json.dumps(
            [
                {"unified": "2764-FE0F", "name": "HEAVY BLACK HEART", "short_names": ["heart"], "subcategory": "heart"},
                {
                    "unified": "1F600",
                    "name": "GRINNING FACE",
                    "short_names": ["big_grin"],
                    "subcategory": "face-smiling",
                },
                {"unified": "1F601", "name": None, "short_names": ["nameless"], "subcategory": ""},
            ]
        )
    )
    (base / "en" / "data.json").write_text(
        json.dumps(
            [
                {"hexcode": "2764", "label": "red heart", "tags": ["love"], "subgroup": 7},
                {"hexcode": "1F1E6", "label": "A"},
            ]
        )
    )
    (base / "meta").mkdir()
    (base / "meta" / "groups.json").write_text('{"groups": {"0": "smileys-emotion"}, "subgroups": {"7": "a-heart"}}')
    (base / "versions" / "emoji.json").write_text('{"15.0": {}}')
    tables = [package / "emoji.json", base / "en" / "data.json", base / "versions" / "emoji.json"]
    tables.append(base / "meta" / "groups.json")
    assert read_names(tables) == {
        (0x2764,): Named(("red heart",), ("love", "a heart")),
        (0x1F600,): Named(("grinning face",), ("big grin", "face smiling")),
        (0x1F1E6,): Named(("A",)),
    }
    (package / "emoji.json").write_text('[{"name": "GRINNING FACE"}]')
    with pytest.raises(UserError, match=r"emoji\.json is not a table of emoji"):
        read_names(tables)


# The data set


def test_captions_are_different_wordings_of_names_and_tags(made):
    for own in (*texts_of(made, made.examples), *texts_of(made, made.held_out)):
        colour, shape = own[1].split()
        name = f"{colour} {shape}"
        assert own == [f"{name}, {colour}ish, toy", name, f"{name}, {colour}ish", f"{name}, toy"]


def test_held_out_subjects_are_not_in_training_and_each_picture_is_that_of_its_text(made):
    train, held_out = (
        {own[1]: pixels for own, pixels in zip(texts_of(made, part), part["pixels"], strict=True)}
        for part in (made.examples, made.held_out)
    )
    assert len(held_out) == 7
    assert len(train) == 28
    assert not {*train} & {*held_out}
    for text, pixels in (train | held_out).items():
        colour, shape = text.split()
        canvas = Image.new("RGB", (32, 32), "white")
        picture = drawn(colour, shape)
        canvas.paste(picture, mask=picture.getchannel("A"))
        assert torch.equal(pixels, torch.from_numpy(numpy.array(canvas)).permute(2, 0, 1))


def test_samples_are_drawn_for_held_out_and_training_texts_in_turn(made):
    asked = made.asked
    held_out, train = asked[asked["held_out"]], asked[~asked["held_out"]]
    assert asked["held_out"].tolist() == [True, False] * 7
    assert held_out["subject"].tolist() == made.held_out["subject"].tolist()
    assert len(train["subject"].unique()) == 7
    assert torch.isin(train["subject"], made.examples["subject"]).all()


def test_words_of_the_judge_are_in_two_training_descriptions_or_more(made):
    word_sets = [{*re.findall(r"\w+", own[0])} for own in texts_of(made, made.examples)]
    known = {word for word in {*itertools.chain(*word_sets)} if sum(word in words for words in word_sets) > 1}
    numbers = {number for row in made.examples["words"].tolist() for number in row if number >= 0}
    assert len(numbers) == len(known)
    for words, row in zip(word_sets, made.examples["words"].tolist(), strict=True):
        assert len([number for number in row if number >= 0]) == len(words & known)


def test_the_background_and_the_size_are_chosen(root):
    data = emoji(EmojiOptions(root=str(root), background="#102030", size=64))
    assert data.facts.background == (16, 32, 48)
    assert data.examples["pixels"].shape[1:] == (3, 64, 64)
    corner = data.examples["pixels"][:, :, 0, 0]
    assert (corner == torch.tensor([16, 32, 48])).all(1).sum() == len(corner)


def test_what_is_not_used_is_counted_and_named(tmp_path):
    folder = with_metadata(written(tmp_path / "toy"))
    drawn("red", "circle").save(folder / "same.png")
    drawn("pink", "ring").save(folder / "1fabc.png")
    drawn("brown", "ring").save(folder / "1f44b-1f3fd.png")
    (folder / "1f600.png").write_bytes(b"damaged")
    rows = (folder / "metadata.jsonl").read_text()
    row = {"file_name": "same.png", "text": "cherry"}
    (folder / "metadata.jsonl").write_text(f"{rows}\n{json.dumps(row)}")
    drawn("red", "square").save(folder / "other.png")
    (folder / "other.txt").write_text("brick\n")
    with pytest.raises(UserError, match=r"1f600\.png .*skip_unreadable"):
        emoji(EmojiOptions(root=str(folder)))
    data = emoji(EmojiOptions(root=str(folder), skip_unreadable=True))
    passed_over = data.ledger.passed_over
    assert passed_over["without a name"] == ("1fabc.png",)
    assert passed_over["variants of skin tone"] == ("1f44b-1f3fd.png",)
    assert passed_over["equal to another picture, for which its name is used too"] == ("other.png",)
    assert [names for reason, names in passed_over.items() if "damaged" in reason or "not an image" in reason] == [
        ("1f600.png",)
    ]
    texts = [own for part in (data.examples, data.held_out) for own in texts_of(data, part)]
    assert ["red square, redish, toy", "red square", "brick"] in [own[:3] for own in texts]
    assert ["cherry"] in texts  # the picture that it equals is damaged
    assert data.ledger.about["subjects"] == "35, of which 4 are only held out"


def test_names_come_from_packages_in_the_same_folder(tmp_path):
    written(tmp_path / "emoji-datasource-google" / "img" / "google" / "64")
    (tmp_path / "emojibase-data" / "en").mkdir(parents=True)
    rows = [
        {"hexcode": f"{code:X}", "label": " ".join(key), "tags": ["toy"]} for key, code in CODES.items() if code % 7
    ]
    (tmp_path / "emojibase-data" / "en" / "data.json").write_text(json.dumps(rows))
    data = emoji(EmojiOptions(root=str(tmp_path)))
    assert data.facts.classes == ()
    assert len(data.examples) + len(data.held_out) == len(rows)
    assert len(data.ledger.passed_over["without a name"]) == 35 - len(rows)
    assert not any("json" in reason for reason in data.ledger.passed_over)


def test_pairs_of_subject_and_style_are_held_out(tmp_path):
    with_metadata(written(tmp_path / "toy" / "small", 16))
    with_metadata(written(tmp_path / "toy" / "large", 64))
    data = emoji(EmojiOptions(root=str(tmp_path / "toy"), unseen="pairs", held_out=0.2))
    assert data.facts.classes == ("large", "small")
    assert len(data.held_out) == 14
    train, held_out = (
        {*zip(part["subject"].tolist(), part["label"].tolist(), strict=True)} for part in (data.examples, data.held_out)
    )
    assert not train & held_out
    assert {subject for subject, _ in held_out} < {subject for subject, _ in train}
    subjects = emoji(EmojiOptions(root=str(tmp_path / "toy"), held_out=0.2))
    assert not {*subjects.examples["subject"].tolist()} & {*subjects.held_out["subject"].tolist()}
    assert len(subjects.held_out) == 14


def test_bad_folders_are_refused_in_one_line(tmp_path, root):
    with pytest.raises(UserError, match="pairs needs emoji in several styles"):
        emoji(EmojiOptions(root=str(root), unseen="pairs"))
    nameless = written(tmp_path / "nameless")
    with pytest.raises(UserError, match=r"none of the 35 pictures .* has a name: put a metadata\.jsonl"):
        emoji(EmojiOptions(root=str(nameless)))
    rows = [{"file_name": "1f600.png", "text": "ball", "tags": "round"}]
    (nameless / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match='line 1: "tags" must be a list of texts'):
        emoji(EmojiOptions(root=str(nameless)))
    rows[0]["tags"] = ["round"]
    (nameless / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="1 different emoji have a name"):
        emoji(EmojiOptions(root=str(nameless)))


# Retrieval


def test_found_among_is_the_mean_over_all_choices_of_other_texts():
    similarity = torch.tensor([[0.5, 0.9, 0.1, 0.7, 0.5, 0.2]])
    right = torch.tensor([0])
    others = [0.9, 0.1, 0.7, 0.5, 0.2]
    for k in (1, 2):
        for among in (3, 4, 6):
            choices = [*itertools.combinations(others, among - 1)]
            expected = sum(sum(other >= 0.5 for other in choice) < k for choice in choices) / len(choices)
            assert found_among(similarity, right, k, among).item() == pytest.approx(expected, abs=1e-12)


def test_scores_without_information_are_at_chance():
    similarity = torch.randn(4000, 300, generator=torch.Generator().manual_seed(0))
    for k in (1, 5):
        found = found_among(similarity, torch.arange(4000) % 300, k).mean().item()
        assert found == pytest.approx(k / 100, abs=4 * math.sqrt(k / 100 / 4000))


def test_nearest_distances_are_root_mean_squares():
    reference = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    reference[1], reference[2] = 10, 200
    samples = torch.full((1, 3, 2, 2), 4, dtype=torch.uint8)
    samples[0, :, 0, 0] = 0
    first, second = nearest(samples, reference)
    assert first.item() == pytest.approx(math.sqrt(12))
    assert second.item() == pytest.approx(math.sqrt((3 * 36 + 100) / 4))


@pytest.fixture(scope="module")
def judged(made, tmp_path_factory):
    """The metrics with a judge of few steps, and its cache."""
    cache = tmp_path_factory.mktemp("judge")
    with few_steps(30):
        return EmojiMetrics(made.examples, made.held_out, cache), cache


def test_the_judge_finds_the_texts_of_real_pictures_and_not_those_of_others(made, judged):
    metrics, _ = judged
    values = {metric.name: metric for metric in metrics(made.asked["pixels"], made.asked)}
    assert values["training_top_5"].value > 60
    assert values["training_top_5_real"].value > 60
    control = float(re.search(r"([\d.]+) for the samples of other texts", values["training_top_5"].meaning)[1])
    assert control < 50
    assert values["held_out_top_1"].value == pytest.approx(values["held_out_top_1_real"].value)
    assert "of 7; " in values["held_out_top_5"].meaning
    assert values["training_nearest_training"].value == pytest.approx(0, abs=0.1)
    assert values["training_copies"].value == 100
    assert values["held_out_copies"].value < 100


def test_the_judge_is_trained_once(made, judged, monkeypatch):
    metrics, cache = judged
    monkeypatch.setattr("diffcore_image.emoji.judge._fit", lambda *_: pytest.fail("trained again"))
    with few_steps(30):
        judge = trained_judge(made.examples["pixels"], made.examples["words"], made.examples["subject"], cache)
    texts = made.held_out["words"]
    expected = metrics._judge.similarity(made.held_out["pixels"], texts)
    assert torch.equal(judge.similarity(made.held_out["pixels"], texts), expected)


def test_bags_of_words():
    assert bags_of(torch.tensor([[2, 0, -1], [-1, -1, -1]]), 3).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_run_is_trained_evaluated_and_sampled(root, tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--denoiser.width", "16", "--denoiser.multipliers", "1", "--denoiser.patch", "4"]
    options = ["--train.steps", "2", "--train.batch-size", "4", "--train.evaluate", "8", "--sample.steps", "2"]
    with few_steps(2):
        train = ["train", "--modality", "image", "--data", "emoji", "--data.root", str(root), "--out", run]
        assert main([*train, *small, *options]) == 0
    found = {row["name"] for row in json.loads((tmp_path / "run" / "metrics.json").read_text())}
    assert {"held_out_top_5", "training_top_5", "held_out_top_5_real", "training_copies"} <= found
    assert main(["sample", run, "--prompt", "red circle", "--n", "1", "--steps", "1"]) == 0
    assert main(["sample", run, "--prompt", "pink elephant"]) != 0
    assert "does not know the word 'pink'" in capsys.readouterr().err


def test_equal_flags_of_real_emoji_are_one_picture_with_both_names(real_data, tmp_path):
    real = real_data / "emoji" / "noto-64"
    if not real.is_dir():
        pytest.skip(f"no real emoji: {real} is missing")
    for path in (real / "metadata.jsonl", *real.glob("1f1??-1f1??.png")):
        (tmp_path / path.name).symlink_to(path)
    data = emoji(EmojiOptions(root=str(tmp_path)))
    passed_over = data.ledger.passed_over
    assert len(passed_over["equal to another picture, for which its name is used too"]) == 9
    texts = [own for part in (data.examples, data.held_out) for own in texts_of(data, part)]
    norway = next(own for own in texts if "flag: Norway" in own)
    assert norway[:3] == ["flag: Bouvet Island, BV, country flag", "flag: Bouvet Island", "flag: Norway"]
