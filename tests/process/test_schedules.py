import math
from decimal import Decimal, localcontext
from functools import partial
from itertools import pairwise

import mpmath
import pytest
import torch

from diffcore.errors import UserError
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import load
from diffcore.process.schedules import (
    Betas,
    Cosine,
    Exploding,
    Laplace,
    LinearBeta,
    LogNormal,
    Rectified,
    Sigmoid,
    SubVariancePreserving,
    Uniform,
    ZeroTerminal,
    ddpm,
    iddpm_cosine,
)
from diffcore.states.level import CLEAN, Level

PRESERVING = {
    "cosine": Cosine(),
    "cosine-shifted": Cosine(-9, 8, -2),
    "cosine-wide": Cosine(-40, 40, 3),
    "linear": LinearBeta(),
    "ddpm": ddpm(),
    "ddpm-short": ddpm(2),
    "iddpm-cosine": iddpm_cosine(),
    "sigmoid": Sigmoid(),
    "sigmoid-steep": Sigmoid(0.0, 3.0, 0.1),
    "laplace": Laplace(),
    "laplace-wide": Laplace(1.0, 0.1, -20, 30),
    "uniform": Uniform(),
    "uniform-wide": Uniform(-40, 40),
}
OTHERS = {
    "sub-vp": SubVariancePreserving(),
    "exploding": Exploding(),
    "rectified": Rectified(),
    "rectified-wide": Rectified(1e-9),
    "edm": LogNormal(),
    "edm-narrow": LogNormal(p_std=0.2),
}
ZERO = {f"zero-terminal-{name}": ZeroTerminal(schedule) for name, schedule in PRESERVING.items()}
ALL = PRESERVING | OTHERS | ZERO
FINITE = PRESERVING | OTHERS

NEAR = torch.logspace(-8, -2, 25, dtype=torch.float64)
T = torch.cat([torch.linspace(0, 1, 101, dtype=torch.float64), NEAR, 1 - NEAR]).unique()
close = partial(torch.testing.assert_close, rtol=1e-13, atol=0)


def each(schedules):
    return pytest.mark.parametrize("schedule", schedules.values(), ids=schedules.keys())


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def level_at(schedule, t):
    return schedule.level(schedule.log_snr(t))


@each(ALL)
def test_log_snr_falls_and_time_inverts_it(schedule):
    log_snr = schedule.log_snr(T)
    assert log_snr.dtype == torch.float64
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(schedule.time(log_snr), T, rtol=0, atol=1e-14)
    assert schedule.log_snr(T.reshape(1, -1)).shape == (1, len(T))


@each(ALL)
def test_level_has_the_log_snr_it_was_asked_for(schedule):
    log_snr = torch.cat([schedule.log_snr(T), torch.linspace(-80, 80, 33, dtype=torch.float64)])
    torch.testing.assert_close(schedule.level(log_snr).log_snr, log_snr, rtol=0, atol=1e-13)


@each(FINITE)
def test_ends_are_finite(schedule):
    assert schedule.log_snr(tensor(0, 1)).isfinite().all()


@each(PRESERVING | ZERO)
@pytest.mark.parametrize("log_snr", [-60.0, -25.0, 25.0, 60.0])
def test_variance_preserving_levels_keep_precision_at_both_ends(schedule, log_snr):
    level = schedule.level(tensor(log_snr))
    small, large = sorted([level.alpha.item(), level.sigma.item()])
    ratio = mpmath.exp(mpmath.mpf(-abs(log_snr)))
    assert small == pytest.approx(float(mpmath.sqrt(ratio / (1 + ratio))), rel=1e-15)
    assert large == pytest.approx(float(1 / mpmath.sqrt(1 + ratio)), rel=1e-15)


@pytest.mark.parametrize("log_snr", [-60.0, -25.0, -1.0, 3.0, 25.0, 60.0])
def test_sub_variance_preserving_levels_keep_precision_at_both_ends(log_snr):
    """alpha = exp(-B/2) and sigma = 1 - exp(-B), against B found with 50 digits."""
    with mpmath.workdps(90):
        integral = 2 * mpmath.asinh(mpmath.exp(-mpmath.mpf(log_snr) / 2) / 2)
        alpha, sigma = mpmath.exp(-integral / 2), 1 - mpmath.exp(-integral)
        assert abs(2 * mpmath.log(alpha / sigma) - log_snr) < 1e-40
    level = SubVariancePreserving().level(tensor(log_snr))
    assert level.alpha.item() == pytest.approx(float(alpha), rel=1e-15)
    assert level.sigma.item() == pytest.approx(float(sigma), rel=1e-15)


def test_cosine_is_cosine_and_ends_at_its_bounds():
    schedule = Cosine(-10, 10)
    close(schedule.log_snr(tensor(0, 1)), tensor(10, -10))
    low, high = math.atan(math.exp(-5)), math.atan(math.exp(5))
    angle = low + T * (high - low)
    level = level_at(schedule, T)
    close(level.alpha, angle.cos(), rtol=1e-12)
    close(level.sigma, angle.sin())


def test_a_shifted_cosine_keeps_its_ends_and_moves_what_lies_between():
    schedule = Cosine(-10, 10, shift=-2)
    found = schedule.log_snr(tensor(0, 0.5, 1))
    close(found[[0, 2]], tensor(10, -10))
    # The middle of time is the middle of the angle.
    angles = [math.atan(math.exp((-2 - end) / 2)) for end in (10, -10)]
    assert found[1].item() == pytest.approx(-2 - 2 * math.log(math.tan(sum(angles) / 2)))
    assert found[1].item() == pytest.approx(-2, abs=0.05)


def test_cosine_keeps_precision_where_its_angle_is_nearly_a_right_one():
    t = 1 - NEAR
    with mpmath.workdps(40):
        first, last = (mpmath.atan(mpmath.exp((3 - mpmath.mpf(end)) / 2)) for end in (40, -40))
        expected = [3 - 2 * mpmath.log(mpmath.tan(first + mpmath.mpf(s) * (last - first))) for s in t.tolist()]
    close(Cosine(-40, 40, 3).log_snr(t), tensor(*map(float, expected)), rtol=1e-14)


def test_linear_is_the_limit_of_ddpm_betas():
    """alpha_bar of T discrete betas, beta_i = (b0 + (i/T)(b1 - b0)) / T, tends to the closed form."""
    n = 100_000
    betas = torch.linspace(0.1, 20, n, dtype=torch.float64) / n
    alpha_bar = torch.cumprod(1 - betas, 0)
    level = level_at(LinearBeta(epsilon=1e-12), torch.arange(1, n + 1, dtype=torch.float64) / n)
    # One minus alpha^2 agrees too, where float32 tables lose it.
    torch.testing.assert_close(level.alpha**2, alpha_bar, rtol=3e-3, atol=1e-9)
    torch.testing.assert_close((level.sigma**2)[50:], (1 - alpha_bar)[50:], rtol=3e-3, atol=0)


def test_linear_and_sub_vp_are_their_formulas():
    """Song et al. 2021: alpha = exp(-B / 2); sigma^2 = 1 - exp(-B) or (1 - exp(-B))^2."""
    s = 1e-3 + (1 - 1e-3) * T
    integral = 0.1 * s + 19.9 * s**2 / 2
    for schedule, power in ((LinearBeta(), 0.5), (SubVariancePreserving(), 1.0)):
        level = level_at(schedule, T)
        close(level.alpha, torch.exp(-integral / 2), rtol=1e-12)
        close(level.sigma, (-torch.expm1(-integral)) ** power, rtol=1e-12)


def test_geometric_and_rectified_scales():
    level = level_at(Exploding(0.01, 100), tensor(0.25))
    close(level.sigma, tensor(0.1))
    assert level.alpha.item() == 1
    close(torch.cat(list(level_at(Rectified(0), tensor(0.25)))), tensor(0.75, 0.25))
    ends = Rectified(1e-9).log_snr(tensor(0, 1))
    close(ends, tensor(1, -1) * 2 * math.log((1 - 1e-9) / 1e-9), rtol=1e-15)


def exact_log_snrs(betas):
    """log(abar / (1 - abar)) of each step, with 50 digits."""
    found, abar = [], Decimal(1)
    with localcontext() as context:
        context.prec = 50
        for beta in betas:
            abar *= 1 - Decimal(beta)
            found.append(float((abar / (1 - abar)).ln()))
    return tensor(*found)


def test_ddpm_s_levels_are_its_table():
    """All thousand of Ho et al. 2020, against 50 digits."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = exact_log_snrs(betas.tolist())
    assert (ddpm().betas == betas).all()
    times = torch.arange(1000, dtype=torch.float64) / 999
    found = ddpm().log_snr(times)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-14)
    torch.testing.assert_close(ddpm().time(expected), times, rtol=0, atol=1e-15)
    abar = torch.cumprod(1 - betas, 0)
    level = level_at(ddpm(), times)
    close(level.alpha**2, abar)
    close(level.sigma[0] ** 2, betas[0], rtol=1e-14)
    # Between the steps log-SNR is linear.
    middle = ddpm().log_snr((times[1:] + times[:-1]) / 2)
    close(middle, (expected[1:] + expected[:-1]) / 2, rtol=1e-11)


@pytest.mark.parametrize(
    ("schedule", "alpha", "snr"),
    [
        (ddpm(), 0.006353, 4.035993e-05),
        (iddpm_cosine(), 4.928220e-05, 2.428735e-09),
        (Betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2), 0.068265, 0.004682),
    ],
    ids=["linear", "cosine", "scaled-linear"],
)
def test_terminal_snrs_are_the_published_ones(schedule, alpha, snr):
    """Lin et al. 2024, table 1, whose metrics are of float32 tables."""
    log_snr = schedule.log_snr(tensor(1))
    assert log_snr.exp().item() == pytest.approx(snr, rel=1e-4)
    assert schedule.level(log_snr).alpha.item() == pytest.approx(alpha, rel=1e-4)


def test_iddpm_cosine_is_its_formula():
    """Nichol & Dhariwal 2021, eq. 17, with betas clipped at 0.999."""
    steps, s = 1000, mpmath.mpf("0.008")
    with mpmath.workdps(40):
        f = [mpmath.cos((mpmath.mpf(i) / steps + s) / (1 + s) * mpmath.pi / 2) ** 2 for i in range(steps + 1)]
        betas = [min(1 - after / before, mpmath.mpf("0.999")) for before, after in pairwise(f)]
        expected = exact_log_snrs([str(beta) for beta in betas])
    found = iddpm_cosine()
    close(found.betas, tensor(*map(float, betas)), rtol=1e-13)
    assert found.betas[-1] == 0.999
    assert (found.betas[:-1] < 0.999).all()
    torch.testing.assert_close(
        found.log_snr(torch.linspace(0, 1, steps, dtype=torch.float64)), expected, rtol=0, atol=1e-11
    )
    torch.testing.assert_close(found.log_snrs, expected, rtol=0, atol=1e-12)
    # Before the clip the product of the betas is f itself.
    close(level_at(found, tensor(499 / 999)).alpha ** 2, tensor(float(f[500] / f[0])), rtol=1e-12)


@pytest.mark.parametrize("betas", [[0.1], [0.0, 0.1], [0.1, 1.0], [0.1, math.nan], [[0.1, 0.2]]])
def test_betas_that_are_no_chain_are_refused(betas):
    with pytest.raises(ValueError, match="betas must be"):
        Betas(torch.tensor(betas))


@pytest.mark.parametrize("edges", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.3), (-3.0, 3.0, 1.1), (0.0, 3.0, 0.1)])
def test_sigmoid_is_its_formula(edges):
    """Chen 2023, algorithm 1 (before its clip), with 60 digits."""
    start, end, tau = map(mpmath.mpf, edges)
    with mpmath.workdps(60):

        def sigmoid(x):
            return 1 / (1 + mpmath.exp(-x))

        first, last = sigmoid(start / tau), sigmoid(end / tau)
        expected = []
        for t in T.tolist():
            s = mpmath.mpf(1e-4) + mpmath.mpf(t) * (1 - 2 * mpmath.mpf(1e-4))
            gamma = (last - sigmoid((s * (end - start) + start) / tau)) / (last - first)
            expected.append(float(mpmath.log(gamma / (1 - gamma))))
    torch.testing.assert_close(Sigmoid(*edges).log_snr(T), tensor(*expected), rtol=0, atol=1e-13)


def test_laplace_is_its_formula_and_falls():
    """Hang & Gu 2024: lambda = mu - b sgn(0.5 - t) log(1 - 2 |t - 0.5|); ends so far away cut nothing off."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = 1 - 0.5 * torch.sign(0.5 - t) * torch.log(1 - 2 * (t - 0.5).abs())
    found = Laplace(1.0, 0.5, -40, 40).log_snr(t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert found[0] > 1 > found[-1]


def test_uniform_is_a_straight_line():
    torch.testing.assert_close(Uniform(-6, 12).log_snr(T), 12 - 18 * T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", [Laplace(0.5, 2.0, -3, 4), LogNormal()], ids=["laplace", "edm"])
def test_time_drawn_evenly_draws_the_truncated_density(schedule):
    """-dt/dlambda is the density of lambda, with mass one between the ends."""
    low, high = schedule.log_snr(tensor(1, 0)).tolist()
    if isinstance(schedule, Laplace):
        assert (low, high) == pytest.approx((-3, 4))
        density = lambda x: mpmath.exp(-abs(x - 0.5) / 2) / 4  # noqa: E731
    else:
        assert (low, high) == pytest.approx((-2 * math.log(80), -2 * math.log(0.002)))
        density = lambda x: mpmath.npdf(-x / 2, -1.2, 1.2) / 2  # noqa: E731
    mass = mpmath.quad(density, [low, 0.5, high])
    for place in (low + 0.5, -1.0, 0.5, 2.0, high - 0.5):
        above = mpmath.quad(density, sorted({place, max(place, 0.5), high})) / mass
        assert schedule.time(tensor(place)).item() == pytest.approx(float(above), rel=1e-10)


def test_edm_draws_log_normal_noise_levels():
    """Karras et al. 2022, table 1: ln sigma ~ N(-1.2, 1.2^2); what is cut off is 1.7e-5 of it."""
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    level = level_at(LogNormal(), t)
    assert (level.alpha == 1).all()
    logs = level.sigma.log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=2e-4)
    assert logs.std().item() == pytest.approx(1.2, abs=1e-3)
    close(level_at(LogNormal(), tensor(0, 1)).sigma, tensor(0.002, 80))
    # Far tails are kept: the end lies 28 standard deviations out.
    close(level_at(LogNormal(p_std=0.2), tensor(0, 1)).sigma, tensor(0.002, 80))


@each(PRESERVING)
def test_zero_terminal_is_the_published_rescaling(schedule):
    """Lin et al. 2024, algorithm 1, on sqrt(abar)."""
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    a = level_at(schedule, t).alpha
    expected = (a - a[-1]) * a[0] / (a[0] - a[-1])
    level = level_at(ZeroTerminal(schedule), t)
    torch.testing.assert_close(level.alpha, expected, rtol=1e-12, atol=1e-15)
    close(level.sigma[-100:], (1 - expected**2).sqrt()[-100:], rtol=1e-12)
    close(ZeroTerminal(schedule).log_snr(tensor(0)), schedule.log_snr(tensor(0)))


@each(ZERO)
def test_zero_terminal_ends_at_noise_alone(schedule):
    for t in (tensor(1), T):
        log_snr = schedule.log_snr(t)
        assert log_snr[-1] == -math.inf
        assert not log_snr.isnan().any()
        level = schedule.level(log_snr)
        assert (level.alpha[-1], level.sigma[-1]) == (0, 1)
        assert level.log_snr[-1] == -math.inf
    assert schedule.time(tensor(-math.inf)).item() == pytest.approx(1, abs=1e-14)


def test_zero_terminal_does_not_depend_on_the_last_bit_of_its_base():
    """Vectorised functions may round an end among many times otherwise than the end alone."""
    for change in (1e-15, -1e-15):

        class Rounded(Cosine):
            def log_snr(self, t, change=change):
                return super().log_snr(t) * (1 + change * t.numel())

        log_snr = ZeroTerminal(Rounded()).log_snr(torch.cat([T, tensor(math.nextafter(1, 0))]))
        assert log_snr[-2] == -math.inf
        assert log_snr[:-2].isfinite().all()
        assert not log_snr[-1].isnan()


def test_zero_terminal_keeps_sigma_at_the_clean_end():
    """1 - alpha^2 of the rescaled alpha, with 50 digits."""
    schedule = Cosine(-10, 40)
    base = [mpmath.mpf(value) for value in schedule.log_snr(torch.cat([tensor(0, 1), NEAR])).tolist()]
    with mpmath.workdps(50):
        first, last, *a = (mpmath.sqrt(1 / (1 + mpmath.exp(-value))) for value in base)
        expected = [float(mpmath.sqrt(1 - ((x - last) * first / (first - last)) ** 2)) for x in a]
    close(level_at(ZeroTerminal(schedule), NEAR).sigma, tensor(*expected), rtol=1e-12)


@pytest.mark.parametrize("base", [Exploding(), Rectified(), SubVariancePreserving(), ZeroTerminal(Cosine())])
def test_zero_terminal_is_for_variance_preserving_schedules_that_need_it(base):
    with pytest.raises(ValueError, match="zero"):
        ZeroTerminal(base)


def test_ends_of_levels():
    assert CLEAN.log_snr == math.inf
    assert Level(0.0, 1.0).log_snr == -math.inf
    assert Level(3.0, 4.0).total == 5
    assert Level(torch.tensor([3.0]), torch.tensor([4.0])).total.item() == 5


REGISTRY = load([])
BUILTIN = {
    "cosine": Cosine(),
    "linear": LinearBeta(),
    "exploding": Exploding(),
    "rectified": Rectified(),
    "ddpm": ddpm(),
    "iddpm-cosine": iddpm_cosine(),
    "sub-vp": SubVariancePreserving(),
    "sigmoid": Sigmoid(),
    "laplace": Laplace(),
    "uniform": Uniform(),
    "edm": LogNormal(),
}


def build(name, **options) -> Settings:
    component = REGISTRY.schedule(name)
    return component.build(component.options(**options))


def test_components_and_schedules_have_the_same_defaults_and_the_first_is_cosine():
    assert list(REGISTRY.schedules) == list(BUILTIN)
    for name, expected in BUILTIN.items():
        assert torch.equal(build(name).log_snr(T), expected.log_snr(T)), name


@pytest.mark.parametrize("name", ["cosine", "linear", "ddpm", "iddpm-cosine", "sigmoid", "uniform"])
def test_zero_terminal_is_an_option(name):
    assert build(name, zero_terminal=True).log_snr(tensor(1)) == -math.inf


@pytest.mark.parametrize(
    ("name", "extremes"),
    [
        ("cosine", {"log_snr_min": -40, "log_snr_max": 40, "shift": 10}),
        ("linear", {"beta_0": 1e-6, "beta_1": 1000, "epsilon": 1e-6}),
        ("sub-vp", {"beta_0": 1e-6, "beta_1": 1000, "epsilon": 1e-6}),
        ("ddpm", {"steps": 5000, "beta_first": 1e-6, "beta_last": 0.3}),
        ("sigmoid", {"start": -20, "end": 20, "tau": 0.05}),
        ("laplace", {"b": 0.1, "log_snr_min": -40, "log_snr_max": 40}),
        ("edm", {"p_std": 0.16}),
    ],
)
def test_the_limits_of_options_still_make_schedules(name, extremes):
    schedule = build(name, **extremes)
    log_snr = schedule.log_snr(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert log_snr.isfinite().all()
    assert (log_snr.diff() < 0).all()


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("sigmoid", {"start": 3.0}, "start and end"),
        ("laplace", {"mu": 11.0}, "mu and log_snr_max"),
        ("laplace", {"log_snr_min": 11.0}, "log_snr_min and log_snr_max"),
        ("uniform", {"log_snr_min": 10.0}, "log_snr_min and log_snr_max"),
        ("laplace", {"b": 0.0}, "greater than or equal"),
        ("edm", {"sigma_max": 0.1}, "p_mean and log sigma_max"),
        ("edm", {"p_std": 0.1}, "p_std is too small"),
        ("ddpm", {"steps": 1}, "greater than or equal"),
        ("ddpm", {"beta_last": 1.0}, "less than"),
    ],
)
def test_options_that_make_no_schedule_are_refused(name, wrong, words):
    with pytest.raises((ValueError, UserError), match=words):
        build(name, **wrong)
