"""Attention to the tokens of conditions, such as the words of a text."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Tokens
from diffcore.nn.blocks import zeroed
from diffcore.states.spaces import Mask


class CrossAttention(nn.Module):
    """Multi-head attention of tokens `[B, N, width]` to the tokens of a context `[B, M, context]`.

    Queries, keys and values have `inner` channels; the cost is (N width + M context + N M) inner.
    """

    def __init__(self, width: int, context: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, inner)
        self.keys_and_values = nn.Linear(context, 2 * inner)
        self.output = nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor, mask: Mask = None) -> Tensor:
        """`x` `[B, N, width]` to the same shape. Context tokens whose `mask` `[B, M]` is False are not attended to."""
        batch, tokens, _ = x.shape
        q = self.queries(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
        k, v = self.keys_and_values(context).view(batch, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=None if mask is None else mask[:, None, None, :]
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class TokenAttention(nn.Module):
    """x + A(LN(x), tokens), where the output of the attention A is initialised to zero.

    `x` is `[B, N, width]`, or a grid `[B, width, H, W]`, whose pixels attend to the tokens. Chen et al. 2023
    (PixArt-alpha), section 2.3.
    """

    def __init__(self, width: int, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, channels, width, heads)
        zeroed(self.attention.output)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """`x` and tokens of `channels` channels to the shape of `x`."""
        h = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        mixed = self.attention(functional.layer_norm(h, h.shape[-1:]), tokens.values, tokens.mask)
        return x + (mixed.transpose(1, 2).reshape(x.shape) if x.ndim == 4 else mixed)


class TokenLayers(nn.Module):
    """A `TokenAttention` for each block of a network, or no layers at all if the network takes no tokens.

    Networks create it after all their other layers, so the initial values of these do not depend on it.

    * `channels`: the channels of the tokens; 0 for no layers.
    * `widths`: the channels of each block.
    * `heads`: the number of heads of each layer; without it, heads of 32 channels, or more if 32 does not divide them.
    """

    def __init__(self, channels: int, widths: Sequence[int], heads: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TokenAttention(width, channels, heads or heads_of(width)) for width in (widths if channels else ())
        )

    def forward(self, number: int, x: Tensor, tokens: Tokens | None) -> Tensor:
        """`x` after layer `number`; unchanged if there are no tokens."""
        return x if tokens is None else self.layers[number](x, tokens)


def heads_of(channels: int) -> int:
    """The number of heads of 32 channels, or of more if 32 does not divide the channels."""
    return max(heads for heads in range(1, max(channels // 32, 1) + 1) if channels % heads == 0)
