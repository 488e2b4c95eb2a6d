"""Samples as HTML fragments, one for each."""

from diffcore.evaluation.viewer import once
from diffcore.plugins.building import part_of
from diffcore.runs.samples import Samples

_BREAK = "\0"


def tiles_of(samples: Samples) -> list[str]:
    """A fragment for each sample, as the writer of its kind of data shows it."""
    writer = part_of(samples.model.modality, "writer", samples.codec)
    decoded, captions = samples.decoded, samples.captions
    rows = range(len(samples))
    tiles = [writer.html(decoded[row : row + 1], 1, captions[row : row + 1], trajectories=True) for row in rows]
    return [] if not tiles else once(_BREAK.join(tiles)).split(_BREAK)
