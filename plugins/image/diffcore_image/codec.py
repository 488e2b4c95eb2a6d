"""The codec of images: converts pixels to states of zero mean and unit variance, and back."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.likelihood.bound import Bins
from diffcore.plugins.data import Drawn, Encoded
from diffcore.plugins.text import text_conditions, text_values
from diffcore.states.noise import Draws
from diffcore.states.placement import to_device
from diffcore.states.spaces import Euclidean, Mask
from diffcore.states.state import State
from diffcore_image.options import ImageFacts
from diffcore_image.stages.enlarging import small_image

if TYPE_CHECKING:
    from tensordict import TensorDict


class ImageCodec:
    """x = (pixel / 255 - mean) / std, with mean and std of each channel; samples are uint8 `[B, C, H, W]`."""

    def __init__(self, facts: ImageFacts) -> None:
        self.facts = facts
        self.space = Euclidean((facts.channels, facts.height, facts.width))
        self.conditions: tuple[Condition, ...] = text_conditions(facts.text)
        if facts.classes:
            self.conditions = (ClassCondition("label", facts.classes), *self.conditions)
        self._small = small_image(facts) if facts.upscale else None
        if self._small is not None:
            self.conditions = (*self.conditions, self._small)
        self.sizes = None
        self._mean = torch.tensor(facts.mean)[:, None, None]
        self._std = torch.tensor(facts.std)[:, None, None]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The states of black and of white pixels, `[1, C, 1, 1]`."""
        return -self._mean[None] / self._std, (1 - self._mean[None]) / self._std

    @property
    def bins(self) -> Bins:
        """The states of the 256 values of each channel."""
        return Bins(1 / 255 / self._std[None], *self.bounds)

    def encode(self, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
        """Encode `pixels`, uint8 `[B, C, H, W]`, `label`, int64 `[B]`, and their texts if there are any.

        With `draws` and `facts.flip`, each image is mirrored with probability 1/2.
        """
        pixels = examples["pixels"].float() / 255
        state = (pixels - to_device(self._mean, pixels.device)) / to_device(self._std, pixels.device)
        if draws is not None and self.facts.flip:
            mirrored = draws.uniform("flip") < 0.5
            state = torch.where(mirrored[:, None, None, None], state.flip(3), state)
        labels = {"label": examples["label"]} if self.facts.classes else {}
        small = {}
        if self._small is not None:
            small[self._small.name] = self._small.drawn(avg_pool2d(state, self._small.factor), draws)
        return Encoded(state, {**labels, **text_values(self.conditions, examples, draws), **small})

    def require_smaller(self, codec: "ImageCodec") -> None:
        """Raise `UserError` unless the images of `codec` have the size that the model enlarges."""
        assert self._small is not None
        self._small.require_size((codec.facts.channels, codec.facts.height, codec.facts.width))

    def coarse(self, samples: Drawn) -> Tensor:
        """The small images, as states `[B, C, h, w]`."""
        assert self._small is not None
        return self._small.of_pixels(samples.decoded)

    def decode(self, state: State, mask: Mask = None) -> Tensor:
        """Return uint8 pixels `[B, C, H, W]`, rounded and clamped to [0, 255]."""
        assert isinstance(state, Tensor)
        pixels = state * self._std.to(state.device) + self._mean.to(state.device)
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)
