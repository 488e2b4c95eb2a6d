"""Sheets: one image that shows many samples, in rows of the same class or with a caption above each."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw
from torch import Tensor

from diffcore.plugins.output import Captions
from diffcore_image.output.captions import Font, fitted

_SEEN, _CAPTIONED = 64, 128
"""Smaller images are enlarged, by the whole factor that brings their width nearest to so many pixels: the second number
counts where each image has a caption of its own, of several words."""
_WIDEST, _HIGHEST = 4096, 8192
"""Width and height of a sheet in pixels, about; larger images are scaled down so that it is kept."""
_GAP, _LINE, _TEXT_GREY, _FRAME_GREY = 2, 14, 51, 204
"""Pixels between images, height of a line of a caption, its grey value, and that of frames around captioned images."""


@dataclass(frozen=True)
class _Row:
    """A row of a sheet: the numbers of its samples, and captions with the column above which they begin."""

    samples: Sequence[int]
    captions: Sequence[tuple[int, str]] = ()


def sheet(samples: Tensor, columns: int, captions: Captions = (), in_order: bool = False) -> Image.Image:
    """One image of all samples, uint8 `[n, C, H, W]`, at most `columns` in a row.

    Samples with the same captions share rows, and their caption is above the first one. With `in_order`, the samples
    are shown in the given order, and each row has the caption of its first sample. If each sample has a caption of its
    own, it has a frame too. Captions are broken into lines. Small images are enlarged without smoothing.
    """
    texts = [", ".join(caption.values()) for caption in captions] or [""] * len(samples)
    rows = _ordered(texts, columns) if in_order else _grouped(texts, columns)
    wide = max(len(row.samples) for row in rows)
    each = any(len(row.captions) > 1 for row in rows)
    seen = _CAPTIONED if each and any(" " in text for text in texts) else _SEEN
    size = _size(samples.shape[3], samples.shape[2], wide, len(rows), _band(1) if any(texts) else 0, seen)
    step = size[0] + _GAP
    written = [_written(row, 1 if each else wide, step) for row in rows]
    bands = [_band(max((len(lines) for _, lines, _ in captions), default=0)) for captions in written]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[1]]
    height = sum(bands) + len(rows) * (size[1] + _GAP) - _GAP
    canvas = Image.new(mode, (wide * step - _GAP, height), (255,) * len(mode))
    pen = ImageDraw.Draw(canvas)
    top = 0
    for row, band, captions_of_row in zip(rows, bands, written, strict=True):
        for left, lines, font in captions_of_row:
            first = top + band - _band(len(lines)) + _GAP
            for number, line in enumerate(lines):
                pen.text((left + _GAP, first + number * _LINE), line, fill=_grey(_TEXT_GREY, mode), font=font)
        top += band
        for column, index in enumerate(row.samples):
            left = column * step
            if each:
                edges = (left - 1, top - 1, left + size[0], top + size[1])
                pen.rectangle(edges, outline=_grey(_FRAME_GREY, mode))
            canvas.paste(_tile(samples[index], size), (left, top))
        top += size[1] + _GAP
    return canvas


def _written(row: _Row, columns: int, step: int) -> list[tuple[int, tuple[str, ...], Font]]:
    """The captions of a row, each over so many columns: the left edge in pixels, the lines, and a font for them."""
    return [(column * step, *fitted(text, columns * step - 2 * _GAP)) for column, text in row.captions]


def _band(lines: int) -> int:
    """The height of a caption of so many lines."""
    return lines * _LINE + 2 * _GAP if lines else 0


def _grey(value: int, mode: str) -> tuple[int, ...]:
    """The ink of a grey value, which is opaque."""
    return (value,) * len(mode.rstrip("A")) + (255,) * mode.endswith("A")


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


def _size(width: int, height: int, columns: int, rows: int, band: int, seen: int) -> tuple[int, int]:
    """The width and the height at which each image is shown."""
    factor = max(1, round(seen / width))
    across, down = _WIDEST / columns - _GAP, _HIGHEST / rows - _GAP - band
    scale = min(factor, max(across, 1) / width, max(down, 1) / height)
    if scale >= 1:
        scale = int(scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tile(sample: Tensor, size: tuple[int, int]) -> Image.Image:
    image = image_of(sample)
    smaller = size[0] < image.width
    return image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
