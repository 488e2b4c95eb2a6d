"""A widget in which a visitor of `diffcore demo` chooses the part of a sound that is filled in."""

from diffcore.plugins.fragments import fragment
from diffcore_audio.codec import SoundCodec
from diffcore_audio.output.page import data_url
from diffcore_audio.output.pictures import TILE, colours, envelopes, waveform_svg
from diffcore_audio.output.writer import Samples
from diffcore_audio.signals.waves import finite, mono, pcm, wav, waves_of


def gap_chooser(codec: SoundCodec, sample: Samples) -> str:
    """An HTML fragment with one sound; it chooses gaps such as `0.20..0.40`, in seconds."""
    waves, rate = finite(waves_of(sample).cpu())[0], codec.facts.rate
    seconds = waves.shape[-1] / rate
    values = {
        "waveform": waveform_svg(envelopes(waves, TILE[0])[0], colours(waves)[0]),
        "sound": data_url(wav(pcm(mono(waves))[0], rate), "audio/wav"),
        "seconds": f"{int(seconds * 100) / 100:.2f}",
        "first": f"{seconds / 3:.2f}",
        "last": f"{seconds * 2 / 3:.2f}",
    }
    return fragment("diffcore_audio.output", "gap.html", values)
