"""What the editing examples share: a model of digits, and digits that it never saw."""

from pathlib import Path

from tensordict import TensorDict

from diffcore.plugins.data import Data
from diffcore.plugins.registry import installed
from diffcore.runs.checkpoints import find_checkpoint
from diffcore.runs.folder import Run, describe, new_folder, open_run
from diffcore.runs.model import Model, build_data, build_model, load_weights
from diffcore.runs.settings import compose
from diffcore.training.loop import Callbacks, train


def model_and_data(arguments: list[str]) -> tuple[Model, Data]:
    """The model of the run that `arguments` name and its data; without a run, one is trained for 90 seconds."""
    registry = installed()
    if arguments:
        run, description = open_run(Path(arguments[0]), registry)
        data = build_data(description.settings, registry)
        model = build_model(description.settings, description.facts, registry)
        load_weights(model, find_checkpoint(run, None))
        return model, data
    settings = compose(registry, "image", file={"train": {"minutes": 1.5}})
    data = build_data(settings, registry)
    model = build_model(settings, data.facts, registry)
    run = Run(new_folder(None, "image", "example"))
    describe(run, settings, data.facts.model_dump(mode="json"), registry)
    callbacks = Callbacks(log=lambda line: print(f"{line.done:4.0%}  {line.loss:.4f}"))
    return train(run, settings, model, data, callbacks).model, data


def held_out(data: Data, count: int) -> TensorDict:
    """`count` held-out digits, the classes in turn."""
    assert data.held_out is not None, "these data keep nothing back"
    labels = data.held_out["label"].tolist()
    chosen = [[i for i, label in enumerate(labels) if label == n % 10][n // 10] for n in range(count)]
    return data.held_out[chosen]
