"""The scripts of examples/history, in small settings: every number that they show is near the exact one."""

import fnmatch
import importlib.util
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "history"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "toy.py")


@dataclass(frozen=True)
class Apart:
    """A row that shows a failing: found and exact differ by `least` or more, found being the greater where `above`."""

    least: float
    above: bool = True


EXACT = 1e-9
FLOAT32 = 1e-5
SETTINGS = {
    "2015_deep_unsupervised_learning": (
        {"dimensions": 4000, "points": 20_000},
        {
            "mean of 500*": 0.03,
            "std of 500*": 0.02,
            "* levels: L_T*": 3e-7,
            "10 levels: sum of L_t-1*": 0.3,
            "* levels: sum of L_t-1*": 0.1,
            "* levels: L_0*": 0.03,
            "10 levels: bound*": Apart(10),
            "100 levels: bound*": Apart(0.4),
            "1000 levels: bound*": 0.15,
        },
    ),
    "2019_score_matching_langevin": (
        {"samples": 250},
        {
            "ratio*": EXACT,
            "|score|*": 1e-4,
            "score and*": 1e-5,
            "one level: share*": Apart(0.2, above=False),
            "one level: spread*": Apart(0.1),
            "annealed: share*": 0.1,
            "annealed: spread*": 0.05,
        },
    ),
    "2020_ddpm": (
        {"steps": 700, "samples": 60},
        {
            "alpha_bar*": EXACT,
            "beta*": EXACT,
            "variance posterior, 20*": Apart(0.02, above=False),
            "variance beta, 20*": 0.01,
            "L_simple*": 0.01,
            "*: mean log p*": 0.7,
            "*: spread*": 0.06,
        },
    ),
    "2021_score_sde": (
        {"samples": 100, "points": 5000},
        {"VE: std*": 1.5, "*: std of x*": 0.03, "*: mean log p": 0.35, "log p(x0)*": 2e-3},
    ),
    "2021_improved_ddpm": (
        {"steps": 700, "points": 600},
        {
            "cosine schedule*": EXACT,
            "learned fraction*": 0.06,
            "lower variance: bound*": Apart(10),
            "lower variance: std*": Apart(0.03, above=False),
            "upper variance: bound*": Apart(0.1),
            "upper variance: std*": Apart(0.01),
            "learned variance: bound*": 0.1,
            "learned variance: std*": 0.015,
        },
    ),
    "2021_classifier_guidance": (
        {"steps": 500, "samples": 500},
        {
            "-log p(c | x_t)*": 0.01,
            "weight 0*": FLOAT32,
            "weight 4*": 0.15,
            "*mean of the first coordinate": 0.1,
            "*the same*": 0.1,
            "*std of*": 0.06,
            "*mean log p*": 0.2,
        },
    ),
    "2021_variational_diffusion": (
        {"samples": 100_000},
        {
            "exact denoiser: *uniform*": 0.15,
            "exact denoiser: *cosine*": 0.3,
            "standard deviation*": Apart(15),
            "*uniform, and -log p": Apart(0.2),
            "*cosine, and uniform": 0.3,
        },
    ),
    "2022_classifier_free_guidance": (
        {"steps": 700, "samples": 400},
        {
            "L_simple*": 0.02,
            "w = 2: mean square of eps": 0.04,
            "w = 2: mean square error*": 0.06,
            "w = 0: share*": 0.08,
            "w = ?: share*": 0.05,
            "w = 0: mean log p*": 0.9,
            "w = ?: mean log p*": 0.25,
        },
    ),
    "2022_edm": (
        {"samples": 200},
        {
            "c_*": FLOAT32,
            "sigma number*": EXACT,
            "training levels*": 1e-4,
            "Euler*": Apart(0.007),
            "Heun*": 0.005,
            "*churn: mean log p*": 0.25,
            "*churn: std*": 0.03,
        },
    ),
    "2024_autoguidance": (
        {"steps": 600, "samples": 300},
        {
            "relative width*": 1e-4,
            "loss, young*": Apart(0.02),
            "loss, averaged*": 0.015,
            "w = 1: *": Apart(0.1, above=False),
            "w = 1.5: *": 0.15,
            "w = 2: *": 0.3,
        },
    ),
    "2024_fitted_levels": (
        {"iterations": 24, "trajectories": 32, "numbers": (6,)},
        {"*DDIM*": Apart(0.15), "*default*": Apart(0.02), "*fitted": 0.015},
    ),
    "since_then": (
        {"samples": 50},
        {
            "sigmoid*": EXACT,
            "Laplace*": 1e-4,
            "linear betas*": Apart(0.006),
            "*same with zero*": 0.0,
            "zero terminal*": EXACT,
            "min-SNR*": FLOAT32,
            "rectified*": FLOAT32,
            "levels that*": 0.0,
            "rescaled*": FLOAT32,
        },
    ),
}


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"history_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [path.stem for path in SCRIPTS])
def test_every_number_is_near_the_exact_one(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    options, allowed = SETTINGS[name]
    found = loaded(name).main(**options)
    used = set()
    for row, (measured, exact) in found.items():
        pattern = next(pattern for pattern in allowed if fnmatch.fnmatchcase(row, pattern))
        used.add(pattern)
        limit = allowed[pattern]
        if isinstance(limit, Apart):
            assert (measured - exact) * (1 if limit.above else -1) >= limit.least, row
        else:
            assert measured == pytest.approx(exact, abs=limit, rel=0), row
    assert used == set(allowed)


def test_a_script_prints_its_table(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / "since_then.py"), run_name="__main__")
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["found", "exact"]
    assert len(rows) == 11
    for row in rows[1:]:
        [float(number) for number in row.split()[-2:]]


def test_the_readme_names_each_script_and_a_script_is_its_own_usage():
    readme = (FOLDER / "README.md").read_text()
    assert len(SCRIPTS) == 12
    for path in SCRIPTS:
        assert f"({path.name})" in readme
        assert f"python examples/history/{path.name}" in path.read_text()
