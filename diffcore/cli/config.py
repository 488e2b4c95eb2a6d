"""`diffcore config`: what would run, or did run, as TOML."""

from collections.abc import Sequence
from pathlib import Path

from diffcore.cli.flags import run_settings
from diffcore.errors import UserError
from diffcore.plugins import registry as plugins
from diffcore.runs.composing import as_toml
from diffcore.runs.folder import open_run


def main(arguments: Sequence[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        if arguments[1:]:
            raise UserError(f"diffcore config RUN takes no options; {arguments[1]!r} is left over")
        _, description = open_run(Path(arguments[0]), plugins.installed())
        settings = description.settings
    else:
        settings, _ = run_settings(arguments, plugins.installed(), "diffcore config")
    print(as_toml(settings).encode(errors="backslashreplace").decode(), end="")
    return 0
