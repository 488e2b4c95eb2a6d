"""Writes samples to sound files, pictures and the report."""

import base64
import contextlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy
import soundfile
from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Batches, Captions
from diffcore_audio.output.pictures import TILE, colours, envelopes, png, sheet, spectrograms, waveform_svg
from diffcore_audio.signals.waves import SILENCE, finite, mono, pcm, peaks, rms_db, wav

_PAUSE = 0.1
"""Duration of the silence between two sounds in one file, in seconds."""
_SMALLEST_WIDTH, _GAP = "7rem", ".5rem"
"""Width of a tile, as browsers hide the play button of narrower players; and gap between tiles."""


class SoundWriter:
    """Writes waveforms `[B, C, L]`, with full scale at -1 and 1, to files of 16 bits at the sampling rate of the data.

    A sample that exceeds full scale is scaled down as a whole, so that nothing is clipped. A sample that contains
    values that are not finite is written as silence.
    """

    endings = (".png", ".wav", ".flac")
    streams = (".wav", ".flac")

    def __init__(self, codec: Codec) -> None:
        self._rate: int = codec.facts.rate  # type: ignore[attr-defined]

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample as a WAV file."""
        paths = [folder / f"{name}.wav" for name in names]
        for sample, path in zip(pcm(samples), paths, strict=True):
            path.write_bytes(wav(sample, self._rate))
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write all samples one after another, 0.1 s apart (`.wav`, `.flac`), or as pictures (`.png`)."""
        if path.suffix.lower() == ".png":
            sheet(samples, self._rate, _labels(samples, captions), columns).save(path)
            return
        self.stream([(samples, captions)], path)

    def stream(self, batches: Batches, path: Path) -> None:
        """Write any number of samples one after another into a `.wav` or `.flac` file, 0.1 s apart, batch by batch."""
        with contextlib.ExitStack() as stack:
            file = None
            for sample in (sample for samples, _ in batches for sample in pcm(samples)):
                if file is None:
                    sound = soundfile.SoundFile(path, "w", self._rate, len(sample), subtype="PCM_16")
                    file = stack.enter_context(sound)
                else:
                    file.write(numpy.zeros((round(_PAUSE * self._rate), len(sample)), numpy.int16))
                file.write(sample.T.numpy())

    def html(self, samples: Tensor, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """Return tiles with a caption, a waveform, a spectrogram and a player, which plays the mean of the channels.

        Rows have fewer than `columns` tiles if the page is too narrow, except with `trajectories`.
        """
        samples, columns = samples.cpu(), max(1, min(columns, len(samples)))
        tiles = zip(
            _labels(samples, captions),
            envelopes(samples, TILE[0]),
            colours(samples),
            spectrograms(samples, self._rate),
            pcm(mono(samples)),
            strict=True,
        )
        figures = "".join(
            f'<figure style="margin:0;min-width:0;font-size:.7rem;line-height:1.3">'
            f'<figcaption style="overflow-wrap:anywhere">{escape(label)}</figcaption>'
            f"{waveform_svg(envelope, colour)}"
            f'<img alt="spectrogram of {escape(label)}" src="{_uri(png(picture), "image/png")}" '
            f'style="display:block;width:100%;height:{TILE[1]}px;image-rendering:auto">'
            f'<audio controls preload="none" src="{_uri(wav(sound, self._rate), "audio/wav")}" '
            f'style="display:block;width:100%;height:2rem"></audio></figure>'
            for label, envelope, colour, picture, sound in tiles
        )
        column = f"calc((100% - {columns - 1} * {_GAP}) / {columns})"
        count, width = (
            (columns, _SMALLEST_WIDTH) if trajectories else ("auto-fill", f"max({_SMALLEST_WIDTH}, {column})")
        )
        style = (
            f"display:grid;grid-template-columns:repeat({count},minmax({width},1fr));gap:.75rem {_GAP};"
            f"overflow-x:auto;margin-bottom:1rem"
        )
        return f'<div style="{style}">{figures}</div>'

    def summary(self, samples: Tensor, captions: Captions = ()) -> list[str]:
        """Return the median loudness, and how many samples are silent, exceed full scale or are not finite."""
        sound, broken = finite(samples.cpu())
        loudness, beyond = rms_db(sound), peaks(sound) > 1
        silent = (loudness < SILENCE) & ~broken
        n = len(samples)
        lines = [
            f"median RMS {loudness.median():.1f} dBFS; {int(silent.sum())} of {n} samples are silent "
            f"(RMS below {SILENCE:g} dBFS)"
        ]
        if beyond.any():
            lines.append(
                f"{int(beyond.sum())} of {n} samples exceed full scale (up to {peaks(sound).max():.2f}): "
                f"scaled down as a whole"
            )
        if broken.any():
            lines.append(f"{int(broken.sum())} of {n} samples have values that are not finite: written as silence")
        return lines


def _labels(samples: Tensor, captions: Captions) -> list[str]:
    """The caption of each sample as one text; its number, from 1, if nothing was requested."""
    values: Sequence[Mapping[str, str]] = captions or [{}] * len(samples)
    return [", ".join(caption.values()) or str(number) for number, caption in enumerate(values, 1)]


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
