"""Building blocks that networks share."""

import math
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.octaves import octave_waves

Module = TypeVar("Module", bound=nn.Linear | nn.Conv2d)


def accepted(**channels: int) -> tuple[str, ...]:
    """The attribute `accepts` of a network: the names of the inputs that it was made with channels for."""
    return tuple(name for name, count in channels.items() if count)


def zeroed(module: Module) -> Module:
    """`module` with its weights and bias set to zero, so that a residual branch that ends in it starts as zero."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def fold(x: Tensor, patch: int) -> Tensor:
    """`[B, C, H, W]` to `[B, C patch^2, H / patch, W / patch]`: each patch becomes the channels of one pixel."""
    return functional.pixel_unshuffle(x, patch) if patch > 1 else x


def pixels(x: Tensor, patch: int) -> Tensor:
    """`fold(x, patch)` in the channels-last memory format, for convolutions."""
    return fold(x, patch).contiguous(memory_format=torch.channels_last)


def patches(x: Tensor, patch: int) -> Tensor:
    """`[B, C, H, W]` to `[B, H W / patch^2, C patch^2]`: the patches, row by row."""
    return fold(x, patch).flatten(2).transpose(1, 2)


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    return functional.pixel_shuffle(x, patch) if patch > 1 else x


def with_waves(x: Tensor, octaves: int) -> Tensor:
    """The channels of `x` `[B, C, H, W]`, and behind them sin(2^k x) and cos(2^k x) of each, k < `octaves`.

    Where there is little noise, v = (alpha x - x0) / sigma is a small difference that is much enlarged, for which the
    weights of a network would have to be large. With waves that are as short as the noise is small, they need not be.
    Such levels matter for likelihoods, and hardly for the look of samples (Kingma et al. 2021, section 3.4).
    """
    return torch.cat([x, *octave_waves(x, octaves)], dim=1) if octaves else x


SPAN = 64
"""The coarsest blocks of a `DirectPath` have at most so many entries of the grid along each side."""


class DirectPath(nn.Module):
    """A linear path from the input of a network on patches to its output, with a gain for each frequency and level.

    The output for a patch x is D^T diag(g(c)) D x, where D are the cosines of the patch (an orthonormal transform,
    DCT-II along both sides, of each channel) and the gains g(c) are a linear layer of the conditioning vector c, which
    is initialised to zero. The means of patches, frequency zero, are split further, into octaves: the means over blocks
    of 2^k x 2^k patches less those over blocks of 2^(k + 1), for blocks of up to `SPAN` entries, each with a gain of
    its own. These are the frequencies of the Haar transform. Blocks at the end of a grid are those that fit.

    The best linear estimate of v from x = alpha x0 + sigma eps multiplies a frequency of the data with variance s^2 by
    alpha sigma (1 - s^2) / (alpha^2 s^2 + sigma^2). It is large for frequencies that are weak in the data, where almost
    all of x is noise: without this path, a network would have to pass the noise of all entries of a patch through its
    `width` channels, and what it cannot pass stays in samples as grain. It is near -s^2 alpha / sigma for the strongest
    frequencies, such as the brightness of a picture or the loudness of a sound, which are visible in x at levels at
    which nothing else is: an estimate that is some percent too small at each of these levels gives samples that
    are all of medium loudness.
    """

    def __init__(self, channels: int, patch: int, conditioning: int) -> None:
        super().__init__()
        places = (torch.arange(patch, dtype=torch.float64) + 0.5) * math.pi / patch
        cosines = (torch.arange(patch, dtype=torch.float64)[:, None] * places).cos() * (2 / patch) ** 0.5
        cosines[0] /= 2**0.5
        basis = torch.kron(torch.eye(channels, dtype=torch.float64), torch.kron(cosines, cosines))
        self.register_buffer("basis", basis.float(), persistent=False)
        self.channels, self.octaves = channels, max(0, int(math.log2(SPAN / patch)))
        self.gains = zeroed(nn.Linear(conditioning, channels * patch**2))
        self.coarse_gains = zeroed(nn.Linear(conditioning, channels * self.octaves))

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """Folded grids `[B, C patch^2, H, W]` and conditioning vectors `[B, c]` to the shape of the grids."""
        basis = cast(Tensor, self.basis)[:, :, None, None]
        frequencies = functional.conv2d(x, basis)
        gained = frequencies * self.gains(conditioning)[:, :, None, None]
        means = frequencies.unflatten(1, (self.channels, -1))[:, :, 0]
        coarse = self._octaves(means, self.coarse_gains(conditioning).unflatten(1, (self.channels, -1)))
        rest = (0, 0, 0, 0, 0, frequencies.shape[1] // self.channels - 1)
        gained = gained + functional.pad(coarse[:, :, None], rest).flatten(1, 2)
        return functional.conv2d(gained, basis.transpose(0, 1))

    def _octaves(self, means: Tensor, gains: Tensor) -> Tensor:
        """The sum over k of g_k (P_k - P_(k + 1)) applied to `means` `[B, C, H, W]`, with `gains` `[B, C, octaves]`.

        P_k are the means over blocks of 2^k x 2^k, k = 1, 2, ..., spread over the blocks, and beyond the last it is 0.
        """
        changes = gains.diff(dim=2, prepend=torch.zeros_like(gains[:, :, :1]))
        total = torch.zeros_like(means)
        for k in range(self.octaves):
            side = 2 ** (k + 1)
            blocks = functional.avg_pool2d(means, side, ceil_mode=True, count_include_pad=False)
            spread = functional.interpolate(blocks, scale_factor=float(side))[:, :, : means.shape[2], : means.shape[3]]
            total = total + changes[:, :, k, None, None] * spread
        return total


def with_variance(output: Tensor) -> tuple[Tensor, Tensor]:
    """Split `[B, 2 C, ...]` into the predicted output and the variance fractions f = (raw + 1) / 2, `[B, C, ...]` each.

    Nichol & Dhariwal 2021, eq. 15, with their scaling: raw = 0 is half-way between the bounds of the variance.
    """
    predicted, raw = output.chunk(2, dim=1)
    return predicted, (raw + 1) / 2


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel of `[B, C, H, W]`, as in ConvNeXt (Liu et al. 2022).

    In the channels-last memory format the channels of a pixel are contiguous. No statistic is taken over the grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, C, H, W]` to the same shape."""
        pixels = x.permute(0, 2, 3, 1)
        return functional.layer_norm(pixels, (x.shape[1],), self.weight, self.bias).permute(0, 3, 1, 2)
