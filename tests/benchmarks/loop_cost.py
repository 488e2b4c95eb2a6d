"""What a sampling step costs beside the network: microseconds a step on one tensor, beside diffusers' scheduler.step.

The denoiser gives a tensor that is ready, so all that is measured is the loop and the solver. Contestants take turns;
printed is the median over rounds. Peak memory is that of processes that take 20 and 200 steps.

    python tests/benchmarks/loop_cost.py [--rounds 15] [--threads 2] [--steps 50]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from diffcore.denoising.denoiser import Prediction, from_x0
from diffcore.process.schedules import Cosine
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import Step, adams, ddim, dpmpp_2m
from diffcore.sampling.timesteps import grid
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from diffcore.states.state import State

SHAPE = (64, 3, 32, 32)
SPACE = Euclidean(SHAPE[1:])
READY = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def network(x: State, level: Level, conditions: object = None, mask: object = None) -> Prediction:
    """A denoiser that costs nothing."""
    return from_x0(READY, x, level)


def ours(step: Step, steps: int) -> Callable[[], None]:
    """A whole trajectory; its start is given, so no noise is drawn."""
    levels = levels_of(Cosine(), grid("tapered", Cosine(), steps))

    def run() -> None:
        sample(network, SPACE, step, levels, indices=range(SHAPE[0]), start=READY)

    return run


def theirs(name: str, steps: int, **options: object) -> Callable[[], None]:
    """The loop of diffusers' documentation with the same ready tensor in place of its network."""
    import diffusers

    scheduler = getattr(diffusers, name)(prediction_type="sample", **options)

    def run() -> None:
        scheduler.set_timesteps(steps)
        x = READY
        for t in scheduler.timesteps:
            x = scheduler.step(READY, t, x).prev_sample

    return run


def main() -> None:
    """Measure in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        ours(adams(), options.peak)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    contestants = {
        "diffcore ddim": ours(ddim(), options.steps),
        "diffcore dpmpp-2m": ours(dpmpp_2m(), options.steps),
        "diffcore unipc": ours(adams(3, 4, "log-snr"), options.steps),
        "diffcore adams (default)": ours(adams(), options.steps),
    }
    try:
        contestants |= {
            "diffusers DDIM": theirs("DDIMScheduler", options.steps, clip_sample=False),
            "diffusers DPM++2M": theirs("DPMSolverMultistepScheduler", options.steps),
            "diffusers UniPC": theirs("UniPCMultistepScheduler", options.steps),
        }
    except ImportError:
        print("left out: diffusers is not installed")
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - started) / options.steps * 1e6)
    for name, times in taken.items():
        print(f"{name:28}{statistics.median(times):8.0f} us a step")
    peaks = []
    for steps in (20, 200):
        command = [sys.executable, __file__, "--peak", str(steps)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"peak memory of a process: {peaks[0]} MiB at 20 steps, {peaks[1]} MiB at 200")


if __name__ == "__main__":
    main()
