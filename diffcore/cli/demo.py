"""`diffcore demo RUN [RUN ...]`: a page in the browser with which samples of runs are drawn."""

import importlib.util
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.cli.options import trust_field
from diffcore.cli.screen import say
from diffcore.errors import UserError
from diffcore.names import Device
from diffcore.plugins.records import Settings

NEEDED = ("starlette", "uvicorn")
"""The packages of the extra `demo`."""


class Options(Settings):
    """The options of `diffcore demo`."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = Field(min_length=1)
    """The run folders."""
    port: int = Field(0, ge=0, le=65535, description="The port of the page; 0 takes a free one.")
    open: bool = Field(False, description="Open the page in the browser.")
    most: int = Field(64, ge=1, le=1000, description="Number of samples that a visitor can draw at once.")
    device: Device | None = Field(None, description="Where to compute; by default as the run was trained.")
    trust: bool = trust_field("read files and download data")


def main(arguments: Sequence[str]) -> int:
    about = (
        "Serve a page to the browsers of this machine, with which samples of runs are drawn, varied, completed, kept "
        "and saved. Only those who have the address with its token can use it. Ctrl-C stops it."
    )
    options = parse(Options, arguments, "diffcore demo", about)
    if lacks := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"the page needs {' and '.join(lacks)}: pip install 'diffcore[demo]'")
    from diffcore.api.run import Run
    from diffcore.demo.limits import Limits
    from diffcore.demo.serve import serve

    def started(address: str) -> None:
        say(f"open {address}")
        say("Ctrl-C stops the page")
        if options.open:
            webbrowser.open(address)

    runs = [Run(path.absolute(), device=options.device, trust=options.trust) for path in options.runs]
    serve(runs, options.port, started, Limits(samples=options.most))
    return 0
