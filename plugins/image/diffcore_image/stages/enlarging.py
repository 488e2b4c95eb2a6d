"""Images that are given smaller: the options of data sets, the condition, and the data for a model that enlarges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from diffcore.denoising.conditions.coarse_condition import CoarseCondition
from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.plugins.folders import UnusableError
from diffcore_image.options import EnlargingOptions, ImageFacts
from diffcore_image.pictures import decode

NAME = "coarse"


@dataclass(frozen=True)
class SmallImage(CoarseCondition):
    """A smaller image. As text, it is a file of exactly the smaller size."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    background: tuple[int, int, int] = (255, 255, 255)

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """The image in the file `text`, for all samples alike."""
        try:
            picture = decode(Path(text))
        except UnusableError as reason:
            raise UserError(f"{text} cannot be read: {reason}") from None
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[self.coarse[0]]
        if mode in ("L", "RGB"):
            picture = picture.on(self.background)
        pixels = numpy.array(picture.image.convert(mode))
        pixels = pixels.reshape(1, *pixels.shape[:2], -1)
        return self.of_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2)).expand(len(indices), -1, -1, -1)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The values of uint8 images `[B, C, h, w]`. Raises `UserError` for another size."""
        channels, height, width = self.coarse
        if pixels.shape[1:] != self.coarse:
            found = f"{pixels.shape[1]} channels of {pixels.shape[3]}x{pixels.shape[2]} pixels"
            raise UserError(f"the model enlarges images of {channels} channels of {width}x{height} pixels, not {found}")
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return self.values((pixels.float() / 255 - mean) / std)


def small_image(facts: ImageFacts) -> SmallImage:
    """The condition of the facts, which have a factor."""
    size = (facts.channels, facts.height // facts.upscale, facts.width // facts.upscale)
    return SmallImage(NAME, size, facts.upscale, facts.upscale_noise, facts.mean, facts.std, facts.background)


def with_small_images(build: Callable[[Any], Data]) -> Callable[[Any], Data]:
    """The builder of a data set whose options are `EnlargingOptions`, with these options in its facts."""

    def enlarging(options: EnlargingOptions) -> Data:
        data: Data = build(options)
        if not options.upscale:
            return data
        facts: Any = data.facts
        if facts.height % options.upscale or facts.width % options.upscale or options.upscale == 1:
            raise UserError(
                f"`data.upscale` {options.upscale}: it must be a whole number from 2 on that divides the sides of the "
                f"images, which are {facts.width}x{facts.height} pixels"
            )
        new = {"upscale": options.upscale, "upscale_noise": options.upscale_noise}
        return replace(data, facts=facts.model_copy(update=new))

    return enlarging
