"""The command `diffcore import`."""

from collections.abc import Sequence
from pathlib import Path

from diffcore.errors import UserError
from diffcore.plugins import registry as plugins

_IMPORT = """usage: diffcore import FOLDER --out RUN [--as-diffusers]

Make a run of the model in FOLDER, which has the layout of diffusers: a DDPMPipeline or DDIMPipeline, a DiTPipeline, a
StableDiffusionPipeline, or an AutoencoderKL alone. Only JSON and safetensors are read, and no code.

  --out RUN        a new folder for the run
  --as-diffusers   draw with the scheduler of the pipeline itself, with all that its configuration says
"""


def import_main(arguments: Sequence[str]) -> int:
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(_IMPORT, end="")
        return 0
    others = [word for word in arguments if word != "--as-diffusers"]
    folder, options = _taken(others, ("out",), "diffcore import FOLDER --out RUN")
    from diffcore_diffusers.importing import import_folder

    as_diffusers = len(others) < len(arguments)
    print(import_folder(folder, Path(options["out"]), plugins.installed(), as_diffusers))
    return 0


def _taken(arguments: Sequence[str], names: Sequence[str], usage: str) -> tuple[Path, dict[str, str]]:
    """The one place and the values of all the flags `names`. Raises `UserError` for anything else."""
    places, found, rest = [], {}, [*arguments]
    while rest:
        word = rest.pop(0)
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            places.append(word)
        elif name in names and (given or rest):
            found[name] = value if given else rest.pop(0)
        else:
            raise UserError(f"{word} cannot be used here: {usage}")
    if len(places) != 1 or {*names} - found.keys():
        raise UserError(f"one folder and {' and '.join(f'`{name}`' for name in names)} are needed: {usage}")
    return Path(places[0]), found
