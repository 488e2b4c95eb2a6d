"""`diffcore consolidate RUN`: the checkpoints that several processes wrote in shards, as the usual files."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.cli.screen import say
from diffcore.errors import UserError
from diffcore.plugins.records import Settings


class Options(Settings):
    """The options of `diffcore consolidate`."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    checkpoint: str | None = Field(
        None, description="The name of one checkpoint, such as step-00001000; by default all."
    )


def main(arguments: Sequence[str]) -> int:
    about = (
        "Join the files that each process of a training with --train.parallel fsdp wrote to the usual safetensors "
        "files, in place and one part of a tensor at a time. Other commands read both."
    )
    options = parse(Options, arguments, "diffcore consolidate", about)
    from diffcore.runs.checkpoints import checkpoints, find_checkpoint, is_sharded
    from diffcore.runs.consolidating import consolidate
    from diffcore.runs.folder import RunFolder, check_folder
    from diffcore.runs.lock import locked

    run = RunFolder(options.run)
    if not run.config.is_file():
        raise UserError(f"{run.path} is not a run: it has no {run.config.name}")
    check_folder(run)
    with locked(run):
        find_checkpoint(run, options.checkpoint)  # there must be one
        chosen = [path for path in checkpoints(run) if options.checkpoint in (None, path.name)]
        for path in chosen:
            if is_sharded(path):
                consolidate(path)
                say(f"{path}: whole now")
            else:
                say(f"{path}: whole already")
    return 0
