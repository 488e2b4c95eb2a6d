"""Embeddings of the log-SNR and of the conditions, in one vector for each sample."""

import math
from collections.abc import Mapping
from urllib.parse import quote

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import ClassCondition, Condition, Conditions, ScalarCondition
from diffcore.errors import UserError

LOG_SNR_LIMIT = 20.0
"""Log-SNRs are clamped to [-20, 20] before they are embedded; beyond, the state is all signal or all noise."""


class LogSnrFeatures(nn.Module):
    """Fourier features sin(f_k lambda), cos(f_k lambda) of the log-SNR, `[B]` to `[B, size]`.

    The frequencies are spaced geometrically from 0.05, which changes little over the whole range of lambda, to 5.
    """

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.frequencies: Tensor
        frequencies = torch.exp(torch.linspace(math.log(0.05), math.log(5.0), size // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        angles = log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ScalarEmbedding(nn.Module):
    """The embedding of a scalar condition, `[B]` to `[B, width]`: an MLP of z, sin(f z) and cos(f z).

    z is the standardised value, clamped to [-5, 5]; the frequencies f are spaced geometrically from 0.5 to 8. The null
    value has a learned vector.
    """

    def __init__(self, condition: ScalarCondition, width: int, features: int = 16) -> None:
        super().__init__()
        self.condition = condition
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(-1, 3, features // 2, base=2.0), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(features + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, value: Tensor) -> Tensor:
        given = self.condition.given(value)
        z = self.condition.standardised(value).where(given, 0.0).clamp(-5, 5)[:, None].to(self.null.dtype)
        angles = z * self.frequencies
        return self.mlp(torch.cat([z, angles.sin(), angles.cos()], 1)).where(given[:, None], self.null)


def embedding_of(condition: Condition, width: int) -> nn.Module:
    """The module that embeds a condition's values `[B]`, including null values, as `[B, width]`.

    For a class it is a table of vectors of unit variance, with one for the null value. Raises `TypeError` for other
    kinds of conditions than `ClassCondition` and `ScalarCondition`.
    """
    if isinstance(condition, ClassCondition):
        return nn.Embedding(len(condition.classes) + 1, width)
    if isinstance(condition, ScalarCondition):
        return ScalarEmbedding(condition, width)
    raise TypeError(f"no embedding for conditions of the type {type(condition).__name__}")


_RESERVED = frozenset(dir(nn.ModuleDict()))
"""Names that a module in an `nn.ModuleDict` cannot have, because the dictionary has attributes of these names."""


def module_key(name: str) -> str:
    """The key in an `nn.ModuleDict` for a part that users name; different names have different keys.

    PyTorch accepts no empty keys, no dots and no names of its own attributes, such as `half`, `type` or `training`.
    Names of letters, digits, `_` and `-` are their own keys, unless PyTorch uses them. In others every byte of UTF-8
    that is none of these becomes `%` and two hexadecimal digits, and a `%` is appended.
    """
    escaped = quote(name, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    return name if escaped == name and name and name not in _RESERVED else f"{escaped}%"


class Conditioning(nn.Module):
    """c = SiLU(MLP(features(lambda)) + sum over conditions of their embeddings), `[B, width]`.

    * `level_fields`: the fields of the state if they may have levels of their own. Each has an MLP then, and these are
      added. One log-SNR `[B]` counts for all of them.

    Raises `ValueError` if two conditions have the same name, and, when it is called, `UserError` for log-SNRs by field
    without `level_fields`.
    """

    def __init__(
        self,
        conditions: tuple[Condition, ...],
        width: int,
        features: int = 64,
        level_fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.level_fields = level_fields

        def noise() -> nn.Module:
            return nn.Sequential(
                LogSnrFeatures(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width)
            )

        self.noise = nn.ModuleDict({module_key(n): noise() for n in level_fields}) if level_fields else noise()
        self.names = tuple(condition.name for condition in conditions)
        if repeated := {name for name in self.names if self.names.count(name) > 1}:
            raise ValueError(f"two conditions have the name {sorted(repeated)[0]!r}; conditions need different names")
        self.embeddings = nn.ModuleDict(
            {module_key(condition.name): embedding_of(condition, width) for condition in conditions}
        )

    def forward(self, log_snr: Tensor | Mapping[str, Tensor], conditions: Conditions) -> Tensor:
        embedded = self._levels(log_snr)
        for name, table in zip(self.names, self.embeddings.values(), strict=True):
            embedded = embedded + table(conditions[name])
        return nn.functional.silu(embedded)

    def _levels(self, log_snr: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The embedding of the log-SNR, or the sum of those of all fields."""
        if isinstance(self.noise, nn.ModuleDict):
            own = [log_snr[name] if isinstance(log_snr, Mapping) else log_snr for name in self.level_fields]
            embeddings = [noise(value) for noise, value in zip(self.noise.values(), own, strict=True)]
            return torch.stack(embeddings).sum(0)
        if isinstance(log_snr, Mapping):
            raise UserError(
                "this network is told one noise level, so its fields cannot have levels of their own: train it with "
                "levels by field (`levels.independent` or `levels.shifts`)"
            )
        return self.noise(log_snr)
