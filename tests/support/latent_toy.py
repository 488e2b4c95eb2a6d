"""The toy with a linear autoencoder, and a network that diffuses both in its states and in latents."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import nn

from diffcore.plugins.data import Encoded
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component, Settings
from diffcore.plugins.registry import Provided, load
from diffcore.states.spaces import Euclidean
from diffcore.states.state import fields, map_fields
from tests.support.learned_codec import FlatBackbone, FlatClassifier
from tests.support.toy import TOY, ToyBackbone, ToyClassifier, ToyCodec


class LinearOptions(Settings):
    latent: int = Field(2, ge=1)


class Linear(nn.Module):
    """z = E x and x = D z + b, where x are all numbers of a state."""

    channel_axis = 1
    transforms = ("negation",)

    def __init__(self, space, latent):
        super().__init__()
        self.state_space, self.space = space, Euclidean((latent,))
        size = sum(field[0].numel() for field in fields(space.empty(1)).values())
        self.encoder, self.decoder = nn.Linear(size, latent, bias=False), nn.Linear(latent, size)

    def encode(self, state, mask=None):
        return self.encoder(torch.cat([field.flatten(1) for field in fields(state).values()], 1))

    def decode(self, latent, mask=None):
        empty = self.state_space.empty(len(latent))
        pieces = iter(self.decoder(latent).split([field[0].numel() for field in fields(empty).values()], 1))
        return map_fields(lambda field: next(pieces).view_as(field), empty)

    def transform(self, state, latent, draws):
        return map_fields(torch.neg, state), -latent


class MirroringCodec(ToyCodec):
    """With random numbers, half of the places are mirrored."""

    def encode(self, examples, draws=None):
        encoded = super().encode(examples, draws)
        if draws is not None:
            sign = torch.where(draws.uniform("mirror") < 0.5, -1.0, 1.0)
            encoded.state["place"] = encoded.state["place"] * sign[:, None]
        return Encoded(encoded.state, encoded.conditions)


def fidelity(codec):
    return lambda originals, found: [Metric("distance", (originals - found).norm(dim=1).mean().item(), "of points")]


AUTOENCODER = Component("linear", "two matrices", lambda o, codec: Linear(codec.space, o.latent), LinearOptions)
LATENT = replace(
    TOY,
    name="latent",
    networks={"autoencoder": (AUTOENCODER,)},
    fidelity=fidelity,
    denoisers=(
        replace(
            TOY.denoisers[0],
            build=lambda o, space: (FlatBackbone if isinstance(space, Euclidean) else ToyBackbone)(o.width, o.dropout),
        ),
    ),
    classifiers=(
        replace(
            TOY.classifiers[0],
            build=lambda o, space, n: (FlatClassifier if isinstance(space, Euclidean) else ToyClassifier)(o.width, n),
        ),
    ),
)
MIRRORED = replace(LATENT, name="mirrored", codec=MirroringCodec)


def latent_registry():
    registry = load([])
    for modality in (LATENT, MIRRORED, TOY):
        registry.modalities[modality.name] = Provided(modality, "diffcore-latent", "1.0")
    return registry
