"""The commands of the core."""

from collections.abc import Iterable, Sequence
from importlib import import_module

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Command


@hookimpl
def diffcore_commands() -> Iterable[Command]:
    return (
        _command("train", "train a model: diffcore train --modality NAME"),
        _command("sample", "draw samples from a run: diffcore sample RUN"),
        _command("optimise", "search for samples of a high value: diffcore optimise RUN --property NAME"),
        _command("distill", "train a student that draws in a few steps: diffcore distill RUN --steps N"),
        _command("tune", "fit N steps to a run's own flow: diffcore tune RUN --steps N"),
        _command("evaluate", "metrics of a run's samples: diffcore evaluate RUN"),
        _command("judge", "the same metrics of any files: diffcore judge FILE --modality NAME, or --run RUN"),
        _command("report", "a report made again, or several runs side by side: diffcore report RUN [RUN ...]"),
        _command("demo", "a page in the browser that draws samples of runs: diffcore demo RUN [RUN ...]"),
        _command("export", "a run for other programs: diffcore export RUN --format NAME --out FILE"),
        _command("resume", "go on training a run: diffcore resume RUN"),
        _command("consolidate", "join the parts of checkpoints of several processes: diffcore consolidate RUN"),
        _command("runs", "a table of all runs: diffcore runs, or diffcore runs FOLDER"),
        _command("plugins", "what is installed, and what cannot be used and why"),
        _command("new-plugin", "a package to write a plugin from: diffcore new-plugin NAME"),
        _command("check-plugin", "whether a plugin keeps the rules: diffcore check-plugin NAME"),
        _command("config", "what would run, as TOML: diffcore config RUN, or --modality NAME"),
    )


def _command(name: str, summary: str) -> Command:
    """The command whose words are those of the module of `diffcore.cli` of that name, dashes as underscores."""

    def main(arguments: Sequence[str]) -> int:
        return import_module(f"diffcore.cli.{name.replace('-', '_')}").main(arguments)

    return Command(name, summary, main)
