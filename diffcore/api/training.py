"""Training a new run."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcore.api.modes import in_own_modes
from diffcore.api.run import Run
from diffcore.api.session import run_training
from diffcore.api.showing import show_messages
from diffcore.denoising.conditions import Condition
from diffcore.errors import UserError
from diffcore.names import Device, Parameterisation
from diffcore.plugins import registry as plugins
from diffcore.plugins.registry import Registry
from diffcore.runs.choices import build_choice
from diffcore.runs.codec_weights import keep_codec
from diffcore.runs.composing import compose, kinds_of_choices, read_toml, with_options
from diffcore.runs.consent import acts_of_file
from diffcore.runs.first_stage import load_first_stage, use_first_stage
from diffcore.runs.folder import RunFolder, describe, new_folder
from diffcore.runs.generation import example_conditions, require_conditions, unguided_without_conditions
from diffcore.runs.inherited import data_of_first_stage, latent_run
from diffcore.runs.lock import locked
from diffcore.runs.model import build_data, build_model, device_for
from diffcore.runs.sampling_config import sampling_config
from diffcore.runs.settings import RunSettings
from diffcore.system.distributed import by_leader, from_leader, in_turn
from diffcore.training.loop import Outcome, require_end

logger = logging.getLogger(__name__)

Part = str | Mapping[str, Any]
"""A part by its name, or its options with or without a name: `"digits"`, `{"name": "folder", "root": PATH}`."""


@in_own_modes
def train(
    modality: str,
    *,
    preset: str | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    task: Part | None = None,
    seed: int | None = None,
    device: Device | None = None,
    parameterisation: Parameterisation | None = None,
    data: Part | None = None,
    denoiser: Part | None = None,
    classifier: Part | None = None,
    text: Part | None = None,
    schedule: Part | None = None,
    levels: Mapping[str, Any] | None = None,
    latent: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    sample: Mapping[str, Any] | None = None,
    metrics: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    loggers: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    **networks: Part,
) -> Run:
    """Train a model of a kind of data, and return the finished run.

    What is not given is as the preset has it, and what the preset does not say is as the options' own defaults are:
    default < preset < `config` < arguments. The arguments are those of `diffcore train`. The names of `levels`,
    `latent`, `train` and `sample` are the fields of `LevelSettings`, `LatentSettings`, `TrainSettings` and
    `SampleSettings` in `diffcore.runs.settings`.

    Messages and progress appear on standard error, unless the program configures logging.

    Args:
        modality: The kind of data; `diffcore plugins` lists what is installed.
        preset: A named starting point; by default the one that is called like the data set, else `"default"`.
        config: A TOML file, or a mapping of the same form, between the preset and the arguments.
        out: The run folder; by default the next free `runs/<modality>/<preset>-<n>`.
        task: What is trained, by name, or its options: `"denoise"`, `"classify"` for a noisy classifier that guides
            other runs, `"encode"` for an autoencoder, or a task of a plugin.
        seed: Decides initial weights, the order of the data and the noise.
        device: `"cpu"`, `"cuda"`, or `"auto"`, which takes a GPU where there is one.
        parameterisation: What the network's output means.
        data: The data set, by name, or its options: `{"name": "folder", "root": PATH}`.
        denoiser: The network, likewise.
        classifier: The network of the task `"classify"`, likewise.
        text: The encoder of captions, likewise, for data that have captions.
        schedule: The noise schedule, likewise.
        levels: Noise levels by field: `{"shifts": {"bonds": -3}}`.
        latent: The folder of a run with the task `"encode"`, in whose latents to diffuse, or the options of
            `LatentSettings`: `{"run": PATH, "views": 8}`.
        train: How long and how to train: `{"steps": 4500}`.
        sample: How samples are drawn unless asked otherwise: `{"steps": 20}`.
        metrics: More metrics at the end, by name, or by name with their options.
        loggers: Where numbers and pictures go beside the run folder, likewise.
        **networks: The network of a task of a plugin, likewise, by its kind.

    Raises:
        TypeError: For a name that is neither an argument nor a kind of network.
        UserError: For names and values that do not exist or do not fit, in one line.
    """
    show_messages()
    file: Mapping[str, Any] = read_toml(Path(config)) if isinstance(config, str | os.PathLike) else dict(config or {})
    origin = str(config) if isinstance(config, str | os.PathLike) else "the arguments"
    given: dict[str, Any] = {"seed": seed, "device": device, "parameterisation": parameterisation}
    given |= {"levels": levels, "train": train, "sample": sample}
    given |= {"metric": with_options(metrics), "logger": with_options(loggers)}
    given["latent"] = {"run": str(latent)} if isinstance(latent, str | os.PathLike) else latent
    chosen = {}
    registry = plugins.installed()
    if unknown := networks.keys() - {*kinds_of_choices(registry)}:
        raise TypeError(f"train() takes no {sorted(unknown)[0]!r}, and no task trains a network of this kind")
    parts = {"task": task, "data": data, "denoiser": denoiser, "classifier": classifier}
    parts |= {"text": text, "schedule": schedule}
    for kind, part in {**parts, **networks}.items():
        if part is not None:
            options = {"name": part} if isinstance(part, str) else dict(part)
            given[kind] = options
            if "name" in options:
                chosen[kind] = str(options["name"])
    arguments = {name: value for name, value in given.items() if value not in (None, {})}
    under = data_of_first_stage(latent_run(file, arguments))
    settings = compose(registry, modality, preset, file, chosen, origin, over=arguments, under=under)
    if isinstance(config, str | os.PathLike):
        tell_acts(origin, file, settings)
    run, _ = start(settings, None if out is None else Path(out), registry)
    return Run(run.path.absolute())  # the program may change its working directory


def tell_acts(origin: str, file: Mapping[str, Any], settings: RunSettings) -> None:
    """Log what the configuration file `origin` lets a new run do outside of its folder, if anything."""
    if acts := acts_of_file(file, settings):
        logger.info(f"as {origin} says, this run will {' and '.join(acts)}")


@in_own_modes
def start(settings: RunSettings, out: Path | None, registry: Registry) -> tuple[Run, Outcome]:
    """Train a new run with these settings in the folder `out`, or in the next free one."""
    device_for(settings.device)
    require_end(settings.train)
    # A mistake in the solver is known before the data are read.
    build_choice(settings.sample.solver, registry.offered("solvers"), "solver")
    data = in_turn(lambda: build_data(settings, registry))
    first_stage = in_turn(lambda: load_first_stage(settings, registry))
    described = None if first_stage is None else first_stage.described
    shared = settings.train.parallel == "fsdp"
    model = build_model(settings, data.facts, registry, first_stage=described, in_rows=shared)
    if first_stage is not None:
        in_turn(lambda: use_first_stage(model, first_stage, settings, data))
        described = model.codec.stage  # type: ignore[attr-defined]
    settings = without_guidance_of_preset(settings, model.codec.conditions, registry)
    config = sampling_config(settings.sample, registry, model)
    if model.task.draws:
        shown = example_conditions(model, 1)
        require_conditions(model, unguided_without_conditions(model, config, shown), shown)
    folder = RunFolder(from_leader(lambda: new_folder(out, settings.modality, settings.preset)))

    def describe_new() -> None:
        if folder.config.exists():  # another process was quicker
            raise UserError(f"{folder.path} exists already: choose another `out`")
        facts = data.facts.model_dump(mode="json")
        describe(folder, settings, facts, registry, keep_codec(folder, model), described)

    with locked(folder):
        by_leader(describe_new)
        outcome = run_training(folder, settings, model, data, config, registry)
    return Run(folder.path), outcome


def without_guidance_of_preset(
    settings: RunSettings, conditions: Sequence[Condition], registry: Registry
) -> RunSettings:
    """The settings with guidance 1 if their guidance is that of the preset, and the data have no conditions.

    A preset is for data with and without conditions, such as classes. Guidance that the user chose is kept, so that
    `require_conditions` can refuse it.
    """
    preset = registry.modality(settings.modality).presets.get(settings.preset)
    guidance = preset.values.get("sample", {}).get("guidance", 1.0) if preset is not None else 1.0
    if conditions or guidance == 1.0 or settings.sample.guidance != guidance:
        return settings
    logger.info(
        f"these data have no conditions, such as classes, so guidance {guidance:g} of the preset "
        f"{settings.preset} is not used"
    )
    return settings.model_copy(update={"sample": settings.sample.model_copy(update={"guidance": 1.0})})
