"""Runs in Python: the same numbers as the command line, and a caller whose surroundings stay as they were."""

import json
import signal
import threading

import numpy
import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.likelihood.flow import log_likelihood
from diffcore.runs.checkpoints import EMA, find_checkpoint, read_tensors
from diffcore.runs.folder import RunFolder
from tests.support.toy import put_in_place, toy_registry

TRAIN = {"steps": 60, "learning_rate": 1e-2, "evaluate": 0}


@pytest.fixture(scope="module", autouse=True)
def toy_alone():
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that the library trained."""
    return dc.train("toy", out=tmp_path_factory.mktemp("api") / "run", train=TRAIN, denoiser={"width": 32}, seed=1)


def weights(path):
    return read_tensors(find_checkpoint(RunFolder(path)), EMA)


def test_the_command_line_trains_the_same_run(run, tmp_path):
    flags = ["--train.steps", "60", "--train.learning-rate", "1e-2", "--train.evaluate", "0", "--denoiser.width", "32"]
    assert cli.main(["train", "--modality", "toy", "--out", str(tmp_path / "run"), "--seed", "1", *flags]) == 0
    ours, theirs = weights(run.path), weights(tmp_path / "run")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    settings = [json.loads((path / "config.json").read_text())["settings"] for path in (run.path, tmp_path / "run")]
    assert settings[0] == settings[1]


def test_a_configuration_lies_between_preset_and_arguments(tmp_path):
    (tmp_path / "own.toml").write_text("seed = 5\n[train]\nsteps = 3\nbatch_size = 8\nevaluate = 0\n[data]\nn = 40\n")
    run = dc.train("toy", config=tmp_path / "own.toml", out=tmp_path / "run", data="again", train={"batch_size": 16})
    found = run.settings
    assert (found.seed, found.train.steps, found.train.batch_size, found.train.log_every) == (5, 3, 16, 10)
    assert (found.data.name, found.data.n) == ("again", 40)


def test_the_command_line_draws_the_same_samples(run, tmp_path):
    samples = run.sample(6, conditions={"ring": "outer"}, guidance=2.0, seed=3, steps=5)
    ours = samples.save(tmp_path / "ours.csv")
    flags = ["--n", "6", "--condition", "ring=outer", "--guidance", "2", "--seed", "3", "--steps", "5"]
    assert cli.main(["sample", str(run.path), "--out", str(tmp_path / "theirs.csv"), *flags]) == 0
    assert ours.read_text() == (tmp_path / "theirs.csv").read_text()
    assert samples.captions == [{"ring": "outer"}] * 6
    assert len(samples.decoded) == len(samples) == 6


def test_parts_are_given_by_name_with_options_or_as_they_are(run):
    kept = run.sample(4, solver={"name": "ddim", "eta": 0.5}, schedule="linear", steps=4).state
    step, schedule = dc.solvers.ddim(eta=0.5), dc.schedules.LinearBeta()
    same = run.sample(4, solver=step, schedule=schedule, steps=4).state
    other = run.sample(4, solver="ddim", schedule="linear", steps=4).state
    assert all(torch.equal(kept[name], same[name]) for name in kept.keys())
    assert not torch.equal(kept["place"], other["place"])


def test_each_sample_can_be_asked_for_something_else(run):
    both = run.sample(4, conditions={"ring": ["inner", "outer", "outer", "inner"]}, steps=5)
    outer = run.sample(4, conditions={"ring": "outer"}, steps=5)
    assert both.conditions["ring"].tolist() == [0, 1, 1, 0]
    assert torch.equal(both.state["place"][1:3], outer.state["place"][1:3])


def test_a_folder_gets_a_file_for_each_sample(run, tmp_path):
    overview = run.sample(3, conditions={"ring": "inner"}, steps=2).save(tmp_path / "inner")
    names = sorted(path.name for path in (tmp_path / "inner").iterdir())
    assert names == ["0000-inner.csv", "0001-inner.csv", "0002-inner.csv", "overview"]
    assert overview == tmp_path / "inner" / "overview" / "grid.csv"
    with pytest.raises(dc.UserError, match=r"toy writes \.csv, or several files to a folder"):
        run.sample(1, steps=2).save(tmp_path / "inner.docx")


def test_metrics_are_returned_and_kept(run):
    metrics = run.evaluate(20, steps=5)
    assert [metric.name for metric in metrics[:2]] == ["radius_error", "samples"]
    kept = json.loads((run.path / "metrics.json").read_text())
    assert [(row["name"], row["value"]) for row in kept] == [(metric.name, metric.value) for metric in metrics]
    assert metrics[1].meaning == "drawn with 5 steps of adams on the grid tapered, without guidance, seed 0"
    assert (run.path / "report.html").is_file()


def test_a_fitted_grid_is_used_by_samples_of_as_many_steps(run):
    before = run.sample(4, steps=3).state["place"]
    found = run.tune(3, trajectories=16, iterations=12)
    assert found.fitted is not None
    assert found.error < found.default_error
    assert not torch.equal(run.sample(4, steps=3).state["place"], before)
    assert torch.equal(run.sample(4, steps=3, grid="tapered").state["place"], before)
    with pytest.raises(TypeError, match="takes no 'solver'"):
        run.tune(3, solver="ddim")


def test_likelihoods_are_those_of_the_flow(run):
    samples = run.sample(3, steps=10)
    model = run.model
    expected = log_likelihood(
        model.denoiser, samples.state, model.codec.space, model.schedule, conditions=samples.conditions, steps=8
    )
    assert run.log_likelihood(samples, steps=8).tolist() == pytest.approx(expected.tolist())
    encoded = run.model.codec.encode(run.data.examples[:3])
    same = log_likelihood(
        model.denoiser, encoded.state, model.codec.space, model.schedule, conditions=encoded.conditions, steps=8
    )
    assert run.log_likelihood(encoded, steps=8).tolist() == pytest.approx(same.tolist())
    other = run.log_likelihood(samples.state, conditions={"ring": "inner"}, steps=8)
    assert other[1] != expected[1]  # an outer one


def test_training_goes_on(run, tmp_path):
    path = tmp_path / "run"
    short = dc.train("toy", out=path, train={**TRAIN, "steps": 30}, denoiser={"width": 32}, seed=1)
    longer = short.resume({"steps": 60})
    assert longer.loaded.checkpoint.name == "step-00000060"
    ours, theirs = weights(run.path), weights(path)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(dc.UserError, match=r"`train.learning_rate` cannot change while a run goes on"):
        longer.resume({"learning_rate": 1.0})


def test_a_run_is_loaded_from_any_of_its_checkpoints(run, tmp_path):
    path = tmp_path / "run"
    dc.train("toy", out=path, train={**TRAIN, "checkpoint_every": 30})
    assert dc.load(path).loaded.checkpoint.name == "step-00000060"
    assert dc.load(str(path), checkpoint="step-00000030").loaded.checkpoint.name == "step-00000030"
    with pytest.raises(dc.UserError, match="no run folder"):
        dc.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("draw", "error", "said"),
    [
        ({"stepz": 3}, TypeError, "'stepz' is not an option of sampling; there are: .*steps"),
        ({"conditions": {"ring": ["inner"] * 3}}, dc.UserError, "`conditions`: ring has 3 values for 2 samples"),
        ({"conditions": {"colour": "red"}}, dc.UserError, "unknown condition 'colour'; this model takes: ring"),
        ({"label": "x", "conditions": {"label": "y"}}, dc.UserError, "`label` is given twice"),
        ({"classifier_weight": 2.0}, dc.UserError, "`classifier_weight` needs `classifier`"),
        ({"solver": {"eta": 1.0}}, dc.UserError, "`solver` has options but no name"),
        ({"solver": {"name": "ddim", "eta": 7}}, dc.UserError, r"the solver ddim: eta: .*\(it is 7\)"),
        ({"steps": 0}, dc.UserError, "options of sampling: steps: "),
        ({"size": 3}, dc.UserError, "`size` 3: all samples of toy have the same size"),
    ],
)
def test_mistakes_name_arguments(run, draw, error, said):
    with pytest.raises(error, match=said):
        run.sample(2, **draw)


def test_training_mistakes_name_arguments(tmp_path):
    with pytest.raises(
        dc.UserError, match=r"unknown data set 'ringz' \(did you mean 'rings'\?\); there are: rings, again"
    ):
        dc.train("toy", data="ringz", out=tmp_path / "run")
    with pytest.raises(dc.UserError, match=r"the arguments: train\.stepz is not an option here"):
        dc.train("toy", train={"stepz": 3}, out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(dc.UserError, match="choose another `out`"):
        dc.train("toy", train=TRAIN, out=tmp_path)


def test_the_command_line_writes_arguments_as_flags(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["train", "--modality", "toy", "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_the_caller_s_surroundings_stay_as_they_were(tmp_path):
    torch.manual_seed(7)
    numpy.random.seed(7)
    before = (torch.get_rng_state(), numpy.random.get_state()[1].tolist(), torch.get_default_dtype())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    run = dc.train("toy", out=tmp_path / "run", train={**TRAIN, "steps": 5, "evaluate": 4})
    run.sample(4, steps=3)
    run.evaluate(4, steps=3)
    run.log_likelihood(run.sample(1, steps=3), steps=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy.random.get_state()[1].tolist() == before[1]
    assert torch.get_default_dtype() == before[2]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, deterministic)


def test_two_threads_draw_what_each_draws_alone(run):
    asked = [("inner", 2.0, 1), ("outer", 3.0, 2)]
    alone = [run.sample(8, conditions={"ring": r}, guidance=g, seed=s).state["place"] for r, g, s in asked]
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def draw(which):
        ring, guidance, seed = asked[which]
        for _ in range(5):
            found[which].append(run.sample(8, conditions={"ring": ring}, guidance=guidance, seed=seed).state["place"])

    threads = [threading.Thread(target=draw, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (0, 1):
        assert len(found[which]) == 5
        assert all(torch.equal(state, alone[which]) for state in found[which])
