"""The transformer that turns the words of a text into tokens and a vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Embedded, Tokens


class WordNetwork(nn.Module):
    """Tokens and a vector for words, given as ids `[B, L]` from 1 to `count`, with 0 where there is none.

    A learned first token always exists. It and the words, with learned positions, pass through `layers` blocks of
    self-attention and an MLP. The words become the tokens `[B, L, channels]`, and the first token, by a linear map, the
    vector `[B, width]`. So the empty text has a learned vector and no tokens.

    * `length`: the largest L.
    * `heads`: the number of heads of self-attention.

    Where nothing is trained, the result for each distinct text is computed once and kept until other texts are asked.
    """

    def __init__(self, count: int, length: int, channels: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count + 1, channels, padding_idx=0)
        self.first = nn.Parameter(torch.randn(channels))
        self.positions = nn.Parameter(0.1 * torch.randn(length, channels))
        self.blocks = nn.ModuleList(_Block(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.vector = nn.Linear(channels, width)
        self._kept: tuple[Tensor, tuple[int, ...], Embedded] | None = None

    def forward(self, ids: Tensor) -> Embedded:
        """Ids `[B, L]` to tokens and a vector."""
        if self.training or (torch.is_grad_enabled() and self.first.requires_grad):
            self._kept = None
            return self._encoded(ids)
        state = tuple(version for each in self.parameters() for version in (each.data_ptr(), each._version))
        if self._kept is None or self._kept[1] != state or not torch.equal(self._kept[0], ids):
            self._kept = (ids, state, self._distinct(ids))
        return self._kept[2]

    @torch.no_grad()
    def _distinct(self, ids: Tensor) -> Embedded:
        """The result for each of the distinct texts, repeated for all texts that are equal to it."""
        texts, place = ids.unique(dim=0, return_inverse=True)
        vector, tokens, _ = self._encoded(texts)
        assert vector is not None
        assert tokens is not None
        return Embedded(vector[place], Tokens(tokens.values[place], tokens.mask[place]))

    def _encoded(self, ids: Tensor) -> Embedded:
        if ids.device.type == "cpu":  # elsewhere this would wait for the device
            ids = ids[:, : max(1, int((ids > 0).sum(1).max()) if len(ids) else 1)]
        mask = ids > 0
        words = self.table(ids) + self.positions[: ids.shape[1]]
        h = torch.cat([self.first.expand(len(ids), 1, -1), words], 1)
        exists = functional.pad(mask, (1, 0), value=True)
        for block in self.blocks:
            h = block(h, exists)
        h = self.norm(h)
        return Embedded(self.vector(h[:, 0]), Tokens(h[:, 1:], mask))


class _Block(nn.Module):
    """h + attention(norm(h)), then h + MLP(norm(h)), as in GPT-2 (Radford et al. 2019), but not causal."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, h: Tensor, exists: Tensor) -> Tensor:
        batch, length, channels = h.shape
        q, k, v = self.qkv(self.norms[0](h)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=exists[:, None, None, :])
        h = h + self.output(mixed.transpose(1, 2).reshape(batch, length, channels))
        return h + self.mlp(self.norms[1](h))
