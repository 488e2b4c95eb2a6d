"""Distillation: targets beside the exact flow of Gaussian data, levels beside their formula, a student of the toy."""

import json
import math

import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.api.distilling import student_settings
from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.process.gaussian import perturb
from diffcore.runs.model import build_data, build_model
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from diffcore.tasks import distill
from diffcore.tasks.batch import times
from diffcore.tasks.distill import Steps
from tests.support.refusals import refused
from tests.support.toy import put_in_place, toy_registry

REGISTRY = toy_registry()
MEAN, STD = 0.7, 0.5


def ddim(x, x0, here, there):
    return there.alpha * x0 + there.sigma * (x - here.alpha * x0) / here.sigma


def at(t):
    """The level of the time t, `[B]`, and a level almost without noise at t = 0."""
    return Level(torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2).clamp(min=1e-9))


def spread(level):
    return (level.alpha**2 * STD**2 + level.sigma**2).sqrt()


def teacher(x, level, conditions=None, mask=None):
    """E[x0 | x] for data N(MEAN, STD^2)."""
    alpha, sigma = (value[:, None] for value in level)
    return from_x0(MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN), x, level)


def flow(x, here, there):
    """Where the flow takes x: (x - alpha MEAN) / std is the same at every level."""
    return there.alpha[:, None] * MEAN + (spread(there) / spread(here))[:, None] * (x - here.alpha[:, None] * MEAN)


def student_to(end):
    """The student at its optimum: its x0 takes DDIM to where the flow is at `end`."""

    def student(x, level, conditions=None, mask=None):
        (alpha, sigma), (alpha_e, sigma_e) = (tuple(value[:, None] for value in each) for each in (level, end))
        wanted = flow(x, level, end)
        return from_x0((wanted / sigma_e - x / sigma) / (alpha_e / sigma_e - alpha / sigma), x, level)

    return student


def steps(t, near, end):
    """A batch with steps of the teacher from the times `t` to `near`, in segments that end at `end`."""
    t, near, end = (torch.tensor(each, dtype=torch.float64) for each in (t, near, end))
    torch.manual_seed(0)
    x0, noise = torch.randn(2, len(t), 3, dtype=torch.float64)
    now, at_near, at_end = (at(each) for each in (t, near, end))
    share = distill._share(now.log_snr, at_near.log_snr, at_end.log_snr)
    batch = Steps(
        x0=x0,
        conditions={},
        kept_conditions={},
        mask=None,
        places=range(len(x0)),
        dropout_seed=0,
        weight=1.0,
        noise=noise,
        level=now,
        earlier_log_snr=now.log_snr,
        near=at_near,
        share=share,
    )
    return batch, at_end


def test_two_steps_of_ddim_are_one_with_the_weighted_mean_of_their_estimates():
    batch, end = steps([0.9, 0.7, 0.4], [0.8, 0.6, 0.3], [0.5, 0.5, 0.0])
    first, second = torch.randn(2, 3, 3, dtype=torch.float64)
    here, near, last = (Level(*(value[:, None] for value in level)) for level in (batch.level, batch.near, end))
    by_two = ddim(ddim(batch.noisy, first, here, near), second, near, last)
    share = batch.share[:, None]
    by_one = ddim(batch.noisy, (1 - share) * first + share * second, here, last)
    torch.testing.assert_close(by_one, by_two, rtol=1e-9, atol=1e-9)


def test_the_teacher_alone_leads_to_the_end_of_the_segment_and_the_student_alone_to_the_data():
    batch, _ = steps([0.9, 0.5, 0.2], [0.5, 0.5, 0.1], [0.5, 0.5, 0.0])
    assert batch.share.tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)


def test_the_target_of_a_student_at_its_optimum_is_what_it_predicts():
    """Up to the error of the teacher's step, which is of third order in its length."""
    errors = []
    for length in (1 / 16, 1 / 32):
        t = [0.95, 0.8, 0.65, 0.45, 0.3, 0.15]
        end = [0.5] * 3 + [0.0] * 3
        batch, last = steps(t, [time - length for time in t], end)
        student = student_to(last)
        found = distill.target(teacher, student, batch, Euclidean((3,)))
        errors.append((found - student(batch.noisy, batch.level).x0).abs().max().item())
    assert errors[0] < 4e-3
    assert errors[0] / errors[1] > 7


def test_a_student_at_its_optimum_draws_in_two_steps_what_the_flow_draws():
    start, middle, end = (at(torch.tensor([time], dtype=torch.float64)) for time in (1.0, 0.5, 0.0))
    x = torch.randn(1, 4, dtype=torch.float64)
    half = ddim(x, student_to(middle)(x, start).x0, *(Level(*level) for level in (start, middle)))
    drawn = student_to(end)(half, middle).x0
    torch.testing.assert_close(drawn, flow(x, start, end), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained toy, and the folder in which it is."""
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, REGISTRY)
        folder = tmp_path_factory.mktemp("teacher")
        words = ["train", "--modality", "toy", "--train.steps", "20", "--train.evaluate", "0", "--out", folder / "run"]
        assert cli.main([str(word) for word in words]) == 0
        yield folder


def test_a_student_begins_as_its_teacher_with_the_data_and_the_schedule_of_it(trained):
    settings = student_settings(REGISTRY, trained / "run", steps=3)
    assert (settings.train.steps, settings.train.cooldown, settings.sample.steps) == (2, 0.5, 3)
    assert (settings.sample.solver, settings.sample.grid, settings.task.segments) == ("ddim", "segments", 3)
    student = build_model(settings, build_data(settings, REGISTRY).facts, REGISTRY)
    own, of_teacher = student.network.state_dict(), dc.load(trained / "run").model.network.state_dict()
    assert own.keys() == of_teacher.keys()
    assert all(torch.equal(own[name], of_teacher[name]) for name in own)


def test_the_teachers_steps_end_in_their_segment_and_become_half_as_long_in_each_stage(trained):
    over = {"train": {"steps": 8, "batch_size": 64}, "task": {"finest": 16}}
    settings = student_settings(REGISTRY, trained / "run", steps=2, over=over)
    data = build_data(settings, REGISTRY)
    model = build_model(settings, data.facts, REGISTRY)
    for step, length in [(0, 1 / 2), (1, 1 / 2), (2, 1 / 4), (7, 1 / 16)]:
        batch, t = distill.draw(model, settings, data, step), times(settings, step)
        end = torch.where(t < 0.5, 0.0, 0.5)
        near = torch.maximum(t - length, end)
        expected = model.schedule.log_snr(near[near > 0])
        torch.testing.assert_close(batch.near.log_snr[near > 0], expected, rtol=1e-6, atol=1e-6)
        assert (batch.near.sigma[near == 0] < 1e-5).all()
        torch.testing.assert_close(batch.noisy, perturb(batch.x0, batch.noise, batch.level))
        assert ((batch.share == 0) == (near == end)).all()


def test_a_student_is_trained_and_drawn_from_like_any_run(trained):
    words = ["distill", trained / "run", "--steps", "2", "--train.steps", "4", "--train.evaluate", "8"]
    assert cli.main([str(word) for word in [*words, "--out", trained / "student"]]) == 0
    kept = json.loads((trained / "student" / "config.json").read_text())["settings"]
    assert kept["task"]["teacher"] == str(trained / "run")
    run = dc.load(trained / "student")
    _, config = run.config({})
    assert config.describe().startswith("2 steps of ddim on the grid segments")
    assert len(run.sample(3)) == 3


def test_a_student_has_no_probability_flow(trained):
    run = dc.load(trained / "student")
    for what in (lambda: run.tune(2), lambda: run.log_likelihood(run.sample(2)), lambda: run.between("a", "b")):
        with pytest.raises(UserError, match=r"follows the probability flow of a network, and that of .* has none"):
            what()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("student",), "student has the task distill, and cannot be a teacher"),
        (("nothing",), "no run folder"),
        (("run", "--checkpoint", "step-9"), "has no checkpoint 'step-9'"),
        (("run", "--steps", "0"), "greater than or equal to 1"),
        (("run", "--step", "2"), "--steps"),
        (("run", "--train.minutes", "1"), "`task` distill needs --train.steps"),
    ],
)
def test_what_cannot_be_distilled_is_refused(trained, capsys, flags, words):
    place, *others = flags
    refused(capsys, words, "distill", str(trained / place), *others)
