"""Attention to the tokens of conditions, such as the words of a text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Tokens
from diffcore.nn.blocks import zeroed
from diffcore.states.spaces import Mask


class CrossAttention(nn.Module):
    """Multi-head attention of tokens `[B, N, width]` to the tokens of a context `[B, M, context]`.

    Queries, keys and values have `inner` channels. The output for the token x_n is

        sum_h W_h sum_m softmax_m(q_nh . k_mh / sqrt(d)) v_mh + b,    q_nh = Q_h x_n + c_h,

    over the heads h, of d channels each. It costs 2 N inner (width + M) multiplications besides the keys and values.
    """

    def __init__(self, width: int, context: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, inner)
        self.keys_and_values = nn.Linear(context, 2 * inner)
        self.output = nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor, mask: Mask = None) -> Tensor:
        """`x` `[B, N, width]` to the same shape. Context tokens whose `mask` `[B, M]` is False are not attended to."""
        q = self.queries(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self._keys_and_values(context)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=None if mask is None else mask[:, None, None, :]
        )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _keys_and_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, heads, M, d]`."""
        keys, values = self.keys_and_values(context).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return keys, values

    def is_short(self, tokens: int, context: int) -> bool:
        """Whether `by_context` is faster for N `tokens` and M tokens of `context`: few heads, and N much larger than M.

        Its many small products take about 4/3 of the time of as many multiplications in few large ones.
        """
        inner, width = self.queries.weight.shape
        return 4 * context * width * (inner + tokens * self.heads) < 3 * tokens * inner * (width + context)

    def by_context(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """The same as `forward`, where the matrices of the heads are applied to the context in place of the tokens.

        q_nh . k_mh = x_n . (Q_h^T k_mh) + c_h . k_mh, and W_h sum_m p_m v_mh = sum_m p_m (W_h v_mh). This costs
        2 M width (inner + N heads) multiplications, and the tokens are not split into heads.
        """
        k, v = self._keys_and_values(context)
        _, heads, m, d = k.shape
        k = k * d**-0.5
        keys = torch.einsum("bhmd, hdw -> bhmw", k, self.queries.weight.unflatten(0, (heads, d)))
        values = torch.einsum("bhmd, whd -> bhmw", v, self.output.weight.unflatten(1, (heads, d)))
        absent = ~mask[:, None, None, :]
        values = values.masked_fill(absent.transpose(2, 3), 0.0)  # also where a sample has no context at all
        bias = (k * self.queries.bias.view(heads, 1, d)).sum(3)[:, :, None]
        bias = bias.masked_fill(absent & mask.any(1)[:, None, None, None], float("-inf"))
        logits = torch.baddbmm(bias.flatten(1)[:, None], x, keys.flatten(1, 2).transpose(1, 2))
        weights = logits.unflatten(2, (heads, m)).softmax(-1).flatten(2)
        return torch.baddbmm(self.output.bias, weights, values.flatten(1, 2))


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
        number = h.shape[1]  # a symbol in a program that is exported for any number
        short = isinstance(number, int) and self.attention.is_short(number, tokens.values.shape[1])
        attend = self.attention.by_context if short else self.attention
        mixed = attend(functional.layer_norm(h, h.shape[-1:]), tokens.values, tokens.mask)
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
