"""Pictures of several clouds: sheets, strips of views, and animated sheets that rotate."""

import base64
import io
from collections.abc import Sequence
from math import tau
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFont

from diffcore_pointcloud.output.painting import AZIMUTH, POINTS, painted
from diffcore_pointcloud.output.points import Points

LINE_HEIGHT = 16
"""The height of the line of text below a tile, in pixels."""


def sheet(
    shown: Sequence[Points],
    columns: int,
    legends: Sequence[str] = (),
    size: int = 256,
    azimuth: float = AZIMUTH,
    balls: float = POINTS,
) -> Image.Image:
    """A picture of clouds in rows of `columns`, each with its legend below, if there are any.

    `balls` is the size of the balls, as `painted` takes it.
    """
    columns = max(1, min(columns, len(shown)))
    rows, line = max(1, -(-len(shown) // columns)), LINE_HEIGHT if any(legends) else 0
    canvas = Image.new("RGB", (columns * size, rows * (size + line)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(LINE_HEIGHT - 4)
    for k, points in enumerate(shown):
        left, top = k % columns * size, k // columns * (size + line)
        canvas.paste(Image.fromarray(painted(points, size, azimuth, balls=balls)), (left, top))
        if line:
            text = _shortened(legends[k], size, font)
            pen.text((left + size / 2, top + size + line / 2), text, "#444", font, anchor="mm")
    return canvas


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened to `width` pixels if necessary."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def write_animation(
    shown: Sequence[Points], path: Path, columns: int, legends: Sequence[str] = (), size: int = 128, frames: int = 24
) -> None:
    """Write an animated GIF of the sheet whose clouds rotate endlessly, once in 3 seconds.

    In frame k of n, the clouds are rotated by 2 pi k / n about y from the view of the sheet.
    """
    rotated = [sheet(shown, columns, legends, size, AZIMUTH + tau * k / frames) for k in range(frames)]
    first = quantised(rotated[0], 256)
    rest = [picture.quantize(palette=first, dither=Image.Dither.NONE) for picture in rotated[1:]]
    first.save(path, save_all=True, append_images=rest, duration=3000 // frames, loop=0, optimize=False)


def strip(points: Points, views: int = 6, size: int = 80) -> Image.Image:
    """A picture of a cloud from `views` directions all around, side by side."""
    parts = [painted(points, size, AZIMUTH + tau * k / views) for k in range(views)]
    return Image.fromarray(numpy.concatenate(parts, 1))


def quantised(picture: Image.Image, number: int) -> Image.Image:
    """The picture with a palette of `number` colours, one of which is white."""
    palette = picture.quantize(number - 1, Image.Quantize.MEDIANCUT)
    palette.putpalette([*(palette.getpalette() or [])[: 3 * (number - 1)], 255, 255, 255])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def data_url(picture: Image.Image) -> str:
    """The picture as a `data:` URL of a PNG with 64 colours, which is small."""
    buffer = io.BytesIO()
    quantised(picture, 64).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
