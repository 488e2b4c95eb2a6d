"""A run whose fields have noise levels of their own: trained, drawn, fitted, guided and drawn given a field."""

import numpy as np
import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.api import training
from diffcore.likelihood.flow import log_likelihood
from diffcore.process.schedules import ByField
from diffcore.sampling.grid_fitting import METHODS, fit_grid, flow_of
from diffcore.sampling.timesteps import tapered
from diffcore.states.state import named
from tests.support.toy import put_in_place, toy_registry


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("levels") / "run"
    flags = ["--levels.shifts", "radius", "-2", "--levels.independent", "0.6", "--levels.given", "0.4"]
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        train = ["--train.steps", "60", "--train.learning-rate", "1e-2", "--train.evaluate", "0"]
        assert cli.main(["train", "--modality", "toy", "--out", str(out), *train, *flags]) == 0
        yield dc.load(out)


def test_the_run_remembers_its_levels(run):
    assert run.settings.levels.shifts == {"radius": -2.0}
    model = run.loaded.model
    assert isinstance(model.schedule, ByField)
    assert dict(model.schedule.shifts) == {"place": 0.0, "radius": -2.0}
    assert "conditioning.noise.radius.1.weight" in model.network.state_dict()


def test_the_arguments_of_train_have_them_too_and_zero_is_a_value(monkeypatch):
    found = []
    put_in_place(monkeypatch, toy_registry())

    def start(settings, out, registry):
        found.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "start", start)
    with pytest.raises(KeyboardInterrupt):
        dc.train("toy", levels={"shifts": {"radius": -2}, "given": 0.0}, seed=0, config={"seed": 5})
    assert found[0].levels.shifts == {"radius": -2.0}
    assert found[0].seed == 0


@pytest.mark.parametrize("solver", ["adams", "edm", "ddpm", "pc"])
def test_samples_are_drawn_with_every_kind_of_solver(run, solver):
    drawn = run.sample(3, solver=solver, steps=4, guidance=2.0, conditions={"ring": "outer"})
    assert drawn.state["place"].isfinite().all()
    alone = run.sample(2, solver=solver, steps=4, guidance=2.0, conditions={"ring": "outer"})
    torch.testing.assert_close(alone.state["radius"], drawn.state["radius"][:2])


def test_another_schedule_keeps_the_shifts(run):
    ours = run.sample(2, steps=4, schedule={"name": "cosine", "log_snr_max": 8.0}).state
    model = run.loaded.model
    schedule = ByField(dc.schedules.Cosine(log_snr_max=8.0), {"place": 0.0, "radius": -2.0})
    conditions = {"ring": torch.arange(2) % 2}
    again = dc.sample(model.denoiser, 2, space=model.codec.space, steps=4, schedule=schedule, conditions=conditions)
    for name in ("place", "radius"):
        torch.testing.assert_close(ours[name], again[name])


def test_a_field_can_be_given(run):
    values = torch.tensor([[0.5], [-0.5], [0.5]])
    constraint = dc.given_fields({"radius": values}, run.loaded.model.codec.space)
    drawn = run.sample(3, steps=4, constraint=constraint)
    assert torch.equal(drawn.state["radius"], values)
    own = run.sample(3, steps=4, constraint=constraint, solver=run.settings.sample.solver)
    assert torch.equal(drawn.state["place"], own.state["place"])


def test_a_grid_can_be_fitted_to_the_flow_and_likelihoods_computed(run):
    model = run.loaded.model
    space, schedule = model.codec.space, model.schedule
    flow = flow_of(model.denoiser, space, schedule, indices=range(4), seed=0, accurate=20)
    start = tapered(schedule, 3)
    fit = fit_grid(flow, flow, [start], iterations=4, batch=4)
    assert flow.score(fit.method.step(), fit.log_snrs) < min(flow.score(m.step(), start) for m in METHODS)
    x0 = space.empty(2) + 0.5
    pieces = [
        log_likelihood(model.denoiser, x0, space, schedule, steps=4, given=given)
        for given in ([], ["radius"], ["place"])
    ]
    assert torch.stack(pieces).isfinite().all()
    given = ["radius"]
    no_conditions = dc.log_likelihood(model.denoiser, x0, schedule=schedule, space=space, steps=4, given=given)
    for found in (run.log_likelihood(x0, steps=4, given=given), no_conditions):
        torch.testing.assert_close(found, pieces[1])


@pytest.mark.parametrize(("option", "task"), [("weak", "denoise"), ("classifier", "classify")])
def test_a_run_that_is_told_one_level_cannot_guide(run, trained, tmp_path, option, task):
    """It is named, where its network would only say that it cannot."""
    other = trained(tmp_path / task, "--modality", "toy", "--task", task, "--train.steps", "2", "--train.evaluate", "0")
    with pytest.raises(dc.UserError, match=f"the network of the run {other} is told one noise level"):
        run.sample(1, steps=2, **{option: other})


@pytest.mark.parametrize("method", ["mmps", "dps", "repaint"])
def test_encoded_samples_need_no_reader_of_files(run, method):
    """The toy reads no files; one coordinate of a field is known, and all of the other."""
    source = run.sample(1, steps=2).state
    missing = named({"place": torch.tensor([[True, False]]), "radius": torch.tensor([[False]])})
    drawn = run.inpaint(source, missing, n=2, steps=3, method=method, conditions={"ring": "outer"}, guidance=2.0).state
    assert (drawn["place"][:, 1] == source["place"][:, 1]).all()
    assert (drawn["radius"] == source["radius"]).all()


def test_an_integer_of_any_type_is_the_same_seed(run, tmp_path):
    drawn = run.sample(2, steps=2, seed=3).state
    for kind in (np.int64, torch.tensor):
        again = run.sample(2, steps=2, seed=kind(3)).state
        assert (again["place"] == drawn["place"]).all()
        written = run.sample_to(tmp_path / "samples", 2, steps=2, seed=kind(3))  # the recipe is that of the other type
    assert written.earlier == 2
    with pytest.raises(dc.UserError, match="a seed is a whole number"):
        run.sample(1, seed="3")


def test_given_values_of_too_few_samples_are_refused(run):
    constraint = dc.given_fields({"radius": torch.zeros(2, 1)}, run.model.codec.space)
    with pytest.raises(dc.UserError, match="those of 2 samples, and sample 2 is to be drawn"):
        run.sample(3, steps=2, constraint=constraint)


@pytest.mark.parametrize(("name", "value"), [("trajectories", 0), ("iterations", -1)])
def test_a_fit_to_nothing_is_refused(run, name, value):
    with pytest.raises(dc.UserError, match=f"`{name}` {value}: write a whole number"):
        run.tune(3, **{name: value})
