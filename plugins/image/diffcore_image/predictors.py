"""The networks of `diffcore.nn` that tell what a noisy image shows."""

from diffcore.errors import UserError
from diffcore.nn.encoder import Encoder
from diffcore.spaces import Euclidean
from diffcore_image.options import EncoderOptions


def encoder(options: EncoderOptions, space: Euclidean, outputs: int) -> Encoder:
    """Half a U-Net; raises `UserError` where patches do not tile the image."""
    channels, height, width = space.shape
    if height % options.patch or width % options.patch:
        raise UserError(
            f"images of {height}x{width} cannot be cut into patches of {options.patch}: change --data.size or "
            "--predictor.patch"
        )
    return Encoder(channels, outputs, **options.model_dump())
