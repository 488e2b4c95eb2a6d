"""Distillation: targets beside the exact flow of Gaussian data, levels beside their formula, a student of the toy."""

import json
import math
from dataclasses import replace

import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.api.distilling import student_settings
from diffcore.denoising.denoiser import from_x0
from diffcore.denoising.known import told
from diffcore.errors import UserError
from diffcore.process.gaussian import perturb
from diffcore.runs.model import build_data, build_model
from diffcore.states.level import CLEAN, Level
from diffcore.states.partly import partly
from diffcore.states.spaces import Euclidean
from diffcore.states.state import first_field
from diffcore.tasks import distill
from diffcore.tasks.batch import Batch, times
from tests.support.refusals import refused
from tests.support.toy import put_in_place, toy_registry

REGISTRY = toy_registry()
MEAN, STD = 0.7, 0.5


def levels(first, last, n):
    """The levels at n + 1 times from `first` to `last`, as floats, without noise at 0."""
    times = torch.linspace(first, last, n + 1, dtype=torch.float64) * math.pi / 2
    return [CLEAN if time == 0 else Level(math.cos(time), math.sin(time)) for time in times.tolist()]


def teacher(x, level, conditions=None, mask=None):
    """E[x0 | x] for data N(MEAN, STD^2)."""
    alpha, sigma = level
    return from_x0(MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN), x, level)


def flow(x, here, there):
    """Where the flow takes x: (x - alpha MEAN) / std is the same at every level."""
    before, after = (math.hypot(level.alpha * STD, level.sigma) for level in (here, there))
    return there.alpha * MEAN + after / before * (x - here.alpha * MEAN)


def batch_at(level, known=None):
    """Eight examples at one level, of which the entries `known` are known."""
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 8, 3, dtype=torch.float64)
    level = level.map(lambda scale: torch.full([8], scale, dtype=torch.float64))
    return Batch(
        x0=x0,
        conditions={},
        kept_conditions={} if known is None else told(known),
        mask=None,
        places=range(8),
        dropout_seed=0,
        weight=1.0,
        noise=noise,
        level=level,
        earlier_log_snr=level.log_snr,
    )


def jump(x, x0, here, there):
    return there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)


@pytest.mark.parametrize(("first", "last"), [(1.0, 0.5), (0.5, 0.0), (0.75, 0.5)])
def test_one_step_of_ddim_with_what_is_learned_goes_where_the_flow_goes(first, last):
    errors = []
    for n in (8, 16):
        passed = levels(first, last, n)
        batch = batch_at(passed[0])
        found = distill.end_of_path(teacher, batch, passed, Euclidean((3,)))
        end = jump(batch.noisy, found, passed[0], passed[-1])
        errors.append((end - flow(batch.noisy, passed[0], passed[-1])).abs().max().item())
    assert errors[0] < 6e-3
    assert errors[0] / errors[1] > 4


def test_a_student_at_its_optimum_draws_in_two_steps_what_the_flow_draws():
    halves = [levels(1.0, 0.5, 40), levels(0.5, 0.0, 40)]
    batch = batch_at(halves[0][0])
    x, space = batch.noise, Euclidean((3,))
    for passed in halves:
        now = replace(batch_at(passed[0]), noise=(x - passed[0].alpha * batch.x0) / passed[0].sigma)
        x = jump(x, distill.end_of_path(teacher, now, passed, space), passed[0], passed[-1])
    torch.testing.assert_close(x, flow(batch.noise, halves[0][0], CLEAN), rtol=1e-4, atol=1e-4)


def test_what_is_known_stays_on_the_path_of_the_teacher():
    known = torch.zeros(8, 3, dtype=torch.bool)
    known[:, 1] = True
    passed, seen = levels(0.5, 0.0, 4), []

    def watched(x, level, conditions=None, mask=None):
        seen.append(x)
        return teacher(x, level)

    batch = batch_at(passed[0], known)
    distill.end_of_path(watched, batch, passed, partly(Euclidean((3,)), known))
    assert len(seen) == 4
    assert all(torch.equal(x[:, 1], batch.x0[:, 1]) for x in seen)
    assert not torch.equal(seen[0][:, 0], batch.x0[:, 0])


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


def test_examples_begin_their_segment_and_each_batch_is_used_several_times(trained):
    over = {"train": {"steps": 12, "batch_size": 64}, "task": {"path": 8, "reuse": 3}}
    settings = student_settings(REGISTRY, trained / "run", steps=2, over=over)
    data = build_data(settings, REGISTRY)
    model = build_model(settings, data.facts, REGISTRY)
    drawn = [distill.draw(model, settings, data, step) for step in range(12)]
    for what in (lambda batch: batch.wanted, lambda batch: batch.noisy):
        totals = [first_field(what(batch)).double().sum().item() for batch in drawn]
        assert totals == 3 * totals[:4]
        assert len({*totals}) == 4
    first = drawn[0]
    begins_late = times(settings, 0) < 0.5
    torch.testing.assert_close(first.noisy, perturb(first.x0, first.noise, first.level))
    for chosen, time in ((begins_late, 0.5), (~begins_late, 1.0)):
        expected = model.schedule.level(model.schedule.log_snr(torch.tensor([time], dtype=torch.float64)))
        assert torch.allclose(first.level.sigma[chosen].double(), expected.sigma)
    other = build_model(settings, data.facts, REGISTRY)  # as after a resumption, which has kept nothing
    torch.testing.assert_close(distill.draw(other, settings, data, 9).wanted, drawn[9].wanted)


@pytest.mark.parametrize(("steps", "reuse"), [(1, 8), (562, 8), (1000, 1), (5000, 4)])
def test_all_steps_have_a_batch_and_rounds_are_of_one_size_and_not_too_large(trained, steps, reuse):
    over = {"train": {"steps": steps}, "task": {"reuse": reuse}}
    settings = student_settings(REGISTRY, trained / "run", steps=2, over=over)
    numbers = [distill._number(settings, step) for step in range(steps)]
    assert sorted(set(numbers)) == [*range(max(numbers) + 1)]
    assert max(numbers.count(number) for number in set(numbers)) <= reuse
    assert len(set(numbers)) <= math.ceil(steps / reuse) + distill.MOST_IN_A_ROUND
    gaps = [later for later in range(steps) if numbers[later] < max(numbers[: later + 1]) - distill.MOST_IN_A_ROUND]
    assert not gaps


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
    samples = run.sample(2)
    for what in (
        lambda: run.tune(2),
        lambda: run.log_likelihood(samples),
        lambda: run.bits_per_dimension(samples),
        lambda: run.between("a", "b"),
    ):
        with pytest.raises(
            UserError, match=r"predicts the mean of x0 at every level of noise, and that of .* does not"
        ):
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
