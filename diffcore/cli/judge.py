"""`diffcore judge FILE --modality NAME`: metrics of samples that any program has made."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffcore.cli.flags import run_settings
from diffcore.cli.selectors import take, take_all, take_table
from diffcore.errors import UserError
from diffcore.plugins import registry as plugins

_USAGE = """usage: diffcore judge FILE... --modality NAME [--preset P] [--data NAME] [--data.OPTION VALUE]
       diffcore judge FILE... --run RUN [--metric NAME] [--data.root PLACE] [--trust]

Metrics of the samples in files and folders, as diffcore evaluate computes them for those of a run, whatever program
made them. They are compared with a data set, by default that of the default preset, or with the data of a run.

  --json   print the metrics as JSON
"""


def main(arguments: Sequence[str]) -> int:
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(_USAGE, end="")
        return 0
    count = next((k for k, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    files, rest = [Path(word) for word in arguments[:count]], list(arguments[count:])
    if not files:
        raise UserError("the files to judge come first: diffcore judge FILE --modality NAME")
    as_json, trust = "--json" in rest, "--trust" in rest
    rest = [word for word in rest if word not in ("--json", "--trust")]
    rest, run = take(rest, "run")
    registry = plugins.installed()
    from diffcore.api.judging import of_run, of_settings

    if run is None:
        found = of_settings(files, run_settings(rest, registry, "diffcore judge")[0], registry)
    else:
        from diffcore.api.run import Run

        rest, data_at = take_table(rest, "data")
        rest, metrics = take_all(rest, "metric")
        if rest:
            raise UserError(f"{rest[0]} does not go with --run: the run says what its samples are compared with")
        found = of_run(files, Run(Path(run), registry=registry, data_at=data_at, trust=trust), metrics)
    if as_json:
        print(json.dumps({metric.name: metric.value for metric in found}, indent=2))
    else:
        for metric in found:
            print(f"{metric.name}: {metric.value:.4g}  ({metric.meaning})")
    return 0
