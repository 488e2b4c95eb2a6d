"""How different images are."""

import torch
from torch import Tensor

from diffcore_image.codec import ImageCodec


class PixelDistance:
    """The root mean square of the differences of pixels of uint8 images `[n, C, H, W]`, from 0 to 255."""

    words = "RMS of pixel values, 0 to 255"
    most = 100_000

    def __init__(self, codec: ImageCodec) -> None:
        self._numbers = codec.facts.channels * codec.facts.height * codec.facts.width

    def __call__(self, samples: Tensor, others: Tensor) -> Tensor:
        """The distances `[n, m]`."""
        rows, columns = samples.flatten(1).double(), others.flatten(1).double()
        return torch.cdist(rows, columns) / self._numbers**0.5
