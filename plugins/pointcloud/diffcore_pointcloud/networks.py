"""The plugin's networks: what the core has for sets, told of points that may have normals and colours."""

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.nn.sets import LatentSet, SetTransformer
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields
from diffcore_pointcloud.options import LatentOptions, TransformerOptions


class PointDenoiser(nn.Module):
    """A network of sets whose elements are points: all that is known of a point is one vector.

    States are a Tensor `[B, N, k]` or a TensorDict of such fields, which are laid side by side and taken apart again.
    """

    def __init__(self, network: LatentSet | SetTransformer) -> None:
        super().__init__()
        self.width = network.width
        self.network = network

    def forward(self, x: State, conditioning: Tensor, mask: Mask = None) -> State:
        """`x` of fields `[B, N, k]`, `conditioning` `[B, width]`; returns the like of `x`."""
        parts = fields(x)
        output = self.network(torch.cat(list(parts.values()), -1), conditioning, mask)
        if isinstance(x, Tensor):
            return output
        split = output.split([part.shape[-1] for part in parts.values()], -1)
        return TensorDict(dict(zip(parts, split, strict=True)), batch_size=x.batch_size)


def latent(options: LatentOptions, space: Space) -> PointDenoiser:
    """Points that speak through latent tokens; raises `UserError` where heads do not divide both widths."""
    _check_heads(options.heads, "width", options.width)
    _check_heads(options.heads, "latent_width", options.latent_width)
    return PointDenoiser(LatentSet(_channels(space), **options.model_dump()))


def transformer(options: TransformerOptions, space: Space) -> PointDenoiser:
    """Points that all attend to each other; raises `UserError` where heads do not divide the width."""
    _check_heads(options.heads, "width", options.width)
    return PointDenoiser(SetTransformer(_channels(space), **options.model_dump()))


def _channels(space: Space) -> int:
    """How many numbers a point has."""
    return sum(field.shape[-1] for field in fields(space.empty(1)).values())


def _check_heads(heads: int, name: str, width: int) -> None:
    if width % heads:
        raise UserError(f"`denoiser.heads` {heads} does not divide `denoiser.{name}` {width}")
