"""The task `classify`: the network predicts the conditions from a noisy state."""

from collections.abc import Callable

from torch import Tensor, nn

from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.errors import UserError
from diffcore.plugins.data import Codec
from diffcore.plugins.records import Settings
from diffcore.runs.model import Model
from diffcore.runs.settings import RunSettings
from diffcore.tasks.batch import Batch


def network(
    options: Settings, codec: Codec, settings: RunSettings, backbone: Callable[..., nn.Module]
) -> NoisyClassifier:
    """Return a classifier of all conditions of the codec. Raises `UserError` if it has none."""
    if not codec.conditions:
        raise UserError("these data have no conditions, so there is nothing to predict")
    outputs = sum(condition.outputs for condition in codec.conditions)
    return NoisyClassifier(backbone(codec.space, outputs), codec.conditions)


def loss(model: Model, batch: Batch, settings: RunSettings) -> Tensor:
    """Return -log p(c | x_t) for each example, `[B]`, in nats: the sum over all conditions c."""
    return -model.classifier.log_likelihood(batch.noisy, batch.level, batch.conditions, batch.mask)


def losses_by_field(model: Model, batch: Batch, settings: RunSettings) -> dict[str, float]:
    """Return the mean of -log p(c | x_t) over the batch, in nats, by the name of the condition c."""
    classifier = model.classifier
    outputs = classifier(batch.noisy, batch.level, batch.mask)
    return {
        condition.name: -condition.log_likelihood(outputs[condition.name], batch.conditions[condition.name])
        .mean()
        .item()
        for condition in classifier.conditions
    }
