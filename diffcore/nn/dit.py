"""The diffusion transformer (DiT) on the patches of a grid."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Tokens
from diffcore.nn.attention import TokenLayers
from diffcore.nn.beside import BesideState
from diffcore.nn.blocks import accepted, patches, unfold, with_variance, with_waves, zeroed
from diffcore.states.spaces import Mask


class Attention(nn.Module):
    """Multi-head self-attention of tokens `[B, N, width]`.

    Tokens whose `mask` `[B, N]` is False are not attended to. `bias` `[B, heads, N, N]` is added to the logits.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Mask = None, bias: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.inputs(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        allowed = None if mask is None else mask[:, None, None, :]
        if bias is not None:
            allowed = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, width))


class TransformerBlock(nn.Module):
    """Attention and MLP, with shift, scale and gate from the conditioning (adaLN-Zero).

    x <- x + g1 Attention(LN(x) (1 + s1) + b1); x <- x + g2 MLP(LN(x) (1 + s2) + b2), where g, s and b are linear
    functions of the conditioning `[B, conditioning]`, initialised to zero. Peebles & Xie 2023, section 3.2.
    """

    def __init__(self, width: int, heads: int, conditioning: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.modulation = zeroed(nn.Linear(conditioning, 6 * width))
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None, bias: Tensor | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(conditioning)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(modulated(x, shift1, scale1), mask, bias)
        return x + gate2 * self.mlp(modulated(x, shift2, scale2))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift over the last axis."""
    return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def grid_positions(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of the places of a grid, `[height width, channels]`, row by row.

    The channels are sin(w_k r), cos(w_k r), sin(w_k c) and cos(w_k c) of the row r and the column c, a quarter of them
    each, with w_k = 100^(-k / n), k = 0 to n - 1, where n is that quarter, rounded down; channels that remain are zero.
    This is the encoding of Vaswani et al. 2017, section 3.5, for both axes, as in Peebles & Xie 2023 (DiT), section
    3.2, with 100 in place of 10,000, since grids of patches are small.
    """
    count = channels // 4
    frequency = 100.0 ** (-torch.arange(count) / max(count, 1))
    rows, columns = (torch.arange(side)[:, None] * frequency for side in (height, width))
    rows, columns = rows.repeat_interleave(width, 0), columns.repeat(height, 1)
    waves = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], 1)
    return functional.pad(waves, (0, channels - 4 * count))


class DiT(nn.Module):
    """A transformer over the patches of a grid `[B, channels, height, width]`, with learned position embeddings.

    The embeddings of positions begin as `grid_positions`, which say from the start which patches are neighbours.

    `size` is (height, width); both must be multiples of `patch`. With `learned_variance` it returns a pair, the output
    and the variance fractions.

    With `tokens` channels of tokens, the patches attend to the tokens after each block. `like_state` is the number of
    channels beside those of the state; a linear layer adds their patches to the embedding. Both begin as zero, so the
    network is at first the one without them. With `octaves`, the first layer also receives the Fourier features of the
    state (`with_waves`).
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        learned_variance: bool = False,
        octaves: int = 0,
        tokens: int = 0,
        like_state: int = 0,
    ) -> None:
        super().__init__()
        self.width = width
        self.any_size = False  # the embeddings of positions are those of one grid
        self.accepts = accepted(tokens=tokens, like_state=like_state)
        self.learned_variance = learned_variance
        self.patch, self.octaves = patch, octaves
        self.embed = nn.Linear((1 + 2 * octaves) * channels * patch**2, width)
        self.positions = nn.Parameter(grid_positions(size[0] // patch, size[1] // patch, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, width, mlp_ratio) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        outputs = 2 * channels if learned_variance else channels
        self.output = zeroed(nn.Linear(width, outputs * patch**2))
        first = partial(nn.Linear, out_features=width, bias=False)
        self.beside = BesideState(like_state * patch**2, first, partial(patches, patch=patch))
        self.attend = TokenLayers(tokens, [width] * depth, heads)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        like_state: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`x` `[B, C, H, W]` and `conditioning` `[B, width]` to the shape of `x`. `mask` is ignored.

        `tokens` and `like_state` `[B, channels, H, W]` have the channels that the network was made with.
        """
        embedded = self.embed(patches(with_waves(x, self.octaves), self.patch))
        h = self.beside(embedded + self.positions, like_state)
        for number, block in enumerate(self.blocks):
            h = self.attend(number, block(h, conditioning), tokens)
        shift, scale = self.modulation(conditioning)[:, None].chunk(2, dim=-1)
        channels = self.output(modulated(h, shift, scale)).transpose(1, 2)
        grid = [side // self.patch for side in x.shape[2:]]
        output = unfold(channels.reshape(x.shape[0], -1, *grid), self.patch)
        return with_variance(output) if self.learned_variance else output
