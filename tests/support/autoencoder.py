"""A stranger's task: a linear autoencoder of clean states, with a network of its own and metrics of reconstructions."""

import math

import torch
from pydantic import Field
from torch import nn

from diffcore.evaluation.held_out import decode, encoded_examples, source_of
from diffcore.evaluation.held_out import evaluate as held_out_loss
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.output import Metric, Picture
from diffcore.plugins.records import API_VERSION, CLEAN_BATCH, Component, Settings, Task, lazy
from diffcore.states.state import fields, first_field, map_fields

__all__ = ["API_VERSION", "diffcore_tasks"]


class AutoencodeOptions(Settings):
    penalty: float = Field(0.0, ge=0, description="Weight of the squared latent in the loss.")


class LinearOptions(Settings):
    latent: int = Field(2, ge=1, description="Numbers of the latent.")


class Linear(nn.Module):
    """x to W2 (W1 x + b1) + b2, for states of any fields."""

    def __init__(self, size, latent):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(size, latent), nn.Linear(latent, size)

    def forward(self, x):
        latent = self.encoder(torch.cat([field.flatten(1) for field in fields(x).values()], 1))
        pieces = iter(self.decoder(latent).split([field[0].numel() for field in fields(x).values()], 1))
        return map_fields(lambda field: next(pieces).view_as(field), x), latent


def build_linear(options, space):
    return Linear(sum(field[0].numel() for field in fields(space.empty(1)).values()), options.latent)


def build(options, codec, settings, backbone):
    return backbone(codec.space)


def errors(model, x0):
    """The squared error of each field of each example, `[B]` by name."""
    found = fields(model.network(x0)[0])
    return {name: (found[name] - field).square().flatten(1).sum(1) for name, field in fields(x0).items()}


def loss(model, batch, settings):
    penalty = settings.task.penalty * model.network(batch.x0)[1].square().sum(1)
    return sum(errors(model, batch.x0).values()) + penalty


def losses_by_field(model, batch, settings):
    return {name: error.mean().item() for name, error in errors(model, batch.x0).items()}


def evaluate(model, data, request):
    """The peak is 1."""
    encoded = encoded_examples(model, data, request.n, request.seed)
    size = sum(field[0].numel() for field in fields(encoded.state).values())
    with torch.no_grad():
        error = sum(errors(model, encoded.state.to(model.device)).values()).mean().item() / size
    psnr = Metric("psnr", -10 * math.log10(error), f"dB, of {source_of(data, len(first_field(encoded.state)))}")
    return [psnr, *held_out_loss(model, data, request)]


@torch.no_grad()
def pictures(model, data, request):
    """Rows of ten originals, each above the row of their reconstructions."""
    x0 = encoded_examples(model, data, request.n, request.seed).state
    originals, found = decode(model, x0), decode(model, model.network(x0.to(model.device))[0].cpu())
    rows = [torch.cat([originals[i : i + 10], found[i : i + 10]]) for i in range(0, len(originals), 10)]
    yield Picture("Originals above reconstructions", torch.cat(rows))


def report(model, data, request):
    return [("Latent", f"<p>{model.network.encoder.out_features} numbers</p>")]


@hookimpl
def diffcore_tasks():
    part = lazy("tests.support")
    return [
        Task(
            "autoencode",
            "a linear autoencoder",
            part("autoencoder:build"),
            AutoencodeOptions,
            network="autoencoder",
            networks=(Component("linear", "two matrices", part("autoencoder:build_linear"), LinearOptions),),
            loss=part("autoencoder:loss"),
            losses_by_field=part("autoencoder:losses_by_field"),
            draw=CLEAN_BATCH,
            evaluate=part("autoencoder:evaluate"),
            pictures=part("autoencoder:pictures"),
            report=part("autoencoder:report"),
            loss_label="squared error",
        )
    ]
