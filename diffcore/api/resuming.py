"""Going on with the training of a run."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffcore.api.modes import in_own_modes
from diffcore.api.session import finish_later, logger, run_training
from diffcore.errors import UserError
from diffcore.names import Device
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry
from diffcore.plugins.text import encoder_of, text_conditions
from diffcore.runs.checkpoints import (
    MODEL,
    Progress,
    checkpoints,
    count_numbers,
    newest_undamaged,
    read_progress,
    verify,
)
from diffcore.runs.codec_weights import load_codec
from diffcore.runs.composing import ENDS
from diffcore.runs.consent import require_consent
from diffcore.runs.data_record import difference, read_record, record_of, same_content
from diffcore.runs.ending import PARTS, made_parts
from diffcore.runs.folder import RunFolder, describe, open_run
from diffcore.runs.loading import on_device
from diffcore.runs.lock import locked
from diffcore.runs.model import build_model, data_of, load_weights
from diffcore.runs.moved import with_data_at
from diffcore.runs.sampling_config import sampling_config
from diffcore.system.distributed import from_leader, in_turn, leads
from diffcore.training.loop import Outcome, share_done


@in_own_modes
def go_on(
    path: Path,
    registry: Registry,
    changed: Mapping[str, Any],
    device: Device | None = None,
    checkpoint: str | None = None,
    data_at: Mapping[str, Any] = MappingProxyType({}),
    trust: bool = False,
) -> Outcome:
    """Go on training the run in the folder `path` from a checkpoint.

    `changed` are fields of its settings' `train`, and `data_at` are new places of its data. The run keeps both.
    Raises `UserError` if the data are not those that the run was trained on, and, without `trust`, if another user made
    the run and its configuration acts outside of its folder. From then on it is a run of this user.
    """
    run, description = open_run(path, registry)
    own = from_leader(lambda: description.own)
    if not (own or trust):
        require_consent(path, description.settings, data_at)
    with locked(run):
        settings = with_data_at(on_device(description.settings, device), data_at)
        if changed:
            unset = {"steps": None, "minutes": None} if ENDS & changed.keys() else {}
            train = type(settings.train).model_validate({**settings.train.model_dump(), **unset, **changed})
            settings = settings.model_copy(update={"train": train})
        source, progress, weights = None, Progress(), None
        if checkpoints(run) or checkpoint is not None:
            source, _ = newest_undamaged(run, verify, checkpoint)
            progress, weights = read_progress(source), count_numbers(source, MODEL)
        trained = source if share_done(settings.train, progress) >= 1 else None
        if trained and from_leader(lambda: made_parts(run, trained, settings.train.evaluate)) == set(PARTS):
            raise UserError(
                f"{run.path} is trained already, {progress.step} steps in {progress.seconds / 60:.1f} minutes; "
                "go further with `train.steps` N or `train.minutes` M"
            )
        # An encoder that is missing has nothing to do with the data.
        encoder = encoder_of(text_conditions(getattr(description.facts, "text", None)))
        data = in_turn(lambda: data_of(run.path, settings, registry, encoder))
        known = description.facts
        if read_record(run) is None:  # weights from elsewhere: no data were seen, so there are no examples of texts
            known = _with_samples(known, data.facts)
        if data.facts != known:
            name = settings.data.name  # type: ignore[attr-defined]
            raise UserError(f"{run.path} was trained on other data than {name} holds now")
        shared = settings.train.parallel == "fsdp" and not trained
        model = build_model(settings, data.facts, registry, weights, description.first_stage, shared)
        load_codec(run, model, description.codec)
        config = sampling_config(settings.sample, registry, model)
        _require_same_data(run, record_of(settings.data.name, data, model.codec))  # type: ignore[attr-defined]
        if (changed or data_at or not own) and leads():
            facts = data.facts.model_dump(mode="json")
            describe(run, settings, facts, registry, description.codec, description.first_stage)
        if trained:
            logger.info(f"{run.path} is trained already, {progress.step} steps: making what is missing at its end")
            load_weights(model, trained)
            model.network.eval().requires_grad_(False)
            return finish_later(run, settings, model, data, config, registry, trained)
        if source is None:
            logger.info(f"{run.path} has no checkpoint yet: beginning again")
        else:
            logger.info(f"going on from step {progress.step} of {run.path}")
        return run_training(run, settings, model, data, config, registry, source)


def _with_samples(facts: Settings, others: Settings) -> Settings:
    """The facts of data with the examples of texts that the `others` have."""
    text, other = getattr(facts, "text", None), getattr(others, "text", None)
    if text is None or other is None:
        return facts
    return facts.model_copy(update={"text": text.model_copy(update={"samples": other.samples})})


def _require_same_data(run: RunFolder, record: Mapping[str, Any]) -> None:
    before = read_record(run)
    if before is None:
        return
    if words := difference(before, record):
        raise UserError(
            f"{run.path} was trained on other data than are there now: {words}; "
            "restore the data, or train a new run on these"
        )
    if not same_content(before, record):  # another machine may decode or generate them slightly differently
        logger.warning(f"the content of the data of {run.path} is not exactly the same as when it was trained before")
