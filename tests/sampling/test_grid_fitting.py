"""Levels that are fitted to a denoiser's own flow: the fit, the file that keeps it, and the command."""

import json
import math
from dataclasses import replace

import pytest
import torch

from diffcore import cli
from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.process.schedules import Cosine, Exploding, LinearBeta, Rectified, ZeroTerminal
from diffcore.runs.fitted_grid import FittedGrid, read_fitted_grids, write_fitted_grid
from diffcore.runs.folder import RunFolder
from diffcore.sampling.grid_fitting import (
    METHODS,
    Fit,
    FreshNoiseError,
    Method,
    fit_grid,
    flow_of,
    grid_of,
    starting_grids,
)
from diffcore.sampling.loop import levels_of
from diffcore.sampling.solvers import Move, adams, ddpm, dpmpp_2m
from diffcore.sampling.timesteps import grid
from diffcore.states.level import Level
from diffcore.states.noise import generator_for
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import map_fields
from diffcore.testing.oracles import Mixture
from tests.support.toy import ToyBackbone, put_in_place, toy_registry

PLANE = Euclidean((2,))
FIELDS = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
MASK = torch.tensor([[True, True, True, False]])
ZERO_SNR = ZeroTerminal(LinearBeta())


@pytest.fixture(scope="module", autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def plane(labels=None):
    centres = torch.randn(3, 2, generator=generator_for("centres"), dtype=torch.float64)
    return Mixture(centres, 0.1, labels=labels)


def molecules():
    normal = map_fields(lambda f: torch.randn(f.shape, generator=generator_for("fields")), FIELDS.empty(3))
    return Mixture(FIELDS.noise(normal, MASK.expand(3, -1)), 0.2, space=FIELDS)


def flows(denoise, space, schedule, count=16, mask=None, conditions=lambda count: None):
    """Trajectories to learn from, and others."""

    def follow(indices):
        return flow_of(
            denoise, space, schedule, indices=indices, seed=0, accurate=80, conditions=conditions(count),
            mask=None if mask is None else mask.expand(count, -1),
        )  # fmt: skip

    return follow(range(count)), follow(range(count, 2 * count))


def errors(held_out, found, n):
    """exp of the mean log error on new noise: tuned, with the defaults, and with a published method and its grid."""
    return [
        math.exp(held_out.score(step, log_snrs))
        for step, log_snrs in (
            (found.method.step(), found.log_snrs),
            (adams(), grid("tapered", held_out.schedule, n)),
            (dpmpp_2m(), grid("karras", held_out.schedule, n)),
        )
    ]


@pytest.mark.parametrize(
    "schedule", [Cosine(), ZERO_SNR, Exploding(), Rectified(0.0)], ids=["cosine", "zero-snr", "exploding", "rectified"]
)
def test_tuned_levels_follow_the_flow_better(schedule):
    n = 4
    seen, held_out = flows(plane(), PLANE, schedule)
    found = fit_grid(seen, held_out, starting_grids(schedule, n), iterations=24)
    tuned, default, published = errors(held_out, found, n)
    # With other noise, the errors of the two are 1.8 to 7 and 2.7 to 8.7 times as large.
    assert tuned < default / 1.5
    assert tuned < published / 2
    assert len(found.log_snrs) == n
    assert found.log_snrs[0] == grid("tapered", schedule, n)[0]  # also where it is infinite
    assert (found.log_snrs.diff() > 0).all()
    assert found.log_snrs[1:].isfinite().all()


def test_tuned_levels_follow_it_in_fields_with_masks():
    seen, held_out = flows(molecules(), FIELDS, Cosine(), count=8, mask=MASK)
    found = fit_grid(seen, held_out, starting_grids(Cosine(), 4)[::4], iterations=12, batch=8)
    tuned, default, published = errors(held_out, found, 4)
    assert tuned < default / 3
    assert tuned < published / 5
    # What is compared is in the space: absent elements and the centre count for nothing.
    assert held_out.end["kind"][:, 3].abs().max() == 0
    assert held_out.end["place"].sum(1).abs().max() < 1e-12


def test_learning_is_more_than_choosing_among_the_starts():
    seen, held_out = flows(plane(), PLANE, Cosine(), count=32)
    starts = starting_grids(Cosine(), 4)
    found = fit_grid(seen, held_out, starts, iterations=60)
    chosen = min(held_out.score(m.step(), g) for m in METHODS for g in starts)
    assert held_out.score(found.method.step(), found.log_snrs) < chosen - math.log(1.3)


@pytest.mark.parametrize("schedule", [Cosine(), ZERO_SNR], ids=["cosine", "zero-snr"])
@pytest.mark.parametrize("method", [METHODS[0], METHODS[3], METHODS[5]], ids=str)
def test_gradients_of_the_spacings_are_those_of_differences(method, schedule):
    flow = flow_of(plane(), PLANE, schedule, indices=range(4), seed=0, accurate=40)
    start = grid("tapered", schedule, 5)
    anchor = start[0] if start[0].isfinite() else torch.tensor(-10.0)

    def loss(spacings):
        return flow.errors(method.step(), grid_of(start[0], anchor, spacings)).log().mean()

    spacings = torch.cat([anchor[None], start[1:]]).diff().log().requires_grad_()
    (found,) = torch.autograd.grad(loss(spacings), spacings)
    assert found.isfinite().all()
    assert (found.abs() > 1e-4).all()
    for index, gradient in enumerate(found.tolist()):
        step = torch.zeros(4).index_fill(0, torch.tensor(index), 1e-5)
        difference = (loss(spacings.detach() + step) - loss(spacings.detach() - step)).item() / 2e-5
        assert gradient == pytest.approx(difference, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[3], METHODS[7]], ids=str)
def test_gradients_of_the_shifts_are_those_of_differences(method):
    flow = flow_of(plane(), PLANE, Cosine(), indices=range(4), seed=0, accurate=40)
    levels = grid("tapered", Cosine(), 5).requires_grad_()

    def loss(shifts):
        return flow.errors(replace(method, shifts=list(shifts)).step(), levels).log().mean()

    shifts = torch.tensor([0.3, -0.2, 0.0, 0.1, -0.3], requires_grad=True)
    (found,) = torch.autograd.grad(loss(shifts), shifts)
    for index, gradient in enumerate(found.tolist()):
        step = torch.zeros(5).index_fill(0, torch.tensor(index), 1e-5)
        difference = (loss(shifts.detach() + step) - loss(shifts.detach() - step)).item() / 2e-5
        assert gradient == pytest.approx(difference, rel=1e-5, abs=1e-7)
    assert (found.abs() > 1e-5).all()


def test_shifts_move_the_nodes_of_the_polynomials_and_nothing_else():
    """One step from two values of a known x0: the line through them at the shifted places, integrated by hand."""
    halves, shifts = (-0.4, 0.1, 0.5), (0.2, -0.1)
    levels = [Level(1 / math.sqrt(1 + math.exp(-2 * h)), 1 / math.sqrt(1 + math.exp(2 * h))) for h in halves]
    values, past, x = iter((0.5, -0.3)), [], torch.tensor([[1.7]])
    step = adams(2, 0, "log-snr", shifts=shifts)
    for index in range(2):
        move = Move(levels[index], levels[index + 1], lambda: None, past, index)
        found = step(lambda x, level: from_x0(torch.full_like(x, next(values)), x, level), x, move)
    first, second, h = halves[0] + shifts[0], halves[1] + shifts[1], halves[2] - halves[1]
    slope = (-0.3 - 0.5) / (second - first)
    at_end = -0.3 + slope * (halves[2] - second)
    # int_-h^0 e^t (at_end + slope t) dt = at_end (1 - e^-h) + slope (h e^-h - (1 - e^-h))
    gain = -math.expm1(-h)
    integral = at_end * gain + slope * (h * math.exp(-h) - gain)
    expected = levels[2].sigma / levels[1].sigma * 1.7 + levels[2].alpha * integral
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), ZERO_SNR], ids=["cosine", "zero-snr"])
def test_one_step_has_nothing_to_learn_and_two_have_one_level(schedule):
    seen, held_out = flows(plane(), PLANE, schedule)
    found = fit_grid(seen, held_out, starting_grids(schedule, 1), iterations=12)
    assert torch.equal(found.log_snrs, grid("tapered", schedule, 1))
    found = fit_grid(seen, held_out, starting_grids(schedule, 2), iterations=12)
    tuned, default, _ = errors(held_out, found, 2)
    assert tuned < default / 1.5
    assert found.log_snrs[0] == grid("tapered", schedule, 1)[0]


def test_conditions_reach_the_denoiser_and_stay_with_their_trajectories():
    labels = torch.tensor([0, 1, 1])
    alone = plane(labels).centres[0]

    def conditions(count):
        return {"label": torch.arange(count) % 2}

    seen, _ = flows(plane(labels), PLANE, Cosine(), conditions=conditions)
    assert (seen.end[::2] - alone).norm(dim=1).max() < 5 * 0.1
    part = seen.part(torch.tensor([3, 2]))
    assert part.conditions["label"].tolist() == [1, 0]
    whole = seen.errors(adams(), grid("tapered", Cosine(), 4))
    torch.testing.assert_close(part.errors(adams(), grid("tapered", Cosine(), 4)), whole[[3, 2]])


def nowhere(x, level, conditions=None, mask=None):
    """A denoiser that gives nan where there is little noise."""
    return from_x0(x * (math.nan if level.log_snr > 0 else 0.0), x, level)


def test_a_flow_that_leaves_the_numbers_is_refused():
    with pytest.raises(UserError, match="computed in 80 steps, becomes non-finite") as caught:
        flows(nowhere, PLANE, Cosine())
    assert "\n" not in str(caught.value)
    seen, held_out = flows(plane(), PLANE, Cosine())
    broken = replace(seen, denoise=nowhere)  # the same trajectories, and a network that has gone wrong since
    with pytest.raises(UserError, match="in 3 steps the probability flow of the model becomes non-finite"):
        fit_grid(broken, held_out, starting_grids(Cosine(), 3)[:2], iterations=2)


def test_a_solver_that_draws_noise_follows_no_trajectory():
    seen, _ = flows(plane(), PLANE, Cosine(), count=2)
    with pytest.raises(FreshNoiseError):
        seen.score(ddpm(), grid("tapered", Cosine(), 4))


# What is kept


def tuned(log_snrs, **changes):
    values = {
        "order": 3, "corrector": 4, "clock": "alpha", "error": 0.1, "default_error": 0.3,
        "checkpoint": "step-00000040", "seed": 0,
    }  # fmt: skip
    return FittedGrid(log_snrs=log_snrs, **{**values, **changes})


def test_what_is_kept_is_read_again_the_latest_last(tmp_path):
    run = RunFolder(tmp_path)
    assert read_fitted_grids(run) == {}
    entries = [tuned((-9.5, 0.1, 4.0)), tuned((-math.inf, 1 / 3), default_error=None), tuned((-8.0, 0.0, 2.5))]
    for entry in entries:
        write_fitted_grid(run, len(entry.log_snrs), entry)
    assert list(read_fitted_grids(run).items()) == [(2, entries[1]), (3, entries[2])]
    json.loads(run.fitted_grids.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    write_fitted_grid(run, 3, None)
    assert list(read_fitted_grids(run)) == [2]


GOOD = tuned((-9.0, 0.0, 4.0)).model_dump(mode="json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1, 2]", "does not contain fitted grids"),
        ({"4": [1]}, "'4' does not have the form of a fitted grid"),
        ({"4": GOOD}, "3 levels for '4' steps"),
        ({"3": {**GOOD, "shifts": [0.1]}}, "1 shifts for 3 levels"),
        ({"3": {**GOOD, "shifts": [0, 0, 1e9]}}, "less than or equal to 200"),
        ({"three": GOOD}, "3 levels for 'three' steps"),
        ({"9" * 5000: GOOD}, "3 levels for '99999999999999999999' steps"),
        ({"3": {**GOOD, "log_snrs": [-9, 4, 0]}}, "log-SNRs must increase"),
        ({"3": {**GOOD, "log_snrs": [-9, 0, "Infinity"]}}, "only the first may be infinite"),
        ({"3": {**GOOD, "log_snrs": [-9, "nan", 4]}}, "log-SNRs must increase"),
        ({"3": {**GOOD, "log_snrs": [-9, 0, 1e30]}}, "must lie between -200.0 and 200.0"),
        ({"0": {**GOOD, "log_snrs": []}}, "log_snrs: tuple should have at least 1 item"),
        ({"20000": {**GOOD, "log_snrs": list(range(20_000))}}, "log_snrs: tuple should have at most 10000 items"),
        ({"3": {**GOOD, "log_snrs": "many"}}, "log_snrs: input should be a valid tuple"),
        ({"3": {**GOOD, "order": 99}}, "order: input should be less than or equal to 8 (it is 99)"),
        ({"3": {**GOOD, "clock": "wall"}}, "clock: input should be 'alpha' or 'log-snr' (it is 'wall')"),
        ({"3": {**GOOD, "solver": "ddim"}}, "solver is not an option here"),
        ({"3": {k: v for k, v in GOOD.items() if k != "order"}}, "order is missing"),
    ],
)
def test_damage_and_nonsense_in_the_file_get_a_line(tmp_path, content, said):
    run = RunFolder(tmp_path)
    run.fitted_grids.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_fitted_grids(run)
    message = str(caught.value)
    assert said in message
    assert str(run.fitted_grids) in message
    assert "\n" not in message
    assert len(message) < 500
    assert isinstance(content, str) or "run diffcore tune" in message


# The command


@pytest.fixture(scope="module")
def toy(tmp_path_factory, float64):
    """The command line with the toy installed, and a run of it that was trained in float32."""
    torch.set_default_dtype(torch.float32)
    patch = pytest.MonkeyPatch()
    put_in_place(patch, toy_registry())
    folder = tmp_path_factory.mktemp("runs") / "toy"
    flags = ["--train.steps", "300", "--train.learning-rate", "1e-2", "--train.evaluate", "0"]
    assert cli.main(["train", "--modality", "toy", "--out", str(folder), *flags]) == 0
    yield folder
    patch.undo()
    torch.set_default_dtype(torch.float64)


QUICK = ("--trajectories", "16", "--iterations", "12")


def command(capsys, *arguments, status=0):
    """What a command says."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == status
    return capsys.readouterr().err


def refused(capsys, *arguments):
    said = command(capsys, *arguments, status=2)
    (line,) = [line for line in said.splitlines() if line.startswith("diffcore: ")]
    return line


@pytest.fixture
def evaluations(monkeypatch):
    """How often the network was asked, in the latest command."""
    seen, plain = [], ToyBackbone.forward
    monkeypatch.setattr(ToyBackbone, "forward", lambda self, *rest: (seen.append(1), plain(self, *rest))[1])

    def count():
        number = len(seen)
        seen.clear()
        return number

    return count


def test_a_run_is_tuned_and_sampled_as_tuned(toy, tmp_path, capsys, evaluations):
    draw = ["sample", toy, "--n", 4]
    said = command(capsys, "tune", toy, "--steps", 4, *QUICK)
    assert "kept in" in said
    (steps,) = known = read_fitted_grids(RunFolder(toy))
    assert steps == 4
    assert known[4].error < known[4].default_error
    assert (known[4].guides, known[4].checkpoint) == ((), "step-00000300")
    evaluations()

    def drawn(*flags):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        said = command(capsys, *draw, "--out", out, *flags)
        return evaluations(), "on a fitted grid" in said, out.read_text()

    count, uses, by_default = drawn()
    assert (count, uses) == (20, False)  # the run's own number of steps, whatever was fitted last
    count, uses, fitted = drawn("--steps", 4)
    assert (count, uses) == (4, True)
    assert drawn("--sample.steps", 4) == (4, True, fitted)  # as `train` calls it
    assert drawn("--solver", "adams") == (20, False, by_default)
    assert drawn("--grid", "tapered")[:2] == (20, False)
    for flags in (("--solver", "adams"), ("--grid", "tapered"), ("--schedule", "cosine")):
        count, uses, other = drawn("--steps", 4, *flags)
        assert (count, uses) == (4, False)
        assert other != fitted
    assert drawn("--steps", 5)[:2] == (5, False)
    said = command(capsys, "evaluate", toy, "--n", 4, "--steps", 4, "--json")
    assert "drawing with 4 steps of adams on a fitted grid, without guidance, fitted to step-00000300" in said
    meaning = json.loads((toy / "metrics.json").read_text())[1]["meaning"]
    assert meaning == "drawn with 4 steps of adams on a fitted grid, without guidance, seed 0"
    # The same number of steps again replaces, another one is kept beside.
    command(capsys, "tune", toy, "--steps", 3, *QUICK)
    command(capsys, "tune", toy, "--steps", 4, *QUICK, "--seed", 1)
    assert [(steps, entry.seed) for steps, entry in read_fitted_grids(RunFolder(toy)).items()] == [(3, 0), (4, 1)]
    evaluations()
    assert drawn("--steps", 3)[:2] == (3, True)


def test_a_grid_serves_the_flow_that_it_was_fitted_to_alone(toy, capsys):
    """Another guidance or another checkpoint is another flow, and the line says so."""
    grids = RunFolder(toy).fitted_grids
    before = grids.read_text() if grids.exists() else None
    write_fitted_grid(RunFolder(toy), 7, tuned(tuple(range(-9, -2)), checkpoint="step-00000300"))
    draw = ["sample", toy, "--n", 2, "--steps", 7, "--label", "inner"]
    draw[-2:] = ["--condition", "ring=inner"]
    assert "on a fitted grid" in command(capsys, *draw)
    said = command(capsys, *draw, "--guidance", 2)
    assert "the fitted grid of 7 steps is not used: the guidance is classifier-free (weight 2), not none" in said
    assert "on the grid tapered" in said
    said = command(capsys, *draw, "--guidance", 1, "--guidance-interval", -3, 3)  # without effect at weight 1
    assert "on a fitted grid" in said
    write_fitted_grid(RunFolder(toy), 7, tuned(tuple(range(-9, -2)), checkpoint="step-00000200"))
    said = command(capsys, *draw)
    assert "is not used: the checkpoint is step-00000300, not step-00000200" in said
    grids.unlink() if before is None else grids.write_text(before)


def test_what_is_no_better_than_the_run_s_own_recipe_is_not_kept(toy, capsys, monkeypatch):
    write_fitted_grid(RunFolder(toy), 6, tuned((-9.0, -5.0, -2.0, 0.0, 2.0, 4.0)))
    bad = Fit(Method(2, True, "alpha"), torch.linspace(-9, -8, 6, dtype=torch.float64))
    with monkeypatch.context() as patch:
        patch.setattr("diffcore.runs.tuning.fit_grid", lambda *a, **k: bad)
        said = command(capsys, "tune", toy, "--steps", 6, *QUICK)
    assert "nothing is kept" in said
    assert 6 not in read_fitted_grids(RunFolder(toy))
    assert "fitted grid" not in command(capsys, "sample", toy, "--n", 1, "--steps", 6)


def test_mistakes_get_a_line(toy, tmp_path, capsys):
    for flag, value in (("solver", "ddim"), ("grid", "time"), ("schedule", "cosine")):
        said = refused(capsys, "tune", toy, "--steps", 4, f"--{flag}", value)
        assert f"leave out --{flag}" in said
    assert "a single step has no levels to fit" in refused(capsys, "tune", toy, "--steps", 1)
    assert "--steps is missing" in refused(capsys, "tune", toy)
    for steps in (0, -3):
        assert "--steps: input should be greater than or equal to 1" in refused(capsys, "tune", toy, "--steps", steps)
    assert "no run folder" in refused(capsys, "tune", tmp_path / "none", "--steps", 4)
    whole = (toy / "fitted_grids.json").read_text() if (toy / "fitted_grids.json").exists() else None
    (toy / "fitted_grids.json").write_text("{")
    for arguments in (["tune", toy, "--steps", 4], ["sample", toy, "--n", 1], ["evaluate", toy, "--n", 2]):
        assert "fitted_grids.json cannot be read as JSON" in refused(capsys, *arguments)
    assert cli.main(["sample", str(toy), "--n", "1", "--solver", "adams"]) == 0
    (toy / "fitted_grids.json").unlink()
    if whole is not None:
        (toy / "fitted_grids.json").write_text(whole)


def test_a_run_whose_solver_draws_noise_is_tuned_too(toy, tmp_path, capsys):
    noisy = tmp_path / "noisy"
    flags = ["--train.steps", "20", "--train.evaluate", "0", "--sample.solver", "ddpm", "--schedule.zero-terminal"]
    assert cli.main(["train", "--modality", "toy", "--out", str(noisy), *flags]) == 0
    assert "comparing with adams instead" in command(capsys, "tune", noisy, "--steps", 3, *QUICK)
    found = read_fitted_grids(RunFolder(noisy))[3]
    assert found.log_snrs[0] == -math.inf
    said = command(capsys, "sample", noisy, "--n", 2, "--steps", 3, "--out", tmp_path / "x.csv")
    assert "3 steps of adams on a fitted grid" in said
    assert "nan" not in (tmp_path / "x.csv").read_text()
    with pytest.raises(UserError, match="has no finite noise level at the log-SNR -inf"):
        levels_of(Exploding(), torch.tensor(found.log_snrs, dtype=torch.float64))
