"""What the plugin can be held to."""

from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore_image.codec import ImageCodec


def contract(codec: ImageCodec) -> Contract:
    """Pixels come back as they were. Networks see where things lie, so they promise no symmetry."""
    return Contract(restored=_levels)


def _levels(examples: TensorDict, samples: Tensor) -> Tensor:
    """The largest difference of a pixel, in levels of 255."""
    return (samples.int() - examples["pixels"].int()).abs().flatten(1).amax(1)
