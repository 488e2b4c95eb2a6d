"""Writes samples to sound files, pictures and the report."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.data import Codec
from diffcore.plugins.output import Batches, Captions
from diffcore_audio.options import WritingOptions
from diffcore_audio.output.files import ENDINGS, append, opened
from diffcore_audio.output.page import page, tiles
from diffcore_audio.output.pictures import sheet
from diffcore_audio.signals.envelopes import as_text
from diffcore_audio.signals.waves import SILENCE, envelopes_of, faded, finite, peaks, rms_db, waves_of

Samples: TypeAlias = Tensor | TensorDict

_PAUSE = 0.1
"""Duration of the silence between two sounds in one file, in seconds."""
_DEFAULTS = WritingOptions()
_MOST_REAL = 2**22
"""Values of real sounds that a page shows beside samples, at most."""


class SoundWriter:
    """Writes waveforms `[B, C, L]`, with full scale at -1 and 1, to files at the sampling rate of the data.

    Samples of joint states have an envelope beside the waveform: it is a curve over each spectrogram, and a table of
    the same name beside each file of a folder, `.csv`.

    The gain and the fade of `options` come first. In files other than those of floats, a sample that exceeds full scale
    is scaled down as a whole, so that nothing is clipped. In one file of all samples, all are scaled down by the same
    factor, so that their relative loudness remains; files in a folder do not depend on each other, and `summary` says
    which gain would do. A sample that contains values that are not finite is written as silence.
    """

    endings = (".png", *ENDINGS)
    shows_real = True
    streams = ENDINGS

    def __init__(self, codec: Codec, options: WritingOptions = _DEFAULTS) -> None:
        self._rate: int = codec.facts.rate  # type: ignore[attr-defined]
        self._seconds: float = codec.facts.samples / codec.facts.rate  # type: ignore[attr-defined]
        self._options = options

    def each(self, samples: Samples, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample to its own file, in the format of the options, and its envelope to one beside it."""
        levels = envelopes_of(samples)
        for name, own in zip(names, [] if levels is None else levels.cpu(), strict=levels is not None):
            (folder / f"{name}.csv").write_text(as_text(own, self._seconds))
        paths = [folder / f"{name}.{self._options.format}" for name in names]
        for sample, path in zip(self._finished(samples), paths, strict=True):
            with opened(path, self._rate, len(sample), self._options) as file:
                append(file, self._within(sample, peaks(sample[None])), self._options)
        return paths

    def together(self, samples: Samples, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write all samples one after another, 0.1 s apart (`.wav`, `.flac`, `.ogg`), or as pictures (`.png`)."""
        if path.suffix.lower() == ".png":
            waves, levels = self._finished(samples), envelopes_of(samples)
            sheet(waves, self._rate, _labels(samples, captions), columns, levels).save(path)
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

    def _finished(self, samples: Samples) -> Tensor:
        """The samples with the gain and the fade of the options; silence in place of those that are not finite."""
        waves = finite(waves_of(samples).cpu().float())[0] * 10 ** (self._options.gain / 20)
        return faded(waves, self._options.fade, self._rate)

    def _within(self, sample: Tensor, peak: Tensor) -> Tensor:
        """A sample divided by `peak` if that exceeds full scale, unless files hold floats."""
        return sample if self._keeps_floats else sample / peak.clamp(min=1.0)

    def html(
        self,
        samples: Samples,
        columns: int,
        captions: Captions = (),
        trajectories: bool = False,
        real: Samples | None = None,
    ) -> str:
        """Return tiles with a caption, a waveform, a spectrogram and a player, which plays the mean of the channels.

        Below each sample is the sound of `real` with the same number, if there is one. A button plays all. Rows have
        fewer than `columns` tiles if the page is too narrow, except with `trajectories`.
        """
        waves, columns = waves_of(samples).cpu(), max(1, min(columns, len(samples)))
        few = None if real is None else real[: max(1, _MOST_REAL // waves_of(real)[0].numel())]
        levels = envelopes_of(samples), None if few is None else envelopes_of(few)
        below = None if few is None else waves_of(few)
        labels = _labels(samples, captions)
        if len(labels) == 1:
            labels = [labels[0].removeprefix("0").strip() or "sound"]
        figures = tiles(waves, self._rate, labels, below, levels)
        return page(figures, columns, trajectories)

    def summary(self, samples: Samples, captions: Captions = ()) -> list[str]:
        """Return the median loudness, and how many samples are silent, exceed full scale or are not finite."""
        broken = finite(waves_of(samples).cpu())[1]
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


def _labels(samples: Samples, captions: Captions) -> list[str]:
    """The number of each sample, from 0, and what was requested of it."""
    values: Sequence[Mapping[str, str]] = captions or [{}] * len(samples)
    return [" ".join([str(number), ", ".join(caption.values())]).strip() for number, caption in enumerate(values)]
