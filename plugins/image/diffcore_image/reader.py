"""Reads image files as states, for inpainting and upscaling."""

import logging
from pathlib import Path

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.folders import UnusableError
from diffcore_image.codec import ImageCodec
from diffcore_image.pictures import Picture, decode, has_alpha
from diffcore_image.stored import ENDINGS

logger = logging.getLogger(__name__)

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_HALF = 128
"""Grey, and opacity, of at least this value count as white, and as painted."""


class ImageReader:
    """Reads image files as states of a codec. Messages give sizes as width x height."""

    endings = tuple(sorted(ENDINGS))

    def __init__(self, codec: ImageCodec) -> None:
        self.codec = codec

    @property
    def _size(self) -> tuple[int, int]:
        return self.codec.facts.width, self.codec.facts.height

    def read(self, path: Path) -> Tensor:
        """Encode an image of the model's size, `[1, C, H, W]`. For a model of grey images, colours become grey.

        Transparent pixels get the background that the training images got.
        """
        return self._encode(_of_size(self._pixels(path), path, self._size, "the image"))

    def read_samples(self, path: Path) -> Tensor:
        """An image of the model's size, uint8 `[1, C, H, W]`, without encoding. Raises `UserError` for other sizes."""
        return _channels_first(_of_size(self._pixels(path), path, self._size, "the image"))

    def read_missing(self, path: Path) -> Tensor:
        """Read a mask of the model's size, bool `[1, C, H, W]`: True (to be filled in) where grey is 128 or more.

        The transparent part of a mask counts as the opposite of what is painted on it: as black if the paint is white,
        and as white if the paint is black. Raises `UserError` if both are painted.
        """
        white = torch.from_numpy(_of_size(_white(_decoded(path), path), path, self._size, "the mask"))
        return white.expand(1, self.codec.facts.channels, *white.shape)

    def read_coarse(self, path: Path) -> tuple[Tensor, int]:
        """Encode a smaller image, and return also the factor by which the sides of the model's images are larger.

        Encoding is affine in each channel, so the mean of encoded pixels is the encoded mean of the pixels.
        """
        pixels = self._pixels(path)
        height, width = pixels.shape[:2]
        factors = {self._size[0] / width, self._size[1] / height}
        factor = factors.pop()
        if factors or factor != int(factor) or factor == 1:
            raise UserError(
                f"{path} has {width}x{height} pixels; the model's {_format(self._size)} must be the same whole "
                f"multiple, 2 or more, of both sides"
            )
        return self._encode(pixels), int(factor)

    def _pixels(self, path: Path) -> numpy.ndarray:
        """The pixels of a file with the channels of the model, uint8 `[H, W]` or `[H, W, C]`."""
        mode, picture = _MODES[self.codec.facts.channels], _decoded(path)
        if mode in ("L", "RGB"):
            picture = picture.on(self.codec.facts.background)
        if picture.changes:
            logger.info(f"{path}: {', '.join(picture.changes)}")
        return numpy.array(picture.image.convert(mode))

    def _encode(self, pixels: numpy.ndarray) -> Tensor:
        batch = _channels_first(pixels)
        label = torch.zeros(1, dtype=torch.int64)  # the codec expects one; it is not used
        encoded = self.codec.encode(TensorDict({"pixels": batch, "label": label}, batch_size=[1])).state
        assert isinstance(encoded, Tensor)
        return encoded


def _channels_first(pixels: numpy.ndarray) -> Tensor:
    """Pixels `[H, W]` or `[H, W, C]` as a batch of one, `[1, C, H, W]`."""
    height, width = pixels.shape[:2]
    return torch.from_numpy(pixels.reshape(1, height, width, -1)).permute(0, 3, 1, 2)


def _decoded(path: Path) -> Picture:
    try:
        return decode(path)
    except UnusableError as reason:
        raise UserError(f"{path} cannot be read: {reason}") from None


def _white(mask: Picture, path: Path) -> numpy.ndarray:
    """Where a mask is white, bool `[H, W]`."""
    white = numpy.array(mask.image.convert("L")) >= _HALF
    if not has_alpha(mask.image):
        return white
    painted = numpy.array(mask.image.getchannel("A")) >= _HALF
    if painted.all():
        return white
    if white[painted].any() and not white[painted].all():
        raise UserError(
            f"{path}: the mask has white, black and transparent pixels, so it is not clear what is to be filled in; "
            "save it without transparency, white where the sample is to be filled in"
        )
    return painted if white[painted].any() else ~painted


def _of_size(pixels: numpy.ndarray, path: Path, size: tuple[int, int], role: str) -> numpy.ndarray:
    """The pixels, after checking their width and height. Raises `UserError`."""
    found = (pixels.shape[1], pixels.shape[0])
    if found != size:
        raise UserError(f"{path}: {role} has {_format(found)} pixels; this model needs {_format(size)}")
    return pixels


def _format(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
