"""Where does the time of a training step go? Images a second of the networks, and of what could make them faster.

Each variant takes training steps (forward, backward, clipping, Adam, moving average) on random 32x32 images in this
one process, in turn, several rounds; the medians and the ratio to the first variant are printed.

    python tests/benchmarks/image_networks.py [--threads 2] [--rounds 5] [--compile] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from diffcore.nn.blocks import ChannelNorm
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.training import averages as ema

BATCH = 64
DEFAULT = {"width": 32, "multipliers": (1, 2, 4), "patch": 2}


def group_norms(network: nn.Module) -> nn.Module:
    """The network with group normalisation in place of channel normalisation."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChannelNorm):
                setattr(module, name, nn.GroupNorm(8, len(child.weight)))
    return network


class Variant:
    """A network with its optimiser, ready to take steps."""

    def __init__(self, network: nn.Module, bf16: bool = False, fused: bool = True, one_by_one: bool = False) -> None:
        self.network, self.bf16, self.one_by_one = network, bf16, one_by_one
        self.weights = list(network.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.Adam(self.weights, 1e-3, fused=fused, foreach=False if not fused else None)
        self.x, self.c = torch.randn(BATCH, 1, 32, 32), torch.randn(BATCH, int(network.width))

    def step(self) -> None:
        """One training step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.network(self.x, self.c).float().square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        if self.one_by_one:
            with torch.no_grad():
                for average, weight in zip(self.average, self.weights, strict=True):
                    average.mul_(0.999).add_(weight, alpha=0.001)
        else:
            ema.update(self.average, self.weights, 0.999)

    def seconds(self, steps: int = 8) -> float:
        """Median seconds of a step."""
        times = []
        for _ in range(steps):
            started = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - started)
        return statistics.median(times)


def compiled() -> nn.Module:
    """The default network through torch.compile."""
    network = UNet(1, **DEFAULT)
    fast = torch.compile(network)
    fast.width = network.width
    return fast


VARIANTS: dict[str, Callable[[], Variant]] = {
    "U-Net 32-64-128, patch 2 (default)": lambda: Variant(UNet(1, **DEFAULT)),
    "the same, bf16": lambda: Variant(UNet(1, **DEFAULT), bf16=True),
    "the same, group normalisation": lambda: Variant(group_norms(UNet(1, **DEFAULT))),
    "the same, Adam and average tensor by tensor": lambda: Variant(UNet(1, **DEFAULT), fused=False, one_by_one=True),
    "U-Net 32-64-128, patch 1": lambda: Variant(UNet(1, 32, (1, 2, 4), patch=1)),
    "U-Net 64-128, patch 4": lambda: Variant(UNet(1, 64, (1, 2), patch=4)),
    "DiT 192 x 6, patch 4": lambda: Variant(DiT(1, (32, 32), 4, 192, 6, 6)),
    "DiT 128 x 4, patch 4": lambda: Variant(DiT(1, (32, 32), 4, 128, 4, 4)),
}


def main() -> None:
    """Measure in rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compile", action="store_true", help="with torch.compile too; takes a minute and a C++ compiler"
    )
    parser.add_argument("--json", help="write the metrics there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    variants = {name: make() for name, make in VARIANTS.items()}
    if options.compile:
        variants["the default, torch.compile"] = Variant(compiled())
    for variant in variants.values():
        variant.seconds(2)
    rounds = [{name: variant.seconds() for name, variant in variants.items()} for _ in range(options.rounds)]
    first = next(iter(variants))
    results = {}
    print(f"{'':45}{'M parameters':>14}{'images/s':>10}{'ratio':>8}")
    for name, variant in variants.items():
        rate = statistics.median(BATCH / row[name] for row in rounds)
        ratio = statistics.median(row[first] / row[name] for row in rounds)
        parameters = sum(weight.numel() for weight in variant.weights)
        results[name] = {"parameters": parameters, "images_per_second": rate, "ratio": ratio}
        print(f"{name:45}{parameters / 1e6:14.2f}{rate:10.0f}{ratio:8.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
