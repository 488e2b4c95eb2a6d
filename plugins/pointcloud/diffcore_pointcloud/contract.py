"""The contract of the plugin: what `diffcore check-plugin` may check beyond what holds for every plugin."""

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore.plugins.symmetries import permutation
from diffcore_pointcloud.codec import PARTS_STD, CloudCodec


def contract(codec: CloudCodec) -> Contract:
    """Decoding restores the points in their order, and networks are equivariant to permutations of the points."""

    def error(examples: TensorDict, samples: TensorDict) -> Tensor:
        """The largest error over the fields: positions in units of `scale`, normals, and colours in 10^5 levels.

        A wrong label of a part is an error of 10^5.
        """
        unit = {"positions": codec.facts.scale, "normals": 1.0, "colours": 1e5, "parts": 1e-5}
        true = {name: examples[name][:, : codec.facts.points] for name in codec.fields}
        if "parts" in true:
            true["parts"] = torch.tensor(codec.facts.part_labels)[true["parts"].long().cpu()]
        errors = [
            (samples[name].double().cpu() - values.double().cpu()).abs().flatten(1).amax(1) / unit[name]
            for name, values in true.items()
        ]
        return torch.stack(errors).amax(0)

    std = {"parts": PARTS_STD} if codec.joint else {}
    return Contract(restored=error, tolerance=1e-5, std=std, symmetries={"permutation": permutation()})
