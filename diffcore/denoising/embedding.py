"""Embeddings of the log-SNR and of the conditions: a vector for each sample, and tokens and channels where given."""

import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition, Conditions
from diffcore.denoising.embedded_once import embedded
from diffcore.denoising.inputs import Embedded, Tokens, join, require_embedded, together
from diffcore.errors import UserError
from diffcore.names import names_in

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
    """c = SiLU(MLP(features(lambda)) + sum over conditions of their vectors), `[B, width]`, with tokens and channels.

    The tokens of all conditions follow each other, after a learned one that always exists: so a query always has
    something to attend to, also where nothing is given.

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
        level_fields: str | Sequence[str] = (),
    ) -> None:
        super().__init__()
        level_fields = self.level_fields = names_in(level_fields)

        def noise() -> nn.Module:
            return nn.Sequential(
                LogSnrFeatures(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width)
            )

        self.noise = nn.ModuleDict({module_key(n): noise() for n in level_fields}) if level_fields else noise()
        self.names = tuple(condition.name for condition in conditions)
        if repeated := {name for name in self.names if self.names.count(name) > 1}:
            raise ValueError(f"two conditions have the name {sorted(repeated)[0]!r}; conditions need different names")
        self.embeddings = nn.ModuleDict(
            {module_key(condition.name): condition.embedding(width) for condition in conditions}
        )
        self.width = width
        self.inputs = together([condition.inputs for condition in conditions])
        if self.inputs.tokens:
            self.first_token = nn.Parameter(torch.randn(self.inputs.tokens))
        self.shapes = {condition.name: condition.shape for condition in conditions}
        self._announced = [condition.inputs for condition in conditions]

    def forward(self, log_snr: Tensor | Mapping[str, Tensor], conditions: Conditions) -> Embedded:
        """The vector `[B, width]`, the tokens and the channels like the state, of the log-SNR `[B]` and the values.

        The log-SNR may be by field.
        """
        vector, others = self._levels(log_snr), []
        batch, width = vector.shape
        for name, embed, inputs in zip(self.names, self.embeddings.values(), self._announced, strict=True):
            found = require_embedded(name, embedded(embed, conditions[name]), inputs, batch, width)
            if found.vector is not None:
                vector = vector + found.vector
            others.append(found)
        if self.inputs.tokens:
            first = self.first_token.expand(batch, 1, -1)
            exists = torch.ones(batch, 1, dtype=torch.bool, device=first.device)
            others = [Embedded(tokens=Tokens(first, exists)), *others]
        return Embedded(nn.functional.silu(vector), *join(others, self.inputs.tokens, vector.dtype))

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
        return self.noise(log_snr)  # type: ignore[no-any-return]
