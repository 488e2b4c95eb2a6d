"""Samples to PNG files and to the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy
from PIL import Image
from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Captions

_SMALLEST_TILE = 48
"""Pictures in an overview are enlarged by a whole factor until they are about this large."""


class ImageWriter:
    """uint8 samples `[B, C, H, W]` to PNG."""

    endings = (".png",)

    def __init__(self, codec: Codec | None = None) -> None:
        """Pixels are pixels, whatever the codec."""

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Each sample as a PNG of the data's size."""
        paths = [folder / f"{name}.png" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            _image(sample.permute(1, 2, 0).cpu().numpy()).save(path)
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """All samples side by side, enlarged where they are small."""
        sheet(samples, columns).save(path)

    def html(self, samples: Tensor, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """The sheet as an embedded PNG."""
        buffer = io.BytesIO()
        sheet(samples, columns).save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{len(samples)} samples" src="data:image/png;base64,{encoded}">'


def sheet(samples: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """A sheet of samples in rows of `columns`."""
    factor = max(1, round(_SMALLEST_TILE / samples.shape[-1]))
    tiles = samples.permute(0, 2, 3, 1).cpu().numpy().repeat(factor, 1).repeat(factor, 2)
    _, height, width, channels = tiles.shape
    rows = -(-len(tiles) // columns)
    canvas = numpy.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, numpy.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return _image(canvas)


def _image(pixels: numpy.ndarray) -> Image.Image:
    """`[H, W, 1 or 3]` as a picture."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
