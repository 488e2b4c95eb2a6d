"""`diffcore distill RUN`: a new run, which draws in a few steps what the run draws in many."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import Field

from diffcore.cli.flags import changed_by, parse
from diffcore.cli.selectors import take
from diffcore.cli.train import ended
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings
from diffcore.runs.folder import RunFolder


class Options(Settings):
    """The options of `diffcore distill`."""

    run: tyro.conf.Positional[Path]
    """The folder of the teacher."""
    steps: int = Field(4, ge=1, le=100, description="In how many steps the student draws.")
    guidance: float | None = Field(
        None, description="Weight of the teacher's guidance, which is learned too; by default as the run draws."
    )
    checkpoint: str | None = Field(None, description="Name of the teacher's checkpoint; the newest by default.")
    out: Path | None = Field(None, description="The folder of the student; by default the next free one in runs/.")


ABOUT = """Train a student, which draws in a few steps what the run draws in many.

The student is a run like others: it is trained on the data of the run, from its weights, for a seventh of its steps.
Further flags change its settings, as for diffcore train: --train.steps 1000, --task.path 16, --data.root PLACE."""


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    own, rest = own_and_others(arguments)
    options = parse(Options, own, "diffcore distill", ABOUT)
    from diffcore.api.distilling import student_settings
    from diffcore.api.training import start

    settings = student_settings(registry, options.run, options.steps, options.guidance, options.checkpoint)
    settings = changed_by(rest, settings, registry, "diffcore distill", ABOUT, [*Options.model_fields])
    run, outcome = start(settings, options.out, registry)
    return ended(RunFolder(run.path), outcome)


def own_and_others(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `Options`, and all others, which change settings of the student."""
    rest, own = list(arguments), []
    for name in Options.model_fields:
        rest, value = take(rest, name)
        own += [] if value is None else [f"--{name}", value]
    if rest and not rest[0].startswith("-"):
        own.insert(0, rest.pop(0))
    own += [flag for flag in rest if flag in ("-h", "--help")]
    return own, rest
