"""Networks of diffusers as networks of diffcore. They embed their time themselves, as a timestep of their table."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffcore.denoising.conditions import ClassCondition, Condition, Conditions
from diffcore.denoising.inputs import NO_INPUTS, Embedded
from diffcore.errors import UserError
from diffcore.process.schedules import Schedule
from diffcore.states.spaces import Euclidean, Mask
from diffcore_diffusers import tables
from diffcore_diffusers.options import HfUNetOptions

NEAR = 2e-3
"""Timesteps nearer than this to a whole number are that number: networks are told float32 log-SNRs."""


class Timesteps(nn.Module):
    """The timestep and the class of each sample, `[B, 2]`, which a network embeds itself; it has no weights.

    The timestep of a log-SNR is t(lambda) (T - 1), where t(lambda) is the inverse of the `schedule` of the table,
    clamped to [0, T - 1].
    """

    def __init__(self, schedule: Schedule, count: int, conditions: tuple[Condition, ...] = ()) -> None:
        super().__init__()
        self.shapes = {condition.name: condition.shape for condition in conditions}
        self.width, self.inputs = HfUNet.width, NO_INPUTS
        self._names = tuple(self.shapes)
        self._schedule, self._last = schedule, count - 1

    def forward(self, log_snr: Tensor, conditions: Conditions) -> Embedded:
        times = (self._schedule.time(log_snr.double()) * self._last).clamp(0, self._last)
        whole = times.round()
        times = torch.where((times - whole).abs() < NEAR, whole, times)
        labels = [conditions[name].to(times) for name in self._names] or [torch.zeros_like(times)]
        return Embedded(torch.stack([times, labels[0]], dim=1).float())


class HfUNet(nn.Module):
    """diffusers' `UNet2DModel` as a backbone; its weights have the names that they have there, after `net.`."""

    width = 2

    def __init__(self, options: HfUNetOptions, channels: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.net = UNet2DModel(**config_of(options, channels, sides))
        self.options = options

    def own_conditioning(self, conditions: tuple[Condition, ...], level_fields: Sequence[str]) -> nn.Module:
        """The timesteps and classes that the network embeds. Raises `UserError` for others than one class."""
        classes = self.options.num_class_embeds
        if level_fields:
            raise UserError("the denoiser hf-unet is told one noise level")
        if not conditions and classes is None:
            return Timesteps(tables.schedule(self.options.table), tables.length(self.options.table))
        kinds = [type(condition) for condition in conditions]
        if kinds != [ClassCondition]:
            names = ", ".join(condition.name for condition in conditions) or "none"
            raise UserError(f"the denoiser hf-unet takes one class and no other conditions; these data have: {names}")
        count = len(conditions[0].classes) + 1  # type: ignore[attr-defined]
        if classes != count:
            raise UserError(f"`denoiser.num_class_embeds` must be {count} here: one for each class, and one for none")
        return Timesteps(tables.schedule(self.options.table), tables.length(self.options.table), conditions)

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None) -> Tensor | tuple[Tensor, Tensor]:
        labels = None if self.options.num_class_embeds is None else conditioning[:, 1].long()
        output: Tensor = self.net(x, conditioning[:, 0], class_labels=labels).sample
        if not self.options.learns_variances:
            return output
        mean, variance = output.chunk(2, dim=1)
        return mean, (variance + 1) / 2


def unet(options: HfUNetOptions, space: Euclidean) -> HfUNet:
    """The network for pictures of the space. Raises `UserError` if their sides cannot be halved at each level."""
    channels, height, width = space.shape
    unit = 2 ** (len(options.block_out_channels) - 1)
    if height % unit or width % unit:
        raise UserError(
            f"pictures of {height}x{width} do not fit the denoiser hf-unet with {len(options.block_out_channels)} "
            f"levels: sides must be multiples of {unit}; change `data.size` or `denoiser.block_out_channels`"
        )
    return HfUNet(options, channels, (height, width))


def config_of(options: HfUNetOptions, channels: int, sides: tuple[int, int]) -> dict[str, object]:
    """The configuration of `UNet2DModel` for pictures of that number of channels and of the sides (height, width)."""
    own = options.model_dump(exclude={"table", "learns_variances"})
    outputs = channels * (2 if options.learns_variances else 1)
    size = sides[0] if sides[0] == sides[1] else sides
    return {**own, "in_channels": channels, "out_channels": outputs, "sample_size": size}
