"""Levels that are fitted to the flow: Sabour et al. 2024, Align your steps; Tong et al. 2025, Learning to discretize.

With few evaluations it matters where they lie, and that depends on the data. Both papers learn it, by objectives of
their own; here levels and the method that goes with them are fitted to the accurate flow of six Gaussians, and followed
from noise that the fitting did not see, beside the levels that a schedule would give.

    python examples/history/2024_fitted_levels.py
"""

from toy import PLANE, Numbers, ring, show

from diffcore.process.schedules import Cosine
from diffcore.sampling.grid_fitting import fit_grid, flow_of, starting_grids
from diffcore.sampling.solvers import adams, ddim
from diffcore.sampling.timesteps import karras, tapered

DATA, SCHEDULE = ring(), Cosine()


def main(iterations: int = 36, trajectories: int = 64, numbers: tuple[int, ...] = (5, 10)) -> Numbers:
    found: Numbers = {}
    seen, held_out, fresh = (
        flow_of(DATA, PLANE, SCHEDULE, indices=range(trajectories), seed=seed) for seed in range(3)
    )
    for n in numbers:
        fitted = fit_grid(seen, held_out, starting_grids(SCHEDULE, n), iterations=iterations)
        for name, step, log_snrs in (
            ("DDIM, levels of Karras et al.", ddim(), karras(SCHEDULE, n)),
            ("default solver, default levels", adams(), tapered(SCHEDULE, n)),
            ("fitted", fitted.method.step(), fitted.log_snrs),
        ):
            found[f"{n} evaluations: median error, {name}"] = fresh.errors(step, log_snrs).median().item(), 0.0
    return found


if __name__ == "__main__":
    show(main())
