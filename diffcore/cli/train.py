"""`diffcore train`: a new run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffcore.cli.flags import run_settings
from diffcore.cli.screen import say
from diffcore.errors import as_flags, quoted
from diffcore.plugins import registry as plugins
from diffcore.runs.folder import RunFolder

if TYPE_CHECKING:
    from diffcore.training.loop import Outcome


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    settings, chosen = run_settings(arguments, registry, "diffcore train")
    from diffcore.api.training import start, tell_acts

    tell_acts(chosen.config, chosen.file, settings)
    run, outcome = start(settings, Path(chosen.out) if chosen.out else None, registry)
    return ended(RunFolder(run.path), outcome)


def ended(run: RunFolder, outcome: "Outcome") -> int:
    """Say how training ended and what can be done next; returns the exit status."""
    from diffcore.cli import INTERRUPTED
    from diffcore.runs.model import told_advice

    if outcome.interrupted:
        say(f"stopped at step {outcome.progress.step}; go on with: diffcore resume {quoted(run.path)}")
        return INTERRUPTED
    if outcome.missing:
        missing = " and ".join(outcome.missing)
        say(f"the model is trained, but {missing} could not be made; to try again: diffcore resume {quoted(run.path)}")
    task = outcome.model.task
    if task.draws:
        say(f"more samples: diffcore sample {quoted(run.path)}")
    elif advice := told_advice(task, quoted(run.path)):
        say(as_flags(advice))
    return 1 if outcome.missing else 0
