"""A widget in which a visitor of `diffcore demo` paints what of an image is filled in."""

import base64
import io

from torch import Tensor

from diffcore.plugins.fragments import fragment
from diffcore_image.codec import ImageCodec
from diffcore_image.output.sheet import image_of


def painter(codec: ImageCodec, sample: Tensor) -> str:
    """An HTML fragment with an image, uint8 `[1, C, H, W]`; it chooses masks as PNG files in data URLs."""
    buffer = io.BytesIO()
    image_of(sample[0]).save(buffer, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    height, width = sample.shape[-2:]
    values = {"picture": picture, "width": width, "height": height, "half": width // 2}
    return fragment("diffcore_image.output", "painter.html", values)
