"""The task `denoise`: the network predicts the clean state from a noisy one."""

from torch import Tensor

from diffcore.denoising.denoiser import Denoiser, Prediction
from diffcore.denoising.given import require_accepted
from diffcore.denoising.inputs import InputsAndKnown, together
from diffcore.denoising.losses import field_losses, hybrid_loss, weighted_loss
from diffcore.errors import UserError
from diffcore.plugins.data import Codec
from diffcore.plugins.records import Settings
from diffcore.runs.model import ChosenNetwork, Model, level_fields
from diffcore.runs.settings import RunSettings
from diffcore.tasks.batch import Batch


def network(options: Settings, codec: Codec, settings: RunSettings, backbone: ChosenNetwork) -> Denoiser:
    """Return a denoiser for states of the codec, which receives its conditions.

    Raises `UserError` if the chosen network does not accept what the conditions of the data yield.
    """
    accepted, inputs = backbone.component.accepts, together([condition.inputs for condition in codec.conditions])
    if settings.levels.known:
        inputs = InputsAndKnown(**vars(inputs))
        if "known" not in accepted:
            raise UserError(f"`levels.known`: the denoiser {backbone.component.name!r} cannot be told what is known")
    able = [part.name for part in backbone.offered if {*inputs.names} <= {*part.accepts}]
    advice = f"; use `denoiser` {' or '.join(able)}" if able else f"; no network of {settings.modality} does"
    require_accepted(codec.conditions, accepted, f"the denoiser {backbone.component.name!r}", advice)
    made = backbone(codec.space, *((inputs,) if accepted else ()))
    return Denoiser(made, codec.conditions, settings.parameterisation, level_fields=level_fields(codec, settings))


def loss(model: Model, batch: Batch, settings: RunSettings) -> Tensor:
    """Return w(lambda) |x0_hat - x0|^2 per degree of freedom for each example, `[B]`.

    w is `train.weighting` (see `diffcore.denoising.losses.WEIGHTINGS`). If the network predicts variances, the loss is
    `hybrid_loss`, which learns them too, for denoising steps of length 1 / T. What is known of an example has no loss;
    the sum over the rest is divided by all degrees of freedom, so that each entry counts as in examples of which
    nothing is known.
    """
    prediction, space, weighting = _predict(model, batch), batch.space_of(model.codec), settings.train.weighting
    if prediction.variance is None:
        found = weighted_loss(prediction, batch.x0, batch.noise, space, weighting, batch.mask)
    else:
        found = hybrid_loss(prediction, batch.x0, batch.noise, space, batch.earlier_log_snr, weighting, batch.mask)
    return found * _free_share(model, batch)


def losses_by_field(model: Model, batch: Batch, settings: RunSettings) -> dict[str, float]:
    """Return the part of the mean denoising loss that each field of the state has, by the name of the field."""
    prediction, space, weighting = _predict(model, batch), batch.space_of(model.codec), settings.train.weighting
    each = field_losses(prediction, batch.x0, batch.noise, space, weighting, batch.mask)
    return {name: (value * _free_share(model, batch)).mean().item() for name, value in each.items()}


def _free_share(model: Model, batch: Batch) -> Tensor:
    """The share of the degrees of freedom of each example that is not known, `[B]`."""
    free, whole = (
        space.degrees_of_freedom(batch.x0, batch.mask).clamp(min=1)
        for space in (batch.space_of(model.codec), model.codec.space)
    )
    return free / whole


def _predict(model: Model, batch: Batch) -> Prediction:
    return model.denoiser(batch.noisy, batch.level, batch.kept_conditions, batch.mask)
