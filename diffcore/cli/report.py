"""`diffcore report RUN [RUN ...]`: a report made again, or several runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.cli.options import trust_field
from diffcore.cli.screen import say
from diffcore.errors import UserError
from diffcore.names import Device
from diffcore.plugins.records import Settings
from diffcore.runs.folder import RunFolder


class Options(Settings):
    """The options of `diffcore report`."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = Field(min_length=1)
    """The run folders."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = Field(
        None, description="The page that compares several runs; by default comparison.html."
    )
    seed: int = Field(0, ge=0, description="Seed of the samples that are shown.")
    device: Device | None = Field(None, description="Where to compute; by default as the run was trained.")
    trust: bool = trust_field("read files and download data")


def main(arguments: Sequence[str]) -> int:
    about = "Make report.html of one run again, with new pictures; or a page that shows several runs side by side."
    options = parse(Options, arguments, "diffcore report", about)
    from diffcore.api.opened import OpenedRun
    from diffcore.api.reporting import compare, report

    opened = [OpenedRun(path, device=options.device, trust=options.trust) for path in options.runs]
    if len(opened) > 1:
        say(f"comparison: {compare(opened, options.out or Path('comparison.html'), options.seed)}")
        return 0
    if options.out is not None:
        raise UserError("`out` is for the page that compares several runs; the report of one is in its folder")
    failed = report(opened[0], options.seed)
    say(f"report: {RunFolder(opened[0].path).report}")
    return 1 if failed else 0
