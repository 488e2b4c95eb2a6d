"""diffusers' `UNet2DModel`."""

from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor, nn

from diffcore.denoising.conditions import ClassCondition, Condition
from diffcore.errors import UserError
from diffcore.states.spaces import Euclidean, Mask
from diffcore_diffusers.networks.constructing import constructed
from diffcore_diffusers.networks.told import WIDTH, Told, told
from diffcore_diffusers.options.unet import HfUNetOptions


class HfUNet(nn.Module):
    """diffusers' `UNet2DModel` as a backbone; its weights have the names that they have there, after `net.`.

    With data of K classes it has K + 1, of which the last means none.
    """

    width = WIDTH

    def __init__(self, options: HfUNetOptions, channels: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self._config = config_of(options, channels, sides)
        self.net = constructed("the denoiser hf-unet", UNet2DModel, **self._config)
        self.options, self._classes = options, False

    def own_conditioning(self, conditions: tuple[Condition, ...], level_fields: Sequence[str]) -> Told:
        """The timesteps and classes that the network embeds. Raises `UserError` for others than one class."""
        count = sum(len(each.classes) for each in conditions if isinstance(each, ClassCondition))
        found = told("hf-unet", self.options.table, conditions, level_fields, count)
        if count:
            self._classes = True
            self.net = constructed("the denoiser hf-unet", UNet2DModel, **self._config, num_class_embeds=count + 1)
        return found

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None) -> Tensor | tuple[Tensor, Tensor]:
        labels = conditioning[:, 1].long() if self._classes else None
        output: Tensor = self.net(x, conditioning[:, 0], class_labels=labels).sample
        return with_variances(output) if self.options.learns_variances else output


def unet(options: HfUNetOptions, space: Euclidean) -> HfUNet:
    """The network for pictures of the space. Raises `UserError` if their sides cannot be halved at each level."""
    channels, height, width = space.shape
    require_halved("hf-unet", len(options.block_out_channels), height, width)
    return HfUNet(options, channels, (height, width))


def config_of(options: HfUNetOptions, channels: int, sides: tuple[int, int]) -> dict[str, Any]:
    """The configuration of `UNet2DModel` for pictures of that number of channels and of the sides (height, width)."""
    own = options.model_dump(exclude={"table", "learns_variances"})
    outputs = channels * (2 if options.learns_variances else 1)
    return {**own, "in_channels": channels, "out_channels": outputs, "sample_size": size_of(sides)}


def require_halved(denoiser: str, levels: int, height: int, width: int) -> None:
    """Raise `UserError` unless sides of the state can be halved at each level but the first."""
    unit = 2 ** (levels - 1)
    if height % unit or width % unit:
        raise UserError(
            f"pictures of {height}x{width} do not fit the denoiser {denoiser} with {levels} levels: sides must be "
            f"multiples of {unit}; change `data.size` or `denoiser.block_out_channels`"
        )


def size_of(sides: tuple[int, int]) -> int | tuple[int, int]:
    """The sides (height, width) as diffusers writes them: one number if they are the same."""
    return sides[0] if sides[0] == sides[1] else sides


def with_variances(output: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction, and the log-variance as a fraction between its bounds, of an output that has both.

    Networks of diffusers with learned variances predict it as a number v from -1 to 1; the fraction is (v + 1) / 2.
    """
    prediction, variance = output.chunk(2, dim=1)
    return prediction, (variance + 1) / 2
