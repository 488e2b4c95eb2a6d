"""`diffcore resume RUN`: go on training from the newest checkpoint."""

from collections.abc import Sequence

from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.cli.sample import FromRun, on_device
from diffcore.cli.screen import say
from diffcore.cli.train import run_training
from diffcore.errors import UserError
from diffcore.names import OnDivergence
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry, installed
from diffcore.runs.checkpoints import MODEL, Progress, checkpoints, count_numbers, newest_sound, read_progress, verify
from diffcore.runs.folder import Description, Run, describe, open_run
from diffcore.runs.lock import held
from diffcore.runs.model import build_model, data_of, sampling_config
from diffcore.runs.settings import ENDS
from diffcore.system.distributed import in_turn, leads
from diffcore.training.loop import share_done


class Longer(Settings):
    """Another end for the training, or another answer to a loss that diverges."""

    steps: int | None = Field(None, ge=1, description="Train until this step.")
    minutes: float | None = Field(None, gt=0, description="Train until so many minutes of training in all.")
    on_divergence: OnDivergence | None = Field(
        None, description="step-back: go on from the last checkpoint with a lower learning rate."
    )


class Options(FromRun):
    train: Longer = Longer()


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    options = parse(Options, arguments, "diffcore resume", "Go on training a run from its newest checkpoint.")
    run, description = open_run(options.run, registry)
    with held(run):
        return _resume(run, description, options, registry)


def _resume(run: Run, description: Description, options: Options, registry: Registry) -> int:
    settings = on_device(description.settings, options.device)
    changed = {name: value for name, value in vars(options.train).items() if value is not None}
    if changed:
        unset = {"steps": None, "minutes": None} if ENDS & changed.keys() else {}
        train = settings.train.model_copy(update={**unset, **changed})
        settings = settings.model_copy(update={"train": train})
    checkpoint, progress, weights = None, Progress(), None
    if checkpoints(run) or options.checkpoint is not None:
        checkpoint, _ = newest_sound(run, verify, options.checkpoint)
        progress, weights = read_progress(checkpoint), count_numbers(checkpoint, MODEL)
    if share_done(settings.train, progress) >= 1:
        raise UserError(
            f"{run.path} is trained already, {progress.step} steps in {progress.seconds / 60:.1f} minutes; "
            "go further with --train.steps N or --train.minutes M"
        )
    config = sampling_config(settings.sample, registry)
    data = in_turn(lambda: data_of(run.path, settings, registry))
    if data.facts != description.facts:
        raise UserError(f"{run.path} was trained on other data than {settings.data.name} holds now")  # type: ignore[attr-defined]
    model = build_model(settings, data.facts, registry, weights)
    if changed and leads():
        describe(run, settings, data.facts.model_dump(mode="json"), registry)
    if checkpoint is None:
        say(f"{run.path} has no checkpoint yet: beginning again")
    else:
        say(f"going on from step {progress.step} of {run.path}")
    return run_training(run, settings, model, data, config, registry, checkpoint)
