"""The metrics and the pictures of an autoencoder, for the task `encode`: examples and their reconstructions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from diffcore.errors import RAISED_BY_PLUGINS, UserError, told
from diffcore.evaluation.held_out import evaluate as held_out_loss
from diffcore.evaluation.held_out import source_of
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.building import of_samples, require_metrics
from diffcore.plugins.data import Codec, Data, Encoded
from diffcore.plugins.output import Metric, Picture
from diffcore.runs.coding import decode, encode, prepared, prepared_data
from diffcore.runs.first_stage import compression, set_exact_statistics
from diffcore.runs.latents import LatentCodec
from diffcore.runs.model import Model
from diffcore.runs.settings import FirstStage
from diffcore.states.channels import exact_moments
from diffcore.states.noise import Draws, generator_for
from diffcore.states.state import State, combine
from diffcore.system.distributed import by_leader


def evaluate(model: Model, data: Data, request: EvaluationRequest) -> Sequence[Metric]:
    """The fidelity of reconstructions of held-out examples, the latents, and the loss.

    Latents are decoded with the noise that samples of a model of these latents keep, if they keep any.
    `latent_std_error` is the largest |std - 1| of a channel over the latents of held-out examples, which are scaled by
    the statistics of the training examples.
    """

    def measured() -> list[Metric]:
        latent = latent_model(model, data)
        examples = _held_out(data, request)
        encoded = encode(latent, examples)
        source = source_of(data, len(examples))
        codec: Any = latent.codec
        _, std = exact_moments([(encoded.state, encoded.mask)], codec.autoencoder.channel_axis)
        error = max((value - 1).abs().max().item() for value in std.values())
        return [
            *_fidelity(latent, encoded, examples, source, request),
            Metric("latent_std_error", error, f"largest |std - 1| of a channel, of {source}"),
            Metric("compression", compression(codec), f"numbers of a sample per number of its latent, {codec.space}"),
        ]

    return [*(by_leader(measured) or ()), *held_out_loss(model, data, request)]


def pictures(model: Model, data: Data, request: EvaluationRequest) -> Iterator[Picture]:
    """Rows of ten originals, each above the row of their reconstructions."""
    found = by_leader(lambda: _compared(model, data, request)) if request.together else _compared(model, data, request)
    if found is not None:
        yield Picture("Originals above reconstructions", found)


_FEW = 1000
"""The number of examples that the statistics of latents in a picture are of."""


def _compared(model: Model, data: Data, request: EvaluationRequest, columns: int = 10) -> Any:
    latent = latent_model(model, data, _FEW)
    examples = _held_out(data, request)
    encoded = encode(latent, examples)
    originals, found = originals_of(latent, examples), decode(latent, _noisy(latent, encoded), encoded.mask)
    rows = range(0, len(originals), columns)
    parts = [part for row in rows for part in (originals[row : row + columns], found[row : row + columns])]
    if isinstance(originals, list):
        return [sample for part in parts for sample in part]
    return torch.cat(parts)


def latent_model(model: Model, data: Data, most: int | None = None) -> Model:
    """The model with the codec of the latents of its autoencoder, and their statistics over the data.

    With `most`, the statistics are those of the first `most` examples, and nothing is kept in the cache.
    """
    network: Any = model.network
    facts = data.facts.model_dump(mode="json")
    stage = FirstStage(autoencoder={}, facts=facts, last_log_snr=network.last_log_snr)
    codec = LatentCodec(model.codec, model.codec, network.autoencoder, stage).to(model.device).eval()
    latent = replace(model, codec=cast(Codec, codec))
    few = None if most is None else prepared(latent.codec, data.examples[:most], model.device)
    set_exact_statistics(codec, prepared_data(latent, data) if few is None else few)
    return latent


def originals_of(model: Model, examples: Any) -> Any:
    """Examples in the form that decoding gives them: encoded and decoded, without the autoencoder if there is one."""
    plain = replace(model, codec=of_samples(model.codec))
    encoded = encode(plain, examples)
    return decode(plain, encoded.state, encoded.mask)


def _held_out(data: Data, request: EvaluationRequest) -> Any:
    examples: Any = data.examples if data.held_out is None else data.held_out
    return examples[torch.randperm(len(examples), generator=generator_for(request.seed, "examined"))[: request.n]]


def _noisy(latent: Model, encoded: Encoded) -> State:
    """The latents with the noise that samples keep."""
    codec: Any = latent.codec
    if codec.last_log_snr is None:
        return encoded.state
    normal = Draws.of(0, range(encoded.state.shape[0])).normal("latent", encoded.state)
    noise = codec.space.noise(normal, encoded.mask)
    return combine((1.0, encoded.state), (math.exp(-codec.last_log_snr / 2), noise))


def _fidelity(latent: Model, encoded: Encoded, examples: Any, source: str, request: EvaluationRequest) -> list[Metric]:
    """The metrics of the modality, of reconstructions; empty if it has none, or if its code fails."""
    if latent.modality.fidelity is None:
        return []
    codec: Any = latent.codec
    try:
        measure = latent.modality.fidelity(codec.of_samples)
        found = measure(originals_of(latent, examples), decode(latent, _noisy(latent, encoded), encoded.mask))
        require_metrics(found, "fidelity")
    except UserError:
        raise
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        request.complain(f"the fidelity of {latent.modality.name} could not be measured: {told(error)}")
        return []
    return [Metric(each.name, each.value, f"{each.meaning}, of {source}") for each in found]
