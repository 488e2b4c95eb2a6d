"""A coarse state as a condition: a model that is given one enlarges it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.conditions.condition import Condition
from diffcore.denoising.inputs import Embedded, Inputs, channel_axis
from diffcore.denoising.octaves import octave_waves
from diffcore.errors import UserError
from diffcore.states.noise import Draws


@dataclass(frozen=True)
class CoarseCondition(Condition):
    """A coarse state c with noise, c + s eps, whose channels lie beside those of the state.

    Values have the shape of c with one more channel, the standard deviation s of the noise. In training, s is uniform
    between 0 and `noise` for each example (noise conditioning augmentation; Ho et al. 2022, Cascaded Diffusion Models,
    section 4.1), so the model learns how far a coarse state can be trusted: what another model draws differs from the
    coarse state of an example. nan is the null value.

    * `coarse`: the shape of a coarse state: (C, h, w) of a grid, (M, k) of a set of M elements.
    """

    name: str
    coarse: tuple[int, ...]
    noise: float

    @property
    def _axis(self) -> int:
        """The axis of the channels in a batch of values."""
        return channel_axis(len(self.coarse) + 1)

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        shape = [batch, *self.coarse]
        shape[self._axis] += 1
        return torch.full(shape, torch.nan, device=device)

    def given(self, value: Tensor) -> Tensor:
        return ~value.isnan().flatten(1).any(1)

    def require(self, value: Tensor) -> None:
        super().require(value)
        if bool((value.select(self._axis, -1) < 0).any()):
            raise UserError(f"the condition {self.name!r} has a negative standard deviation in its last channel")

    def parse(self, text: str, indices: Sequence[int], seed: int) -> Tensor:
        """The coarse state in the file `text`, for all samples alike."""
        return self.values(self.read(text)).expand(len(indices), *self.shape)

    def read(self, path: str) -> Tensor:
        """The coarse state in a file, `[1, ...]`. Raises `UserError` if there is none, or if none can be read."""
        raise UserError(f"the condition {self.name!r} cannot be read from files: give a tensor in Python")

    def values(self, coarse: Tensor, std: Tensor | float = 0.0, draws: Draws | None = None) -> Tensor:
        """The values of coarse states `[B, ...]`, with noise of the standard deviations `std` `[B]` by `draws`."""
        level = torch.as_tensor(std, dtype=coarse.dtype, device=coarse.device).expand(len(coarse))
        level = level.reshape(-1, *[1] * len(self.coarse))
        noisy = coarse if draws is None else coarse + level * draws.normal(("coarse", self.name), coarse)
        return torch.cat([noisy, level.expand_as(coarse.narrow(self._axis, 0, 1))], self._axis)

    def drawn(self, coarse: Tensor, draws: Draws | None = None) -> Tensor:
        """The values of coarse states `[B, ...]`; with `draws`, with noise of a random standard deviation."""
        if draws is None:
            return self.values(coarse)
        return self.values(coarse, self.noise * draws.uniform(("coarse noise", self.name)), draws)


@dataclass(frozen=True)
class CoarseGrid(CoarseCondition):
    """A grid `[C, h, w]` for states of grids whose sides are larger by `factor`, enlarged by bilinear interpolation.

    The network receives the channels of the grid, s, and a channel that is 1 where the grid is given. What the network
    predicts is the difference of the state from the enlarged grid.
    """

    factor: int

    def expected(self, value: Tensor) -> Tensor:
        grid = value[:, :-1]
        return enlarged(grid.where(~grid.isnan(), 0.0), self.factor)

    @property
    def inputs(self) -> Inputs:
        return Inputs(like_state=self.coarse[0] + 2)

    def embedding(self, width: int) -> nn.Module:
        return _Enlarged(self.factor)


class _Enlarged(nn.Module):
    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, value: Tensor) -> Embedded:
        given = ~value.isnan()
        both = torch.cat([value.where(given, 0.0), given[:, :1].to(value.dtype)], 1)
        return Embedded(like_state=enlarged(both, self.factor))


def enlarged(grids: Tensor, factor: int) -> Tensor:
    """Grids `[B, C, h, w]` with sides that are larger by `factor`, by bilinear interpolation."""
    return functional.interpolate(grids, scale_factor=float(factor), mode="bilinear")


@dataclass(frozen=True)
class CoarseSet(CoarseCondition):
    """The first M of the `elements` N of a set, `[M, k]`: the network receives them beside these elements of the state.

    The elements of the state have no order, so each could be the first; given the first M, the network must still be
    equivariant to permutations of the elements together with what lies beside them. A set that is drawn so has the
    given elements, as far as they can be trusted, and N - M more.

    What the network receives beside an element x of the given ones is x, sin(2^j x) and cos(2^j x) for j < `octaves`,
    s, and 1. Beside the others it receives zeros.
    """

    elements: int
    octaves: int = 4

    @property
    def inputs(self) -> Inputs:
        return Inputs(like_state=self.coarse[1] * (1 + 2 * self.octaves) + 2)

    def embedding(self, width: int) -> nn.Module:
        return _First(self.elements, self.octaves)


class _First(nn.Module):
    def __init__(self, elements: int, octaves: int) -> None:
        super().__init__()
        self.elements, self.octaves = elements, octaves

    def forward(self, value: Tensor) -> Embedded:
        given = ~value.isnan()
        both = value.where(given, 0.0)
        waves = octave_waves(both[..., :-1], self.octaves)
        first = torch.cat([*waves, both, torch.ones_like(both[..., :1])], -1) * given[..., :1]
        return Embedded(like_state=functional.pad(first, (0, 0, 0, self.elements - value.shape[1])))


def enlarging_condition(conditions: Sequence[Condition]) -> CoarseCondition | None:
    """The condition of a model that enlarges; None if the model does not."""
    return next((each for each in conditions if isinstance(each, CoarseCondition)), None)
