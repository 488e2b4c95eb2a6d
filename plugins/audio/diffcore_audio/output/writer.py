"""Samples to sound files, pictures and the report."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Captions
from diffcore_audio.output.pictures import TILE, envelopes, inks, png, sheet, spectrograms, waveform_svg
from diffcore_audio.signals.waves import SILENCE, finite, mono, pcm, peaks, rms_db, wav

_PAUSE = 0.1
"""Seconds of silence between sounds in one file."""
_NARROWEST, _GAP = "7rem", ".5rem"
"""Of a tile, as browsers leave out the button that plays where players are narrower; and between tiles."""


class SoundWriter:
    """Waveforms `[B, C, L]`, full scale from -1 to 1, to files of 16 bits at the rate of the data.

    A sample that goes beyond full scale is scaled down as a whole, so nothing is clipped; one that is not finite is
    written as silence.
    """

    endings = (".png", ".wav", ".flac")

    def __init__(self, codec: Codec) -> None:
        self._rate: int = codec.facts.rate  # type: ignore[attr-defined]

    def each(self, samples: Tensor, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Each sample as a WAV file."""
        paths = [folder / f"{name}.wav" for name in names]
        for sample, path in zip(pcm(samples), paths, strict=True):
            path.write_bytes(wav(sample, self._rate))
        return paths

    def together(self, samples: Tensor, path: Path, columns: int, captions: Captions = ()) -> None:
        """All samples one after another, a tenth of a second apart (`.wav`, `.flac`), or as pictures (`.png`)."""
        if path.suffix.lower() == ".png":
            sheet(samples, self._rate, _captions(samples, captions), columns).save(path)
            return
        pause = torch.zeros(samples.shape[1], round(_PAUSE * self._rate), dtype=torch.int16)
        parts = [part for sample in pcm(samples) for part in (sample, pause)][:-1]
        soundfile.write(path, torch.cat(parts, 1).T.numpy(), self._rate, subtype="PCM_16")

    def html(self, samples: Tensor, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """Tiles of a caption, a waveform, a spectrogram and a player, in which channels are mixed to one.

        Rows are shorter where the page has no room for `columns` players, but not those of `trajectories`.
        """
        samples, columns = samples.cpu(), max(1, min(columns, len(samples)))
        tiles = zip(
            _captions(samples, captions),
            envelopes(samples, TILE[0]),
            inks(samples),
            spectrograms(samples, self._rate),
            pcm(mono(samples)),
            strict=True,
        )
        metrics = "".join(
            f'<metric style="margin:0;min-width:0;font-size:.7rem;line-height:1.3">'
            f'<figcaption style="overflow-wrap:anywhere">{escape(words)}</figcaption>'
            f"{waveform_svg(envelope, ink)}"
            f'<img alt="spectrogram of {escape(words)}" src="{_uri(png(picture), "image/png")}" '
            f'style="display:block;width:100%;height:{TILE[1]}px;image-rendering:auto">'
            f'<audio controls preload="none" src="{_uri(wav(sound, self._rate), "audio/wav")}" '
            f'style="display:block;width:100%;height:2rem"></audio></metric>'
            for words, envelope, ink, picture, sound in tiles
        )
        share = f"calc((100% - {columns - 1} * {_GAP}) / {columns})"
        count, narrowest = (columns, _NARROWEST) if trajectories else ("auto-fill", f"max({_NARROWEST}, {share})")
        style = (
            f"display:grid;grid-template-columns:repeat({count},minmax({narrowest},1fr));gap:.75rem {_GAP};"
            f"overflow-x:auto;margin-bottom:1rem"
        )
        return f'<div style="{style}">{metrics}</div>'

    def summary(self, samples: Tensor, captions: Captions = ()) -> list[str]:
        """How loud the samples are, and how many are silent, went beyond full scale or are not finite."""
        sound, broken = finite(samples.cpu())
        loudness, beyond = rms_db(sound), peaks(sound) > 1
        silent = (loudness < SILENCE) & ~broken
        n = len(samples)
        lines = [
            f"median RMS {loudness.median():.1f} dBFS; {int(silent.sum())} of {n} samples are silent "
            f"(RMS under {SILENCE:g} dBFS)"
        ]
        if beyond.any():
            lines.append(
                f"{int(beyond.sum())} of {n} samples went beyond full scale (up to {peaks(sound).max():.2f}) and were "
                f"written more quietly"
            )
        if broken.any():
            lines.append(f"{int(broken.sum())} of {n} samples have values that are not finite: written as silence")
        return lines


def _captions(samples: Tensor, captions: Captions) -> list[str]:
    """What each sample was asked to be; its number, from 1, where nothing was asked."""
    told: Sequence[Mapping[str, str]] = captions or [{}] * len(samples)
    return [", ".join(words.values()) or str(number) for number, words in enumerate(told, 1)]


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
