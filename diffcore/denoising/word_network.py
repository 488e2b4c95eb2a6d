"""The transformer that turns the words of a text into tokens and a vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.denoising.text import can_be_read, cut_to_longest


class WordNetwork(nn.Module):
    """Tokens and a vector for words, given as ids `[B, L]` from 1 to `count`, with 0 where there is none.

    A learned first token always exists. It and the words, with learned positions, pass through `layers` blocks of
    self-attention and an MLP. The words become the tokens `[B, L, channels]`, and the first token, by a linear map, the
    vector `[B, width]`. So the empty text has a learned vector and no tokens.

    * `length`: the largest L.
    * `heads`: the number of heads of self-attention.
    """

    def __init__(self, count: int, length: int, channels: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count + 1, channels, padding_idx=0)
        self.first = nn.Parameter(torch.randn(channels))
        self.positions = nn.Parameter(0.1 * torch.randn(length, channels))
        self.blocks = nn.ModuleList(_Block(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.vector = nn.Linear(channels, width)

    def forward(self, ids: Tensor) -> Embedded:
        """Ids `[B, L]` to tokens `[B, L', channels]` and a vector; on the CPU, L' is the length of the longest text."""
        ids = cut_to_longest(ids)
        mask = ids > 0
        words = self.table(ids) + self.positions[: ids.shape[1]]
        h = torch.cat([self.first.expand(ids.shape[0], 1, -1), words], 1)
        places = _Places(functional.pad(mask, (1, 0), value=True), packed=can_be_read(ids))
        rows = places.taken(h)
        for block in self.blocks:
            rows = block(rows, places)
        h = places.put(self.norm(rows))
        return Embedded(self.vector(h[:, 0]), Tokens(h[:, 1:], mask))


class _Places:
    """The places `[B, L]` of the words of texts. Layers that act on each word compute those that exist, if `packed`."""

    def __init__(self, exists: Tensor, packed: bool) -> None:
        self.exists = exists
        self.index = exists.flatten().nonzero()[:, 0] if packed else None

    def taken(self, h: Tensor) -> Tensor:
        """`[B, L, channels]` to the rows `[n, channels]` of the words that exist, or of all places."""
        rows = h.flatten(0, 1)
        return rows if self.index is None else rows.index_select(0, self.index)

    def put(self, rows: Tensor) -> Tensor:
        """The inverse of `taken`; where no word exists, it is zero."""
        if self.index is not None:
            rows = rows.new_zeros(self.exists.numel(), rows.shape[1]).index_copy(0, self.index, rows)
        return rows.view(*self.exists.shape, -1)


class _Block(nn.Module):
    """h + attention(norm(h)), then h + MLP(norm(h)), as in GPT-2 (Radford et al. 2019), but not causal."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, h: Tensor, places: _Places) -> Tensor:
        """The rows `[n, channels]` of the words at `places` to the same shape."""
        qkv = places.put(self.qkv(self.norms[0](h)))
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=places.exists[:, None, None, :])
        h = h + self.output(places.taken(mixed.transpose(1, 2).flatten(2)))
        return h + self.mlp(self.norms[1](h))
