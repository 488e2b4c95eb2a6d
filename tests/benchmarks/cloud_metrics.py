"""What comparing sets of clouds costs, and how exact it is.

Printed are seconds of all distances that 1-NNA of n samples against n shapes needs (n^2 between the sets, n (n - 1) / 2
within each), by Chamfer and by exact earth mover's distance, the error of Chamfer in float32, and how much dearer
Sinkhorn's plan is than the exact one.

    python tests/benchmarks/cloud_metrics.py [--threads 2] [--shapes 400] [--points 512] [--exact-shapes 50]
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffcore_pointcloud.evaluation import metrics
from diffcore_pointcloud.geometry.transport import earth_movers, sinkhorn


def shapes(n: int, points: int, seed: int) -> Tensor:
    """Surfaces of ellipsoids of many forms."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.nn.functional.normalize(torch.randn(n, points, 3, generator=generator), dim=2)
    return places * (0.5 + 1.5 * torch.rand(n, 1, 3, generator=generator))


def timed(what: str, run: Callable[[], object]) -> None:
    """Print the seconds that `run` takes, and those of the processor, which another's work makes no longer."""
    started, worked = time.perf_counter(), time.process_time()
    run()
    seconds = time.perf_counter() - started
    print(f"{what}: {seconds:.1f} s ({time.process_time() - worked:.1f} s of the processor)", flush=True)


def all_distances(n: int, points: int, distance: metrics.Distance) -> None:
    """The three matrices of 1-NNA."""
    first, second = shapes(n, points, 0), shapes(n, points, 1)
    metrics.pairwise(first, None, distance)
    metrics.pairwise(first, second, distance)
    metrics.pairwise(second, None, distance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", type=int, default=400)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--exact-shapes", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, points = options.shapes, options.points
    first, second = shapes(n, points, 0), shapes(n, points, 1)
    timed(f"Chamfer, {n} x {n} clouds of {points} points", lambda: metrics.pairwise(first, second))
    timed("Chamfer, all that 1-NNA needs of them", lambda: all_distances(n, points, metrics.chamfer))
    few = options.exact_shapes
    for size in (64, 128, 256):
        timed(
            f"earth mover's, all that 1-NNA needs of {few} + {few} clouds of {size} points",
            lambda size=size: all_distances(few, size, metrics.earth_mover),  # type: ignore[misc]
        )
    some, others = first[:10], second[:10]
    exact = metrics.pairwise(some.double(), others.double())
    for away in (0.0, 10.0):
        error = (metrics.pairwise(some + away, others + away) / exact - 1).abs().max().item()
        print(f"Chamfer in float32, {away:g} from the origin: largest relative error {error:.1e}")
    best = earth_movers(some, others)
    for epsilon in (0.1, 0.01, 0.003):
        started = time.process_time()
        found = sinkhorn(some, others, epsilon)
        seconds = (time.process_time() - started) / len(some)
        dearer = (found / best - 1).mean().item()
        print(f"Sinkhorn, epsilon {epsilon:g}: {dearer:.2%} too dear, {seconds:.2f} s of the processor a pair")


if __name__ == "__main__":
    main()
