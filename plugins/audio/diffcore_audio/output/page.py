"""Sounds in HTML: tiles with a waveform, a spectrogram with its axes, and a player; and a button that plays all."""

import base64
from collections.abc import Sequence
from html import escape

from PIL.Image import Image
from torch import Tensor

from diffcore_audio.output.pictures import TILE, colours, curved, envelopes, png, waveform_svg
from diffcore_audio.signals.mels import mel
from diffcore_audio.signals.waves import mono, pcm, wav

_SMALLEST_WIDTH, _GAP = "7rem", ".5rem"
"""Width of a tile, as browsers hide the play button of narrower players; and gap between tiles."""

_FREQUENCIES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
"""Frequencies in Hz that the axis of a spectrogram may show."""

_LEGEND = (
    "Waveforms are drawn from -1 to 1, full scale. Blue: as it is. Amber: the sound exceeds full scale and was scaled "
    "down as a whole. Spectrograms: frequency in mel, from -80 dB (black) to 0 dB (nearly white), which is about the "
    "level of a full-scale sine."
)
_MARK = "position:absolute;color:#fff;font-size:.55rem;line-height:1;text-shadow:0 0 2px #000,0 0 2px #000"

_PLAY_ALL = (
    "(function(button){"
    "var box=button.parentNode,sounds=Array.prototype.slice.call(box.querySelectorAll('audio')),stopped=false;"
    "if(box.playing){box.playing();return}"
    "var current=null;"
    "box.playing=function(){stopped=true;if(current)current.pause();box.playing=null;button.textContent='Play all'};"
    "button.textContent='Stop';"
    "(function next(i){if(stopped)return;if(i===sounds.length){box.playing();return}"
    "current=sounds[i];current.currentTime=0;current.onended=function(){current.onended=null;next(i+1)};"
    "var begun=current.play();if(begun)begun.catch(function(){next(i+1)})})(0)"
    "})(this)"
)
"""Plays the sounds of a box one after another, or stops them."""


def tiles(
    samples: Tensor,
    rate: int,
    labels: Sequence[str],
    real: Tensor | None = None,
    levels: tuple[Tensor | None, Tensor | None] = (None, None),
) -> list[str]:
    """A figure for each of the waveforms `[B, C, L]`, with the real one of `real` `[at most B, C, L]` below it.

    `levels` are the loudness of samples and of real sounds in dB, `[B, K]`, where it is shown as a curve.
    """
    shown = _sounds(samples, rate, labels, levels[0])
    below = (
        [""] * len(shown)
        if real is None or not len(real)
        else _sounds(real, rate, [f"real, as {label}" for label in labels[: len(real)]], levels[1])
    )
    below += [""] * (len(shown) - len(below))
    return [
        f'<figure style="margin:0;min-width:0;font-size:.7rem;line-height:1.3">{sound}{other}</figure>'
        for sound, other in zip(shown, below, strict=False)
    ]


def page(figures: Sequence[str], columns: int, fixed: bool) -> str:
    """A grid of figures in rows of `columns`, or fewer if the page is too narrow and they are not `fixed`.

    A figure alone has neither a legend nor a button that plays all.
    """
    if len(figures) == 1:
        return figures[0]
    column = f"calc((100% - {columns - 1} * {_GAP}) / {columns})"
    count, width = (columns, _SMALLEST_WIDTH) if fixed else ("auto-fill", f"max({_SMALLEST_WIDTH}, {column})")
    style = (
        f"display:grid;grid-template-columns:repeat({count},minmax({width},1fr));gap:.75rem {_GAP};"
        f"overflow-x:auto;margin-bottom:1rem"
    )
    return (
        f'<div><p style="font-size:.8rem">{_LEGEND}</p>'
        f'<button type="button" onclick="{_PLAY_ALL}">Play all</button>'
        f'<div style="{style};margin-top:.5rem">{"".join(figures)}</div></div>'
    )


def _sounds(samples: Tensor, rate: int, labels: Sequence[str], levels: Tensor | None) -> list[str]:
    """The caption, the waveform, the spectrogram and the player of each waveform."""
    seconds = samples.shape[-1] / rate
    parts = zip(
        labels,
        envelopes(samples, TILE[0]),
        colours(samples),
        curved(samples, rate, levels),
        pcm(mono(samples)),
        strict=True,
    )
    return [
        f'<figcaption style="overflow-wrap:anywhere">{escape(label)}</figcaption>'
        f"{waveform_svg(envelope, colour)}{_spectrogram(picture, label, rate, seconds)}"
        f'<audio controls preload="none" src="{data_url(wav(sound, rate), "audio/wav")}" '
        f'style="display:block;width:100%;height:2rem"></audio>'
        for label, envelope, colour, picture, sound in parts
    ]


def _spectrogram(picture: Image, label: str, rate: int, seconds: float) -> str:
    """A spectrogram with some frequencies at its left side, and its duration at the lower right."""
    left = f"{_MARK};left:2px;transform:translateY(50%)"
    marks = "".join(
        f'<span style="{left};bottom:{100 * height:.1f}%">{_hertz(frequency)}</span>'
        for frequency, height in ticks(rate)
    )
    return (
        f'<div style="position:relative"><img alt="spectrogram of {escape(label)}" '
        f'src="{data_url(png(picture), "image/png")}" '
        f'style="display:block;width:100%;height:{TILE[1]}px;image-rendering:auto">{marks}'
        f'<span style="{_MARK};right:2px;bottom:2px">{seconds:.3g} s</span></div>'
    )


def ticks(rate: int, apart: float = 0.15) -> list[tuple[int, float]]:
    """Some frequencies in Hz and their heights in a spectrogram from 0 to rate / 2, as fractions of it.

    They are at least `apart` from each other and half as far from both sides, from the highest one down.
    """
    found: list[tuple[int, float]] = []
    for frequency in reversed(_FREQUENCIES):
        height = mel(frequency) / mel(rate / 2)
        if height <= (found[-1][1] - apart if found else 1 - apart / 2) and height >= apart / 2:
            found.append((frequency, height))
    return found


def _hertz(frequency: int) -> str:
    return f"{frequency} Hz" if frequency < 1000 else f"{frequency / 1000:g} kHz"


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
