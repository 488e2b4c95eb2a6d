"""What the plugin can be held to."""

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore.plugins.symmetries import permutation
from diffcore_pointcloud.codec import CloudCodec


def contract(codec: CloudCodec) -> Contract:
    """Points come back in their order; networks take clouds as sets."""

    def distance(examples: TensorDict, samples: TensorDict) -> Tensor:
        """The largest difference: of places in standard deviations of the set, of normals, of colours in levels."""
        unit = {"positions": codec.facts.scale, "normals": 1.0, "colours": 1e5}
        found = [
            (samples[name].double() - examples[name][:, : codec.facts.points].double()).abs().flatten(1).amax(1)
            / unit[name]
            for name in codec.fields
        ]
        return torch.stack(found).amax(0)

    return Contract(restored=distance, tolerance=1e-5, symmetries={"permutation": permutation()})
