"""What does a forward pass of a set of N elements cost? Attention among all of them beside attention through latents.

For each N, in turn: milliseconds of one sample (the least of several rounds) and the floating-point operations of its
matrix products. One costs N^2 in the end, the other N.

    python tests/benchmarks/set_networks.py [--threads 1] [--rounds 3] [--sizes 512 2048 8192 16384] [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffcore.nn.sets import LatentSet, SetTransformer

SetNetwork = LatentSet | SetTransformer
NETWORKS = {
    "transformer 64 x 4": SetTransformer(3, width=64, depth=4),
    "transformer 128 x 6": SetTransformer(3),
    "latent 64, 32 latents": LatentSet(3),
    "latent 64, 128 latents": LatentSet(3, latents=128),
}


def inputs(network: SetNetwork, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A set and its conditioning."""
    return torch.randn(1, n, 3), torch.randn(1, network.width)


def flops(network: SetNetwork, n: int) -> int:
    """Operations of a forward pass: those of a small set, and what N and N^2 add, by differences."""
    few = [_counted(network, 64 * k) for k in (1, 2, 3)]
    first, second = few[1] - few[0], few[2] - 2 * few[1] + few[0]
    steps = n // 64 - 1
    return few[0] + steps * first + steps * (steps - 1) // 2 * second


def _counted(network: SetNetwork, n: int) -> int:
    # The counter does not know the CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(*inputs(network, n))
    return counter.get_total_flops()


def main() -> None:
    """Measure in rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 8192, 16384], help="multiples of 64")
    parser.add_argument("--json", help="write the metrics there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results: dict[str, dict[int, dict[str, float]]] = {name: {} for name in NETWORKS}
    for n in options.sizes:
        for name, network in NETWORKS.items():
            x, conditioning = inputs(network, n)
            times = []
            for _ in range(options.rounds + 1):  # the first warms up
                started = time.perf_counter()
                with torch.no_grad():
                    network(x, conditioning)
                times.append(time.perf_counter() - started)
            results[name][n] = {"ms": 1e3 * min(times[1:]), "gflop": flops(network, n) / 1e9}
    print(f"{'':24}" + "".join(f"{f'N = {n}':>24}" for n in options.sizes))
    for name, row in results.items():
        cells = (f"{cell['ms']:.1f} ms {cell['gflop']:8.2f} GFLOP" for cell in row.values())
        print(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
