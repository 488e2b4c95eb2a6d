"""Embeddings of the log-SNR and of conditions into one vector a sample."""

import math

import torch
from torch import Tensor, nn

from diffcore.conditions import Condition, Conditions

LOG_SNR_LIMIT = 20.0
"""Log-SNRs beyond this are told to the network as this; there the state is all signal or all noise."""


class LogSnrFeatures(nn.Module):
    """Fourier features sin(f_k lambda), cos(f_k lambda) of the log-SNR, `[B]` to `[B, size]`.

    The frequencies run geometrically from 0.05, which changes little over the whole range of lambda, to 5.
    """

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.frequencies: Tensor
        frequencies = torch.exp(torch.linspace(math.log(0.05), math.log(5.0), size // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        angles = log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Conditioning(nn.Module):
    """c = SiLU(MLP(features(lambda)) + sum over conditions of their embeddings), `[B, width]`.

    Each condition has its own table of unit-variance rows, one of them for the null value.
    """

    def __init__(self, conditions: tuple[Condition, ...], width: int, features: int = 64) -> None:
        super().__init__()
        self.noise = nn.Sequential(
            LogSnrFeatures(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.embeddings = nn.ModuleDict(
            {condition.name: nn.Embedding(len(condition.classes) + 1, width) for condition in conditions}
        )

    def forward(self, log_snr: Tensor, conditions: Conditions) -> Tensor:
        embedded = self.noise(log_snr)
        for name, table in self.embeddings.items():
            embedded = embedded + table(conditions[name])
        return nn.functional.silu(embedded)
