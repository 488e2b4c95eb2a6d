import io
import tomllib
from dataclasses import replace

import pytest

from diffcore.cli.config import as_toml
from diffcore.cli.flags import run_settings
from diffcore.errors import UserError
from diffcore.plugins.records import Component, Preset, Settings
from diffcore.plugins.registry import Provided
from diffcore.runs.composing import compose
from tests.support.toy import TOY, toy_registry

REGISTRY = toy_registry()


def settings(*flags):
    return run_settings(["--modality", "toy", *flags], REGISTRY, "diffcore train")[0]


def refused(*flags):
    with pytest.raises(UserError) as caught:
        settings(*flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_default_below_preset_below_file_below_flag(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[train]\nbatch_size = 7\nlearning_rate = 0.5\n")
    found = settings("--config", str(file), "--train.learning-rate", "0.25")
    assert found.train.gradient_clip == 1.0  # default
    assert found.train.steps == 40  # preset
    assert found.train.batch_size == 7  # file
    assert found.train.learning_rate == 0.25  # flag


def test_only_the_options_of_the_chosen_parts_exist():
    assert settings("--schedule", "exploding", "--schedule.sigma-max", "9").schedule.sigma_max == 9
    assert "--schedule.sigma-max belongs to `schedule` exploding" in refused("--schedule.sigma-max", "9")


def test_choosing_another_part_drops_the_options_that_were_meant_for_the_first():
    timed = compose(REGISTRY, "toy", "timed")
    assert (timed.data.name, timed.data.n) == ("again", 50)
    other = compose(REGISTRY, "toy", "timed", chosen={"data": "rings"})
    assert (other.data.name, other.data.n) == ("rings", 200)


def brought(options):
    raise NotImplementedError


class OtherOptions(Settings):
    size: int = 3


def with_others(**presets):
    """The registry of the toy with a second part of each kind, and with presets."""
    registry = toy_registry()
    other = Component("other", "another", brought, OtherOptions)
    for kind in ("denoisers", "classifiers", "datasets", "schedules"):
        getattr(registry, kind)["other"] = Provided(other, "diffcore-other", "1.0")
    found = {name: Preset("for a test", values) for name, values in presets.items()}
    modality = replace(TOY, presets=TOY.presets | found)
    registry.modalities["toy"] = Provided(modality, "diffcore-toy", "1.0")
    return registry


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("kind", "own", "options"),
    [
        ("denoiser", "mlp", {"width": 24}),
        ("classifier", "mlp", {"width": 24}),
        ("data", "rings", {"n": 50}),
        ("schedule", "cosine", {"shift": 1.0}),
    ],
)
def test_choosing_another_part_drops_the_options_of_a_preset(kind, own, options, named):
    """Also where the preset does not name the part, which is then the default one."""
    values = {kind: {**options, **({"name": own} if named else {})}}
    registry = with_others(mine=values | ({"task": "classify"} if kind == "classifier" else {}))
    (option, value), *_ = options.items()
    kept = getattr(compose(registry, "toy", "mine"), kind)
    assert (kept.name, getattr(kept, option)) == (own, value)
    for layers in (
        {"chosen": {kind: "other"}},
        {"file": {kind: {"name": "other"}}},
        {"over": {kind: {"name": "other"}}, "chosen": {kind: "other"}},
    ):
        assert getattr(compose(registry, "toy", "mine", **layers), kind).model_dump() == {"name": "other", "size": 3}
    own_options = compose(registry, "toy", "mine", chosen={kind: "other"}, file={kind: {"size": 7}})
    assert getattr(own_options, kind).size == 7  # what a user writes belongs to the part that the user chooses


def test_a_preset_with_the_name_of_a_data_set_has_its_options():
    registry = with_others(other={"data": {"size": 5}})
    assert compose(registry, "toy", chosen={"data": "other"}).data.size == 5


def test_steps_and_minutes_replace_each_other():
    assert settings("--preset", "timed", "--train.steps", "5").train.minutes is None
    assert settings("--train.minutes=3").train.steps is None
    both = settings("--train.minutes", "3", "--train.steps", "5").train
    assert (both.steps, both.minutes) == (5, 3)
    assert compose(REGISTRY, "toy", file={"train": {"minutes": 3}}).train.steps is None


def test_toml_reads_back():
    found = settings("--train.steps", "5", "--data.scale", "2.5")
    again = compose(REGISTRY, "toy", file=tomllib.loads(as_toml(found)))
    assert again.model_dump() == found.model_dump()


def test_mistakes_in_flags_are_one_line_that_names_the_flag():
    assert "perhaps you meant --train.batch-size" in refused("--train.batch-sise", "3")
    assert "--train.batch-size" in refused("--train.batch-size", "many")
    assert refused("--train.batch-size", "0").startswith("--train.batch_size: input should be greater than or equal")
    assert "--seed" in refused("--seed", "-1")
    assert "invalid choice" in refused("--device", "tpu")
    assert "unknown data set 'ring' (did you mean 'rings'?); there are: rings, again" in refused("--data", "ring")
    assert "unknown denoiser 'unet'; there are: mlp" in refused("--denoiser", "unet")
    assert "unknown preset 'large'" in refused("--preset", "large")


def test_mistakes_are_told_the_same_on_a_terminal(monkeypatch):
    """tyro draws frames and colours where standard output is a terminal."""
    plain = refused("--train.batch-sise", "3")

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    assert refused("--train.batch-sise", "3") == plain


def test_mistakes_in_a_file_name_the_key_and_the_file(tmp_path):
    file = tmp_path / "run.toml"

    def refused_file(text):
        file.write_text(text)
        message = refused("--config", str(file))
        assert str(file) in message
        return message

    assert "train.stepz is not an option here" in refused_file("[train]\nstepz = 3\n")
    assert "train.steps: input should be a valid integer" in refused_file('[train]\nsteps = "many"\n')
    assert "data.n: input should be greater than or equal to 1 (it is 0)" in refused_file("[data]\nn = 0\n")
    assert "data: input should be a table, as in [data] (it is 'rings')" in refused_file('data = "rings"\n')
    assert "preset: input should be a name" in refused_file('[preset]\nname = "timed"\n')
    assert "cannot be read as TOML" in refused_file("[train\n")
    assert "no configuration file" in refused("--config", str(tmp_path / "none.toml"))


def test_a_missing_modality_lists_the_installed_ones():
    with pytest.raises(UserError, match="--modality is missing; installed: toy"):
        run_settings([], REGISTRY, "diffcore train")
