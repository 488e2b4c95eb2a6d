"""Writes samples to PNG files and to the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Captions
from diffcore_image.output.sheet import image_of, sheet


class ImageWriter:
    """Writes uint8 samples `[B, C, H, W]` as PNG."""

    endings = (".png",)

    def __init__(self, codec: Codec | None = None) -> None:
        """The codec is not used: samples are pixels already."""

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample as a PNG file of the size of the data."""
        paths = [folder / f"{name}.png" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            image_of(sample).save(path)
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write one PNG file of all samples, in rows of the same class; small samples are enlarged."""
        sheet(samples, columns, captions).save(path)

    def html(self, samples: Tensor, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """The same sheet as an HTML image with embedded data; with `trajectories`, in the given order."""
        buffer = io.BytesIO()
        sheet(samples, columns, captions, in_order=trajectories).save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{len(samples)} samples" src="data:image/png;base64,{encoded}">'
