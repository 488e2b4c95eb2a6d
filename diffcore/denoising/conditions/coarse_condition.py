"""A coarse state as a condition: a model that is given one enlarges it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.conditions.condition import Condition
from diffcore.denoising.inputs import Embedded, Inputs
from diffcore.errors import UserError
from diffcore.states.noise import Draws


@dataclass(frozen=True)
class CoarseCondition(Condition):
    """The means of blocks of `factor` x `factor` entries of a grid, with noise, beside the channels of the state.

    Values are `[B, C + 1, h, w]`: the means plus s eps, and the standard deviation s of this noise in the last channel.
    In training, s is uniform between 0 and `noise` for each example (noise conditioning augmentation; Ho et al. 2022,
    Cascaded Diffusion Models, section 4.1), so the model learns how far a coarse state can be trusted: what another
    model draws is not quite a state of block means. nan is the null value.

    * `coarse`: (C, h, w), the shape of a coarse state.
    """

    name: str
    coarse: tuple[int, int, int]
    factor: int
    noise: float

    @property
    def inputs(self) -> Inputs:
        """The channels of the enlarged state, of its noise, and of whether it is given."""
        return Inputs(like_state=self.coarse[0] + 2)

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        channels, height, width = self.coarse
        return torch.full((batch, channels + 1, height, width), torch.nan, device=device)

    def given(self, value: Tensor) -> Tensor:
        return ~value.isnan().flatten(1).any(1)

    def embedding(self, width: int) -> nn.Module:
        return _Enlarged(self.factor)

    def require(self, value: Tensor) -> None:
        super().require(value)
        if bool((value[:, -1] < 0).any()):
            raise UserError(f"the condition {self.name!r} has a negative standard deviation in its last channel")

    def values(self, coarse: Tensor, std: Tensor | float = 0.0, draws: Draws | None = None) -> Tensor:
        """The values of coarse states `[B, C, h, w]`, with noise of the standard deviations `std` `[B]` by `draws`."""
        level = torch.as_tensor(std, dtype=coarse.dtype, device=coarse.device).expand(len(coarse))[:, None, None, None]
        noisy = coarse if draws is None else coarse + level * draws.normal(("coarse", self.name), coarse)
        return torch.cat([noisy, level.expand(-1, 1, *coarse.shape[2:])], 1)

    def of(self, state: Tensor, draws: Draws | None = None) -> Tensor:
        """The values of states `[B, C, H, W]`; with `draws`, with noise of a random standard deviation."""
        coarse = functional.avg_pool2d(state, self.factor)
        if draws is None:
            return self.values(coarse)
        return self.values(coarse, self.noise * draws.uniform(("coarse noise", self.name)), draws)


class _Enlarged(nn.Module):
    """Values `[B, C + 1, h, w]`, enlarged by bilinear interpolation, and a channel that is 1 where they are given."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, value: Tensor) -> Embedded:
        given = ~value.isnan()
        both = torch.cat([value.where(given, 0.0), given[:, :1].to(value.dtype)], 1)
        return Embedded(like_state=functional.interpolate(both, scale_factor=float(self.factor), mode="bilinear"))
