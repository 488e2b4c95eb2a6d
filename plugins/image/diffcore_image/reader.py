"""Pictures of the user's own, as states: to be completed or enlarged."""

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
    """Files to the states of a codec. Sizes are said as width x height."""

    def __init__(self, codec: ImageCodec) -> None:
        self.codec = codec

    @property
    def _size(self) -> tuple[int, int]:
        return self.codec.facts.width, self.codec.facts.height

    def read(self, path: Path) -> Tensor:
        """A picture of the model's size, `[1, C, H, W]`; colours become grey for a model of grey pictures."""
        return self._encode(_open(path, _MODES[self.codec.facts.channels], self._size, "the picture"))

    def read_missing(self, path: Path) -> Tensor:
        """A picture of the model's size, white (from half grey on) where the sample is to be filled in."""
        white = torch.from_numpy(_open(path, "L", self._size, "the mask")) >= 128
        return white.expand(1, self.codec.facts.channels, *white.shape)

    def read_coarse(self, path: Path) -> tuple[Tensor, int]:
        """A smaller picture, and how many times its sides go into the model's.

        Encoding is affine in each channel, so means of encoded pixels are the encoded means.
        """
        pixels = _open(path, _MODES[self.codec.facts.channels])
        height, width = pixels.shape[:2]
        factors = {self._size[0] / width, self._size[1] / height}
        factor = factors.pop()
        if factors or factor != int(factor) or factor == 1:
            raise UserError(
                f"{path}: {width}x{height} pixels; the model's {_by(self._size)} must be a whole multiple of it, "
                f"at least twice, the same in both directions"
            )
        return self._encode(pixels), int(factor)

    def _encode(self, pixels: numpy.ndarray) -> Tensor:
        height, width = pixels.shape[:2]
        batch = torch.from_numpy(pixels.reshape(1, height, width, -1)).permute(0, 3, 1, 2)
        nothing = torch.zeros(1, dtype=torch.int64)
        encoded = self.codec.encode(TensorDict({"pixels": batch, "label": nothing}, batch_size=[1])).state
        assert isinstance(encoded, Tensor)
        return encoded


def _open(path: Path, mode: str, size: tuple[int, int] | None = None, what: str = "") -> numpy.ndarray:
    """The pixels of a file, uint8 `[H, W]` or `[H, W, C]`."""
    try:
        with Image.open(path) as image:
            pixels = numpy.array(image.convert(mode))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture that can be read") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    found = (pixels.shape[1], pixels.shape[0])
    if size is not None and found != size:
        raise UserError(f"{path}: {what} has {_by(found)} pixels; this model needs {_by(size)}")
    return pixels


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
