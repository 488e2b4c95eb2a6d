"""Folders that are damaged, and imports and exports that are broken off."""

import json
import shutil

import pytest
import torch

from diffcore.cli import main
from diffcore.denoising.denoiser import from_eps
from diffcore.errors import UserError
from diffcore.interop import weights
from diffcore.sampling.loop import integrate, levels_of
from diffcore_diffusers import exporting
from diffcore_diffusers.imports.clip import read_pieces
from diffcore_diffusers.imports.dit import class_names
from diffcore_diffusers.options.scheduler import SchedulerOptions
from diffcore_diffusers.options.tables import BetaTableOptions
from diffcore_diffusers.scheduler_steps import scheduler
from diffcore_diffusers.tables import schedule
from tests.diffusers import tiny

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

UNET = tiny.UNET


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "model"
    diffusers.DDIMPipeline(diffusers.UNet2DModel(**UNET), diffusers.DDIMScheduler()).save_pretrained(folder)
    return folder


def changed(saved, folder, file, **values):
    shutil.copytree(saved, folder)
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))
    return folder


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": ["epsilon"]}, "prediction_type \"['epsilon']\""),
        ("scheduler/scheduler_config.json", {"beta_end": 0.5}, "the table of 1,000 betas"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 100_000}, "the table of 100,000 betas"),
        ("unet/config.json", {"attn_norm_num_groups": 10**30}, "hf-unet cannot be made with these options"),
        ("unet/config.json", {"time_embedding_dim": 10**30}, "hf-unet"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_one_line(saved, tmp_path, capsys, file, values, message):
    folder = changed(saved, tmp_path / "model", file, **values)
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("betas", [(0.5, 1e-9), (0.999999999, 0.5)])
def test_tables_whose_levels_float32_cannot_tell_apart_are_refused(betas):
    with pytest.raises(UserError, match="trained_betas"):
        schedule(BetaTableOptions(trained_betas=betas))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"vocab": {"a": [], "b": 0}}},
        {"model": {"vocab": {"a": True, "b": 0}}},
        {"model": {"vocab": None}},
        {"model": {"merges": None}},
        {"model": {"merges": [1, ["a", [2]]]}},
        {"model": {"merges": ["a z"]}},
        {"model": {"merges": ["a b"]}},  # which makes ab, and that is no piece
        {"model": {"merges": [" b"]}},
        {"added_tokens": [{"content": []}]},
        {"added_tokens": ["a"]},
        {"added_tokens": True},
    ],
)
def test_tokenizers_that_are_damaged_are_refused(tmp_path, changes):
    model = {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": {"a": 0, "b": 1, "c": 2, "<|startoftext|>": 3, "<|endoftext|>": 4},
        "merges": [],
    }
    whole = {"model": model | changes.pop("model", {}), "added_tokens": [], **changes}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        read_pieces(tmp_path)


def test_a_number_that_tells_classes_apart_makes_no_name_of_another_class():
    names = class_names({"0": "crane", "1": "crane", "2": "crane (1)"}, 4, "test")
    assert names == ("crane (0)", "crane (1) (1)", "crane (1)", "3")


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_folders_that_are_links_are_refused(saved, tmp_path, capsys, part):
    folder = shutil.copytree(saved, tmp_path / "model")
    shutil.rmtree(folder / part)
    (folder / part).symlink_to(saved / part)
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert f"{folder / part} is a link" in capsys.readouterr().err


def test_the_folder_of_a_network_that_no_memory_holds_is_named(saved, tmp_path, capsys):
    folder = changed(saved, tmp_path / "model", "unet/config.json", block_out_channels=[8192, 8192])
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert f"{folder}: the configuration asks for a network of more than" in capsys.readouterr().err


def test_a_million_classes_are_named_at_once():
    names = class_names({"0": "crane", "1": "crane"}, 1_000_000, "test")
    assert names[:3] == ("crane (0)", "crane (1)", "2")
    assert len(set(names)) == 1_000_000


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_import_that_is_broken_off_leaves_nothing(saved, tmp_path, monkeypatch, stop):
    def broken(*arguments, **options):
        raise stop

    monkeypatch.setattr(weights, "write_checkpoint", broken)
    assert main(["import", str(saved), "--out", str(tmp_path / "run")]) in (2, 130)
    assert not [*tmp_path.iterdir()]
    (tmp_path / "run").mkdir()
    main(["import", str(saved), "--out", str(tmp_path / "run")])
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".run.lock"}
    monkeypatch.undo()
    assert main(["import", str(saved), "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_export_that_is_broken_off_leaves_nothing(saved, tmp_path, monkeypatch, stop):
    assert main(["import", str(saved), "--out", str(tmp_path / "run")]) == 0
    words = ["export", str(tmp_path / "run"), "--format", "diffusers", "--out", str(tmp_path / "hf")]

    def broken(self, folder, **options):
        (folder / "model_index.json").write_text("{}")
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr(exporting.DDPMPipeline, "save_pretrained", broken)
        assert main(words) in (2, 130)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "hf").mkdir()  # an empty folder is taken
    assert main(words) == 0
    assert diffusers.DDPMPipeline.from_pretrained(tmp_path / "hf").unet.config.sample_size == 8
    assert main(words) == 2


def test_a_table_of_positions_that_fills_the_memory_is_refused():
    from diffcore.states.spaces import Euclidean
    from diffcore_diffusers.networks.dit import dit
    from diffcore_diffusers.options.dit import HfDiTOptions

    with pytest.raises(UserError, match="the table of its positions would have"), torch.device("meta"):
        dit(HfDiTOptions(), Euclidean((4, 8000, 8000)))


def drawn(name, config, steps):
    table = schedule(BetaTableOptions())
    levels = levels_of(table, table.log_snr(torch.linspace(1, 0, steps, dtype=torch.float64)))
    solver = scheduler(SchedulerOptions(scheduler=name, config=config))
    x = torch.ones(1, 1, 2, 2)
    return integrate(solver, lambda x, level, *_: from_eps(0.1 * x, x, level), x, levels, lambda: torch.zeros_like(x))


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("DDIMScheduler", {"num_train_timesteps": 2}, "5 steps: 'num_inference_steps'.*cannot be larger"),
        ("DDIMScheduler", {"clip_sample_range": "x"}, "bad operand"),
        ("DDIMScheduler", {"clip_sample_range": 10**30}, "too big"),
        ("EulerDiscreteScheduler", {"interpolation_type": "x"}, "interpolation_type"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": 0}, "final_sigmas_type"),
        ("DPMSolverMultistepScheduler", {"solver_order": 0}, "index out of range"),
    ],
)
def test_what_a_scheduler_refuses_only_when_it_steps_is_a_mistake_of_the_user(name, config, reason):
    with pytest.raises(UserError, match=f"{name} refuses its configuration.*{reason}"):
        drawn(name, config, 5)


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_no_trained_betas_are_none(name):
    assert torch.equal(drawn(name, {"trained_betas": []}, 5), drawn(name, {}, 5))


def test_options_that_no_flag_can_give_are_not_said_to_be_unknown(saved, tmp_path, capsys):
    assert main(["import", str(saved), "--out", str(tmp_path / "run")]) == 0
    words = ["sample", str(tmp_path / "run"), "--solver", "hf-scheduler", "--solver.config"]
    assert main([*words, '{"timestep_spacing": "trailing"}']) == 2
    error = capsys.readouterr().err
    assert "--solver.config is a table of values of any kind, which no flag can give" in error
    assert "perhaps" not in error
