"""Sounds to look at: waveforms, and spectrograms in colours."""

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffcore_audio.signals.spectra import log_mel, standardised
from diffcore_audio.signals.waves import finite, peaks, within_full_scale

TILE = (128, 72)
"""Pixels of a spectrogram."""
_WAVE, _CAPTION, _GAP, _LETTERS = 36, 16, 8, 11
"""Pixels: the waveform above, the words above that, what is between tiles, and the size of letters."""
_INK, _SCALED, _LINE, _WORDS = "#2563eb", "#d97706", "#cccccc", "#333333"
"""Colours: waveforms, those that had to be scaled down, their line of zero, and words."""
_ANCHORS = (
    *((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122)),
    *((229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)),
)
"""matplotlib's magma at nine places: its lightness rises evenly, so that equal steps of dB look equal."""


def _palette() -> list[int]:
    places = numpy.linspace(0, 255, len(_ANCHORS))
    channels = [numpy.interp(numpy.arange(256), places, part) for part in zip(*_ANCHORS, strict=True)]
    return numpy.stack(channels, 1).round().astype(int).ravel().tolist()


_PALETTE = _palette()


def spectrograms(samples: Tensor, rate: int, size: tuple[int, int] = TILE) -> list[Image.Image]:
    """Log-mel spectrograms, low frequencies below: -80 dB is black, the level of a sine of full scale nearly white."""
    shades = standardised(log_mel(samples, rate, size[0])) * 255
    levels = shades.round().clamp(0, 255).byte().flip(1).numpy()
    pictures = [Image.fromarray(rows).resize(size, Image.Resampling.BILINEAR) for rows in levels]
    for picture in pictures:
        picture.putpalette(_PALETTE)
    return pictures


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def envelopes(samples: Tensor, columns: int) -> numpy.ndarray:
    """The lowest and highest value of each waveform in at most `columns` parts of its time, `[B, columns, 2]`.

    Over the channels, of what is written: within full scale, and silent where it was not finite. Each part has the last
    value of the one before, so that the shape has no gaps.
    """
    shown = within_full_scale(finite(samples)[0])
    edges = numpy.linspace(0, shown.shape[2], min(columns, shown.shape[2]) + 1).round().astype(int)
    parts = [shown[..., max(start - 1, 0) : end].flatten(1) for start, end in pairwise(edges.tolist())]
    return numpy.stack([numpy.stack([part.amin(1).numpy(), part.amax(1).numpy()], 1) for part in parts], 1)


def inks(samples: Tensor) -> list[str]:
    """The colour of each waveform: another where it went beyond full scale."""
    return [_SCALED if beyond else _INK for beyond in (peaks(finite(samples)[0]) > 1).tolist()]


def waveform_svg(envelope: numpy.ndarray, ink: str) -> str:
    """An envelope `[columns, 2]` as a shape that is as wide as its place."""
    columns, half = len(envelope), _WAVE / 2
    upper = [f"{x},{half - (half - 1) * high:.1f}" for x, high in enumerate(envelope[:, 1])]
    lower = [f"{x},{half - (half - 1) * low:.1f}" for x, low in enumerate(envelope[:, 0])]
    points = " ".join(upper + lower[::-1])
    return (
        f'<svg viewBox="0 0 {columns - 1} {_WAVE}" preserveAspectRatio="none" aria-hidden="true" '
        f'style="display:block;width:100%;height:{_WAVE}px"><polygon points="{points}" fill="{ink}" stroke="{ink}" '
        f'stroke-width="1" vector-effect="non-scaling-stroke"/></svg>'
    )


def sheet(samples: Tensor, rate: int, captions: Sequence[str], columns: int) -> Image.Image:
    """Tiles in rows of `columns`: a caption, the waveform from -1 to 1, and the spectrogram below it.

    A waveform that had to be scaled down to full scale is amber.
    """
    samples, columns = samples.cpu(), max(1, min(columns, len(samples)))
    width, height = TILE[0], _CAPTION + _WAVE + TILE[1]
    rows = -(-len(samples) // columns)
    canvas = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_LETTERS)
    tiles = zip(captions, envelopes(samples, width), inks(samples), spectrograms(samples, rate), strict=True)
    for index, (words, envelope, ink, spectrogram) in enumerate(tiles):
        left, top = _GAP + index % columns * (width + _GAP), _GAP + index // columns * (height + _GAP)
        pen.text((left, top), _fitting(words, font, width), fill=_WORDS, font=font)
        zero, half = top + _CAPTION + _WAVE / 2, _WAVE / 2 - 1
        pen.line((left, zero, left + width - 1, zero), fill=_LINE)
        for x, (low, high) in enumerate(envelope * half):
            if low or high:
                place = left + x * width // len(envelope)
                pen.line((place, zero - high, place, zero - low), fill=ink)
        canvas.paste(spectrogram.convert("RGB"), (left, top + _CAPTION + _WAVE))
    return canvas


def _fitting(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Words, cut where they are wider than `width` pixels."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"
