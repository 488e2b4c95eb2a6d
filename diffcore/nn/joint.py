"""The denoiser of a joint state: a network for each side, which attends to tokens of the other sides.

For the sides a and b of a state, with noise levels of their own, the network of a predicts E[a | a_t, b_s] from its
noisy side, the levels, and tokens of the noisy b, and that of b likewise (Bao et al. 2023, "One Transformer Fits All
Distributions in Multi-Modal Diffusion at Scale", arXiv 2303.06555, where one transformer has the tokens of both). So
each side keeps the network that its kind of data has, with its symmetries.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import NO_INPUTS, Inputs, Tokens, beside_each_other, channels_beside
from diffcore.errors import UserError
from diffcore.nn.attention import CrossAttention
from diffcore.nn.blocks import accepted, patches, zeroed
from diffcore.nn.dit import TransformerBlock, grid_positions
from diffcore.nn.sets import OctaveFeatures, SetTransformer, normed
from diffcore.states.spaces import Euclidean, Mask, Product, Space, Whole, space_of
from diffcore.states.state import State, fields, first_field, named

CHANNELS = 96
"""The channels of the tokens that sides have for each other."""
TOKENS = 4
"""The number of tokens that the vector of an encoder of a plugin is cut into."""
MOST_PATCHES = 64
"""The patches of a grid are so large that there are at most so many."""
LATENTS = 32
"""The number of tokens of a set."""


@dataclass(frozen=True)
class Maker:
    """What builds the networks of a side.

    * `trunk(space, inputs)`: the denoiser of the side, a `diffcore.denoising.denoiser.Backbone`.
    * `accepts`: the inputs that it takes, as in `diffcore.plugins.records.Component.accepts`. Without `"tokens"`, it is
      told of the other sides by its conditioning vector alone.
    * `encoder(space, outputs)`: a network `(x, conditioning, mask)` to `[B, outputs]` with an attribute `width`, such
      as a noisy classifier, from which the others get their tokens. Without it, they are made of patches or elements,
      which respects no symmetry of the side but that of the order of elements.
    """

    trunk: Callable[[Space, Inputs], nn.Module]
    accepts: tuple[str, ...] = ()
    encoder: Callable[[Space, int], nn.Module] | None = None


def numbers_trunk(space: Space, inputs: Inputs) -> nn.Module:
    """The denoiser of a side of some numbers, `[k]`."""
    assert isinstance(space, Euclidean)
    return NumbersTrunk(space.shape[0], tokens=inputs.tokens)


NUMBERS = Maker(numbers_trunk, ("tokens",))
"""The maker of sides that are one field of numbers, `[k]`."""


def joint_network(
    space: Product, sides: Mapping[str, Sequence[str]], makers: Mapping[str, Maker], inputs: Inputs = NO_INPUTS
) -> "JointNetwork":
    """The denoiser of a joint state whose `sides` have these fields; see `diffcore.plugins.data.Codec.joint`.

    Sides without a maker must be one field of numbers. Raises `UserError` for inputs that a joint network does not
    take.
    """
    if names := [name for name in inputs.names if name != "tokens"]:
        raise UserError(f"a joint state has a network that takes no {' and no '.join(names)}")
    made = {name: makers.get(name, NUMBERS) for name in sides}
    return JointNetwork(space, {name: tuple(own) for name, own in sides.items()}, made, inputs.tokens)


class JointNetwork(nn.Module):
    """A trunk and an encoder for each side. Each trunk gets the tokens of all encoders of the other sides."""

    def __init__(
        self, space: Product, sides: Mapping[str, tuple[str, ...]], makers: Mapping[str, Maker], tokens: int = 0
    ) -> None:
        super().__init__()
        self.accepts = accepted(tokens=tokens)
        self.sides = dict(sides)
        spaces = {name: space_of_side(space, name, own) for name, own in sides.items()}
        self.masked = {name: not isinstance(part, Whole) for name, part in spaces.items()}
        plain = {name: part.of if isinstance(part, Whole) else part for name, part in spaces.items()}
        takes = {name: "tokens" in makers[name].accepts for name in sides}
        self.trunks = nn.ModuleDict(
            {name: makers[name].trunk(plain[name], Inputs(tokens=CHANNELS * takes[name])) for name in sides}
        )
        self.encoders = nn.ModuleDict({name: _encoder(plain[name], makers[name]) for name in sides})
        widths: dict[str, int] = {name: trunk.width for name, trunk in self.trunks.items()}  # type: ignore[misc]
        self.width = max(*widths.values(), CHANNELS)
        self.levels = nn.ModuleDict({name: nn.Linear(self.width, width) for name, width in widths.items()})
        self.heard = nn.ModuleDict({name: zeroed(nn.Linear(CHANNELS, width)) for name, width in widths.items()})
        self.encoder_levels = nn.ModuleDict(
            {name: nn.Linear(self.width, encoder.width) for name, encoder in self.encoders.items()}  # type: ignore[arg-type]
        )
        self.of_conditions = nn.Linear(tokens, CHANNELS) if tokens else None
        self.takes = takes
        self.views = {
            full: view
            for name, trunk in self.trunks.items()
            for field, view in getattr(trunk, "views", {}).items()
            for full in sides[name]
            if full.removeprefix(f"{name}.") == field
        }

    def forward(self, x: State, conditioning: Tensor, mask: Mask = None, tokens: Tokens | None = None) -> State:
        """The output for the joint state `x` with `conditioning` `[B, width]`, of the form of `x`."""
        values = fields(x)
        own = {name: side_of(values, name, names) for name, names in self.sides.items()}
        masks = {name: mask if masked else None for name, masked in self.masked.items()}
        told = {
            name: encoder(own[name], functional.silu(self.encoder_levels[name](conditioning)), masks[name])
            for name, encoder in self.encoders.items()
        }
        found: dict[str, Tensor] = {}
        for name, trunk in self.trunks.items():
            others = [value for other, value in told.items() if other != name]
            vector = torch.stack([_mean(each) for each in others]).sum(0)
            inner = functional.silu(self.levels[name](conditioning) + self.heard[name](vector))
            context = (inner,) if masks[name] is None else (inner, masks[name])
            output = trunk(
                own[name], *context, **({"tokens": self._tokens(others, tokens)} if self.takes[name] else {})
            )
            found |= fields_of(output, name, self.sides[name])
        return named({name: found[name] for name in values})

    def _tokens(self, others: Sequence[Tokens], tokens: Tokens | None) -> Tokens:
        """The tokens of the other sides and of the conditions, one after another."""
        each = list(others)
        if tokens is not None and self.of_conditions is not None:
            each.append(Tokens(self.of_conditions(tokens.values), tokens.mask))
        return Tokens(torch.cat([one.values for one in each], 1), torch.cat([one.mask for one in each], 1))


def side_of(values: Mapping[str, Tensor], side: str, names: Sequence[str]) -> State:
    """The state of a side, of the `values` of all fields: a tensor, or its fields without `side.` in their names."""
    if len(names) == 1:
        return values[names[0]]
    return named({name.removeprefix(f"{side}."): values[name] for name in names})


def fields_of(state: State, side: str, names: Sequence[str]) -> dict[str, Tensor]:
    """The fields of a joint state that the `state` of a side has: the inverse of `side_of`."""
    own = fields(state)
    if len(names) == 1:
        return {names[0]: own[""]}
    return {name: own[name.removeprefix(f"{side}.")] for name in names}


def space_of_side(space: Product, side: str, names: Sequence[str]) -> Space:
    """The space of the states of a side, `Whole` if none of its fields have elements that a mask is for."""
    if len(names) == 1:
        return space_of(space, names[0])
    parts = {name.removeprefix(f"{side}."): space_of(space, name) for name in names}
    if all(isinstance(part, Whole) for part in parts.values()):
        return Whole(Product({name: part.of for name, part in parts.items()}))  # type: ignore[attr-defined]
    return Product(parts)


def _mean(tokens: Tokens) -> Tensor:
    """The mean of the tokens that exist, `[B, channels]`."""
    exists = tokens.mask[..., None].to(tokens.values.dtype)
    return (tokens.values * exists).sum(1) / exists.sum(1).clamp(min=1)


def _encoder(space: Space, maker: Maker) -> nn.Module:
    """The encoder of a side: that of its maker, or one of patches or of elements. Raises `UserError` if none fits."""
    if maker.encoder is not None:
        return VectorTokens(maker.encoder(space, TOKENS * CHANNELS))
    example = space.empty(1)
    channels, shape = channels_beside(example), first_field(example).shape[1:]
    if channels is None or len(shape) not in (1, 2, 3):
        raise UserError(f"a side of a joint state of the form {space} needs an encoder of its own")
    if len(shape) == 1:
        return NumbersTokens(channels)
    return GridTokens(channels, (shape[1], shape[2])) if len(shape) == 3 else SetTokens(channels)


class VectorTokens(nn.Module):
    """Tokens that are the pieces of the vector which a network gives for a state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.width: int = network.width  # type: ignore[assignment]
        self.spread = nn.Linear(TOKENS * CHANNELS, TOKENS * CHANNELS)
        self.first = nn.Parameter(torch.randn(TOKENS, CHANNELS))

    def forward(self, x: State, conditioning: Tensor, mask: Mask = None) -> Tokens:
        context = (conditioning,) if mask is None else (conditioning, mask)
        values = self.spread(self.network(x, *context)).unflatten(1, (TOKENS, CHANNELS)) + self.first
        return _all_exist(values)


class NumbersTokens(nn.Module):
    """A token for some numbers `[B, k]`, by an MLP."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.width = CHANNELS
        self.embed = nn.Linear(count, CHANNELS)
        self.blocks = _blocks(1)

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None) -> Tokens:
        h = self.embed(x)[:, None]
        for block in self.blocks:
            h = block(h, conditioning)
        return _all_exist(h)


class GridTokens(nn.Module):
    """Tokens of the patches of a grid `[B, C, H, W]`, by a small transformer."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.width = CHANNELS
        self.patch = 1
        while math.prod(-(-side // self.patch) for side in size) > MOST_PATCHES:
            self.patch *= 2
        self.embed = nn.Linear(channels * self.patch**2, CHANNELS)
        height, width = (-(-side // self.patch) for side in size)
        self.positions = nn.Parameter(grid_positions(height, width, CHANNELS))
        self.blocks = _blocks(2)

    def forward(self, x: State, conditioning: Tensor, mask: Mask = None) -> Tokens:
        grid = beside_each_other(x)
        below, right = (-side % self.patch for side in grid.shape[2:])
        h = self.embed(patches(functional.pad(grid, (0, right, 0, below)), self.patch)) + self.positions
        for block in self.blocks:
            h = block(h, conditioning)
        return _all_exist(h)


class SetTokens(nn.Module):
    """Some tokens of a set `[B, N, C]`, which attend to its elements, by a small transformer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = CHANNELS
        self.embed = OctaveFeatures(channels, CHANNELS, 4)
        self.latents = nn.Parameter(torch.randn(LATENTS, CHANNELS))
        self.read = CrossAttention(CHANNELS, CHANNELS, CHANNELS, 4)
        self.blocks = _blocks(2)

    def forward(self, x: State, conditioning: Tensor, mask: Mask = None) -> Tokens:
        elements = self.embed(beside_each_other(x))
        latents = self.latents.expand(elements.shape[0], -1, -1)
        h = latents + self.read(normed(latents), normed(elements), mask)
        for block in self.blocks:
            h = block(h, conditioning)
        return _all_exist(h)


class NumbersTrunk(nn.Module):
    """The denoiser of some numbers `[B, k]`: a transformer of one token, which attends to the other sides."""

    def __init__(self, count: int, width: int = 128, depth: int = 3, tokens: int = 0) -> None:
        super().__init__()
        self.network = SetTransformer(count, width, depth, octaves=2, tokens=tokens)
        self.width, self.accepts = width, self.network.accepts

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None, tokens: Tokens | None = None) -> Tensor:
        """`x` `[B, k]` and `conditioning` `[B, width]` to the shape of `x`."""
        return self.network(x[:, None], conditioning, None, tokens)[:, 0]  # type: ignore[no-any-return]


def _blocks(depth: int) -> nn.ModuleList:
    return nn.ModuleList(TransformerBlock(CHANNELS, 4, CHANNELS) for _ in range(depth))


def _all_exist(values: Tensor) -> Tokens:
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
