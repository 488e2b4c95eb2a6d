"""`diffcore resume RUN`: go on training from the newest checkpoint."""

from collections.abc import Sequence

from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.cli.options import FromRun, trust_field
from diffcore.cli.selectors import take_table
from diffcore.cli.train import ended
from diffcore.names import OnDivergence
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings
from diffcore.runs.folder import RunFolder


class Longer(Settings):
    """Another end for the training, or another answer to a loss that diverges."""

    steps: int | None = Field(None, ge=1, description="Train until this step.")
    minutes: float | None = Field(None, gt=0, description="Train until so many minutes of training in all.")
    evaluate: int | None = Field(None, ge=0, description="Number of samples for the metrics at the end; 0: none.")
    on_divergence: OnDivergence | None = Field(
        None, description="step-back: go on from the last checkpoint with a lower learning rate."
    )


class Options(FromRun):
    """The options of `diffcore resume`."""

    train: Longer = Longer()
    trust: bool = trust_field("read files, download data and start loggers")


def main(arguments: Sequence[str]) -> int:
    registry = plugins.installed()
    arguments, data_at = take_table(arguments, "data")
    about = (
        "Continue to train a run from its newest checkpoint. --data.root PLACE: where its data are, if they have moved."
    )
    options = parse(Options, arguments, "diffcore resume", about)
    changed = {name: value for name, value in vars(options.train).items() if value is not None}
    from diffcore.api.resuming import go_on

    outcome = go_on(options.run, registry, changed, options.device, options.checkpoint, data_at, options.trust)
    return ended(RunFolder(options.run), outcome)
