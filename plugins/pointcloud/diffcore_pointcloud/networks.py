"""Denoisers of point clouds: the core's networks for sets, applied to points with optional normals and colours."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import NO_INPUTS, Inputs, Tokens
from diffcore.errors import UserError
from diffcore.nn.sets import LatentSet, SetTransformer
from diffcore.states.categories import CategoricalField, Categories
from diffcore.states.spaces import Mask, Space, space_of
from diffcore.states.state import State, fields
from diffcore_pointcloud.options import LatentOptions, TransformerOptions

MOST_POINTS = 2**18
"""The number of points that go through a network at once where no gradient is needed, which bounds the memory."""


class PointDenoiser(nn.Module):
    """A network for sets, in which the concatenated fields of a point are the vector of an element.

    States are a Tensor `[B, N, k]` or a TensorDict of such fields; the output is split into the same fields. For the
    fields of `views`, which the network receives at unit variance, it has logits of their categories.

    A cloud may have more points than the `trained` number M of points of the training clouds. Then the network reads
    the shape from the first M points only, and each of the others is denoised given these M. All points of a shape are
    independent given the shape, so the first M points are distributed as those of a cloud of M points, and each further
    point as one more point of the same shape. If the network read from all N points, it would receive averages with
    much less noise than in training, from which every cloud would become the same mean shape.
    """

    def __init__(
        self, network: LatentSet | SetTransformer, trained: int, views: Mapping[str, Categories] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.width = network.width
        self.accepts = network.accepts
        self.network = network
        self.trained = trained
        self.views = {**views}

    def forward(
        self,
        x: State,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        like_state: Tensor | None = None,
    ) -> State:
        """The output for `x` with fields `[B, N, k]` and `conditioning` `[B, width]`; it has the shape of `x`.

        `like_state` `[B, M, channels]` lies beside the first M points, and zeros beside the others.
        """
        parts = fields(x)
        inputs = [part / self.views[name].std if name in self.views else part for name, part in parts.items()]
        output = self._output(torch.cat(inputs, -1), conditioning, mask, tokens, like_state)
        if isinstance(x, Tensor):
            return output
        split = output.split([part.shape[-1] for part in parts.values()], -1)
        return TensorDict(dict(zip(parts, split, strict=True)), batch_size=x.batch_size)

    def _output(
        self, points: Tensor, conditioning: Tensor, mask: Mask, tokens: Tokens | None, like_state: Tensor | None
    ) -> Tensor:
        """The output `[B, N, channels]` for `points` of that shape, in parts of the batch if it is large.

        A program that is exported is one for all N and for batches of all sizes.
        """
        batch, number, _ = points.shape
        exporting = torch.compiler.is_exporting()
        if exporting or number > self.trained:
            read = torch.arange(number, device=points.device) < self.trained
            mask = read.expand(batch, -1) if mask is None else mask & read
            if like_state is not None:
                like_state = functional.pad(like_state, (0, 0, 0, number - like_state.shape[1]))
        if exporting:
            return self.network(points, conditioning, mask, tokens, like_state)  # type: ignore[no-any-return]
        most = batch if torch.is_grad_enabled() else max(1, MOST_POINTS // number)
        masks = [None] * batch if mask is None else mask.split(most)
        words = [None] * batch if tokens is None else map(Tokens, *(part.split(most) for part in tokens))
        beside = [None] * batch if like_state is None else like_state.split(most)
        parts = zip(points.split(most), conditioning.split(most), masks, words, beside, strict=False)
        return torch.cat([self.network(*part) for part in parts])


def latent(options: LatentOptions, space: Space, inputs: Inputs = NO_INPUTS) -> PointDenoiser:
    """The denoiser with latent tokens; raises `UserError` if the number of heads does not divide both widths."""
    _check_heads(options.heads, "width", options.width)
    _check_heads(options.heads, "latent_width", options.latent_width)
    return _built(LatentSet, options.model_dump(), space, inputs)


def transformer(options: TransformerOptions, space: Space, inputs: Inputs = NO_INPUTS) -> PointDenoiser:
    """The denoiser with attention among all points; raises `UserError` if the heads do not divide the width."""
    _check_heads(options.heads, "width", options.width)
    return _built(SetTransformer, options.model_dump(), space, inputs)


def _built(
    network: type[LatentSet] | type[SetTransformer], options: Mapping[str, Any], space: Space, inputs: Inputs
) -> PointDenoiser:
    """The denoiser of the points of a space. Raises `UserError` for latents, which have no points.

    Categorical fields, the last ones, have no Fourier features, as their values are codes.
    """
    empty = fields(space.empty(1))
    if any(field.ndim != 3 for field in empty.values()):
        raise UserError("this network denoises points, not latents: in latents, use `denoiser` tokens")
    points = next(iter(empty.values())).shape[1]
    spaces = {name: space_of(space, name) for name in empty}
    views = {name: field.categories for name, field in spaces.items() if isinstance(field, CategoricalField)}
    channels, plain = sum(field.shape[-1] for field in empty.values()), sum(empty[name].shape[-1] for name in views)
    beside = {"tokens": inputs.tokens, "like_state": inputs.like_state, "plain": plain}
    return PointDenoiser(network(channels, **options, **beside), points, views)


def _check_heads(heads: int, name: str, width: int) -> None:
    if width % heads:
        raise UserError(f"`denoiser.heads` {heads} does not divide `denoiser.{name}` {width}")
