"""Random numbers for tests."""

import torch


def draw(*shape, seed=0):
    """Standard normal numbers of `shape`, in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
