"""The task `encode`: an autoencoder, in whose latents other runs diffuse."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffcore.errors import UserError
from diffcore.plugins.autoencoder import Autoencoder, losses_of
from diffcore.plugins.data import Codec
from diffcore.plugins.records import Settings
from diffcore.runs.model import ChosenNetwork, Model
from diffcore.runs.settings import RunSettings
from diffcore.states.channels import batch_std, scaled
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask
from diffcore.states.state import State, combine, fields, first_field, map_fields
from diffcore.tasks.batch import Examples


class FirstStage(nn.Module):
    """The autoencoder that is trained, and what is done to its latents before they are decoded.

    With `last_log_snr` lambda, the decoder gets z + exp(-lambda / 2) s eps, where s is the standard deviation of each
    channel over the batch: latents at the log-SNR lambda, at which a denoiser of these latents stops as well
    (Unified Latents, arXiv 2602.17270). As the noise grows with the latents, there is no scale to fix.

    With `variational`, the decoder gets z + exp(l / 2) eps with a learned log-variance l of each channel, for the KL
    divergence from the standard normal (Kingma & Welling 2014).
    """

    def __init__(self, autoencoder: nn.Module, last_log_snr: float | None = None, variational: bool = False) -> None:
        super().__init__()
        self.autoencoder, self.last_log_snr = autoencoder, last_log_snr
        own = cast(Autoencoder, autoencoder)
        counts = {name: field.shape[own.channel_axis] for name, field in fields(own.space.empty(1)).items()}
        begin = {f"field_{name}": nn.Parameter(torch.full((count,), -4.0)) for name, count in counts.items()}
        self.log_variance = nn.ParameterDict(begin if variational else {})

    def noisy(self, latent: State, mask: Mask, draws: Draws) -> State:
        """The latents that the decoder gets in training."""
        own = cast(Autoencoder, self.autoencoder)
        if self.log_variance:
            std = {name: (self.log_variance[f"field_{name}"] / 2).exp() for name in fields(latent)}
        elif self.last_log_snr is not None:
            factor = math.exp(-self.last_log_snr / 2)
            std = {name: factor * value for name, value in batch_std(latent, own.channel_axis, mask).items()}
        else:
            return latent
        noise = own.space.noise(draws.normal("latent", latent), mask)
        return combine((1.0, latent), (1.0, scaled(noise, own.channel_axis, std)))

    def divergence(self, latent: State, mask: Mask) -> Tensor:
        """KL(N(z, exp(l)) || N(0, 1)) of each example in nats, `[B]`; 0 unless variational."""
        own = cast(Autoencoder, self.autoencoder)
        if not self.log_variance:
            return first_field(latent).new_zeros(latent.shape[0])
        log_variance = {name: self.log_variance[f"field_{name}"] for name in fields(latent)}
        ones = map_fields(torch.ones_like, latent)
        each = scaled(ones, own.channel_axis, {name: v.exp() - 1 - v for name, v in log_variance.items()})
        return own.space.total(each, mask) / 2 + own.space.squared_norm(latent, mask) / 2


def network(options: Settings, codec: Codec, settings: RunSettings, backbone: ChosenNetwork) -> FirstStage:
    """Return the chosen autoencoder of states of the codec. Raises `UserError` for transforms that it does not have."""
    own: Any = options
    autoencoder = backbone(codec)
    if own.equivariance and not getattr(autoencoder, "transforms", ()):
        raise UserError(f"`task.equivariance`: the autoencoder {backbone.component.name} has no transforms")
    last = own.log_snr if own.regularisation == "noise" else None
    return FirstStage(autoencoder, last, own.regularisation == "kl")


def loss(model: Model, batch: Examples, settings: RunSettings) -> Tensor:
    """Return the loss of reconstruction of each example, `[B]`, and the weighted divergence if there is one.

    The divergence is divided by the degrees of freedom of the state, as the loss is. With `task.equivariance` p, the
    first p B examples are decoded from transformed latents to the transformed states (Kouzelis et al. 2025, EQ-VAE,
    arXiv 2502.09509, eq. 5).
    """
    losses, divergence = _losses(model, batch, settings)
    return torch.stack(list(losses.values())).sum(0) + divergence


def losses_by_field(model: Model, batch: Examples, settings: RunSettings) -> dict[str, float]:
    """Return the mean loss of each field, and the weighted divergence if there is one."""
    losses, divergence = _losses(model, batch, settings)
    parts = {name or "reconstruction": value.mean().item() for name, value in losses.items()}
    stage = cast(FirstStage, model.network)
    return {**parts, "divergence": divergence.mean().item()} if stage.log_variance else parts


def _losses(model: Model, batch: Examples, settings: RunSettings) -> tuple[dict[str, Tensor], Tensor]:
    stage, options = cast(FirstStage, model.network), cast(Any, settings).task
    autoencoder, space, x0, mask = cast(Autoencoder, stage.autoencoder), model.codec.space, batch.x0, batch.mask
    draws = Draws.fresh(x0.shape[0], device=first_field(x0).device)  # of the global generator, seeded for this step
    latent = autoencoder.encode(x0, mask)
    noisy = stage.noisy(latent, mask, draws)
    divergence = options.kl_weight * stage.divergence(latent, mask) / space.degrees_of_freedom(x0, mask).clamp(min=1)
    moved = round(options.equivariance * x0.shape[0])
    if not moved:
        return losses_of(autoencoder, autoencoder.decode(noisy, mask), x0, space, mask), divergence
    parts = []
    for rows, transformed in ((slice(moved), True), (slice(moved, None), False)):
        state, z, present = x0[rows], noisy[rows], None if mask is None else mask[rows]
        if not state.shape[0]:
            continue
        if transformed:
            state, z = autoencoder.transform(state, z, Draws(draws.seed, draws.samples[rows]))
        parts.append(losses_of(autoencoder, autoencoder.decode(z, present), state, space, present))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, divergence
