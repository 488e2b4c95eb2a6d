"""What a user can get wrong gets one line that says what, where and what to do."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from diffcore import cli
from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.plugins.registry import Provided, load
from diffcore.process.schedules import (
    Cosine,
    Exploding,
    LinearBeta,
    LogNormal,
    Rectified,
    SubVariancePreserving,
    ZeroTerminal,
)
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import adams, ddim
from diffcore.sampling.timesteps import GRIDS, grid
from diffcore.states.spaces import Euclidean, Product
from diffcore.states.state import map_fields
from diffcore.testing.oracles import mixture
from tests.support import refusals
from tests.support.toy import TOY, ToyBackbone, ToyCodec, put_in_place, toy_registry

BUILTIN = load([])


class Unconditioned(ToyCodec):
    """The toy without conditions."""

    conditions = ()

    def encode(self, examples, draws=None):
        return replace(super().encode(examples, draws), conditions={})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of the toy: plain, of eps, without conditions, and from zero SNR."""
    registry, patch = toy_registry(), pytest.MonkeyPatch()
    registry.modalities["bare"] = Provided(replace(TOY, name="bare", codec=Unconditioned, evaluator=None), "toy", "1.0")
    put_in_place(patch, registry)
    folder = tmp_path_factory.mktemp("runs")
    for name, modality, *flags in (
        ("plain", "toy"),
        ("eps", "toy", "--parameterisation", "eps"),
        ("bare", "bare"),
        ("dark", "toy", "--schedule", "linear", "--schedule.zero-terminal"),
    ):
        train = ["train", "--modality", modality, "--out", str(folder / name), "--train.steps", "10"]
        assert cli.main([*train, "--train.evaluate", "0", "--sample.steps", "3", *flags]) == 0
    yield folder
    patch.undo()


@pytest.fixture
def refused(runs, capsys):
    """The one line that a command says."""
    return partial(refusals.refused, capsys)


def commands(runs, tmp_path):
    """Every command that draws, with the flag that says in how many steps."""
    new = ("--modality", "toy", "--out", tmp_path / "new")
    return {
        "--steps": [("sample", runs / "plain"), ("evaluate", runs / "plain"), ("tune", runs / "plain")],
        "--sample.steps": [("train", *new), ("config", *new)],
    }


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_below_one(runs, tmp_path, refused, steps):
    for flag, starts in commands(runs, tmp_path).items():
        for start in starts:
            said = refused(*start, flag, steps)
            assert f"{flag}: input should be greater than or equal to 1 (it is {steps})" in said
    file = tmp_path / "run.toml"
    file.write_text(f"[sample]\nsteps = {steps}\n")
    said = refused("train", "--modality", "toy", "--config", file)
    assert f"run.toml: sample.steps: input should be greater than or equal to 1 (it is {steps})" in said
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=f"at least 1 step, not {steps}"):
        grid("tapered", Cosine(), steps)


def test_eps_from_zero_snr(runs, tmp_path, refused):
    train = ("train", "--modality", "toy", "--out", tmp_path / "new", "--parameterisation", "eps")
    dark = ("--schedule", "linear", "--schedule.zero-terminal")
    for command in ((*train, *dark), ("sample", runs / "eps", *dark), ("evaluate", runs / "eps", *dark)):
        said = refused(*command)
        assert "parameterisation eps cannot be used with a schedule that ends at zero SNR" in said
        assert "--schedule.no-zero-terminal" in said
    assert not (tmp_path / "new").exists()


def test_options_that_do_not_fit_each_other(runs, tmp_path, refused):
    """Also where pydantic finds them in a table as a whole."""
    new = ("--modality", "toy", "--out", tmp_path / "new")
    geometric = ("--schedule", "exploding", "--schedule.sigma-min", "200")
    expected = "diffcore: --schedule: sigma_min and sigma_max: the first, 200, must be smaller than the second, 150"
    for command in (("config", *new), ("train", *new), ("sample", runs / "plain"), ("evaluate", runs / "plain")):
        assert refused(*command, *geometric) == expected
    file = tmp_path / "run.toml"
    file.write_text('[schedule]\nname = "exploding"\nsigma_min = 200\n')
    assert refused("config", "--modality", "toy", "--config", file) == expected.replace("--", f"{file}: ")
    for flags, said in (
        (("--schedule", "laplace", "--schedule.mu", "20"), "--schedule: mu and log_snr_max: the first, 20, must be"),
        (("--schedule", "edm", "--schedule.p-std", "0.1"), "--schedule: p_std is too small: sigma_min and sigma_max"),
        (("--train.evaluate", "1"), "--train.evaluate: metrics need at least 2 samples, or 0 for none (it is 1)"),
        (("--sample.guidance-interval", "3", "2"), "--sample.guidance_interval: the first must be smaller than"),
        (("--train.learning-rate", "nan"), "--train.learning_rate: input should be a finite number (it is nan)"),
    ):
        line = refused("config", *new, *flags)
        assert said in line
        assert "pydantic" not in line
    said = refused("sample", runs / "plain", "--solver", "edm", "--solver.low", "60")
    assert said == "diffcore: --solver: low and high: the first, 60, must be smaller than the second, 50"


def test_a_grid_that_does_not_fall(runs, refused):
    flat = ("--schedule", "cosine", "--schedule.log-snr-min", "1", "--schedule.log-snr-max", "1.00000000000001")
    for name in GRIDS:
        said = refused("sample", runs / "plain", "--steps", "200", "--grid", name, *flat)
        assert "the log-SNRs of a time grid must increase" in said
        assert "use fewer steps or another schedule" in said


def test_guidance_with_nothing_to_go_by(runs, tmp_path, refused):
    for command in (("sample", runs / "bare"), ("tune", runs / "bare", "--steps", 2)):
        said = refused(*command, "--guidance", "3")
        assert "the guidance classifier-free (weight 3) needs conditions" in said
        assert "leave --guidance at 1" in said
    out = tmp_path / "new"
    said = refused("train", "--modality", "bare", "--out", out, "--sample.guidance", "2")
    assert "the guidance classifier-free (weight 2) needs conditions" in said
    assert not out.exists()


# Which solver serves which schedule


SCHEDULES = {
    "zero-snr": ZeroTerminal(LinearBeta()),
    "rectified": Rectified(),
    "rectified-whole": Rectified(0.0),
    "exploding": Exploding(),
    "sub-vp": SubVariancePreserving(),
    "edm": LogNormal(),
}
DATA = mixture(torch.tensor([[-1.0, 0.5], [0.7, -0.2]]), 0.3)
SLOW = {"langevin"}
"""What needs more steps at a level than its options begin with, to have the data's distribution."""


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("name", BUILTIN.solvers)
def test_every_solver_serves_every_schedule(name, schedule):
    """Also from alpha = 0 and in a single step; the moments are the data's."""
    component = BUILTIN.solver(name)
    step = component.build(component.options())
    for kind in ("tapered", "time"):
        for n in (1, 3):
            x = sample(DATA, Euclidean((2,)), step, levels_of(schedule, grid(kind, schedule, n)), indices=range(4))
            assert x.isfinite().all()
            assert n > 1 or x.abs().max() < 2
    if name in SLOW:
        return
    x = sample(DATA, Euclidean((2,)), step, levels_of(schedule, grid("tapered", schedule, 40)), indices=range(500))
    assert x.mean(0).tolist() == pytest.approx([-0.15, 0.15], abs=0.12)
    spread = [math.hypot(0.85, 0.3), math.hypot(0.35, 0.3)]
    assert x.std(0).tolist() == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("method", ["mmps", "dps", "repaint"])
def test_editing_starts_at_zero_snr_too(method):
    """There the state tells nothing of the data, so there is nothing to correct; the known part comes out."""
    values, known = torch.tensor([[0.7, 0.0]]), torch.tensor([[True, False]])
    schedule = SCHEDULES["zero-snr"]
    levels = levels_of(schedule, grid("tapered", schedule, 30))
    denoise, step = inpainting(values, known, Euclidean((2,)), method)(DATA, ddim(1.0), range(100))
    x = sample(denoise, Euclidean((2,)), step, levels, indices=range(100))
    assert (x[:, 0] == values[0, 0]).all()
    # Given 0.7 the data's other coordinate is that of the second mode, N(-0.2, 0.3^2).
    assert x[:, 1].mean().item() == pytest.approx(-0.2, abs=0.12)


# Networks that give no numbers


FIELDS = Product({"place": Euclidean((2,)), "kind": Euclidean((3,))})


def broken(at, levels, value=math.nan):
    """A denoiser that gives `value` in one field of one sample, at its evaluation `at` of those of each drawing."""
    seen = []

    def denoise(x, level, conditions=None, mask=None):
        x0 = map_fields(torch.zeros_like, x)
        if len(seen) % levels == at:
            x0["kind"][1, 0] = value
        seen.append(level)
        return from_x0(x0, x, level)

    return denoise, seen


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_network_that_gives_no_numbers_is_named_by_step_level_and_field(value):
    levels = levels_of(Cosine(), torch.tensor([-6.0, -2.0, 1.5, 4.0]))
    denoise, seen = broken(2, 4, value)
    with pytest.raises(UserError) as caught:
        sample(denoise, FIELDS, adams(), levels, indices=range(3))
    assert str(caught.value) == (
        "sampling became non-finite in step 3 of 4, at log-SNR 1.5: the prediction of the network with its guidance, "
        "in the field 'kind', is nan or infinite in 1 of 3 samples; try less guidance, or another checkpoint"
    )
    assert len(seen) == 4 + 3  # drawn as ever, and looked for once


def test_what_a_solver_makes_of_numbers_can_be_none():
    levels = levels_of(Cosine(), torch.tensor([-6.0, -2.0]))

    def explode(evaluate, x, move):
        prediction = evaluate(x, move.now)
        return 1e30 * 1e30 * prediction.x if move.index else prediction.x

    with pytest.raises(UserError) as caught:
        sample(mixture(torch.zeros(1, 2), 1.0), Euclidean((2,)), explode, levels, indices=range(2))
    assert "in step 2 of 2, at log-SNR -2: the result of the solver's step is nan or infinite in 2 of 2" in str(
        caught.value
    )
    assert "try more steps, or another solver" in str(caught.value)


def test_numbers_are_drawn_once_and_looked_at_once(monkeypatch):
    looks = []
    plain = torch.Tensor.isfinite
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda self: (looks.append(1), plain(self))[1])
    denoise, seen = broken(99, 100)
    levels = levels_of(Cosine(), torch.linspace(-6, 4, 7))
    looks.clear()
    sample(denoise, FIELDS, adams(), levels, indices=range(3))
    assert len(seen) == 7
    assert len(looks) == 2  # one for each field


def test_commands_say_where_a_network_gives_no_numbers(runs, tmp_path, refused, monkeypatch, capsys):
    plain = ToyBackbone.forward

    def forward(self, x, conditioning, mask=None):
        output = plain(self, x, conditioning, mask)
        if not self.training:
            output["radius"][0] = math.nan
        return output

    monkeypatch.setattr(ToyBackbone, "forward", forward)
    for command in ("sample", "evaluate"):
        said = refused(command, runs / "plain", "--n", "8")
        assert "sampling became non-finite in step 1 of 3" in said
        assert "in the field 'radius', is nan or infinite in 1 of 8 samples" in said
    assert "becomes non-finite" in refused("tune", runs / "plain", "--steps", "3")
    # Training is worth more than its pictures.
    out = tmp_path / "new"
    train = ["train", "--modality", "toy", "--out", str(out), "--train.steps", "4", "--train.sample-every", "2"]
    assert cli.main(train) == 1
    said = capsys.readouterr().err
    assert "no picture at step 2: sampling became non-finite" in said
    assert "no metrics: sampling became non-finite" in said
    assert "sampling became non-finite" in (out / "report.html").read_text()
