"""The task `denoise`: the network predicts the clean state from a noisy one."""

from dataclasses import replace

from torch import Tensor

from diffcore.denoising.denoiser import Denoiser, Prediction
from diffcore.denoising.estimate import estimated, told, told_rows
from diffcore.denoising.given import require_accepted
from diffcore.denoising.inputs import Inputs, channels_beside, together
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
        inputs = replace(inputs, known=True)
        if "known" not in accepted:
            raise UserError(f"`levels.known`: the denoiser {backbone.component.name!r} cannot be told what is known")
    again = _share_of(options)
    if again:
        inputs = _with_estimate(inputs, codec, backbone)
    able = [part.name for part in backbone.offered if {*inputs.names} <= {*part.accepts}]
    advice = f"; use `denoiser` {' or '.join(able)}" if able else f"; no network of {settings.modality} does"
    require_accepted(codec.conditions, accepted, f"the denoiser {backbone.component.name!r}", advice)
    made = backbone(codec.space, *((inputs,) if accepted else ()))
    return Denoiser(
        made,
        codec.conditions,
        settings.parameterisation,
        level_fields=level_fields(codec, settings),
        self_conditioning=again > 0,
    )


def _share_of(options: Settings) -> float:
    """The option `self_conditioning`, which a task that is made of this one need not have."""
    return float(getattr(options, "self_conditioning", 0.0))


def _with_estimate(inputs: Inputs, codec: Codec, backbone: ChosenNetwork) -> Inputs:
    """The inputs of a network that also receives an estimate of x0. Raises `UserError` if it accepts none."""
    if "estimate" in backbone.component.accepts:
        return replace(inputs, estimate=True)
    channels = channels_beside(codec.space.empty(1))
    if channels is None or "like_state" not in backbone.component.accepts:
        raise UserError(
            f"`task.self_conditioning`: the denoiser {backbone.component.name!r} accepts no `estimate` of such states: "
            "set it to 0, or use another `denoiser`"
        )
    return replace(inputs, like_state=inputs.like_state + channels)


def loss(model: Model, batch: Batch, settings: RunSettings) -> Tensor:
    """Return w(lambda) |x0_hat - x0|^2 per degree of freedom for each example, `[B]`.

    w is `train.weighting` (see `diffcore.denoising.losses.WEIGHTINGS`). If the network predicts variances, the loss is
    `hybrid_loss`, which learns them too, for denoising steps of length 1 / T. What is known of an example has no loss;
    the sum over the rest is divided by all degrees of freedom, so that each entry counts as in examples of which
    nothing is known.
    """
    prediction, space, weighting = (
        _predict(model, batch, settings),
        batch.space_of(model.codec),
        settings.train.weighting,
    )
    weights = settings.train.field_weights
    if prediction.variance is None:
        found = weighted_loss(prediction, batch.x0, batch.noise, space, weighting, batch.mask, weights)
    else:
        earlier = batch.earlier_log_snr
        found = hybrid_loss(prediction, batch.x0, batch.noise, space, earlier, weighting, batch.mask, weights)
    return found * _free_share(model, batch)


def losses_by_field(model: Model, batch: Batch, settings: RunSettings) -> dict[str, float]:
    """Return the part of the mean denoising loss that each field of the state has, by the name of the field."""
    prediction, space, weighting = (
        _predict(model, batch, settings),
        batch.space_of(model.codec),
        settings.train.weighting,
    )
    weights = settings.train.field_weights
    each = field_losses(prediction, batch.x0, batch.noise, space, weighting, batch.mask, weights)
    return {name: (value * _free_share(model, batch)).mean().item() for name, value in each.items()}


def _free_share(model: Model, batch: Batch) -> Tensor:
    """The share of the degrees of freedom of each example that is not known, `[B]`."""
    free, whole = (
        space.degrees_of_freedom(batch.x0, batch.mask).clamp(min=1)
        for space in (batch.space_of(model.codec), model.codec.space)
    )
    return free / whole


def _predict(model: Model, batch: Batch, settings: RunSettings) -> Prediction:
    """The prediction for the batch, in a share of which the network is told its own first estimate."""
    given, share = batch.kept_conditions, _share_of(settings.task)  # type: ignore[attr-defined]
    noisy = batch.noisy
    if share:
        rows = told_rows(batch.places, share, model.device)
        first = estimated(model.denoiser, model.codec.space, noisy, batch.level, given, batch.mask, rows)
        given = {**given, **told(first)}
    return model.denoiser(noisy, batch.level, given, batch.mask)
