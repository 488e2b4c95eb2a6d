"""The autoencoder of point clouds, the denoiser of its latents, and how similar reconstructions are."""

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from diffcore.denoising.inputs import NO_INPUTS, Inputs
from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.nn.sets import LatentRound, OctaveFeatures, normed
from diffcore.plugins.output import Metric
from diffcore.states.spaces import Euclidean, Mask, Space
from diffcore.states.state import State, fields
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.evaluation.metrics import chamfer
from diffcore_pointcloud.options import AutoencoderOptions, TokensOptions


class CloudAutoencoder(nn.Module):
    """Clouds of P points to `tokens` tokens of `latent` channels, `[B, latent, tokens, 1]`, and back.

    In the encoder, learned tokens read from the points (`diffcore.nn.sets.LatentRound`), so latents do not depend on
    the order of the points. In the decoder, P learned points read from the tokens. Which point becomes which does not
    matter to the loss, which is a Chamfer distance.
    """

    channel_axis = 1

    def __init__(self, space: Space, options: AutoencoderOptions) -> None:
        super().__init__()
        empty = fields(space.empty(1))
        self.widths = {name: field.shape[2] for name, field in empty.items()}
        points, channels = next(iter(empty.values())).shape[1], sum(self.widths.values())
        width, inner = options.width, options.inner
        self.space = Euclidean((options.latent, options.tokens, 1))
        self.constant = nn.Parameter(torch.randn(2, inner))  # in place of a noise level
        self.embed = OctaveFeatures(channels, width, options.octaves)
        self.readers = nn.Parameter(torch.randn(options.tokens, inner))
        self.points = nn.Parameter(torch.randn(points, width))

        def rounds() -> nn.ModuleList:
            made = (LatentRound(width, inner, inner, options.depth, options.heads, 2.0) for _ in range(options.rounds))
            return nn.ModuleList(made)

        self.encoder, self.decoder = rounds(), rounds()
        self.to_latent, self.from_latent = nn.Linear(inner, options.latent), nn.Linear(options.latent, inner)
        self.places = nn.Parameter(torch.randn(options.tokens, inner))
        self.output = nn.Linear(width, channels)

    def encode(self, state: State, mask: Mask = None) -> Tensor:
        """States with fields `[B, P, k]` to latents `[B, latent, tokens, 1]`. `mask` is ignored."""
        h = self.embed(torch.cat([*fields(state).values()], -1))
        z = self.readers.expand(h.shape[0], -1, -1)
        for exchange in self.encoder:
            h, z = exchange(h, z, self.constant[:1].expand(h.shape[0], -1), None)
        return self.to_latent(normed(z)).transpose(1, 2)[..., None]

    def decode(self, latent: Tensor, mask: Mask = None) -> State:
        """Latents to states with fields `[B, P, k]`."""
        z = self.from_latent(latent[..., 0].transpose(1, 2)) + self.places
        h = self.points.expand(latent.shape[0], -1, -1)
        for exchange in self.decoder:
            h, z = exchange(h, z, self.constant[1:].expand(latent.shape[0], -1), None)
        parts = self.output(normed(h)).split([*self.widths.values()], -1)
        if "" in self.widths:
            return parts[0]
        return TensorDict(dict(zip(self.widths, parts, strict=True)), batch_size=[latent.shape[0]])

    def losses(self, decoded: State, state: State, mask: Mask = None) -> dict[str, Tensor]:
        """The Chamfer distance of the positions, and the squared errors of normals and colours of nearest points.

        Each is the mean over the points of both clouds and over the coordinates, `[B]`.
        """
        found, true = fields(decoded), fields(state)
        place = next(iter(true))
        squares = torch.cdist(found[place], true[place]).square()
        forth, back = squares.min(2), squares.min(1)
        losses = {place: (forth.values.mean(1) + back.values.mean(1)) / found[place].shape[2]}
        for name in list(true)[1:]:
            index = (nearest.indices[..., None].expand_as(true[name]) for nearest in (forth, back))
            there, here = next(index), next(index)
            errors = (found[name] - true[name].gather(1, there), true[name] - found[name].gather(1, here))
            losses[name] = sum(error.square().mean((1, 2)) for error in errors)  # type: ignore[assignment]
        return losses


def autoencoder(options: AutoencoderOptions, codec: CloudCodec) -> CloudAutoencoder:
    """The autoencoder; raises `UserError` for joint states, and if the number of heads does not divide both widths."""
    if codec.joint:
        raise UserError("`data.joint` parts: the autoencoder of point clouds has no labels of points; leave one out")
    for name, width in (("width", options.width), ("inner", options.inner)):
        if width % options.heads:
            raise UserError(f"`autoencoder.heads` {options.heads} does not divide `autoencoder.{name}` {width}")
    return CloudAutoencoder(codec.space, options)


def tokens(options: TokensOptions, space: Space, inputs: Inputs = NO_INPUTS) -> DiT:
    """The denoiser of the tokens, each of which has its own place; raises `UserError` for clouds of points."""
    if not isinstance(space, Euclidean) or len(space.shape) != 3:
        raise UserError("`denoiser` tokens diffuses in latents: give `latent`, a run with `task` encode")
    if options.width % options.heads:
        raise UserError(f"`denoiser.heads` {options.heads} does not divide `denoiser.width` {options.width}")
    channels, count, _ = space.shape
    return DiT(channels, (count, 1), patch=1, **options.model_dump(), tokens=inputs.tokens)


def fidelity(codec: CloudCodec) -> Callable[[TensorDict, TensorDict], list[Metric]]:
    """A function of clouds and their reconstructions to the Chamfer distances of their positions."""
    return _distances


def _distances(originals: TensorDict, found: TensorDict) -> list[Metric]:
    """Distances in the unit of the data, squared; `chamfer_halves` is the distance of two halves of the same cloud."""
    first, second = originals["positions"], found["positions"]
    distances = [chamfer(a, b[None]).item() for a, b in zip(first, second, strict=True)]
    halves = [chamfer(cloud[::2], cloud[None, 1::2]).item() for cloud in first]
    return [
        Metric("chamfer", sum(distances) / len(distances), "mean squared distance to the nearest point, both ways"),
        Metric("chamfer_halves", sum(halves) / len(halves), "the same between two halves of the points of a cloud"),
    ]
