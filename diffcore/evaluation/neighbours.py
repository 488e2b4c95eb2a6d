"""The training examples that are nearest to samples: whether a model has learned, or copies."""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.evaluation.metrics import evenly
from diffcore.evaluation.reconstruction import originals_of
from diffcore.plugins.building import of_samples
from diffcore.plugins.data import Data
from diffcore.plugins.output import Distance, Picture
from diffcore.runs.model import Model, numbers_of_a_sample

SHOWN, HELD_OUT, MOST = 6, 50, 100_000
"""The number of samples that are shown, of held-out examples whose distances are given beside theirs, and of training
examples that are compared at most."""
_AT_ONCE, _NUMBERS = 500, 2**24
"""The number of training examples that are compared at a time, and that of the values in their states, at most."""


def nearest_picture(model: Model, data: Data, samples: Any) -> Picture | None:
    """Some samples, in the row above the training examples that are nearest to them, with the distances.

    Beside the median distance of the samples stands that of held-out examples: a model that copies has a much smaller
    one. Samples that have no distance, such as those that are not valid, are left out. None where there are no others,
    and where the kind of data has no `distance`.
    """
    if model.modality.distance is None:
        return None
    distance: Distance = model.modality.distance(of_samples(model.codec))
    rows = evenly(torch.arange(len(data.examples)), min(len(data.examples), distance.most, MOST))
    found, nearest = _nearest(model, data.examples, rows, distance, samples)
    measured = found.isfinite().nonzero()[:, 0]
    if not len(measured):
        return None
    some = measured[:SHOWN].tolist()
    words = f"{len(rows):,} of {len(data.examples):,}" if len(rows) < len(data.examples) else f"{len(rows):,}"
    title = f"Samples above the nearest of {words} training examples: distance {_median(found)}"
    if data.held_out is not None and len(data.held_out):
        real = examples_as_samples(model, data.held_out[:HELD_OUT])
        title += f", of held-out examples {_median(_nearest(model, data.examples, rows, distance, real)[0])}"
    below = examples_as_samples(model, data.examples[nearest[some]])
    both: Any = [samples[row] for row in some] + below if isinstance(below, list) else torch.cat([samples[some], below])
    return Picture(f"{title} ({distance.words}, median)", both, columns=len(some))


def examples_as_samples(model: Model, examples: TensorDict) -> Any:
    """Examples in the form of samples, without the loss of a codec where it can say so."""
    as_samples = getattr(of_samples(model.codec), "as_samples", None)
    return originals_of(model, examples) if as_samples is None else as_samples(examples)


def _nearest(
    model: Model, examples: TensorDict, rows: Tensor, distance: Distance, samples: Any
) -> tuple[Tensor, Tensor]:
    """The distance of each sample to the nearest of these rows of the examples, and that row, `[n]`."""
    least = torch.full((len(samples),), torch.inf, dtype=torch.float64)
    nearest = torch.zeros(len(samples), dtype=torch.int64)
    for some in rows.split(max(1, min(_AT_ONCE, _NUMBERS // numbers_of_a_sample(model.codec)))):
        distances = distance(samples, examples_as_samples(model, examples[some])).double()
        found, place = distances.nan_to_num(nan=torch.inf, posinf=torch.inf).min(1)
        nearest = torch.where(found < least, some[place], nearest)
        least = torch.minimum(found, least)
    return least, nearest


def _median(distances: Tensor) -> str:
    finite = distances[distances.isfinite()]
    return f"{finite.median().item():.3g}" if len(finite) else "unknown"
