"""Writes `AutoencoderKL`, with the scale of latents folded into its weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffcore_diffusers.networks.autoencoder import HfKL, config_of


def autoencoder(network: HfKL, channels: int, sides: tuple[int, int], mean: Tensor, std: Tensor) -> AutoencoderKL:
    """An `AutoencoderKL` whose latents are (z - mean) / std, where z are those of `network`, and which decodes these.

    If the mean is zero and all standard deviations are the same, `scaling_factor` is 1 / std, and no weight changes.
    Otherwise `scaling_factor` is 1, and mean and standard deviation are folded into the last convolution of the
    encoder and the first of the decoder. Both have one cell, so no border matters and this is exact.
    """
    uniform = bool((mean == 0).all()) and bool((std == std[0]).all())
    scale = 1 / std[0].item() if uniform else 1.0
    found = AutoencoderKL(**config_of(network.options, channels, sides), scaling_factor=scale)
    found.load_state_dict(network.net.state_dict())
    if not uniform:
        _fold(found, mean.double(), std.double())
    return found.eval()


@torch.no_grad()
def _fold(found: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Scale what the encoder predicts, mean and log-variance, by 1 / std, and what the decoder receives by std."""
    last: Any = found.quant_conv
    first: Any = found.post_quant_conv
    count = len(mean)
    weight, bias = last.weight.double(), last.bias.double()
    weight[:count] /= std[:, None, None, None]
    bias[:count] = (bias[:count] - mean) / std
    bias[count:] -= 2 * std.log()
    _set(last, weight, bias)
    weight, bias = first.weight.double(), first.bias.double()
    _set(first, weight * std[:, None, None], bias + weight[:, :, 0, 0] @ mean)


def _set(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    assert layer.bias is not None
    layer.bias.copy_(bias)
