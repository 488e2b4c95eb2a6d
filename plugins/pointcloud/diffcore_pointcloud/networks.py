"""Denoisers of point clouds: the core's networks for sets, applied to points with optional normals and colours."""

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.nn.sets import LatentSet, SetTransformer
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields
from diffcore_pointcloud.options import LatentOptions, TransformerOptions


class PointDenoiser(nn.Module):
    """A network for sets, in which the concatenated fields of a point are the vector of an element.

    States are a Tensor `[B, N, k]` or a TensorDict of such fields; the output is split into the same fields.
    """

    def __init__(self, network: LatentSet | SetTransformer) -> None:
        super().__init__()
        self.width = network.width
        self.network = network

    def forward(self, x: State, conditioning: Tensor, mask: Mask = None) -> State:
        """The output for `x` with fields `[B, N, k]` and `conditioning` `[B, width]`; it has the shape of `x`."""
        parts = fields(x)
        output = self.network(torch.cat(list(parts.values()), -1), conditioning, mask)
        if isinstance(x, Tensor):
            return output
        split = output.split([part.shape[-1] for part in parts.values()], -1)
        return TensorDict(dict(zip(parts, split, strict=True)), batch_size=x.batch_size)


def latent(options: LatentOptions, space: Space) -> PointDenoiser:
    """The denoiser with latent tokens; raises `UserError` if the number of heads does not divide both widths."""
    _check_heads(options.heads, "width", options.width)
    _check_heads(options.heads, "latent_width", options.latent_width)
    return PointDenoiser(LatentSet(_channels(space), **options.model_dump()))


def transformer(options: TransformerOptions, space: Space) -> PointDenoiser:
    """The denoiser with attention among all points; raises `UserError` if the heads do not divide the width."""
    _check_heads(options.heads, "width", options.width)
    return PointDenoiser(SetTransformer(_channels(space), **options.model_dump()))


def _channels(space: Space) -> int:
    """The number of channels of a point."""
    return sum(field.shape[-1] for field in fields(space.empty(1)).values())


def _check_heads(heads: int, name: str, width: int) -> None:
    if width % heads:
        raise UserError(f"`denoiser.heads` {heads} does not divide `denoiser.{name}` {width}")
