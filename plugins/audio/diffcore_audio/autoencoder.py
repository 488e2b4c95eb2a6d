"""The autoencoder of spectrograms, and how similar its reconstructions sound to the originals."""

from collections.abc import Callable

from torch import Tensor

from diffcore.errors import UserError
from diffcore.nn.grid_autoencoder import GridAutoencoder
from diffcore.nn.options import GridAutoencoderOptions
from diffcore.plugins.output import Metric
from diffcore.states.spaces import Euclidean
from diffcore_audio.codec import SoundCodec
from diffcore_audio.signals.distances import log_spectral_distance


def autoencoder(options: GridAutoencoderOptions, codec: SoundCodec) -> GridAutoencoder:
    """A `GridAutoencoder` of spectrograms. Neither mirrored nor turned ones are sounds, so it has no transforms.

    Raises `UserError` for joint states.
    """
    if codec.joint:
        raise UserError("`data.joint` envelope: the autoencoder of spectrograms has no envelopes; leave one out")
    assert isinstance(codec.space, Euclidean)
    rows, bands, columns = codec.space.shape
    return GridAutoencoder(rows, (bands, columns), **options.model_dump())


def fidelity(codec: SoundCodec) -> Callable[[Tensor, Tensor], list[Metric]]:
    """A function of waveforms and their reconstructions, `[n, C, L]`, to the distance of their spectra.

    Both come from the same vocoder, if spectrograms lose the phases, so only the autoencoder is measured.
    """
    return _spectral_distance


def _spectral_distance(originals: Tensor, found: Tensor) -> list[Metric]:
    distance = log_spectral_distance(originals, found)
    return [Metric("spectral_distance", distance, "dB, mean difference of spectra")]
