"""The task `classify`: the network predicts the conditions from a noisy state."""

from torch import Tensor

from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.tasks.batch import Batch


def loss(model: Model, batch: Batch, settings: RunSettings) -> Tensor:
    """Return -log p(c | x_t) for each example, `[B]`, in nats: the sum over all conditions c."""
    return -model.classifier.log_likelihood(batch.noisy, batch.level, batch.conditions, batch.mask)


def losses_by_field(model: Model, batch: Batch, settings: RunSettings) -> dict[str, float]:
    """Return the mean of -log p(c | x_t) over the batch, in nats, by the name of the condition c."""
    classifier = model.classifier
    outputs = classifier(batch.noisy, batch.level, batch.mask)
    return {
        name: -head.log_likelihood(outputs[name], batch.conditions[name]).mean().item()
        for name, head in classifier.heads.items()
    }
