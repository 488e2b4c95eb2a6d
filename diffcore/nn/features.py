"""Features of grids, for metrics that compare distributions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_SIDE = 32


class GridFeatures(nn.Module):
    """A convolutional network from grids `[B, C, H, W]`, with values in about [-0.5, 0.5], to features `[B, 64]`.

    It has three convolutions. Grids with a side longer than 32 are first averaged down to 32.
    """

    size = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(128 * 16, self.size),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(averaged(x))


def averaged(x: Tensor, side: int = _SIDE) -> Tensor:
    """The grids `[B, C, H, W]`, with sides longer than `side` reduced to `side` by block means."""
    height, width = x.shape[2:]
    if max(height, width) <= side:
        return x
    return functional.adaptive_avg_pool2d(x, (min(height, side), min(width, side)))


def flat(x: Tensor) -> Tensor:
    """The averaged grids as vectors `[B, d]`."""
    return torch.flatten(averaged(x), 1)
