"""The first stage of a new run: a run with the task `encode`, whose autoencoder makes the latents."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from diffcore.errors import UserError, told
from diffcore.plugins.autoencoder import Autoencoder, losses_of
from diffcore.plugins.data import Codec, Data, Encoded
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry
from diffcore.runs.coding import AT_ONCE, prepared_data
from diffcore.runs.folder import open_run
from diffcore.runs.latents import LatentCodec, encoded_by
from diffcore.runs.loading import load_run
from diffcore.runs.model import Model
from diffcore.runs.settings import FirstStage, RunSettings
from diffcore.states.channels import exact_moments
from diffcore.states.noise import Draws
from diffcore.states.spaces import describe_difference
from diffcore.states.state import State, fields, first_field, map_fields

if TYPE_CHECKING:
    from tensordict import TensorDict

logger = logging.getLogger(__name__)

_EXAMINED = 64
"""The number of examples on which a first stage is tried before it is used."""


class LoadedFirstStage(NamedTuple):
    """A first stage with its weights: the folder of its run, its description, and its model."""

    path: Path
    described: FirstStage
    model: Model


def load_first_stage(settings: RunSettings, registry: Registry) -> LoadedFirstStage | None:
    """The first stage that the settings of a new run name; None if they name none.

    Raises `UserError` if it is not a run with an autoencoder of the same kind of data.
    """
    if settings.latent.run is None:
        return None
    if LATENT in registry.task(settings.task.name).helps:  # type: ignore[attr-defined]
        raise UserError("`latent` is for runs that diffuse in latents, and this run trains an autoencoder itself")
    path = Path(settings.latent.run)
    _, description = open_run(path, registry)
    if (other := description.settings.modality) != settings.modality:
        raise UserError(f"the first stage {path} is a model of {other}, but this is a run of {settings.modality}")
    require_task(description.settings, path, registry)
    loaded = load_run(path, registry, settings.device)
    network: Any = loaded.model.network
    autoencoder: Settings = getattr(loaded.settings, loaded.model.task.network)
    described = FirstStage(
        autoencoder=autoencoder.model_dump(mode="json"),
        facts=description.facts.model_dump(mode="json"),
        last_log_snr=network.last_log_snr,
    )
    return LoadedFirstStage(path, described, loaded.model)


LATENT = "latent"
"""What `Task.helps` has of a task whose runs can be first stages."""


def require_task(settings: RunSettings, path: Path, registry: Registry) -> None:
    """Raise `UserError` unless the run in the folder `path`, with these settings, trains an autoencoder."""
    task = settings.task.name  # type: ignore[attr-defined]
    if LATENT not in registry.task(task).helps:
        able = " or ".join(each.name for each in registry.offered("tasks") if LATENT in getattr(each, "helps", ()))
        raise UserError(f"{path} has the task {task} and no latents; `latent` is a run with `task` {able}")


def use_first_stage(model: Model, stage: LoadedFirstStage, settings: RunSettings, data: Data) -> None:
    """Give the codec of a new model the weights of the first stage, and the statistics of all latents of the data.

    Raises `UserError` if the first stage was trained on states of another form, or does not reconstruct the data.
    """
    codec, path = model.codec, stage.path
    assert isinstance(codec, LatentCodec)
    if difference := describe_difference(codec.of_samples.space, codec.first.space):
        raise UserError(f"these data and those of the first stage {path} differ in their form: {difference}")
    network: Any = stage.model.network
    codec.autoencoder.load_state_dict(network.autoencoder.state_dict())
    if isinstance(codec.first, nn.Module) and isinstance(stage.model.codec, nn.Module):
        codec.first.load_state_dict(stage.model.codec.state_dict())
    examples = data.examples[:_EXAMINED].to(model.device)
    try:
        encoded = encoded_by(codec.first, examples)
        augmented = _is_augmented(codec.first, examples, encoded.state)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise UserError(f"the codec of the first stage {path} cannot encode these data: {told(error)}") from None
    codec.stage = _with_views(stage.described, settings, codec, augmented)
    _require_trained(codec, encoded, path)
    set_exact_statistics(codec, prepared_data(model, data), path)
    logger.info(describe_latents(codec))


def _is_augmented(codec: Codec, examples: "TensorDict", plain: State) -> bool:
    """Whether random numbers change the states of examples."""
    device = first_field(plain).device
    others = [encoded_by(codec, examples, Draws.of(seed, range(len(examples)), device)).state for seed in range(3)]
    return not all(torch.equal(value, fields(other)[name]) for other in others for name, value in fields(plain).items())


def _with_views(described: FirstStage, settings: RunSettings, codec: LatentCodec, augmented: bool) -> FirstStage:
    """The description with what is kept of each example, where the data are augmented.

    `latent.views` encodings are kept. Each example is encoded in every step instead if that is 0.
    """
    if not augmented:
        return described
    views = settings.latent.views
    if views:
        return described.model_copy(update={"views": views})
    if hasattr(codec.first, "prepare"):
        raise UserError("these data cannot be encoded in every step, as their codec prepares them: use `latent.views`")
    return described.model_copy(update={"every_step": True})


@torch.no_grad()
def _require_trained(codec: LatentCodec, encoded: Encoded, path: Path) -> None:
    """Raise `UserError` unless latents of examples say more about these examples than those of others do.

    An untrained decoder makes the same of every latent. The error of reconstruction from the latent of another example
    must be at least 1.2 times that from the own one.
    """
    state, mask, autoencoder = encoded.state, encoded.mask, cast(Autoencoder, codec.autoencoder)
    if state.shape[0] < 2:
        return
    latent = autoencoder.encode(state, mask)

    def error(z: State) -> float:
        losses = losses_of(autoencoder, autoencoder.decode(z, mask), state, codec.first.space, mask)
        return sum(loss.double().mean().item() for loss in losses.values())

    own, other = error(latent), error(map_fields(lambda field: field.roll(1, 0), latent))
    if not own * 1.2 < other:
        raise UserError(
            f"the first stage {path} is not trained: it reconstructs examples with a loss of {own:.3g} from their own "
            f"latents, and of {other:.3g} from those of other examples; train it longer"
        )


def set_exact_statistics(codec: LatentCodec, ready: "TensorDict", path: Path | None = None) -> None:
    """Set the mean and the standard deviation of each channel: those of all latents of prepared examples, in float64.

    With `path`, the folder of the first stage, raises `UserError` if a channel is the same for all examples.
    """
    means, stds = exact_moments(codec.raw_parts(ready, AT_ONCE), cast(Autoencoder, codec.autoencoder).channel_axis)
    if path is not None and not all(bool((std > _CONSTANT).all()) for std in stds.values()):
        raise UserError(
            f"the first stage {path} has a channel that is the same for all examples: train it again, with fewer "
            "channels, or longer"
        )
    codec.set_statistics(means, {name: std.clamp(min=_CONSTANT) for name, std in stds.items()})


_CONSTANT = 1e-6
"""A channel with a smaller standard deviation is constant."""


def compression(codec: LatentCodec) -> float:
    """How many times fewer numbers a latent has than a state of the codec of samples."""
    with torch.device("meta"):
        spaces = (codec.first.space, codec.space)
        state, latent = (sum(field.numel() for field in fields(space.empty(1)).values()) for space in spaces)
    return state / latent


def describe_latents(codec: LatentCodec) -> str:
    """The latents in words: their shape, and how many times fewer numbers than a state they have."""
    ends = "" if codec.last_log_snr is None else f", to the log-SNR {codec.last_log_snr:g}"
    return f"diffusing in latents of {codec.space}, {compression(codec):.3g} times fewer numbers than a state{ends}"
