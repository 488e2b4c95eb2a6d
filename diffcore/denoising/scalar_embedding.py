"""The embedding of numbers."""

import torch
from torch import Tensor, nn


class ScalarEmbedding(nn.Module):
    """From numbers `[B]` to vectors `[B, width]`: an MLP of z, sin(f z) and cos(f z).

    z = (value - mean) / scale is clamped to [-5, 5]; the frequencies f are spaced geometrically from 0.5 to 8. nan, the
    null value, has a learned vector.
    """

    def __init__(self, mean: float, scale: float, width: int, features: int = 16) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(-1, 3, features // 2, base=2.0), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(features + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, value: Tensor) -> Tensor:
        given = ~value.isnan()
        z = ((value - self.mean) / self.scale).where(given, 0.0).clamp(-5, 5)[:, None].to(self.null.dtype)
        angles = z * self.frequencies
        return self.mlp(torch.cat([z, angles.sin(), angles.cos()], 1)).where(given[:, None], self.null)
