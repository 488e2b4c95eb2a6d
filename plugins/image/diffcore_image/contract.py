"""The properties of the image plugin that `diffcore check-plugin` can test."""

from tensordict import TensorDict
from torch import Tensor

from diffcore.plugins.contract import Contract
from diffcore_image.codec import ImageCodec


def contract(codec: ImageCodec) -> Contract:
    """Decoding restores the pixels exactly. The networks depend on position, so they have no symmetry."""
    return Contract(restored=_largest_difference)


def _largest_difference(examples: TensorDict, samples: Tensor) -> Tensor:
    """The largest difference of a pixel value, from 0 to 255, for each image `[B]`."""
    return (samples.int() - examples["pixels"].int()).abs().flatten(1).amax(1)
