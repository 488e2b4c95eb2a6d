"""What a command suggests where a name is not known."""

import pytest
from pydantic import Field

from diffcore import cli
from diffcore.cli.flags import parse
from diffcore.errors import UserError
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry, load
from diffcore.runs.suggestions import closest
from tests.support.refusals import refused

TRAIN = ("train", "--modality", "image")

SUGGESTED = {
    (*TRAIN, "--train.step", "3"): "--train.step is not an option; perhaps you meant --train.steps;",
    (*TRAIN, "--train.steps", "5", "--train.seed", "0"): "--train.seed is not an option; perhaps you meant --seed;",
    (*TRAIN, "--train.stesp=3"): "--train.stesp is not an option; perhaps you meant --train.steps;",
    (*TRAIN, "--lr", "1e-3"): "perhaps you meant --train.learning-rate;",
    (*TRAIN, "--learning_rate", "1e-3"): "perhaps you meant --train.learning-rate;",
    (*TRAIN, "--epochs", "3"): "perhaps you meant --train.steps;",
    (*TRAIN, "--guidance-scale", "2"): "perhaps you meant --sample.guidance;",
    (*TRAIN, "--output-dir", "x"): "perhaps you meant --out;",
    (*TRAIN, "--data", "folder", "--data-root", "x"): "perhaps you meant --data.root;",
    (*TRAIN, "--data-root", "x"): "perhaps you meant --data.root, which belongs to --data mnist or",
    (*TRAIN, "--data.root", "x"): "--data.root belongs to --data mnist or --data fashion-mnist or --data cifar10 or "
    "--data emoji or --data folder",
    (*TRAIN, "--data", "foldr"): "unknown data set 'foldr' (did you mean 'folder'?)",
    (*TRAIN, "--frobnicate", "2"): "--frobnicate is not an option; see diffcore train --help",
    ("train", "--modality", "images"): "unknown modality 'images' (did you mean 'image'?)",
    ("sample", "run", "--guidance-scale", "2"): "perhaps you meant --guidance;",
    ("sample", "run", "--num-samples", "2"): "perhaps you meant --n;",
    ("sample", "run", "--sampler", "ddim"): "perhaps you meant --solver;",
    ("sample", "run", "--solver", "dim"): "unknown solver 'dim' (did you mean 'ddim'?)",
    ("sample", "run", "--solver.eta", "0.5"): "--solver.eta belongs to --solver ddim;",
    ("resume", "run", "--train.step", "5"): "perhaps you meant --train.steps;",
}


@pytest.mark.parametrize("words", SUGGESTED, ids=" ".join)
def test_the_flag_that_was_meant(words, capsys):
    assert SUGGESTED[words] in refused(capsys, *words)


def test_the_key_that_was_meant(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text('lr = 1\n[train]\nstep = 3\n[data]\nroot = "x"\n')
    said = refused(capsys, "config", "--modality", "image", "--config", file)
    assert "lr is not an option here; perhaps you meant train.learning_rate" in said
    assert "train.step is not an option here; perhaps you meant train.steps" in said
    assert "data.root is not an option here, it belongs to --data mnist or" in said


def test_nothing_is_suggested_where_nothing_is_alike():
    assert closest("frobnicate", ["train.steps", "seed"]) is None
    assert closest("root", ["denoiser.dropout"]) is None
    assert closest("anything", []) is None


def test_a_kind_of_data_that_could_be_installed(monkeypatch):
    monkeypatch.setattr(Registry, "installable", lambda self: ["pip install 'diffcore[image]'"])
    registry = load([])
    with pytest.raises(
        UserError, match=r"for image is not installed; install it with: pip install 'diffcore\[image\]'"
    ):
        registry.modality("image")
    with pytest.raises(UserError, match=r"unknown modality 'imag' \(did you mean 'image'\?\)"):
        registry.modality("imag")


def test_the_help_of_sample_names_the_flags_that_choose_parts(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    said = capsys.readouterr().out
    assert "--solver {adams,dpmpp-2m," in said
    assert "--schedule {cosine," in said
    assert "its options: diffcore sample RUN --solver NAME --help" in said


class Commented(Settings):
    # A remark for programmers.
    number: int = 3
    described: int = Field(4, description="What it does.")


def test_options_are_explained_by_their_descriptions_alone(capsys):
    """tyro would also read the source of every class for comments, which takes most of its time."""
    with pytest.raises(SystemExit):
        parse(Commented, ["--help"], "diffcore", "")
    printed = capsys.readouterr().out
    assert "--number" in printed
    assert "What it does." in printed
    assert "programmers" not in printed


@pytest.mark.usefixtures("toy")
def test_labels_that_are_given_several_times_are_drawn_in_turn(tmp_path, trained, capsys):
    from diffcore.api.run import Run
    from diffcore.cli.sample import Options, asked_for

    options = Options(run=tmp_path, label=("a", "b"), n=5)
    assert asked_for(options) == {"label": ["a", "b", "a", "b", "a"]}
    assert asked_for(Options(run=tmp_path, label=("a",))) == {"label": "a"}
    with pytest.raises(UserError, match="label is given twice"):
        asked_for(Options(run=tmp_path, label=("a", "b"), condition=("label=c",)))
    run = trained(tmp_path / "run", "--modality", "toy")
    drawn = Run(run).sample(3, conditions={"ring": ["inner", "outer", "inner"]}, steps=1)
    assert drawn.conditions["ring"].tolist() == [0, 1, 0]
