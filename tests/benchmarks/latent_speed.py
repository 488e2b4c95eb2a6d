"""How much faster are samples in latents than in pixels, with U-Nets of the same width?

Prints the samples per second of processor time for images of 64x64, 20 evaluations each: a U-Net that folds patches of
4 into channels, and one on latents of 8x8x8 together with their decoding. Weights do not matter, so none are trained.

    python tests/benchmarks/latent_speed.py
"""

import time
from collections.abc import Callable

import torch

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
def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    pixels, latents = UNet(3, 64, (1, 2), patch=4).eval(), UNet(8, 64, (1, 2), patch=1).eval()
    autoencoder = GridAutoencoder(3, (64, 64), factor=8, latent=8).eval()
    conditioning, x, z = torch.zeros(BATCH, pixels.width), torch.randn(BATCH, 3, 64, 64), torch.randn(BATCH, 8, 8, 8)
    slow = STEPS * seconds(lambda: pixels(x, conditioning))
    fast = STEPS * seconds(lambda: latents(z, conditioning)) + seconds(lambda: autoencoder.decode(z))
    print(
        f"pixels  {BATCH / slow:6.1f} samples/s\nlatents {BATCH / fast:6.1f} samples/s, {slow / fast:.1f} times as many"
    )


if __name__ == "__main__":
    main()
