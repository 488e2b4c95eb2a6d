"""A widget in which a visitor of `diffcore demo` chooses the side of a cloud that is drawn anew."""

import json

import numpy
from tensordict import TensorDict

from diffcore.plugins.fragments import fragment
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.output.points import unbatched, upright


def cut_chooser(codec: CloudCodec, sample: TensorDict) -> str:
    """An HTML fragment with one cloud from two sides; it chooses numbers of points, from 1, such as `3,4,7`."""
    positions = numpy.nan_to_num(upright(unbatched(sample)[0], codec.facts.up).positions.astype(numpy.float64))
    centred = positions - (positions.max(0) + positions.min(0)) / 2
    points = json.dumps([[round(float(each), 4) for each in point] for point in centred], separators=(",", ":"))
    return fragment("diffcore_pointcloud.output", "cut.html", {"points": points})
