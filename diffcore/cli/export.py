"""`diffcore export RUN --format NAME --out FILE`: a run for other programs."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.errors import UserError, did_you_mean
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings, missing
from diffcore.plugins.registry import Registry

DENOISER = "denoiser"
"""The part that every format writes."""


class Options(Settings):
    """The options of `diffcore export`."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    format: str = Field(description="The name of a format, see above.")
    out: Path = Field(description="The new file or folder.")
    part: str = Field(DENOISER, description="Part of the run: denoiser, or decoder, for runs that diffuse in latents.")


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    options = parse(Options, arguments, "diffcore export", _about(registry))
    chosen = registry.export_format(options.format)
    parts = {DENOISER: chosen.export, **chosen.parts}
    if options.part not in parts:
        hint, names = did_you_mean(options.part, parts), ", ".join(parts)
        raise UserError(f"the format {chosen.name} has no `part` {options.part!r}{hint}; there are: {names}")
    print(parts[options.part](options.run, options.out, registry))
    return 0


def _about(registry: Registry) -> str:
    """What the command does, with the formats that are installed."""
    lines = ["Write a run for other programs, with averaged weights.", ""]
    for provided in registry.export_formats.values():
        record = provided.record
        lacks = f" (needs {', '.join(missing(record))}: {record.install})" if missing(record) else ""
        lines.append(f"  {record.name:12}{record.summary}{lacks}")
    return "\n".join(lines)
