"""Images that are given smaller: the condition, and the data for a model that enlarges."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from diffcore.denoising.conditions.coarse_condition import CoarseGrid
from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.plugins.enlarging import COARSE, EnlargingOptions
from diffcore.plugins.folders import UnusableError
from diffcore_image.options import ImageFacts
from diffcore_image.pictures import decode


@dataclass(frozen=True)
class SmallImage(CoarseGrid):
    """A smaller image. As text, it is a file of exactly the smaller size."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    background: tuple[int, int, int] = (255, 255, 255)

    def read(self, path: str) -> Tensor:
        """The state of the image in a file, `[1, C, h, w]`."""
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no such file")
        try:
            picture = decode(Path(path))
        except UnusableError as reason:
            raise UserError(f"{path} cannot be read: {reason}") from None
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[self.coarse[0]]
        if mode in ("L", "RGB"):
            picture = picture.on(self.background)
        pixels = numpy.array(picture.image.convert(mode))
        pixels = pixels.reshape(1, *pixels.shape[:2], -1)
        try:
            return self.of_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The states of uint8 images `[B, C, h, w]`. Raises `UserError` for another size."""
        self.require_size(pixels.shape[1:])
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def require_size(self, found: tuple[int, ...]) -> None:
        """Raise `UserError` unless images with these channels, height and width are those that are enlarged."""
        if tuple(found) != self.coarse:
            raise UserError(f"the model enlarges images of {_words(self.coarse)}, not {_words(found)}")


def _words(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{channels} channel{'s' * (channels > 1)} of {width}x{height} pixels"


def small_image(facts: ImageFacts) -> SmallImage:
    """The condition of the facts, which have a factor."""
    size = (facts.channels, facts.height // facts.upscale, facts.width // facts.upscale)
    return SmallImage(COARSE, size, facts.upscale_noise, facts.upscale, facts.mean, facts.std, facts.background)


def with_small_images(build: Callable[[Any], Data]) -> Callable[[Any], Data]:
    """The builder of a data set whose options are `EnlargingOptions`, with these options in its facts."""

    def enlarging(options: EnlargingOptions) -> Data:
        data: Data = build(options)
        facts: Any = data.facts
        if reason := facts.not_enlarged_by(options.upscale):
            raise UserError(reason)
        return replace(data, facts=facts.model_copy(update=options.enlarging))

    return enlarging
