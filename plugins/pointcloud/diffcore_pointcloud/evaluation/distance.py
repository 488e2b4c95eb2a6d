"""How different clouds are."""

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.evaluation.metrics import pairwise

_POINTS = 128
"""The first points of each cloud, which have no order, are compared."""


class ChamferDistance:
    """The Chamfer distance of the first 128 points, of clouds in units of the standard deviation of the data."""

    words = "Chamfer distance of 128 points, variance of the data 1"
    most = 5000

    def __init__(self, codec: CloudCodec) -> None:
        self._scale = codec.facts.scale

    def __call__(self, samples: TensorDict, others: TensorDict) -> Tensor:
        """The distances `[n, m]`; infinite for clouds with points that are not finite."""
        first, second = (each["positions"][:, :_POINTS].cpu().float() / self._scale for each in (samples, others))
        finite = first.flatten(1).isfinite().all(1)
        found = pairwise(first.nan_to_num(0.0, 0.0, 0.0), second)
        return found.masked_fill(~finite[:, None], torch.inf)
