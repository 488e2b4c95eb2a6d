"""The loss of a task on held-out examples, and what plugins need for metrics and pictures of such examples."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.output import Metric
from diffcore.runs.coding import decode, encode, prepared_plainly
from diffcore.runs.model import Model
from diffcore.states.noise import generator_for
from diffcore.system.distributed import mean
from diffcore.tasks.objective import Objective
from diffcore.tasks.random_state import keep_random_state

__all__ = ["decode", "encoded_examples", "evaluate", "source_of"]


def evaluate(model: Model, data: Data, request: EvaluationRequest) -> Sequence[Metric]:
    """The mean loss of at least `request.n` held-out examples, or of all if there are fewer, as in training.

    They are taken in whole batches of `train.batch_size`, with the random numbers of the first steps of training. All
    processes compute a part of it. Without held-out examples, training examples are taken.
    """
    examples = data.examples if data.held_out is None else data.held_out
    size = min(request.settings.train.batch_size, len(examples))
    steps = min(-(-request.n // size), len(examples) // size)
    settings = request.settings.model_copy(
        update={"train": request.settings.train.model_copy(update={"batch_size": size})}
    )
    ready = replace(data, examples=prepared_plainly(model, replace(data, examples=examples)))
    objective = Objective(model, settings).eval()

    def loss_of(step: int) -> torch.Tensor:
        batch = model.task.draw(model, settings, ready, step)
        return objective(batch) if batch.x0.shape[0] else torch.zeros(())  # more processes than examples

    with torch.no_grad(), keep_random_state(model.device):
        losses = [loss_of(step).cpu() for step in range(steps)]
    loss = mean(torch.stack(losses).double().mean()).item()
    return [Metric("held_out_loss", loss, f"{model.task.loss_label}, of {source_of(data, steps * size)}")]


def source_of(data: Data, n: int) -> str:
    """What `n` examples are that metrics are of: held-out ones, or training examples if there are no others."""
    return f"{n} {'training' if data.held_out is None else 'held-out'} examples"


def encoded_examples(model: Model, data: Data, n: int, seed: int = 0) -> Encoded:
    """At most `n` held-out examples, or training examples if there are no others, chosen by the seed, on the CPU."""
    examples: Any = data.examples if data.held_out is None else data.held_out
    order = torch.randperm(len(examples), generator=generator_for(seed, "examined"))
    return encode(model, examples[order[:n]])
