"""Writes samples to PNG files and to the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy
from PIL import Image
from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Captions

_TILE = 48
"""Small images are enlarged on a sheet, by the whole factor that brings their width nearest to so many pixels."""


class ImageWriter:
    """Writes uint8 samples `[B, C, H, W]` as PNG."""

    endings = (".png",)

    def __init__(self, codec: Codec | None = None) -> None:
        """The codec is not used: samples are pixels already."""

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample as a PNG file of the size of the data."""
        paths = [folder / f"{name}.png" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            _image(sample.permute(1, 2, 0).cpu().numpy()).save(path)
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write one PNG file of all samples side by side; small samples are enlarged."""
        sheet(samples, columns).save(path)

    def html(self, samples: Tensor, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """The same sheet as an HTML image with embedded data."""
        buffer = io.BytesIO()
        sheet(samples, columns).save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{len(samples)} samples" src="data:image/png;base64,{encoded}">'


def sheet(samples: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """One image of all samples in rows of `columns`, `gap` pixels apart."""
    factor = max(1, round(_TILE / samples.shape[-1]))
    tiles = samples.permute(0, 2, 3, 1).cpu().numpy().repeat(factor, 1).repeat(factor, 2)
    _, height, width, channels = tiles.shape
    rows = -(-len(tiles) // columns)
    canvas = numpy.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, numpy.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return _image(canvas)


def _image(pixels: numpy.ndarray) -> Image.Image:
    """A Pillow image of `[H, W, C]`; C = 1 is grey."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
