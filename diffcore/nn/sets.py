"""Networks on sets: from `[B, N, channels]` to the same shape, equivariant to permutations, for any N."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Tokens
from diffcore.denoising.octaves import octave_waves
from diffcore.nn.attention import CrossAttention, TokenLayers
from diffcore.nn.beside import BesideState
from diffcore.nn.blocks import accepted, zeroed
from diffcore.nn.dit import TransformerBlock, modulated
from diffcore.states.spaces import Mask


class OctaveFeatures(nn.Module):
    """A linear layer of x, sin(2^k x) and cos(2^k x), k < octaves, from `[B, N, channels]` to `[B, N, width]`.

    The last `plain` channels, such as codes of categories, have no sines and cosines.
    """

    def __init__(self, channels: int, width: int, octaves: int, plain: int = 0) -> None:
        super().__init__()
        self.octaves, self.waving = octaves, channels - plain
        self.linear = nn.Linear(channels + 2 * octaves * self.waving, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x, *octave_waves(x[..., : self.waving], self.octaves)], dim=-1))


class SetTransformer(nn.Module):
    """A transformer whose tokens are the elements, without position embeddings, so that it is equivariant.

    Every element attends to every other, so the cost grows with N^2. It is the network of Point-E (Nichol et al. 2022,
    section 3.2), with adaLN-Zero in place of conditioning tokens.
    """

    def __init__(
        self,
        channels: int,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        octaves: int = 4,
        mlp_ratio: float = 4.0,
        tokens: int = 0,
        like_state: int = 0,
        plain: int = 0,
    ) -> None:
        super().__init__()
        self.width = width
        self.accepts = accepted(tokens=tokens, like_state=like_state)
        self.embed = OctaveFeatures(channels, width, octaves, plain)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, width, mlp_ratio) for _ in range(depth))
        self.output = ModulatedOutput(width, channels, width)
        self.beside = BesideState(like_state, partial(nn.Linear, out_features=width, bias=False))
        self.attend = TokenLayers(tokens, [width] * depth, heads)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        like_state: Tensor | None = None,
    ) -> Tensor:
        """`x` `[B, N, channels]` and `conditioning` `[B, width]` to the shape of `x`; absent elements are arbitrary."""
        h = self.beside(self.embed(x), like_state)
        for number, block in enumerate(self.blocks):
            h = self.attend(number, block(h, conditioning, mask), tokens)
        return self.output(h, conditioning)


class LatentSet(nn.Module):
    """A network whose elements exchange information only through a few latent tokens, so that its cost grows with N.

    In each round the latents attend to the elements, are processed by transformer blocks, and then the elements attend
    to the latents and go through an MLP, each by itself. Attention is a mean, so a network that was trained with one N
    works with another. Sources: Set Transformer for induced attention (Lee et al. 2019, section 3.1), Perceiver IO for
    reading and writing (Jaegle et al. 2022), and RIN for the rounds (Jabri et al. 2023, section 2.2), without its
    latents of the previous sampling step.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        latents: int = 32,
        latent_width: int = 128,
        rounds: int = 2,
        depth: int = 1,
        heads: int = 2,
        octaves: int = 4,
        mlp_ratio: float = 2.0,
        tokens: int = 0,
        like_state: int = 0,
        plain: int = 0,
    ) -> None:
        super().__init__()
        self.width = latent_width
        self.accepts = accepted(tokens=tokens, like_state=like_state)
        self.embed = OctaveFeatures(channels, width, octaves, plain)
        self.latents = nn.Parameter(torch.randn(latents, latent_width))
        self.rounds = nn.ModuleList(
            LatentRound(width, latent_width, latent_width, depth, heads, mlp_ratio) for _ in range(rounds)
        )
        self.output = ModulatedOutput(width, channels, latent_width)
        self.beside = BesideState(like_state, partial(nn.Linear, out_features=width, bias=False))
        self.attend = TokenLayers(tokens, [latent_width] * rounds, heads)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        like_state: Tensor | None = None,
    ) -> Tensor:
        """`x` `[B, N, channels]` and `conditioning` `[B, width]` to the shape of `x`; absent elements are arbitrary.

        In each round the latents attend to the `tokens` before they attend to the elements.
        """
        h, z = self.beside(self.embed(x), like_state), self.latents.expand(x.shape[0], -1, -1)
        for number, exchange in enumerate(self.rounds):
            h, z = exchange(h, self.attend(number, z, tokens), conditioning, mask)
        return self.output(h, conditioning)


class LatentRound(nn.Module):
    """One exchange between the elements h and the latents z of a `LatentSet`.

        z <- blocks(z + g1 A(z', h')),   h <- h + g2 A(h', z'),   h <- h + g3 MLP(h')

    A is attention of the first argument to the second, and ' a layer norm, for queries and the MLP with shift and
    scale. Shifts, scales and gates g are linear in the conditioning. Shifts and scales are initialised to zero and
    gates to one: with gates of zero, training is slow to connect elements and latents.
    """

    def __init__(
        self, width: int, latent_width: int, conditioning: int, depth: int, heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.latent_modulation = open_modulation(conditioning, latent_width, 1)
        self.modulation = open_modulation(conditioning, width, 2)
        self.read = CrossAttention(latent_width, width, width, heads)
        self.blocks = nn.ModuleList(TransformerBlock(latent_width, heads, conditioning) for _ in range(depth))
        self.write = CrossAttention(width, latent_width, width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, z: Tensor, conditioning: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """`h` `[B, N, width]` and `z` `[B, M, latent_width]` to the same shapes."""
        shift, scale, gate = self.latent_modulation(conditioning)[:, None].chunk(3, dim=-1)
        z = z + gate * self.read(modulated(z, shift, scale), normed(h), mask)
        for block in self.blocks:
            z = block(z, conditioning)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(conditioning)[:, None].chunk(6, dim=-1)
        h = h + gate1 * self.write(modulated(h, shift1, scale1), normed(z))
        return h + gate2 * self.mlp(modulated(h, shift2, scale2)), z


class ModulatedOutput(nn.Module):
    """A linear layer of LN(x) (1 + scale) + shift, with scale and shift linear in the conditioning; zero at first."""

    def __init__(self, width: int, outputs: int, conditioning: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(conditioning, 2 * width))
        self.linear = zeroed(nn.Linear(width, outputs))

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """`[B, N, width]` to `[B, N, outputs]`."""
        shift, scale = self.modulation(conditioning)[:, None].chunk(2, dim=-1)
        return self.linear(modulated(x, shift, scale))


def open_modulation(conditioning: int, width: int, steps: int) -> nn.Linear:
    """A linear layer to shift, scale and gate for each of `steps` branches; at first gates are one, the others zero."""
    layer = zeroed(nn.Linear(conditioning, 3 * steps * width))
    with torch.no_grad():
        layer.bias.view(steps, 3, width)[:, 2] = 1
    return layer


def normed(x: Tensor) -> Tensor:
    """LN(x) over the last axis."""
    return functional.layer_norm(x, x.shape[-1:])
