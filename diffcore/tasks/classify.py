"""The task `classify`: the network predicts the conditions from a noisy state."""

from collections.abc import Sequence

from torch import Tensor

from diffcore.denoising.conditions import Condition
from diffcore.denoising.noisy_classifier import NoisyClassifier, heads_of
from diffcore.errors import UserError
from diffcore.plugins.data import Codec
from diffcore.plugins.records import Settings
from diffcore.runs.model import ChosenNetwork, Model, level_fields
from diffcore.runs.settings import RunSettings
from diffcore.tasks.batch import Batch


def network(options: Settings, codec: Codec, settings: RunSettings, backbone: ChosenNetwork) -> NoisyClassifier:
    """Return a classifier of all conditions of the codec that can be predicted.

    Raises `UserError` if there is none, and for `levels.known`, which is for denoisers.
    """
    if settings.levels.known:
        raise UserError("`levels.known` is for denoisers: leave it out with `task` classify")
    predicted = _predictable(codec.conditions)
    outputs = sum(head.outputs for head in heads_of(predicted).values())
    return NoisyClassifier(backbone(codec.space, outputs), predicted, level_fields=level_fields(codec, settings))


def _predictable(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions that a noisy classifier can predict. Raises `UserError` if there are none."""
    if not conditions:
        raise UserError("these data have no conditions, so there is nothing to predict")
    predictable = tuple(condition for condition in conditions if condition.head is not None)
    if not predictable:
        names = ", ".join(condition.name for condition in conditions)
        raise UserError(f"a classifier can predict none of the conditions of these data: {names}")
    return predictable


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
