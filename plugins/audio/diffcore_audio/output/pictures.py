"""Pictures of sounds: waveforms, and spectrograms in colours."""

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffcore_audio.signals.spectra import log_mel, standardised
from diffcore_audio.signals.waves import finite, peaks, within_full_scale

TILE = (128, 72)
"""Width and height of a spectrogram in pixels."""
CURVE = (-60.0, 0.0)
"""The levels in dB at the bottom and at the top of a spectrogram with a curve of loudness."""
_WAVE_HEIGHT, _CAPTION_HEIGHT, _GAP, _FONT_SIZE = 36, 16, 8, 11
"""Pixels: heights of the waveform and of the caption above it, gap between tiles, and font size."""
_WAVE_COLOUR, _SCALED_COLOUR, _ZERO_LINE_COLOUR, _TEXT_COLOUR = "#2563eb", "#d97706", "#cccccc", "#333333"
"""Colours of waveforms, of those that were scaled down to full scale, of the zero line, and of captions."""
_MAGMA = (
    *((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122)),
    *((229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)),
)
"""The colour map magma of matplotlib at nine positions. Its lightness is linear, so equal steps in dB look equal."""


def _palette() -> list[int]:
    positions = numpy.linspace(0, 255, len(_MAGMA))
    channels = [numpy.interp(numpy.arange(256), positions, part) for part in zip(*_MAGMA, strict=True)]
    return numpy.stack(channels, 1).round().astype(int).ravel().tolist()


_PALETTE = _palette()


def spectrograms(samples: Tensor, rate: int, size: tuple[int, int] = TILE) -> list[Image.Image]:
    """Images of log-mel spectrograms, low frequencies at the bottom: -80 dB is black, 0 dB is nearly white.

    0 dB is about the level of a full-scale sine.
    """
    shades = standardised(log_mel(samples, rate, size[0])) * 255
    levels = shades.round().clamp(0, 255).byte().flip(1).numpy()
    pictures = [Image.fromarray(rows).resize(size, Image.Resampling.BILINEAR) for rows in levels]
    for picture in pictures:
        picture.putpalette(_PALETTE)
    return pictures


def with_curve(picture: Image.Image, levels: Sequence[float]) -> Image.Image:
    """A spectrogram in colours with a white curve over it: levels in dB at equal distances, `CURVE` from its bottom."""
    picture = picture.convert("RGB")
    low, high = CURVE
    (width, height), count = picture.size, len(levels)
    points = [
        ((index + 0.5) * width / count, (height - 1) * (high - min(max(level, low), high)) / (high - low))
        for index, level in enumerate(levels)
    ]
    ImageDraw.Draw(picture).line(points, fill="white", width=1)
    return picture


def png(picture: Image.Image) -> bytes:
    """The content of a PNG file with this picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def curved(samples: Tensor, rate: int, levels: Tensor | None) -> list[Image.Image]:
    """The spectrograms, with curves of `levels` `[B, K]` in dB over them if there are any."""
    pictures = spectrograms(samples, rate)
    if levels is None:
        return pictures
    return [with_curve(picture, each) for picture, each in zip(pictures, levels.cpu().tolist(), strict=True)]


def envelopes(samples: Tensor, columns: int) -> numpy.ndarray:
    """The minimum and maximum of each waveform in at most `columns` intervals of its time, `[B, columns, 2]`.

    They are taken over all channels of the waveform as it is written: within full scale, and silent if it is not
    finite. Each interval includes the last value of the one before, so that the drawn shape has no gaps.
    """
    shown = within_full_scale(finite(samples)[0])
    edges = numpy.linspace(0, shown.shape[2], min(columns, shown.shape[2]) + 1).round().astype(int)
    parts = [shown[..., max(start - 1, 0) : end].flatten(1) for start, end in pairwise(edges.tolist())]
    return numpy.stack([numpy.stack([part.amin(1).numpy(), part.amax(1).numpy()], 1) for part in parts], 1)


def colours(samples: Tensor) -> list[str]:
    """The colour of each waveform, which is different for those that exceed full scale."""
    return [_SCALED_COLOUR if beyond else _WAVE_COLOUR for beyond in (peaks(finite(samples)[0]) > 1).tolist()]


def waveform_svg(envelope: numpy.ndarray, colour: str) -> str:
    """An SVG image of an envelope `[columns, 2]`, as wide as its container."""
    columns, half = len(envelope), _WAVE_HEIGHT / 2
    upper = [f"{x},{half - (half - 1) * high:.1f}" for x, high in enumerate(envelope[:, 1])]
    lower = [f"{x},{half - (half - 1) * low:.1f}" for x, low in enumerate(envelope[:, 0])]
    points = " ".join(upper + lower[::-1])
    return (
        f'<svg viewBox="0 0 {columns - 1} {_WAVE_HEIGHT}" preserveAspectRatio="none" aria-hidden="true" '
        f'style="display:block;width:100%;height:{_WAVE_HEIGHT}px"><polygon points="{points}" fill="{colour}" '
        f'stroke="{colour}" stroke-width="1" vector-effect="non-scaling-stroke"/></svg>'
    )


def sheet(
    samples: Tensor, rate: int, captions: Sequence[str], columns: int, levels: Tensor | None = None
) -> Image.Image:
    """An image of all samples in rows of `columns`: a caption, the waveform from -1 to 1, and the spectrogram.

    A waveform that was scaled down to full scale is drawn in amber. `levels` `[B, K]` in dB are curves over the
    spectrograms.
    """
    samples, columns = samples.cpu(), max(1, min(columns, len(samples)))
    width, height = TILE[0], _CAPTION_HEIGHT + _WAVE_HEIGHT + TILE[1]
    rows = -(-len(samples) // columns)
    canvas = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    pictures = curved(samples, rate, levels)
    tiles = zip(captions, envelopes(samples, width), colours(samples), pictures, strict=True)
    for index, (caption, envelope, colour, spectrogram) in enumerate(tiles):
        left, top = _GAP + index % columns * (width + _GAP), _GAP + index // columns * (height + _GAP)
        pen.text((left, top), _shortened(caption, font, width), fill=_TEXT_COLOUR, font=font)
        zero, half = top + _CAPTION_HEIGHT + _WAVE_HEIGHT / 2, _WAVE_HEIGHT / 2 - 1
        pen.line((left, zero, left + width - 1, zero), fill=_ZERO_LINE_COLOUR)
        for x, (low, high) in enumerate(envelope * half):
            if low or high:
                column = left + x * width // len(envelope)
                pen.line((column, zero - high, column, zero - low), fill=colour)
        canvas.paste(spectrogram.convert("RGB"), (left, top + _CAPTION_HEIGHT + _WAVE_HEIGHT))
    return canvas


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, shortened with an ellipsis to at most `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
