"""A third task that a plugin brings: it trains, resumes, evaluates and reports, from the shell and from Python."""

import inspect
import json
import math
from dataclasses import replace

import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.errors import UserError
from diffcore.evaluation.evaluate import read_metrics
from diffcore.evaluation.held_out import encoded_examples
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Task
from diffcore.plugins.registry import RESERVED, Provided, load
from diffcore.runs.composing import ADDITIONS
from diffcore.runs.folder import RunFolder
from diffcore.runs.model import build_model
from diffcore.runs.settings import RunSettings
from diffcore.tasks.batch import draw_batch, draw_examples
from diffcore.testing.conformance import run_contract
from diffcore.testing.parts import part_under_test
from tests.plugins.test_registry import Plugin, module
from tests.support import autoencoder, imitation, refusals
from tests.support.toy import TOY, put_in_place

FLAGS = ("--modality", "toy", "--task", "autoencode", "--train.checkpoint_every", "30", "--train.log_every", "15")


@pytest.fixture(scope="module", autouse=True)
def registry():
    found = load([Plugin("autoencoder", autoencoder), Plugin("imitation", imitation)])
    found.modalities["toy"] = Provided(TOY, "diffcore-toy", "1.0")
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, found)
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 60 steps, from the command line."""
    path = tmp_path_factory.mktemp("runs") / "run"
    fit = ("--train.learning_rate", "0.05", "--train.warmup_steps", "5", "--train.ema_width", "0.02")
    ends = ("--train.steps", "60", "--autoencoder.latent", "3", "--train.evaluate", "200")
    assert cli.main(["train", *FLAGS, *fit, *ends, "--out", str(path)]) == 0
    return path


def principal(x, k):
    """The mean squared error per coordinate of the best linear reconstruction from k numbers, of rows `[n, d]`."""
    values = torch.linalg.svdvals((x - x.mean(0)).double())
    return (values[k:].square().sum() / x.numel()).item()


def test_metrics_are_those_of_principal_components_if_these_are_the_weights(folder):
    """The best linear autoencoder is the projection to the principal components (Baldi & Hornik 1989)."""
    run = dc.load(folder)
    state = encoded_examples(run.model, run.data, 200).state
    x = torch.cat([state["place"], state["radius"]], 1)
    axes = torch.linalg.svd(x - x.mean(0))[2][:2]
    network = autoencoder.Linear(3, 2)
    with torch.no_grad():
        network.encoder.weight.copy_(axes)
        network.encoder.bias.copy_(-axes @ x.mean(0))
        network.decoder.weight.copy_(axes.T)
        network.decoder.bias.copy_(x.mean(0))
    model = replace(run.model, network=network)
    request = EvaluationRequest(run.settings, run.config({})[1], 200)
    psnr, loss = model.task.evaluate(model, run.data, request)
    error = principal(x, 2)
    assert psnr.value == pytest.approx(-10 * math.log10(error), rel=1e-4)
    assert psnr.meaning == "dB, of 200 training examples"
    # Whole batches of 32 examples of one epoch.
    assert loss.meaning == "squared error, of 192 training examples"
    assert loss.value == pytest.approx(3 * error, rel=0.1)


def test_it_learns_writes_pictures_and_a_report(folder):
    metrics = {metric.name: metric.value for metric in read_metrics(RunFolder(folder))}
    assert metrics.keys() == {"psnr", "held_out_loss"}
    assert metrics["psnr"] == pytest.approx(-10 * math.log10(metrics["held_out_loss"] / 3), abs=0.3)
    assert metrics["psnr"] > 15  # three numbers of three; the data alone have about -2 dB
    rows = (folder / "samples" / "step-00000060.csv").read_text().splitlines()
    points = torch.tensor([[float(value) for value in row.split(",")] for row in rows])
    assert points.shape == (100, 2)
    pairs = points.unflatten(0, (5, 2, 10))
    assert (pairs[:, 0] - pairs[:, 1]).norm(dim=-1).mean() < 0.3
    assert pairs[:, 0].norm(dim=-1).min() > 0.99  # on the rings
    page = (folder / "report.html").read_text()
    for text in ("Originals above reconstructions", "<p>100 points</p>", "<p>3 numbers</p>", "squared error"):
        assert text in page


def test_the_run_describes_its_parts(folder):
    content = json.loads((folder / "config.json").read_text())
    assert content["settings"]["task"] == {"penalty": 0.0, "name": "autoencode"}
    parts = {part["kind"]: (part["name"], part["distribution"]) for part in content["parts"]}
    assert parts["tasks"] == ("autoencode", "dist-autoencoder")
    assert parts["autoencoders"] == ("linear", "dist-autoencoder")
    assert "denoisers" not in parts


def test_a_resumed_run_equals_an_unbroken_one(folder, tmp_path):
    """And Python does the same as the command line."""
    options = {"learning_rate": 0.05, "warmup_steps": 5, "ema_width": 0.02, "checkpoint_every": 30, "log_every": 15}
    half = dc.train(
        "toy",
        task="autoencode",
        autoencoder={"latent": 3},
        train={"steps": 30, "evaluate": 200, **options},
        out=tmp_path / "half",
    )
    whole = half.resume({"steps": 60})
    expected, found = dc.load(folder).model.network.state_dict(), whole.model.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert read_metrics(RunFolder(folder)) == read_metrics(RunFolder(whole.path))


def test_options_of_the_task_reach_its_loss(tmp_path):
    task = {"name": "autoencode", "penalty": 1e3}
    run = dc.train("toy", task=task, train={"steps": 40, "learning_rate": 0.05, "evaluate": 0}, out=tmp_path / "run")
    batch = draw_examples(run.model, run.settings, run.data, 0)
    latent = run.model.network(batch.x0)[1].square().sum(1)
    plain = sum(autoencoder.errors(run.model, batch.x0).values())
    torch.testing.assert_close(run.model.task.loss(run.model, batch, run.settings), plain + 1e3 * latent)


def test_it_is_evaluated_again(folder, capsys):
    assert cli.main(["evaluate", str(folder), "--n", "50"]) == 0
    assert "of 50 training examples" in capsys.readouterr().out


@pytest.mark.parametrize("command", [("sample",), ("tune", "--steps", "4")])
def test_commands_that_draw_refuse_it(folder, capsys, command):
    said = refusals.refused(capsys, command[0], folder, *command[1:])
    assert f"{folder} has the task autoencode, which draws no samples" in said


def test_functions_that_draw_refuse_it(folder):
    run = dc.load(folder)
    state = run.model.codec.space.empty(1)
    for call in (run.sample, lambda: run.inpaint("no file"), lambda: run.log_likelihood(state)):
        with pytest.raises(UserError, match="has the task autoencode, which draws no samples"):
            call()
    with pytest.raises(UserError, match="draws no samples"):
        _ = run.model.denoiser
    with pytest.raises(UserError, match="cannot be used as `classifier`"):
        _ = run.model.classifier


def test_options_of_drawing_are_refused_where_nothing_is_drawn(folder, capsys):
    for flags in (("--steps", "3"), ("--solver", "ddim"), ("--guide", "rescale", "--guide.factor", "0.5")):
        said = refusals.refused(capsys, "evaluate", folder, "--n", "20", *flags)
        assert f"{flags[0]} has no effect: {folder} has the task autoencode, which draws no samples" in said
    with pytest.raises(UserError, match="`n` 0: evaluate at least 1 sample"):
        dc.load(folder).evaluate(0)


def test_it_cannot_guide(folder, trained, tmp_path, capsys):
    denoiser = trained(tmp_path / "denoiser", "--modality", "toy", "--train.evaluate", "0")
    for flag in ("--classifier", "--weak"):
        said = refusals.refused(capsys, "sample", denoiser, flag, folder)
        assert f"the run {folder} has the task autoencode, whose network cannot be used as {flag}; that of a" in said


def test_what_it_cannot_compute_in_is_refused(tmp_path, capsys):
    for flags, words in ((("--train.precision", "bfloat16"), "bfloat16"), (("--train.compile",), "compile")):
        said = refusals.refused(capsys, "train", *FLAGS, *flags, "--train.steps", "1", "--out", tmp_path / words)
        assert words in said
        assert "does not work with the network Linear" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--task", "autoencod"), "unknown task 'autoencod' (did you mean 'autoencode'?)"),
        (("--task", "autoencode", "--autoencoder", "linea"), "unknown autoencoder 'linea' (did you mean 'linear'?)"),
        (
            ("--autoencoder", "linear"),
            "--autoencoder belongs to --task autoencode, and the task of this run is denoise",
        ),
        (
            ("--task", "autoencode", "--task.penlty", "1"),
            "--task.penlty is not an option; perhaps you meant --task.penalty",
        ),
        (("--task.penalty", "1"), "--task.penalty belongs to --task autoencode"),
        (
            ("--task", "autoencode", "--task.penalty", "-1"),
            "--task.penalty: input should be greater than or equal to 0",
        ),
    ],
)
def test_wrong_names_are_refused(capsys, flags, said):
    assert said in refusals.refused(capsys, "config", "--modality", "toy", *flags)


def test_wrong_names_in_python_are_refused():
    with pytest.raises(UserError, match="did you mean 'autoencode'"):
        dc.train("toy", task="autoencod")
    with pytest.raises(TypeError, match="train\\(\\) takes no 'autoencodr'"):
        dc.train("toy", task="autoencode", autoencodr="linear")


def test_it_is_listed(capsys):
    assert cli.main(["plugins"]) == 0
    assert "autoencode   a linear autoencoder  (dist-autoencoder 1.2)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["train", *FLAGS, "--help"])
    shown = capsys.readouterr().out
    assert "--task {denoise,distill,classify,autoencode,imitate}" in shown
    assert "--autoencoder {linear}" in shown
    assert "--task.penalty" in shown


def test_it_keeps_the_contract_of_tasks(capsys):
    assert cli.main(["check-plugin", "autoencode"]) == 0
    said = capsys.readouterr().out
    assert "a Linear with 17 weights, for toy" in said
    assert "the report shows Originals above reconstructions, Latent" in said
    assert "6 passed" in said


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        ({"loss": lambda model, batch, settings: batch.x0["place"].sum()}, "loss_trains", "the loss is the shape []"),
        ({"loss": lambda model, batch, settings: None}, "loss_trains", "the loss is a NoneType"),
        (
            {"loss": lambda model, batch, settings: model.network(batch.x0)[1].sum(1) * math.nan},
            "loss_trains",
            "losses nan",
        ),
        (
            {"loss": lambda model, batch, settings: model.network(batch.x0)[1].sum(1).detach().requires_grad_()},
            "loss_trains",
            "a gradient in 0 of 4 tensors of weights",
        ),
        ({"losses_by_field": lambda model, batch, settings: {}}, "loss_has_parts", "the parts {}"),
        (
            {"evaluate": lambda model, data, request: None},
            "evaluates",
            "must return a list of Metric, but returned None",
        ),
        ({"pictures": lambda model, data, request: ["a"]}, "shows", "`pictures` yields a str"),
        ({"report": lambda model, data, request: ["a"]}, "shows", "no pair of a title and HTML"),
        ({"build": lambda *context: None}, "builds", "but returned None; was `return` forgotten?"),
    ],
)
def test_faults_of_tasks_are_found(registry, change, check, said):
    task = replace(registry.task("autoencode"), name="faulty", **change)
    known = replace(registry, tasks={**registry.tasks, "faulty": Provided(task, "dist", "1")})
    results = {result.name: result for result in run_contract(part_under_test("task", "faulty", known))}
    assert results[check].status == "failed"
    assert said in results[check].measured


def test_a_batch_without_noise_has_the_examples_of_one_with_noise(folder):
    run = dc.load(folder)
    plain, noisy = (draw(run.model, run.settings, run.data, 3) for draw in (draw_examples, draw_batch))
    assert torch.equal(plain.x0["place"], noisy.x0["place"])
    assert plain.dropout_seed == noisy.dropout_seed
    halves = plain.split(2)
    assert torch.equal(torch.cat([half.x0["radius"] for half in halves]), plain.x0["radius"])
    assert not hasattr(plain, "noise")


# A task that trains a denoiser


@pytest.fixture(scope="module")
def teacher(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("teacher") / "run"
    return dc.load(trained(place, "--modality", "toy", "--train.evaluate", "0", "--denoiser.width", "24"))


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """One step of a learning rate that changes nothing."""
    return dc.train(
        "toy",
        task={"name": "imitate", "teacher": str(teacher.path)},
        denoiser={"width": 24},
        train={"steps": 1, "learning_rate": 1e-30, "evaluate": 20},
        out=tmp_path_factory.mktemp("student") / "run",
    )


def test_its_initial_weights_are_those_that_it_sets(teacher, student):
    """So the samples are those of the teacher, with guidance by a weaker run as well."""
    expected, found = (run.sample(20, steps=5, seed=3).decoded for run in (teacher, student))
    torch.testing.assert_close(found, expected)
    weak = student.sample(20, steps=5, seed=3, weak=student.path)  # no weaker
    torch.testing.assert_close(weak.decoded, expected)


def test_its_samples_are_measured_and_shown(student):
    assert {"radius_error", "samples_per_second"} <= {metric.name for metric in read_metrics(RunFolder(student.path))}
    page = (student.path / "report.html").read_text()
    assert "From noise to data" in page
    assert (student.path / "samples" / "step-00000001.csv").exists()
    assert student.log_likelihood(student.sample(2, steps=3)).isfinite().all()


def test_its_loss_is_its_own(student):
    batch = draw_batch(student.model, student.settings, student.data, 0)
    with torch.no_grad():
        found = student.model.task.loss(student.model, batch, student.settings)
        x0 = student.model.denoiser(batch.noisy, batch.level, batch.kept_conditions).x0
    expected = sum((x0[name] - batch.x0[name]).square().sum(1) for name in ("place", "radius")) / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_initial_weights_are_set_for_new_runs_only(student):
    """The teacher may be gone afterwards."""
    gone = student.settings.model_copy(update={"task": student.settings.task.model_copy(update={"teacher": "nowhere"})})
    model = build_model(gone, student.data.facts, student.registry, weights=10_000)
    assert model.task.draws
    with pytest.raises(UserError, match=r"no run folder .*nowhere"):
        build_model(gone, student.data.facts, student.registry)


def test_no_network_can_be_called_like_anything_else_in_the_settings_or_among_the_arguments(registry):
    arguments = inspect.signature(dc.train).parameters
    networks = {"denoiser", "classifier", "networks"}
    assert {*RunSettings.model_fields, *ADDITIONS, *arguments, "text", "schedule"} - networks <= RESERVED


GOOD = Task("good", "a good one", print, loss=print)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (replace(GOOD, loss=None), "`loss` of 'good' is a NoneType, not a function"),
        (replace(GOOD, pictures=3), "`pictures` of 'good' is a int, not a function"),
        (replace(GOOD, network="data"), "`network` of 'good' is 'data', which cannot be the name of a kind of network"),
        (replace(GOOD, network="a b"), "`network` of 'good' is 'a b', which cannot be the name of a kind of network"),
        (replace(GOOD, helps=("all",)), "`helps` of 'good' has 'all'; there are: classifier, weak"),
        (replace(GOOD, networks=("mlp",)), "expected Component records in denoiser, got str"),
        (replace(GOOD, name="classify"), "the name 'classify' is taken by diffcore"),
        (Component("good", "no task", print), "expected a Task record, got Component"),
    ],
)
def test_wrong_records_are_refused(task, reason):
    @hookimpl
    def diffcore_tasks():
        return [task]

    (failure,) = load([Plugin("wrong", module(diffcore_tasks=diffcore_tasks))]).failures
    assert failure.reason.startswith(reason)
