"""`diffcore config`: what would run, or did run, as TOML."""

from collections.abc import Sequence
from pathlib import Path

import tomli_w

from diffcore.cli.flags import run_settings
from diffcore.errors import UserError
from diffcore.plugins.registry import installed
from diffcore.runs.folder import open_run
from diffcore.runs.settings import RunSettings


def main(arguments: Sequence[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        if arguments[1:]:
            raise UserError(f"diffcore config RUN takes no options; {arguments[1]!r} is left over")
        _, description = open_run(Path(arguments[0]), installed())
        settings = description.settings
    else:
        settings, _ = run_settings(arguments, installed(), "diffcore config")
    print(as_toml(settings).encode(errors="backslashreplace").decode(), end="")
    return 0


def as_toml(settings: RunSettings) -> str:
    """Settings as TOML that `--config` reads back; what is None is left out."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))
