"""`diffcore resume RUN`: go on training from the newest checkpoint."""

from collections.abc import Sequence

from pydantic import Field

from diffcore.assembly import build_model, build_recipe, data_of
from diffcore.checkpoints import find_checkpoint, read_progress, verify
from diffcore.cli.flags import parse
from diffcore.cli.sample import FromRun, on_device
from diffcore.cli.train import follow
from diffcore.components import Settings
from diffcore.errors import UserError
from diffcore.progress import say
from diffcore.registry import installed
from diffcore.runs import describe, open_run
from diffcore.training import share_done


class Longer(Settings):
    """Another end for the training."""

    steps: int | None = Field(None, ge=1, description="Train until this step.")
    minutes: float | None = Field(None, gt=0, description="Train until so many minutes of training in all.")


class Options(FromRun):
    train: Longer = Longer()


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    options = parse(Options, arguments, "diffcore resume", "Go on training a run from its newest checkpoint.")
    run, description = open_run(options.run, registry)
    settings = on_device(description.settings, options.device)
    ends = {name: value for name, value in vars(options.train).items() if value is not None}
    if ends:
        train = settings.train.model_copy(update={"steps": None, "minutes": None, **ends})
        settings = settings.model_copy(update={"train": train})
    checkpoint = find_checkpoint(run, options.checkpoint)
    progress = read_progress(checkpoint)
    if share_done(settings.train, progress) >= 1:
        raise UserError(
            f"{run.path} is trained already, {progress.step} steps in {progress.seconds / 60:.1f} minutes; "
            "go further with --train.steps N or --train.minutes M"
        )
    verify(checkpoint)
    recipe = build_recipe(settings.sample, registry)
    data = data_of(run.path, settings, registry)
    if data.facts != description.facts:
        raise UserError(f"{run.path} was trained on other data than {settings.data.name} holds now")  # type: ignore[attr-defined]
    model = build_model(settings, data.facts, registry)
    if ends:
        describe(run, settings, data.facts.model_dump(mode="json"), registry)
    say(f"going on from step {progress.step} of {run.path}")
    return follow(run, settings, model, data, recipe, registry, checkpoint)
