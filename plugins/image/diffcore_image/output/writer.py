"""Writes samples to PNG files and to the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffcore.plugins.output import Captions
from diffcore.plugins.text import NAME as PROMPT
from diffcore_image.codec import ImageCodec
from diffcore_image.output.sheet import image_of, sheet
from diffcore_image.scenes.metrics import scene_summary


class ImageWriter:
    """Writes uint8 samples `[B, C, H, W]` as PNG."""

    endings = (".png",)

    def __init__(self, codec: ImageCodec | None = None) -> None:
        """The codec says whether samples are scenes. It is not needed for files, because samples are pixels already."""
        self._scenes = codec is not None and codec.facts.judge == "scenes"

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample as a PNG file of the size of the data."""
        paths = [folder / f"{name}.png" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            image_of(sample).save(path)
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write one PNG file of all samples, in rows of the same class; small samples are enlarged."""
        sheet(samples, columns, captions).save(path)

    def summary(self, samples: Tensor, captions: Captions = ()) -> list[str]:
        """How many pictures show what their prompts ask for, if they are scenes; otherwise nothing."""
        prompts = [caption.get(PROMPT, "") for caption in captions] if self._scenes else []
        return scene_summary(samples, prompts) if any(prompts) else []

    def html(self, samples: Tensor, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """The same sheet as an HTML image with embedded data; with `trajectories`, in the given order."""
        buffer = io.BytesIO()
        sheet(samples, columns, captions, in_order=trajectories).save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{len(samples)} samples" src="data:image/png;base64,{encoded}">'
