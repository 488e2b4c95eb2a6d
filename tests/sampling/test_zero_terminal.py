"""What a schedule that ends at zero SNR asks of the other parts."""

import math
from itertools import pairwise

import pytest
import torch

from diffcore.cli.options import DrawOptions, run_of, sampling_of
from diffcore.cli.selectors import read
from diffcore.denoising.denoiser import Denoiser, require_defined
from diffcore.denoising.losses import WEIGHTINGS, weighted_loss
from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.process.gaussian import perturb
from diffcore.process.schedules import Cosine, LinearBeta, Rectified, ZeroTerminal
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, describe
from diffcore.runs.model import build_data, build_model
from diffcore.sampling.loop import levels_of, prior, sample
from diffcore.sampling.solvers import ddim, ddpm, dpmpp_2m
from diffcore.sampling.timesteps import GRIDS, grid
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import gaussian, gaussian_flow, mixture
from diffcore.training.loop import Callbacks, train
from tests.support.toy import toy_registry

REGISTRY = toy_registry()
SCHEDULE = ZeroTerminal(LinearBeta())


class Double(Euclidean):
    """Tensors of float64."""

    def empty(self, batch):
        return super().empty(batch).double()


DOUBLE = Double((3,))
SOLVERS = {"ddim": ddim(), "ddim-1": ddim(1.0), "dpmpp-2m": dpmpp_2m(), "ddpm-0": ddpm(0.0), "ddpm-1": ddpm(1.0)}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("step", SOLVERS.values(), ids=SOLVERS.keys())
def test_solvers_start_at_noise_alone(step, name):
    """They draw what they draw from a finite end where alpha is 0.7 %."""
    moments = []
    for schedule in (SCHEDULE, LinearBeta()):
        levels = levels_of(schedule, grid(name, schedule, 60))
        found = sample(gaussian(0.7, 0.4), Euclidean((4000,)), step, levels, indices=range(4))
        moments.append((found.mean().item(), found.std().item()))
    assert moments[0] == pytest.approx(moments[1], rel=0.02)
    assert moments[0][0] == pytest.approx(0.7, abs=0.02)


def test_samples_forget_the_mean_of_the_start():
    """Lin et al. 2024, section 2: noise has the wrong mean for a start whose alpha is not 0, and the right one at 0.

    Here for data far from 0, after the first step.
    """
    far, errors = 100.0, []
    for schedule in (LinearBeta(), SCHEDULE):
        now, then, _ = levels_of(schedule, schedule.log_snr(torch.tensor([1.0, 0.9], dtype=torch.float64)))
        x = sample(gaussian(far, 0.5), Euclidean((1,)), ddim(), [now, then], indices=range(4000), keep_noise=True)
        errors.append(abs(x.mean().item() - then.alpha * far) / then.sigma)
    assert errors[0] > 0.1
    assert errors[1] < 0.05


def test_a_multistep_step_after_an_infinite_one_is_of_first_order():
    """Nothing is extrapolated from a level at infinite distance."""
    levels = levels_of(SCHEDULE, grid("karras", SCHEDULE, 6))
    two_modes = mixture(torch.tensor([[-1.0], [1.0]]), 0.2)
    run = [
        sample(two_modes, Euclidean((1,)), step, levels[:3], indices=range(5), keep_noise=True)
        for step in (ddim(), dpmpp_2m())
    ]
    assert run[0].isfinite().all()
    torch.testing.assert_close(*run)


@pytest.mark.parametrize(
    ("make", "order", "name"), [(ddim, 1, "time"), (dpmpp_2m, 2, "log-snr"), (dpmpp_2m, 2, "time")]
)
def test_order_of_convergence_from_noise_alone(make, order, name):
    """Against the exact flow from lambda = -infinity; nothing that is cut off remains as n grows."""

    def error(n):
        levels = levels_of(SCHEDULE, grid(name, SCHEDULE, n))[:-1]
        start = prior(DOUBLE, Draws.of(0, range(4)), levels[0])
        found = sample(gaussian(0.7, 0.4), DOUBLE, make(), levels, indices=range(4), keep_noise=True)
        return (found - gaussian_flow(start, levels[0], levels[-1], 0.7, 0.4)).abs().max().item()

    errors = [error(n) for n in (100, 200, 400, 800)]
    # The range of lambda grows with log n, which costs a power of a logarithm.
    for coarse, fine in pairwise(errors):
        assert order - 0.25 < math.log2(coarse / fine) < order + 0.25
    assert errors[-1] < 4e-3 if order == 1 else errors[-1] < 2e-4


def test_networks_are_told_a_finite_log_snr():
    torch.manual_seed(0)
    for parameterisation in ("v", "x0"):
        denoiser = Denoiser(DiT(1, (8, 8), 4, 32, 1, 2), (), parameterisation)
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        level = SCHEDULE.level(SCHEDULE.log_snr(torch.tensor([1.0, 0.5], dtype=torch.float64)))
        x0, noise = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
        prediction = denoiser(perturb(x0, noise, level), level)
        for view in (prediction.x0, prediction.eps, prediction.v):
            assert view.isfinite().all()
        torch.testing.assert_close(prediction.eps[0], noise[0])
        for weighting in WEIGHTINGS:
            loss = weighted_loss(prediction, x0, noise, Euclidean((1, 8, 8)), weighting)
            assert loss.isfinite().all()
            # Of noise alone no noise is left to be found; what x0 is costs its plain error.
            error = (prediction.x0[0] - x0[0]).square().mean().item()
            expected = {"eps": 0.0, "min-snr": 0.0, "sparse": error / 8}.get(weighting, error)
            assert loss[0].item() == pytest.approx(expected, rel=1e-5)
            (gradient,) = torch.autograd.grad(loss.sum(), next(denoiser.parameters()), retain_graph=True)
            assert gradient.isfinite().all()


def test_eps_is_refused_where_alpha_is_zero():
    for schedule in (SCHEDULE, Rectified(0.0)):
        with pytest.raises(UserError, match="divides by zero") as caught:
            require_defined("eps", schedule)
        assert "`parameterisation` v or x0" in str(caught.value)
        assert "`schedule.no_zero_terminal`" in str(caught.value)
        require_defined("v", schedule)
        require_defined("x0", schedule)
    require_defined("eps", LinearBeta())
    require_defined("eps", Cosine(-40, 40))


def toy(schedule, **values):
    values = {"schedule": schedule, "train": {"steps": 2, "batch_size": 8}, **values}
    return compose(REGISTRY, "toy", file=values)


def test_models_of_eps_are_not_built_with_it():
    settings = toy({"name": "linear", "zero_terminal": True}, parameterisation="eps")
    facts = build_data(settings, REGISTRY).facts
    with pytest.raises(UserError, match="divides by zero"):
        build_model(settings, facts, REGISTRY)
    build_model(toy({"name": "linear", "zero_terminal": True}), facts, REGISTRY)


def test_runs_of_eps_are_not_drawn_with_it(tmp_path):
    for parameterisation in ("eps", "v"):
        settings = toy({"name": "cosine"}, parameterisation=parameterisation)
        data = build_data(settings, REGISTRY)
        run = RunFolder(tmp_path / parameterisation)
        run.path.mkdir()
        describe(run, settings, data.facts.model_dump(), REGISTRY)
        train(run, settings, build_model(settings, data.facts, REGISTRY), data, Callbacks())

    def drawn(parameterisation, *flags):
        arguments = [str(tmp_path / parameterisation), *flags]
        chosen = read(DrawOptions, arguments, REGISTRY, "diffcore sample", "")
        return run_of(chosen.options, REGISTRY).config(sampling_of(chosen))[0].schedule

    swap = ["--schedule", "cosine", "--schedule.zero-terminal"]
    with pytest.raises(UserError, match="parameterisation eps cannot be used"):
        drawn("eps", *swap)
    assert drawn("v", *swap) == ZeroTerminal(Cosine())
    # The flag that the message names.
    assert drawn("eps", "--schedule", "cosine", "--schedule.no-zero-terminal") == Cosine()
    assert drawn("v").log_snr(torch.ones(1)).item() > -math.inf
