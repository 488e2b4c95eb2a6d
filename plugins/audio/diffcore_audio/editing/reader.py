"""Reads sound files of the user as states, whole or with a gap to fill in."""

import hashlib
import logging
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from diffcore.denoising.ranges import read_range
from diffcore.errors import UserError
from diffcore.plugins.folders import UnusableError
from diffcore.plugins.output import Edit, Side
from diffcore.states.spaces import Mask
from diffcore.states.state import State
from diffcore_audio.codec import MOST_SECONDS, SoundCodec
from diffcore_audio.data.files import MOST_VALUES, SOUND_ENDINGS, Sound, read
from diffcore_audio.data.fitting import Format, SilentError, fit, with_channels
from diffcore_audio.editing.seams import columns_known, joined
from diffcore_audio.signals.envelopes import envelope, read_text
from diffcore_audio.signals.resampling import resampled
from diffcore_audio.signals.waves import floats

logger = logging.getLogger(__name__)


class SoundReader:
    """Reads files as states of a codec: every format that the data sets read, at any rate."""

    endings = tuple(sorted(SOUND_ENDINGS))

    def __init__(self, codec: SoundCodec) -> None:
        self.codec = codec

    def read(self, path: Path) -> State:
        """A sound as a state `[1, rows, bands, columns]`, with its own envelope where states are joint."""
        return self.codec.state_of(self._fitted(path))

    def read_samples(self, path: Path) -> "Tensor | TensorDict":
        """A sound as a sample: a waveform of floats `[1, C, L]`, with its own envelope where states are joint."""
        waveform, facts = self._fitted(path), self.codec.facts
        if facts.envelope is None:
            return waveform
        levels = envelope(waveform, facts.envelope)
        return TensorDict({"waveform": waveform, "envelope": levels}, batch_size=[1])

    def read_side(self, name: str, path: Path) -> Side:
        """The side `name` of joint states: the sound of a file, or an envelope, of a sound or of a table.

        A table, which ends in .csv, has seconds and dB (`diffcore_audio.signals.envelopes.read_text`), and may have
        several envelopes.
        """
        facts = self.codec.facts
        assert facts.envelope is not None
        if name == "sound":
            return Side({"sound": self.codec.representation.state(self._fitted(path))})
        if path.suffix.lower() == ".csv":
            levels = read_text(path, facts.envelope, facts.samples / facts.rate)
        else:
            levels = envelope(self._fitted(path), facts.envelope)
        return Side({"envelope": self.codec.encoded_envelope(levels)})

    def _fitted(self, path: Path) -> Tensor:
        """A sound as a waveform of floats `[1, C, L]`.

        It is cut, extended and changed as training sounds are, but its beginning is kept. Raises `UserError` if the
        file cannot be read, or is silent.
        """
        facts, sound = self.codec.facts, _sound(path)
        try:
            example, changes = fit(sound, Format(facts.rate, facts.samples, facts.channels))
        except SilentError as reason:
            raise UserError(f"{path} is {reason}") from None
        _tell(path, changes)
        return floats(example[None])

    def read_gap(self, path: Path, gap: str | None) -> Edit:
        """A sound with a part that is to be filled in: `gap`, such as `0.2..0.4` in seconds, or all after its end.

        The samples are as long as the model's, or as the file if that is longer. Raises `UserError` if the file cannot
        be read, if states are joint, if it is longer and the model enlarges, if the gap is not a part of it, or if
        nothing is left to be
        filled in or nothing is known.
        """
        if self.codec.joint:
            raise UserError(
                f"{path}: a run with `data.joint` draws whole sounds: fill in gaps with one without it, or give a side "
                "with `given`"
            )
        waveform = self._waveform(path)
        codec, there = self.codec, waveform.shape[1]
        if there > codec.kept:
            codec.require_any_length(f"{path} lasts {there / codec.facts.rate:.3g} s")
            logger.info(f"{path} lasts {there / codec.facts.rate:.3g} s, and so do the samples")
            codec = codec.of_length(there)
        known = torch.arange(codec.facts.samples) < there
        if gap is not None:
            start, end = self._range(gap, codec.kept)
            known[start:end] = False
        if known[: codec.kept].all():
            raise UserError(
                f"{path}: nothing is left to be filled in, as the file lasts {there / codec.facts.rate:.3g} s: give "
                "`gap`, such as 0.2..0.4 in seconds, or a longer `size` to go on after its end"
            )
        columns = columns_known(known, codec.facts.codec.fft, codec.facts.codec.hop)
        if not columns.any():
            raise UserError(
                f"{path}: less than a window of the spectrogram is known, so there is nothing to go on from"
            )
        original = functional.pad(waveform, (0, codec.facts.samples - there))
        values = codec.representation.state(original[None])
        digest = hashlib.sha256(original.numpy().tobytes() + known.numpy().tobytes()).hexdigest()
        return Edit(
            values, columns.expand_as(values).clone(), EditingCodec(codec, original, known), {"waveform": digest}
        )

    def _waveform(self, path: Path) -> Tensor:
        """The sound `[C, L]` at the rate and with the channels of the model, otherwise unchanged."""
        facts, sound = self.codec.facts, _sound(path)
        channels, length = sound.samples.shape
        most = min(MOST_SECONDS, MOST_VALUES // channels / sound.rate)
        if sound.cut or length > most * sound.rate:
            raise UserError(
                f"{path} lasts longer than {most:.3g} s, the most that is read of {channels} channels at {sound.rate} "
                "Hz: cut out the part that is to be changed"
            )
        waveform, changes = with_channels(torch.from_numpy(sound.samples), facts.channels)
        if sound.rate != facts.rate:
            changes.append(f"resampled from {sound.rate} Hz")
        waveform = resampled(waveform, sound.rate, facts.rate)
        if (peak := waveform.abs().max()) > 1:
            changes.append("scaled down as a whole, because it exceeds full scale")
            waveform = waveform / peak
        _tell(path, changes)
        return waveform.clone()

    def _range(self, gap: str, samples: int) -> tuple[int, int]:
        """The first sample of the gap, and the one after its last one. Raises `UserError`."""
        rate = self.codec.facts.rate
        try:
            if ".." not in gap:
                raise ValueError("one number is no range")
            first, last = read_range(gap, lambda text: float(text.strip().removesuffix("s")))
            start = 0 if first is None else round(first * rate)
            end = samples if last is None else round(last * rate)
        except (ValueError, OverflowError):
            raise UserError(f"`gap` {gap!r}: write a range in seconds, such as 0.2..0.4, 0.2.. or ..0.4") from None
        if not 0 <= start < end <= samples:
            raise UserError(
                f"`gap` {gap}: it must begin before it ends, within the {samples / rate:.3g} s of the sound"
            )
        return start, end


class EditingCodec(SoundCodec):
    """A codec that decodes to sounds with a known part, as `diffcore_audio.editing.seams.joined` does."""

    def __init__(self, codec: SoundCodec, original: Tensor, known: Tensor) -> None:
        super().__init__(codec.facts, codec.kept)
        self._original, self._known = original, known

    def decode(self, state: State, mask: Mask = None) -> Tensor:
        assert isinstance(state, Tensor)
        generated, facts = self.waveforms(state), self.facts
        original, known = self._original[:, : self.kept], self._known[: self.kept]
        return joined(generated, original, known, facts.codec.fft, facts.codec.hop, facts.rate)


def _sound(path: Path) -> Sound:
    try:
        return read(path)
    except UnusableError as reason:
        raise UserError(f"{path} cannot be used: {reason}") from None


def _tell(path: Path, changes: list[str]) -> None:
    if changes:
        logger.info(f"{path}: {', '.join(changes)}")
