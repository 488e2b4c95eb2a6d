"""How much faster are samples in latents than without, with networks of about the same size?

Prints samples per second of processor time, on one thread. Without runs, for images of 64x64 and 20 evaluations each: a
U-Net that folds patches of 4 into channels, and one on latents of 8x8x8 together with their decoding. Weights do not
matter there, so none are trained. With runs, each draws samples as it was trained to draw them.

    python tests/benchmarks/latent_speed.py [RUN RUN ...]
"""

import argparse
import time
from collections.abc import Callable

import torch

import diffcore as dc
from diffcore.nn.grid_autoencoder import GridAutoencoder
from diffcore.nn.unet import UNet

BATCH, STEPS = 16, 20


def seconds(function: Callable[[], object]) -> float:
    """The least processor time of five calls."""
    function()
    found = []
    for _ in range(5):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


@torch.no_grad()
def of_networks() -> dict[str, float]:
    """Samples per second of images, in pixels and in latents."""
    pixels, latents = UNet(3, 64, (1, 2), patch=4).eval(), UNet(8, 64, (1, 2), patch=1).eval()
    autoencoder = GridAutoencoder(3, (64, 64), factor=8, latent=8).eval()
    conditioning, x, z = torch.zeros(BATCH, pixels.width), torch.randn(BATCH, 3, 64, 64), torch.randn(BATCH, 8, 8, 8)
    slow = STEPS * seconds(lambda: pixels(x, conditioning))
    fast = STEPS * seconds(lambda: latents(z, conditioning)) + seconds(lambda: autoencoder.decode(z))
    return {"pixels": BATCH / slow, "latents": BATCH / fast}


def of_run(path: str) -> float:
    """Samples per second of a run."""
    run = dc.load(path, device="cpu")
    return BATCH / seconds(lambda: run.sample(BATCH).decoded)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs to measure in place of the networks of images")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    found = {run: of_run(run) for run in runs} if runs else of_networks()
    first = next(iter(found.values()))
    for name, rate in found.items():
        print(f"{name}: {rate:.2f} samples per second, {rate / first:.2f} times the first")


if __name__ == "__main__":
    main()
