"""The autoencoder of images, and how similar its reconstructions are to the originals."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.nn.grid_autoencoder import GridAutoencoder
from diffcore.nn.options import GridAutoencoderOptions
from diffcore.plugins.output import Metric
from diffcore_image.codec import ImageCodec


def autoencoder(options: GridAutoencoderOptions, codec: ImageCodec) -> GridAutoencoder:
    """A `GridAutoencoder` of states of the codec, which may learn to decode mirrored, turned and smaller images."""
    channels, height, width = codec.space.shape
    transforms = ("flip", "turn", "coarsen")
    return GridAutoencoder(channels, (height, width), **options.model_dump(), transforms=transforms)


def fidelity(codec: ImageCodec) -> Callable[[Tensor, Tensor], list[Metric]]:
    """A function of images and their reconstructions, uint8 `[n, C, H, W]`, to the peak signal-to-noise ratio."""
    return _psnr


def _psnr(originals: Tensor, found: Tensor) -> list[Metric]:
    """10 log10(255^2 / mean squared error) of each image, averaged over images; an exact one counts as 100 dB."""
    error = (originals.double() - found.double()).square().flatten(1).mean(1)
    each = (20 * torch.log10(torch.tensor(255.0)) - 10 * error.log10()).clamp(max=100)
    return [Metric("psnr", each.mean().item(), "dB, peak signal-to-noise ratio, larger is better")]
