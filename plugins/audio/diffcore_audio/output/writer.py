"""Writes samples to sound files, pictures and the report."""

import base64
import contextlib
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy
import torch
from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Batches, Captions
from diffcore_audio.options import WritingOptions
from diffcore_audio.output.files import ENDINGS, append, faded, opened
from diffcore_audio.output.pictures import TILE, colours, envelopes, png, sheet, spectrograms, waveform_svg
from diffcore_audio.signals.waves import SILENCE, finite, mono, pcm, peaks, rms_db, wav

_PAUSE = 0.1
"""Duration of the silence between two sounds in one file, in seconds."""
_DEFAULTS = WritingOptions()
_SMALLEST_WIDTH, _GAP = "7rem", ".5rem"
"""Width of a tile, as browsers hide the play button of narrower players; and gap between tiles."""


class SoundWriter:
    """Writes waveforms `[B, C, L]`, with full scale at -1 and 1, to files at the sampling rate of the data.

    The gain and the fade of `options` come first. In files other than those of floats, a sample that exceeds full scale
    is scaled down as a whole, so that nothing is clipped. In one file of all samples, all are scaled down by the same
    factor, so that their relative loudness remains; files in a folder do not depend on each other, and `summary` says
    which gain would do. A sample that contains values that are not finite is written as silence.
    """

    endings = (".png", *ENDINGS)
    streams = ENDINGS

    def __init__(self, codec: Codec, options: WritingOptions = _DEFAULTS) -> None:
        self._rate: int = codec.facts.rate  # type: ignore[attr-defined]
        self._options = options

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample to its own file, in the format of the options."""
        paths = [folder / f"{name}.{self._options.format}" for name in names]
        for sample, path in zip(self._finished(samples), paths, strict=True):
            with opened(path, self._rate, len(sample), self._options) as file:
                append(file, self._within(sample, peaks(sample[None])), self._options)
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write all samples one after another, 0.1 s apart (`.wav`, `.flac`, `.ogg`), or as pictures (`.png`)."""
        if path.suffix.lower() == ".png":
            sheet(self._finished(samples), self._rate, _labels(samples, captions), columns).save(path)
            return
        self.stream([(samples, captions)], path)

    def stream(self, batches: Batches, path: Path) -> None:
        """Write any number of samples one after another into one file of sound, 0.1 s apart, batch by batch."""
        peak = torch.ones(1)
        if not self._keeps_floats:
            peak = torch.stack([peaks(self._finished(samples)).amax() for samples, _ in batches]).amax()
        with contextlib.ExitStack() as stack:
            file = None
            for sample in (sample for samples, _ in batches for sample in self._finished(samples)):
                if file is None:
                    file = stack.enter_context(opened(path, self._rate, len(sample), self._options))
                else:
                    file.write(numpy.zeros((round(_PAUSE * self._rate), len(sample)), numpy.float32))
                append(file, self._within(sample, peak), self._options)

    @property
    def _keeps_floats(self) -> bool:
        return self._options.bits == "float"

    def _finished(self, samples: Tensor) -> Tensor:
        """The samples with the gain and the fade of the options; silence in place of those that are not finite."""
        waves = finite(samples.cpu().float())[0] * 10 ** (self._options.gain / 20)
        return faded(waves, self._options.fade, self._rate)

    def _within(self, sample: Tensor, peak: Tensor) -> Tensor:
        """A sample divided by `peak` if that exceeds full scale, unless files hold floats."""
        return sample if self._keeps_floats else sample / peak.clamp(min=1.0)

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
        broken = finite(samples.cpu())[1]
        sound = self._finished(samples)
        loudness, beyond = rms_db(sound), peaks(sound) > 1
        silent = (loudness < SILENCE) & ~broken
        n = len(samples)
        lines = [
            f"median RMS {loudness.median():.1f} dBFS; {int(silent.sum())} of {n} samples are silent "
            f"(RMS below {SILENCE:g} dBFS)"
        ]
        if beyond.any():
            common = self._options.gain - math.ceil(200 * math.log10(peaks(sound).max().item())) / 10
            what = "kept, as floats can" if self._keeps_floats else "each scaled down as a whole"
            lines.append(
                f"{int(beyond.sum())} of {n} samples exceed full scale (up to {peaks(sound).max():.2f}): {what}; "
                f"`write.gain` {common:.1f} keeps all within it and their relative loudness"
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
