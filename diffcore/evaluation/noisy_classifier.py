"""The metrics of a noisy classifier on held-out examples, for the task `classify`."""

from functools import partial

import torch

from diffcore.evaluation.held_out import source_of
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric
from diffcore.process.gaussian import perturb
from diffcore.runs.coding import encode
from diffcore.runs.model import Model
from diffcore.sampling.loop import in_batches, levels_of
from diffcore.states.level import Levels
from diffcore.states.noise import Draws, generator_for
from diffcore.system.distributed import gathered, leads, rank_slice

LOG_SNRS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""The log-SNRs at which a classifier is evaluated, from almost pure noise to almost clean data."""


@torch.no_grad()
def evaluate(model: Model, data: Data, request: EvaluationRequest) -> list[Metric]:
    """The accuracy of a classifier for the conditions of at most `n` held-out examples, at the `LOG_SNRS` of noise.

    For each condition: the negative log-likelihood in nats, the metrics of the condition, and the values of both by
    chance, that is, for the best constant prediction. They do not depend on the size of the batches. A condition that
    none of the examples has is left out. With several processes, each predicts for a part of the examples; the leader
    evaluates all predictions, and the others get no metrics.
    """
    classifier, codec = model.classifier.eval(), model.codec
    n, seed, batch_size = request.n, request.seed, request.config.batch_size
    held_out = data.examples if data.held_out is None else data.held_out
    order = generator_for(seed, "examined")
    examples = held_out[torch.randperm(len(held_out), generator=order)[:n]]
    source = source_of(data, len(examples))
    batches = list(in_batches(rank_slice(len(examples)), batch_size))
    parts = [encode(model, examples[list(rows)]) for rows in batches]
    values = encode(model, examples).conditions
    seen = encode(model, data.examples[torch.randperm(len(data.examples), generator=order)[: 10 * n]]).conditions

    def mean_metrics(outputs: dict[str, torch.Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for condition in classifier.conditions:
            output, value, head = outputs[condition.name], values[condition.name], classifier.heads[condition.name]
            known = condition.given(value)
            if not known.any():
                continue
            each = {"nll": -head.log_likelihood(output, value)[known], **head.measures(output, value)}
            found |= {f"{condition.name}_{name}": row.double().mean().item() for name, row in each.items()}
        return found

    constants = {
        name: head.best_constant(seen[name]).expand(len(examples), -1) for name, head in classifier.heads.items()
    }
    chance = mean_metrics(constants)
    metrics = []
    noisiest, cleanest = model.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    log_snrs = [value for value in LOG_SNRS if noisiest <= value <= cleanest]

    def outputs_at(level: Levels) -> list[dict[str, torch.Tensor]]:
        outputs = []
        for rows, batch in zip(batches, parts, strict=True):
            normal = Draws.of(seed, rows).normal("classifier", batch.state)
            x = perturb(batch.state, codec.space.noise(normal, batch.mask), level)
            mask = None if batch.mask is None else batch.mask.to(model.device)
            outputs.append({name: output.cpu() for name, output in classifier(x.to(model.device), level, mask).items()})
        return outputs

    for level, log_snr in zip(levels_of(model.schedule, torch.tensor(log_snrs)), log_snrs, strict=False):
        batches_of_outputs = [output for own in gathered(partial(outputs_at, level)) for output in own]
        if not leads():
            continue
        outputs = {name: torch.cat([output[name] for output in batches_of_outputs]) for name in classifier.heads}
        for name, value in mean_metrics(outputs).items():
            meaning = f"at log-SNR {log_snr:g}, of {source}; by chance {chance[name]:.4g}"
            metrics.append(Metric(f"{name}_at_{log_snr:g}", value, meaning))
    return metrics
