"""`diffcore evaluate RUN`: metrics of a run's samples."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from diffcore.cli.options import DrawOptions, run_of, sampling_of, trust_field
from diffcore.cli.screen import say
from diffcore.cli.selectors import read, take_table
from diffcore.plugins import registry as plugins
from diffcore.runs.folder import RunFolder

if TYPE_CHECKING:
    from diffcore.plugins.output import Metric


class Options(DrawOptions):
    """The options of `diffcore evaluate`."""

    n: int = Field(500, ge=2, description="How many samples, or held-out examples if the task draws none.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the metrics as JSON."""
    trust: bool = trust_field("read files and download data")


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    about = "Metrics of a run's samples, or of held-out examples. --data.root PLACE: where its data are, if moved."
    arguments, data_at = take_table(arguments, "data")
    chosen = read(Options, arguments, registry, "diffcore evaluate", about, many=("metric",))
    options = chosen.options
    from diffcore.system.distributed import leads

    wanted = {part.pop("name"): part for part in chosen.parts("metric")}

    def show(found: Sequence["Metric"]) -> None:
        if options.as_json:
            print(json.dumps({metric.name: metric.value for metric in found}, indent=2))
        else:
            for metric in found:
                print(f"{metric.name}: {metric.value:.4g}  ({metric.meaning})")

    failed: list[str] = []
    run_of(options, registry, data_at).evaluate(
        options.n, seed=options.seed, metrics=wanted, show=show, failed=failed, **sampling_of(chosen)
    )
    if leads():
        say(f"report: {RunFolder(options.run).report}")
    return 1 if failed else 0
