"""Reads image files as states, for inpainting and upscaling."""

from pathlib import Path

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError
from diffcore_image.codec import ImageCodec

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageReader:
    """Reads image files as states of a codec. Messages give sizes as width x height."""

    def __init__(self, codec: ImageCodec) -> None:
        self.codec = codec

    @property
    def _size(self) -> tuple[int, int]:
        return self.codec.facts.width, self.codec.facts.height

    def read(self, path: Path) -> Tensor:
        """Encode an image of the model's size, `[1, C, H, W]`. For a model of grey images, colours become grey."""
        return self._encode(_pixels(path, _MODES[self.codec.facts.channels], self._size, "the image"))

    def read_missing(self, path: Path) -> Tensor:
        """Read a mask of the model's size, bool `[1, C, H, W]`: True (to be filled in) where grey is 128 or more."""
        white = torch.from_numpy(_pixels(path, "L", self._size, "the mask")) >= 128
        return white.expand(1, self.codec.facts.channels, *white.shape)

    def read_coarse(self, path: Path) -> tuple[Tensor, int]:
        """Encode a smaller image, and return also the factor by which the sides of the model's images are larger.

        Encoding is affine in each channel, so the mean of encoded pixels is the encoded mean of the pixels.
        """
        pixels = _pixels(path, _MODES[self.codec.facts.channels])
        height, width = pixels.shape[:2]
        factors = {self._size[0] / width, self._size[1] / height}
        factor = factors.pop()
        if factors or factor != int(factor) or factor == 1:
            raise UserError(
                f"{path} has {width}x{height} pixels; the model's {_format(self._size)} must be the same whole "
                f"multiple, 2 or more, of both sides"
            )
        return self._encode(pixels), int(factor)

    def _encode(self, pixels: numpy.ndarray) -> Tensor:
        height, width = pixels.shape[:2]
        batch = torch.from_numpy(pixels.reshape(1, height, width, -1)).permute(0, 3, 1, 2)
        label = torch.zeros(1, dtype=torch.int64)  # the codec expects one; it is not used
        encoded = self.codec.encode(TensorDict({"pixels": batch, "label": label}, batch_size=[1])).state
        assert isinstance(encoded, Tensor)
        return encoded


def _pixels(path: Path, mode: str, size: tuple[int, int] | None = None, role: str = "") -> numpy.ndarray:
    """The pixels of a file, uint8 `[H, W]` or `[H, W, C]`; raises `UserError` unless they have the `size`, if given."""
    try:
        with Image.open(path) as image:
            pixels = numpy.array(image.convert(mode))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image in a format that can be read") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    found = (pixels.shape[1], pixels.shape[0])
    if size is not None and found != size:
        raise UserError(f"{path}: {role} has {_format(found)} pixels; this model needs {_format(size)}")
    return pixels


def _format(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
