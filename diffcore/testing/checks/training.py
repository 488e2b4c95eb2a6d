"""Checks that train: that the network can learn, and that nothing is lost by saving, loading and resuming."""

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from diffcore.denoising.losses import weighted_loss
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, checkpoints, find_checkpoint, read_tensors
from diffcore.runs.folder import RunFolder, read_log
from diffcore.runs.model import Model, load_weights
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import (
    ROUNDING,
    combined,
    field_prefix,
    name_list,
    relative_difference,
    source_location,
)
from diffcore.testing.plugin import PluginUnderTest
from diffcore.training.loop import Callbacks, Outcome, train

OVERFIT_STEPS = 200
"""How many steps `overfits_one_batch` may take. The plugins of this project take 13 to 82."""

OVERFIT_RATIO = 0.3
"""The fraction of its first value to which the loss must fall in `overfits_one_batch`."""


def overfits_one_batch(plugin: PluginUnderTest) -> Measurement:
    """The loss of one batch with fixed noise falls to `OVERFIT_RATIO` of its first value within `OVERFIT_STEPS` steps.

    A network that cannot even fit one batch at the preset's learning rate will not learn the data. The loss is the
    squared error of v, in which all noise levels have a similar weight.
    """
    options = plugin.settings.train
    model = plugin.new_model()
    denoiser = model.denoiser.train()
    batch = plugin.noisy_batch()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    first = value = math.nan
    step = 0
    for step in range(OVERFIT_STEPS + 1):
        prediction = denoiser(batch.x, batch.level, batch.conditions, batch.mask)
        loss = weighted_loss(prediction, batch.x0, batch.noise, plugin.space, "v", batch.mask).mean()
        value = loss.item()
        first = value if step == 0 else first
        if value <= OVERFIT_RATIO * first or not math.isfinite(value):
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), options.gradient_clip)
        optimizer.step()
    return Measurement(
        value <= OVERFIT_RATIO * first,
        f"the loss of one batch went from {first:.3g} to {value:.3g} in {step} steps",
        f"{OVERFIT_RATIO:g} of the first loss within {OVERFIT_STEPS} steps at the preset's learning rate, "
        f"{options.learning_rate:g}",
        source_location(plugin.backbone),
    )


def checkpoint_round_trip(plugin: PluginUnderTest) -> Measurement:
    """A network that is loaded from a checkpoint computes the same output as the one that was saved.

    This holds if everything that training changes in a network is a parameter or a persistent buffer. Both the trained
    weights and their moving average are loaded.
    """
    batch = plugin.noisy_batch()
    measurements = []
    with _trained(plugin) as trained:
        for saved, file in ((trained.model, MODEL), (trained.averaged, EMA)):
            loaded = plugin.new_model()
            load_weights(loaded, find_checkpoint(trained.run), file)
            output = plugin.predict(batch, loaded.denoiser.eval())
            difference = relative_difference(output, plugin.predict(batch, saved.denoiser.eval()))
            measurements.append(
                Measurement(
                    difference.value <= ROUNDING / 10,
                    f"{field_prefix(difference.field)}loading {file} changes the output by {difference.value:.2g}",
                    f"at most {ROUNDING / 10:g} of the largest entry: what training changes in a network must be a "
                    "parameter or a persistent buffer",
                    source_location(plugin.backbone),
                )
            )
    return combined(*measurements)


def exact_resume(plugin: PluginUnderTest) -> Measurement:
    """A run that is stopped and resumed has the same losses and weights as an uninterrupted one, bit for bit.

    What training changes must be in the checkpoint, and random numbers must come from the generators that the core
    passes, which are seeded for each step.
    """
    with _trained(plugin) as trained, tempfile.TemporaryDirectory() as folder:
        unbroken, resumed = trained.run, RunFolder(Path(folder) / "run")
        middle, end = checkpoints(unbroken)[0], find_checkpoint(unbroken)
        start = resumed.checkpoints / middle.name
        shutil.copytree(middle, start)
        _train(plugin, resumed, plugin.new_model(), start)
        expected, losses = ([row["loss"] for row in read_log(run)][-2:] for run in (unbroken, resumed))
        different = _different_tensors(end, find_checkpoint(resumed))
    where = (
        f"{source_location(plugin.backbone)} and {source_location(plugin.codec.encode)}: what training changes and no "
        "checkpoint holds, or random numbers that do not come from the given generator"
    )
    return combined(
        Measurement(
            losses == expected,
            f"losses after resuming are {_numbers(losses)}, without interruption {_numbers(expected)}",
            "equal losses, bit for bit",
            where,
        ),
        Measurement(
            not different,
            f"not as without interruption: {name_list(different)}" if different else "equal weights",
            "equal weights, averages and optimiser state, bit for bit",
            where,
        ),
    )


@dataclass(frozen=True)
class TrainedRun:
    """A run of a few steps: its folder, the trained model, and the model with averaged weights."""

    run: RunFolder
    model: Model
    averaged: Model


@contextmanager
def _trained(plugin: PluginUnderTest) -> Iterator[TrainedRun]:
    """Train for a few steps in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        model = plugin.new_model()
        yield TrainedRun(run, model, _train(plugin, run, model).model)


def _train(plugin: PluginUnderTest, run: RunFolder, model: Model, checkpoint: Path | None = None) -> Outcome:
    return train(run, plugin.settings, model, plugin.data, Callbacks(), checkpoint)


def _different_tensors(checkpoint: Path, other: Path) -> list[str]:
    """The tensors that two checkpoints do not have in common, with their files."""
    different = []
    for file in (MODEL, EMA, TRAINING):
        first, second = read_tensors(checkpoint, file), read_tensors(other, file)
        for name in sorted({*first, *second}):
            if name not in first or name not in second or not torch.equal(first[name], second[name]):
                different.append(f"{file}: {name}")
    return different


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)
