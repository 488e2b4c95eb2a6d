"""Pictures with captions, from a folder to files of samples, as a user types it."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

import diffcore as dc
from diffcore.cli import main
from diffcore.denoising.conditions import captions_of
from diffcore.denoising.text import TextCondition
from diffcore.errors import UserError
from diffcore.runs.samples import file_names
from diffcore_image.datasets import folder
from diffcore_image.options import FolderOptions
from tests.support.refusals import refused

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
TINY = [
    "--denoiser.width", "8", "--denoiser.patch", "2", "--train.steps", "2", "--train.batch-size", "8",
    "--train.evaluate", "0", "--sample.steps", "2", "--data.size", "8", "--text.channels", "16", "--text.layers", "1",
]  # fmt: skip


def lay(folder, captions=True):
    """Twelve pictures of one colour each, in two classes, with captions."""
    lines = []
    for number, name in enumerate([*COLOURS] * 4):
        path = folder / ("dark" if number % 2 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), COLOURS[name]).save(path)
        lines.append(f"{path.parent.name}/{path.name}\ta {name} picture\n")
        lines.append(f"{path.parent.name}/{path.name}\tthis is <b>{name}</b>, not ../../{name}\n")
    if captions:
        (folder / "captions.tsv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("text")
    data = lay(place / "data")
    return trained(place / "run", "--modality", "image", "--data", "folder", "--data.root", str(data), *TINY)


def names(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def test_the_configuration_names_the_encoder_and_its_words(run):
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["text"]["name"] == config["facts"]["text"]["encoder"] == "words"
    assert config["facts"]["text"]["options"]["channels"] == 16
    words = ["a", "b", "blue", "green", "is", "not", "picture", "red", "this"]
    assert config["facts"]["text"]["learned"]["vocabulary"] == words


def test_prompts_are_drawn_in_turn_and_name_the_files(run, tmp_path):
    arguments = ["--prompt", "A red picture!", "--prompt", "blue", "--label", "dark", "--n", "3"]
    assert main(["sample", str(run), *arguments, "--out", str(tmp_path / "s")]) == 0
    assert names(tmp_path / "s") == ["0000-dark-a_red_picture.png", "0001-dark-blue.png", "0002-dark-a_red_picture.png"]


def test_a_file_of_prompts_gives_a_sample_for_each_line(run, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeffgreen\n\n \r\nnot\x00 red\u2028\x1b\r<b>../blue</b>\r\n".encode())
    assert main(["sample", str(run), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "s")]) == 0
    assert names(tmp_path / "s") == ["0000-green.png", "0001-not_red.png", "0002-b_blue_b.png"]


def test_python_draws_what_the_command_line_draws(run, tmp_path):
    assert main(["sample", str(run), "--prompt", "red", "--n", "2", "--out", str(tmp_path / "s")]) == 0
    own = dc.load(run)
    samples = own.sample(2, prompt="red")
    assert samples.captions == [{"prompt": "red"}] * 2
    samples.save(tmp_path / "python")
    for name in names(tmp_path / "s"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "python" / name).read_bytes()
    assert own.sample(3, prompt=["red", "blue"]).captions[2] == {"prompt": "red"}
    both = own.sample(2, conditions={"prompt": ["blue", "red"], "label": "dark"})
    assert both.captions == [{"label": "dark", "prompt": "blue"}, {"label": "dark", "prompt": "red"}]


def test_a_sample_depends_on_its_own_prompt_alone(run):
    own = dc.load(run)
    state = own.sample(3, prompt=["red", "blue", "green"]).state
    other = own.sample(3, prompt=["red", "red", "green"]).state
    assert state[0].allclose(other[0], atol=1e-5)
    assert state[2].allclose(other[2], atol=1e-5)


def test_a_class_and_the_text_of_another_example_are_not_asked_for_together(run):
    own = dc.load(run)
    assert own.sample(2).captions == [{"label": "dark"}, {"label": "light"}]
    (alone,) = (c for c in own.model.codec.conditions if c.name == "prompt")
    assert "a red picture" in {c["prompt"] for c in captions_of((alone,), {"prompt": alone.examples(6)})}


def test_guidance_with_texts(run):
    own = dc.load(run)
    plain = own.sample(2, prompt="red", guidance=3.0)
    away = own.sample(2, prompt="red", guidance=3.0, negative_prompt="blue")
    long = own.sample(
        2, prompt="red", guides=[{"name": "classifier-free", "weight": 3.0, "against": {"prompt": "blue"}}]
    )
    assert away.state.equal(long.state)
    assert not away.state.equal(plain.state)
    two = own.sample(2, guides=[{"name": "prompts", "weights": {"a red": 1.0, "picture": 0.5}}])
    assert two.captions == [{"prompt": "a red 1, picture 0.5"}] * 2
    one = own.sample(2, guides=[{"name": "prompts", "weights": {"red": 1.0}}])
    assert one.state.allclose(own.sample(2, prompt="red").state, atol=1e-5)


def test_several_prompts_name_files_with_their_weights(run, tmp_path, caplog):
    """Together they may be longer than a text can be, and what samples are not is told as such."""
    weights = {"this is not a red picture": 1.5, "a blue b is this": -0.5}
    with caplog.at_level(logging.WARNING):
        own = dc.load(run)
        samples = own.sample(2, guides=[{"name": "prompts", "weights": weights}])
        own.sample_to(tmp_path / "s", 2, guides=[{"name": "prompts", "weights": weights}])
    assert not caplog.records
    assert samples.captions == [{"prompt": "this is not a red picture 1.5, a blue b is this -0.5"}] * 2
    assert samples.first(1).captions == samples.captions[:1]
    assert names(tmp_path / "s")[0] == "0000-this_is_not_a_red_picture_1.5_a_blue_b_is_this_-0.5.png"
    with pytest.raises(UserError, match="an evaluation draws samples for the prompt of each example: evaluate without"):
        own.evaluate(4, guides=[{"name": "prompts", "weights": weights}])
    less = own.sample(1, guides=[{"name": "prompts", "weights": {"red": -1.0}}])
    assert not less.conditions["prompt"].any()
    assert less.captions == [{"prompt": "red -1"}]


@pytest.mark.parametrize("prompt", [3, b"red", {"red": 1.0}, {"red", "blue"}, ["red", None], iter(["red"])])
def test_prompts_that_are_no_texts(run, prompt):
    with pytest.raises(UserError, match="give a text, or a list of texts"):
        dc.load(run).sample(2, prompt=prompt)


def test_texts_in_a_tuple_are_one_for_each_sample_and_numbers_a_range(run):
    own = dc.load(run)
    both = own.sample(2, conditions={"prompt": ("red", "blue"), "label": ("dark", "light")})
    assert both.captions == [{"label": "dark", "prompt": "red"}, {"label": "light", "prompt": "blue"}]


def test_bad_prompts(run, tmp_path, capsys):
    def said(*arguments):
        return refused(capsys, "sample", run, "--n", "1", "--out", tmp_path / "s", *arguments)

    assert "the prompt '' has no words" in said("--prompt", "")
    assert "the model does not know the word 'rde'; the nearest words are 'red'" in said("--prompt", "a rde picture")
    assert "does not know the word 'yellow'" in said(
        "--prompt", "red", "--negative-prompt", "yellow", "--guidance", "2"
    )
    assert "--negative-prompt needs --guidance" in said("--prompt", "red", "--negative-prompt", "blue")
    assert "--prompt and --prompts are two ways" in said("--prompt", "red", "--prompts", "x.txt")
    assert "no file" in said("--prompts", tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"red\ncaf\xe9\n")
    assert "line 2: this is not UTF-8" in said("--prompts", tmp_path / "latin.txt")
    assert "is not a file: give a file with a prompt in each line" in said("--prompts", tmp_path)
    assert "the prompt 'rde': the model does not know" in said("--prompt", "red", "--prompt", "rde", "--n", 2)
    assert "the prompt '' has no words" in said("--negative-prompt", "", "--guidance", 2)
    assert "the prompt '' has no words" in said("--guide", "prompts", "--guide.weights", "=2")
    assert "does not know the word 'zzz'" in said("--guide", "prompts", "--guide.weights", "red=2", "zzz=1")
    assert "unknown label 'drak' (did you mean 'dark'?)" in said("--label", "drak", "--prompt", "red")
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "the file has no prompts" in said("--prompts", tmp_path / "empty.txt")
    assert "prompt` is given twice" in said("--prompt", "red", "--condition", "prompt=blue").replace(
        "--prompt", "prompt`"
    )
    both = ("--prompt", "red", "--guide", "prompts", "--guide.weights", "red=2")
    assert "and the guide prompts sets it" in said(*both)


def test_a_prompt_that_is_too_long_says_how_much_is_used(run, caplog):
    with caplog.at_level(logging.WARNING):
        samples = dc.load(run).sample(2, prompt=" ".join(["red"] * 30))
    assert samples.captions[0] == {"prompt": " ".join(["red"] * 8)}
    assert caplog.text.count("its first 8 of 30 parts are used") == 1


def test_captions_are_neither_markup_nor_paths(run):
    """Also with a text encoder that knows all characters."""
    assert "<b>" not in (run / "report.html").read_text()
    text = TextCondition("prompt", dc.load(run).model.codec.conditions[-1].encoder)
    (name,) = file_names([7], [{"prompt": "<b>../../etc/passwd\x1b[31m\u202e\n$(rm) " + "x" * 999}], [text])
    assert name == f"0007-_b_.._.._etc_passwd_31m_rm_{'x' * 33}"


def test_thousands_of_prompts(run, tmp_path, caplog):
    """Each distinct one is read once, and what is not used is told in few lines."""
    (tmp_path / "prompts.txt").write_text("".join(f"{'red ' * (9 + row % 20)}\nblue\n" for row in range(2500)))
    with caplog.at_level(logging.WARNING):
        arguments = ["--prompts", str(tmp_path / "prompts.txt"), "--n", "3", "--steps", "1"]
        assert main(["sample", str(run), *arguments, "--out", str(tmp_path / "s")]) == 0
        assert dc.load(run).sample(2, prompt=["red " * n for n in range(9, 29)]).captions[1] == {
            "prompt": "red " * 7 + "red"
        }
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "5,000 prompts are given for 3 samples: those after the first 3 are not used"
    assert len(told) < 8


def test_a_model_without_texts_takes_no_prompt(trained, tmp_path_factory, capsys):
    place = tmp_path_factory.mktemp("plain")
    data = lay(place / "data", captions=False)
    run = trained(place / "run", "--modality", "image", "--data", "folder", "--data.root", str(data), *TINY)
    line = refused(capsys, "sample", run, "--prompt", "red")
    assert "this model was trained without captions, so it takes no --prompt; it takes: label" in line
    negative = refused(capsys, "sample", run, "--negative-prompt", "red", "--guidance", "2")
    assert "trained without captions, so it takes no --negative-prompt; it takes: label" in negative
    (place / "prompts.txt").write_text("red")
    assert "takes no --prompt" in refused(capsys, "sample", run, "--prompts", place / "prompts.txt")
    weights = ("--guide", "prompts", "--guide.weights", "red=1")
    assert "trained without captions, so it takes no prompts" in refused(capsys, "sample", run, *weights)
    assert json.loads((run / "config.json").read_text())["facts"]["text"] is None
    names = [name for name in dc.load(run).model.network.state_dict() if "attend" in name or "prompt" in name]
    assert not names


def test_captions_with_sides_are_wrong_for_mirrored_pictures(tmp_path):
    lay(tmp_path)
    (tmp_path / "light" / "0.txt").write_text("red on the LEFT\nred, all right\nbright red")
    notes = [folder(FolderOptions(root=str(tmp_path), size=8, flip=flip)).notes for flip in (False, True)]
    assert not notes[0]
    assert notes[1] == (
        "captions that say left or right, which is wrong for images that `data.flip` mirrors: 2 ('red on the LEFT', "
        "'red, all right')",
    )


def test_captions_that_have_changed_are_read_with_the_words_of_the_run(run, capsys):
    captions = Path(dc.load(run).settings.data.root) / "captions.tsv"
    content = captions.read_text()
    try:
        captions.write_text(content.replace("red", "crimson"))
        own = dc.load(run)
        assert own.data.facts.text.digest == own.model.codec.facts.text.digest
        known = own.model.codec.conditions
        values = own.model.codec.encode(own.data.examples).conditions
        assert {caption["prompt"] for caption in captions_of(known, values)} == {
            "a picture",
            "a blue picture",
            "a green picture",
        }
        assert "other" in refused(capsys, "resume", run, "--train.steps", "4")
    finally:
        captions.write_text(content)
