"""How near solvers come to the exact flow for the same number of evaluations, beside those of other libraries.

The data are a kernel density estimate of real digits, so the ideal denoiser is known in closed form and its probability
flow can be solved to 1e-9. Every contestant starts from the same noise at the same level. Printed and written is the
median over samples of the root mean square error per coordinate, for data in [-1, 1].

    python tests/benchmarks/solver_accuracy.py --root MNIST_FOLDER [--json FILE] [--install-peers]
    python tests/benchmarks/solver_accuracy.py --target digits --schedule scaled-linear

`--install-peers` installs diffusers, and azula and k-diffusion without what they depend on. What is missing is named
and left out. `tuned` is what `diffcore.sampling.grid_fitting.tune` finds on other noise than it is judged on.
"""

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from diffcore.denoising.denoiser import Prediction, from_x0
from diffcore.process.schedules import Betas, ddpm, iddpm_cosine
from diffcore.sampling.grid_fitting import fit_grid, flow_of, starting_grids
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import Step, adams, ddim, dpmpp_2m
from diffcore.sampling.timesteps import GRIDS, grid
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import Mixture

COUNTS = (5, 8, 10, 15, 20, 30, 50)
SAMPLES = 32


class Target:
    """Data with a known denoiser, a schedule of T levels, common starting noise, and where the flow takes it."""

    def __init__(self, centres: Tensor, std: float, schedule: Betas, name: str) -> None:
        self.name, self.schedule = name, schedule
        self.mixture = Mixture(centres, std)
        self.betas = schedule.betas
        steps = len(self.betas)
        times = torch.linspace(0, 1, steps, dtype=torch.float64)
        self.ladder = torch.exp(-schedule.log_snr(times) / 2)  # sigma / alpha of each discrete step
        self.first = levels_of(schedule, schedule.log_snr(torch.ones(1, dtype=torch.float64)))[0]
        generator = torch.Generator().manual_seed(0)
        self.start = torch.randn(SAMPLES, centres.shape[1], generator=generator, dtype=torch.float64)
        self.calls = 0
        self.truth = self._solve()

    def denoise(self, y: Tensor, s: float) -> Tensor:
        """E[x0 | y] of y = x0 + s eps."""
        self.calls += 1
        flat, std = self.mixture.centres, self.mixture.std
        variance = std**2 + s**2
        shares = torch.softmax((y @ flat.T - flat.square().sum(1) / 2) / variance, 1)
        mean = shares @ flat
        return mean + std**2 / variance * (y - mean)

    def __call__(self, x: Tensor, level: Level, conditions: object = None, mask: object = None) -> Prediction:
        """The same as diffcore calls it; levels may be learned."""
        self.calls += 1
        alpha, sigma = (torch.as_tensor(value, dtype=x.dtype).reshape(-1, 1) for value in level)
        flat, variance = self.mixture.centres, alpha**2 * self.mixture.std**2 + sigma**2
        shares = torch.softmax((alpha * (x @ flat.T) - alpha**2 * flat.square().sum(1) / 2) / variance, 1)
        mean = shares @ flat
        return from_x0(mean + alpha * self.mixture.std**2 / variance * (x - alpha * mean), x, level)

    def _solve(self) -> Tensor:
        """d y / d log s = y - E[x0 | y], to s = 1e-5."""
        y, shape = (self.start / self.first.alpha).flatten().numpy(), self.start.shape

        def slope(log_s: float, flat: object) -> object:
            state = torch.from_numpy(flat).reshape(shape)
            return (state - self.denoise(state, math.exp(log_s))).flatten().numpy()

        ends = (math.log(self.first.sigma / self.first.alpha), math.log(1e-5))
        solved = solve_ivp(slope, ends, y, method="DOP853", rtol=1e-9, atol=1e-9)
        return self.denoise(torch.from_numpy(solved.y[:, -1]).reshape(shape), 1e-5)

    def error(self, x: Tensor) -> float:
        """The median over samples of the root mean square difference from the truth."""
        return (x.double() - self.truth).square().mean(1).sqrt().median().item()


Row = dict[int, tuple[int, float]]
"""By the number of evaluations that were allowed: those that were used, and the error."""


def measure(target: Target, run: Callable[[int], Tensor], counts: list[int]) -> Row:
    """A contestant at each count. One that fails is left out at that count and named."""
    row: Row = {}
    for count in counts:
        target.calls = 0
        try:
            error = target.error(run(count))
        except Exception as failure:  # another library's; there is nothing to mend here
            print(f"    {count}: {type(failure).__name__}: {str(failure)[:90]}")
            continue
        row[count] = (target.calls, error)
    return row


# diffcore ------------------------------------------------------------------------------------------------------------


def ours(target: Target, step: Step, log_snrs: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """A solver with a grid."""
    space = Euclidean((target.start.shape[1],))

    def run(count: int) -> Tensor:
        levels = levels_of(target.schedule, log_snrs(count))
        return sample(target, space, step, levels, indices=range(SAMPLES), start=target.start)

    return run


def tuned(target: Target, counts: list[int], iterations: int, notes: dict[int, dict[str, object]]) -> Row:
    """What tuning finds, count by count, on noise of its own."""
    space, row = Euclidean((target.start.shape[1],)), {}
    torch.set_default_dtype(torch.float64)
    seen = flow_of(target, space, target.schedule, indices=range(64), seed=1)
    held_out = flow_of(target, space, target.schedule, indices=range(64, 96), seed=1)
    for count in counts:
        started = time.perf_counter()
        found = fit_grid(seen, held_out, starting_grids(target.schedule, count), iterations=iterations)
        run = ours(target, found.method.step(), lambda n, found=found: found.log_snrs)
        row |= measure(target, run, [count])
        seconds = time.perf_counter() - started
        notes[count] = {"method": vars(found.method), "log_snrs": found.log_snrs.tolist(), "seconds": seconds}
        print(f"    {count}: {row[count][1]:.6f} in {seconds:.0f} s with {found.method}", flush=True)
    return row


# other libraries -----------------------------------------------------------------------------------------------------


def diffusers_contestants(target: Target) -> dict[str, Callable[[int], Tensor]]:
    """Schedulers of diffusers, told the same betas; the denoiser is asked at whatever time they name."""
    import diffusers

    log_ladder = target.ladder.log()

    def level_at(t: Tensor) -> float:
        place = min(max(float(t), 0.0), len(log_ladder) - 1.0)
        low = int(place)
        high, share = min(low + 1, len(log_ladder) - 1), place - low
        return math.exp(log_ladder[low] * (1 - share) + log_ladder[high] * share)

    def run_with(make: Callable[[], object]) -> Callable[[int], Tensor]:
        def run(count: int) -> Tensor:
            scheduler = make()
            scheduler.set_timesteps(count)
            x = target.start.clone()
            for t in scheduler.timesteps:
                s = level_at(t)
                alpha = 1 / math.sqrt(1 + s * s)
                y = x.double() / alpha
                eps = (y - target.denoise(y, s)) / s
                if isinstance(scheduler, diffusers.UniPCMultistepScheduler):  # it solves in float32, whatever x is
                    torch.set_default_dtype(torch.float32)
                    x, eps = x.float(), eps.float()
                x = scheduler.step(eps, t, x).prev_sample.double()
                torch.set_default_dtype(torch.float64)
            return x

        return run

    found = {}
    table = {"num_train_timesteps": len(target.betas), "trained_betas": target.betas.numpy()}
    for spacing in ("linspace", "trailing"):
        options = {**table, "clip_sample": False, "timestep_spacing": spacing}
        found[f"diffusers DDIM {spacing}"] = run_with(lambda o=options: diffusers.DDIMScheduler(**o))
    multistep, unipc, deis = (
        diffusers.DPMSolverMultistepScheduler,
        diffusers.UniPCMultistepScheduler,
        diffusers.DEISMultistepScheduler,
    )
    for grid_name, extra in (
        ("linspace", {}),
        ("karras", {"use_karras_sigmas": True}),
        ("lu", {"use_lu_lambdas": True}),
        ("exponential", {"use_exponential_sigmas": True}),
    ):
        options = {**table, "timestep_spacing": "linspace", **extra}
        for name, kind, order in (
            ("DPM++2M", multistep, 2),
            ("DPM++3M", multistep, 3),
            ("UniPC2", unipc, 2),
            ("UniPC3", unipc, 3),
            ("DEIS3", deis, 3),
        ):
            if grid_name != "lu" or kind is multistep:
                made = {**options, "solver_order": order}
                found[f"diffusers {name} {grid_name}"] = run_with(lambda k=kind, o=made: k(**o))
    return found


_UNNEEDED = ("from . ", "import torchsde", "from torchdiffeq")
"""Imports of k-diffusion's sampling.py that the functions measured here do without."""


def k_diffusion_contestants(target: Target) -> dict[str, Callable[[int], Tensor]]:
    """Functions of k-diffusion's sampling.py, which is read by itself: the package imports much that is not needed."""
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None
    assert spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "sampling.py").read_text()
    source = "\n".join(line for line in source.splitlines() if not line.startswith(_UNNEEDED))
    module = types.ModuleType("k_diffusion_sampling")
    module.__dict__["utils"] = types.SimpleNamespace(append_dims=lambda x, n: x[(..., *[None] * (n - x.ndim))])
    exec(compile(source, "k_diffusion/sampling.py", "exec"), module.__dict__)
    low, high = target.ladder[0].item(), target.ladder[-1].item()
    grids = {
        "karras": lambda n: module.get_sigmas_karras(n, low, high),
        "exponential": lambda n: module.get_sigmas_exponential(n, low, high),
    }

    def model(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        return target.denoise(x, sigma[0].item())

    def run_with(name: str, sigmas: Callable[[int], Tensor], evaluations: int) -> Callable[[int], Tensor]:
        def run(count: int) -> Tensor:
            steps = max(count // evaluations + count % evaluations, 2)
            return getattr(module, name)(model, target.start / target.first.alpha, sigmas(steps).double(), disable=True)

        return run

    methods = (("euler", 1), ("heun", 2), ("dpm_2", 2), ("dpmpp_2m", 1), ("lms", 1))
    return {
        f"k-diffusion {name} {grid_name}": run_with(f"sample_{name}", sigmas, evaluations)
        for name, evaluations in methods
        for grid_name, sigmas in grids.items()
    }


def azula_contestants(target: Target) -> dict[str, Callable[[int], Tensor]]:
    """Samplers of azula on its own clock, log sigma even in time."""
    import azula.denoise
    import azula.noise
    import azula.sample

    first, last = target.ladder[0].log().item(), target.ladder[-1].log().item()

    class Ladder(azula.noise.Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones_like(t), torch.exp(first + (last - first) * t)

    class Exact(azula.denoise.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = Ladder()

        def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> object:
            _, sigma = self.schedule(t)
            return azula.denoise.DiracPosterior(mean=target.denoise(x, sigma.item()))

    def run_with(kind: type, evaluations: int) -> Callable[[int], Tensor]:
        def run(count: int) -> Tensor:
            sampler = kind(Exact(), steps=count // evaluations, silent=True, dtype=torch.float64)
            return sampler(target.start / target.first.alpha)

        return run

    names = ("DDIM", "Euler", "Heun", "zAB", "vAB", "zEAB", "xEAB", "REAB")
    kinds = {name: getattr(azula.sample, f"{name}Sampler", None) for name in names}
    return {
        f"azula {name}": run_with(kind, 2 if name == "Heun" else 1) for name, kind in kinds.items() if kind is not None
    }


# --------------------------------------------------------------------------------------------------------------------


def build_target(options: argparse.Namespace) -> Target:
    """Digits as centres of a kernel density, in [-1, 1]."""
    if options.target == "mnist":
        import torchvision

        pixels = torchvision.datasets.MNIST(options.root, download=False).data[:1000].double() / 127.5 - 1
        std = 0.1
    else:
        from sklearn.datasets import load_digits

        pixels = torch.from_numpy(load_digits().data[:1000]).double() / 8 - 1
        std = 0.15
    return Target(pixels.flatten(1), std, SCHEDULES[options.schedule](), f"{options.target}, {options.schedule}")


def scaled_linear() -> Betas:
    """The betas of latent diffusion: their roots are even, from those of 0.00085 to 0.012."""
    return Betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


SCHEDULES = {"ddpm": ddpm, "iddpm-cosine": iddpm_cosine, "scaled-linear": scaled_linear}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with MNIST in torchvision's layout")
    parser.add_argument("--target", choices=("mnist", "digits"), default="mnist")
    parser.add_argument("--schedule", choices=tuple(SCHEDULES), default="ddpm")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--install-peers", action="store_true")
    options = parser.parse_args()
    if options.target == "mnist" and options.root is None:
        parser.error("--root is missing (or --target digits)")
    if options.install_peers:
        pip = [sys.executable, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "diffusers"], check=True)
        subprocess.run([*pip, "--no-deps", "azula", "k-diffusion"], check=True)
    torch.set_default_dtype(torch.float64)
    started = time.perf_counter()
    target = build_target(options)
    rows: dict[str, Row] = {}

    def enter(name: str, row: Row) -> None:
        rows[name] = row
        shown = "  ".join(f"{n}: {e:.6f}" + (f" ({c})" if c != n else "") for n, (c, e) in row.items())
        print(f"{name:34}{shown}", flush=True)

    print(f"{target.name}: flow solved in {time.perf_counter() - started:.0f} s")
    for library in (diffusers_contestants, k_diffusion_contestants, azula_contestants):
        try:
            contestants = library(target)
        except (ImportError, AssertionError) as missing:
            print(f"left out: {library.__name__} ({missing})")
            continue
        for name, run in contestants.items():
            enter(name, measure(target, run, options.counts))
    peers = dict(rows)
    for name, step in (("ddim", ddim()), ("dpmpp-2m", dpmpp_2m()), ("unipc", adams(3, 4, "log-snr", ending=1))):
        for grid_name in GRIDS:
            spread = lambda n, g=grid_name: grid(g, target.schedule, n)  # noqa: E731
            enter(f"diffcore {name} {grid_name}", measure(target, ours(target, step, spread), options.counts))
    default = ours(target, adams(), lambda n: grid("tapered", target.schedule, n))
    enter("diffcore default", measure(target, default, options.counts))
    notes: dict[int, dict[str, object]] = {}
    enter("diffcore tuned", tuned(target, options.counts, options.iterations, notes))

    best = {}
    print(f"{'evaluations':>12}{'best peer':>12}{'default':>12}{'ratio':>8}{'tuned':>12}{'ratio':>8}")
    for n in options.counts:
        reached = [(row[n][1], name) for name, row in peers.items() if n in row and row[n][0] <= n]
        best[n] = min((entry for entry in reached if math.isfinite(entry[0])), default=(math.nan, "none"))
        first, second = (rows[f"diffcore {kind}"][n][1] for kind in ("default", "tuned"))
        peer, name = best[n]
        print(f"{n:12}{peer:12.6f}{first:12.6f}{first / peer:8.3f}{second:12.6f}{second / peer:8.3f}  {name}")
    if options.json:
        result = {"target": target.name, "best_peer": best, "all": rows, "tuned": notes}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
