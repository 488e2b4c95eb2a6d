"""The networks of the VAE and of the GAN: images to a vector, and a vector to images, without normalisation.

Both fold blocks of 2 x 2 pixels into channels first, as the U-Net of diffcore's preset `mnist` does.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

Widths = tuple[int, int, int]
"""The channels at 16 x 16, 8 x 8 and 4 x 4 positions."""


def initialised(network: nn.Module) -> None:
    """Set weights to keep the variance of activations (He et al. 2015, without the factor of 2), and biases to zero.

    Without normalisation, the smaller weights that torch begins with would make all outputs alike. The last layers of
    residual blocks stay zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.weight.any():
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)


class Residual(nn.Module):
    """x + two convolutions of 3 x 3, which begin as zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(functional.silu(self.first(functional.silu(x))))


class Reader(nn.Module):
    """Images `[B, 1, 32, 32]` to vectors `[B, hidden]`."""

    def __init__(self, widths: Widths, hidden: int) -> None:
        super().__init__()
        a, b, c = widths
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4, a, 3, padding=1), Residual(a),
            nn.AvgPool2d(2), nn.Conv2d(a, b, 3, padding=1), Residual(b),
            nn.AvgPool2d(2), nn.Conv2d(b, c, 3, padding=1), Residual(c),
            nn.SiLU(), nn.Flatten(), nn.Linear(16 * c, hidden), nn.SiLU(),
        )  # fmt: skip
        initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Painter(nn.Module):
    """Vectors `[B, inputs]` and labels `[B]` to `[B, channels, 32, 32]`."""

    def __init__(self, widths: Widths, inputs: int, channels: int, classes: int = 10, embedded: int = 32) -> None:
        super().__init__()
        a, b, c = widths
        self.label = nn.Embedding(classes, embedded)
        self.first = nn.Linear(inputs + embedded, 16 * c)
        self.body = nn.Sequential(
            nn.Unflatten(1, (c, 4, 4)), Residual(c),
            nn.Conv2d(c, b, 3, padding=1), nn.Upsample(scale_factor=2), Residual(b),
            nn.Conv2d(b, a, 3, padding=1), nn.Upsample(scale_factor=2), Residual(a),
            nn.SiLU(), nn.Conv2d(a, 4 * channels, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        initialised(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.body(self.first(torch.cat([z, self.label(labels)], 1)))
