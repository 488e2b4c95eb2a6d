"""Sheets: one image that shows many samples, in rows of the same class with the name of the class above."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw
from torch import Tensor

from diffcore.plugins.output import Captions
from diffcore_image.output.captions import fitted

_SEEN = 64
"""Smaller images are enlarged, by the whole factor that brings their width nearest to so many pixels."""
_WIDEST, _HIGHEST = 4096, 8192
"""Width and height of a sheet in pixels, about; larger images are scaled down so that it is kept."""
_GAP, _CAPTION, _TEXT_GREY = 2, 18, 51
"""Pixels between images, height of a caption, and its grey value."""


@dataclass(frozen=True)
class _Row:
    """A row of a sheet: the numbers of its samples, and captions with the column above which they begin."""

    samples: Sequence[int]
    captions: Sequence[tuple[int, str]] = ()


def sheet(samples: Tensor, columns: int, captions: Captions = (), in_order: bool = False) -> Image.Image:
    """One image of all samples, uint8 `[n, C, H, W]`, at most `columns` in a row.

    Samples with the same captions share rows, and their caption is above the first one. With `in_order`, the samples
    are shown in the given order, and each row has the caption of its first sample. Small images are enlarged without
    smoothing.
    """
    texts = [", ".join(caption.values()) for caption in captions] or [""] * len(samples)
    rows = _ordered(texts, columns) if in_order else _grouped(texts, columns)
    wide = max(len(row.samples) for row in rows)
    band = _CAPTION if any(texts) else 0
    size = _size(samples.shape[3], samples.shape[2], wide, len(rows), band)
    step = size[0] + _GAP
    heights = [size[1] + _GAP + (band if row.captions else 0) for row in rows]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[1]]
    canvas = Image.new(mode, (wide * step - _GAP, sum(heights) - _GAP), (255,) * len(mode))
    pen = ImageDraw.Draw(canvas)
    ink = (_TEXT_GREY,) * len(mode.rstrip("A")) + (255,) * mode.endswith("A")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        ends = [*(column for column, _ in row.captions[1:]), wide]
        for (column, text), end in zip(row.captions, ends, strict=False):
            shown, font = fitted(text, (end - column) * step - 2 * _GAP)
            pen.text((column * step + _GAP, top + _GAP), shown, fill=ink, font=font)
        for column, index in enumerate(row.samples):
            canvas.paste(_tile(samples[index], size), (column * step, top + height - _GAP - size[1]))
        top += height
    return canvas


def image_of(sample: Tensor) -> Image.Image:
    """A Pillow image of uint8 pixels `[C, H, W]`: grey, grey with alpha, RGB or RGBA."""
    pixels = sample.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _ordered(texts: Sequence[str], columns: int) -> list[_Row]:
    """Rows in the given order; each has the caption of its first sample."""
    starts = range(0, len(texts), columns)
    return [
        _Row(range(start, min(start + columns, len(texts))), [(0, texts[start])] if texts[start] else [])
        for start in starts
    ]


def _grouped(texts: Sequence[str], columns: int) -> list[_Row]:
    """Rows of samples with the same caption. If nearly all captions differ, each sample has its caption above it."""
    groups: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(text, []).append(index)
    if len(groups) > columns and len(texts) < 2 * len(groups):
        return [
            _Row(row.samples, [(column, texts[index]) for column, index in enumerate(row.samples)])
            for row in _ordered(texts, columns)
        ]
    rows = []
    for text, members in groups.items():
        for start in range(0, len(members), columns):
            rows.append(_Row(members[start : start + columns], [(0, text)] if text and not start else []))
    return rows


def _size(width: int, height: int, columns: int, rows: int, band: int) -> tuple[int, int]:
    """The width and the height at which each image is shown."""
    factor = max(1, round(_SEEN / width))
    across, down = _WIDEST / columns - _GAP, _HIGHEST / rows - _GAP - band
    scale = min(factor, max(across, 1) / width, max(down, 1) / height)
    if scale >= 1:
        scale = int(scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tile(sample: Tensor, size: tuple[int, int]) -> Image.Image:
    image = image_of(sample)
    smaller = size[0] < image.width
    return image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
