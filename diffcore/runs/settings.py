"""The configuration of a run: default < preset < file < flag, typed by the chosen components alone."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, ValidationError, create_model, field_validator

from diffcore.errors import UserError
from diffcore.names import Device, Grid, OnDivergence, Parallel, Parameterisation, Precision, Task, Weighting
from diffcore.plugins.records import Component, Modality, Settings
from diffcore.plugins.registry import Registry, choose
from diffcore.system.files import MOST_JSON, read_regular, require_shallow


class TrainSettings(Settings):
    """How long and how to train."""

    steps: int | None = Field(None, ge=1, description="Stop after so many steps.")
    minutes: float | None = Field(None, gt=0, description="Stop after so many minutes of training.")
    batch_size: int = Field(128, ge=1, le=2**20, description="Examples a step, of all processes together.")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step size after the warm-up.")
    warmup_steps: int = Field(100, ge=0, description="Steps over which the learning rate rises from zero.")
    decay_after: int = Field(
        2000, ge=1, description="From this step on the learning rate falls with the square root of the step."
    )
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    weighting: Weighting = Field("eps", description="Weighting of the loss over noise.")
    condition_dropout: float = Field(0.1, ge=0, le=1, description="How often each condition is left out.")
    ema_width: float = Field(0.1, gt=0, lt=0.28, description="Relative width of the weights' moving average.")
    log_every: int = Field(50, ge=1, description="Steps between lines of train_log.jsonl.")
    sample_every: int = Field(1000, ge=1, description="Steps between pictures of samples.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay.")
    keep_every: int | None = Field(
        None, ge=1, description="Checkpoints of steps that this divides stay for good, besides the newest."
    )
    on_divergence: OnDivergence = Field(
        "stop", description="step-back: go on from the last checkpoint with a lower learning rate."
    )
    explosion: float = Field(
        5.0,
        ge=0,
        description="A mean loss so many times the median of the last lines' counts as diverged; 0: none does.",
    )
    step_back_rate: float = Field(0.5, gt=0, lt=1, description="What a step back multiplies the learning rate by.")
    most_steps_back: int = Field(3, ge=1, le=100, description="After so many steps back training stops.")
    evaluate: int = Field(500, ge=0, description="Samples that the metrics at the end are computed from; 0: none.")
    precision: Precision = Field("float32", description="Numbers inside the network; weights are float32 in any case.")
    compile: bool = Field(False, description="Have torch.compile translate the network: slow to begin, faster steps.")
    parallel: Parallel = Field(
        "ddp", description="Several processes: each has all weights (ddp), or a share of them (fsdp)."
    )

    @field_validator("explosion")
    @classmethod
    def _rise(cls, value: float) -> float:
        if 0 < value <= 1:
            raise ValueError("it must be larger than 1, or 0 for none")
        return value

    @field_validator("evaluate")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value == 1:
            raise ValueError("metrics need at least 2 samples, or 0 for none")
        return value


class SampleSettings(Settings):
    """How samples are drawn unless asked otherwise."""

    solver: str = Field("adams", description="The method.")
    steps: int = Field(20, ge=1, le=100_000, description="Steps from noise to data.")
    grid: Grid = Field("tapered", description="How the steps are spaced.")
    guidance: float = Field(1.0, description="Weight of classifier-free guidance; 1 is the plain conditional model.")
    guidance_interval: tuple[float, float] | None = Field(
        None, description="Guide only where the log-SNR, -2 ln(sigma / alpha), lies between these two; elsewhere not."
    )
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="Share in which the guided output gets the spread of the unguided one."
    )
    classifier_weight: float = Field(1.0, description="Weight of a classifier's gradient, where one guides.")
    autoguidance: float = Field(2.0, description="Weight against a weaker model, where one is given; 1 is none.")
    batch_size: int = Field(250, ge=1, le=2**20, description="Samples that go through the network at once.")
    precision: Precision = Field("float32", description="Numbers inside the network; the solver's are float32.")
    compile: bool = Field(False, description="Have torch.compile translate the network: slow to begin, faster steps.")

    @field_validator("guidance_interval")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("the first must be smaller than the second")
        return value


class RunSettings(Settings):
    """Everything that decides what a run does. The chosen parts (`data`, a network, `schedule`) come by `model_for`."""

    modality: Annotated[str, tyro.conf.Suppress]
    preset: Annotated[str, tyro.conf.Suppress] = "default"
    task: Annotated[Task, tyro.conf.Suppress] = "denoise"
    seed: int = Field(0, ge=0, description="Decides initial weights, order of the data and noise.")
    device: Device = Field("auto", description="auto takes a GPU where there is one.")
    parameterisation: Parameterisation = Field("v", description="What the network's output means.")
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()


CHOICES = ("data", "denoiser", "classifier", "schedule")
"""The parts of a run that are chosen by name, each with options of its own."""

ADDITIONS: Mapping[str, str] = {"metric": "metrics", "logger": "loggers"}
"""The parts that a run can have any number of, as kinds of the registry: `[metric.NAME]`, `--metric NAME`."""

NETWORKS: Mapping[str, str] = {"denoise": "denoiser", "classify": "classifier"}
"""What each task trains; a run has this one of the networks alone."""


@cache
def _named(component: Component) -> type[Settings]:
    """The options of a component together with its fixed name."""
    name = component.name
    return create_model(
        component.options.__name__,
        __base__=component.options,
        __doc__=f"{name}: {component.summary}.",
        name=(Annotated[Literal[name], tyro.conf.Suppress], name),  # type: ignore[valid-type, arg-type]
    )


def choices(modality: Modality, registry: Registry, task: str = "denoise") -> dict[str, tuple[Component, ...]]:
    """What can be chosen for each of the `CHOICES` that the task has, the default first."""
    network = NETWORKS[task]
    networks: tuple[Component, ...] = getattr(modality, f"{network}s")
    networks += registry.offered(f"{network}s", modality.name)
    if not networks:
        raise UserError(f"the plugin for {modality.name} has no {network}")
    return {
        "data": modality.datasets + registry.offered("datasets", modality.name),
        network: networks,
        "schedule": registry.offered("schedules", modality.name),
    }


def model_for(
    modality: Modality,
    chosen: Mapping[str, str],
    registry: Registry,
    task: str = "denoise",
    added: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> type[RunSettings]:
    """The model of a run of this task with these components: only their options exist in it."""
    fields: dict[str, Any] = {}
    for kind, offered in choices(modality, registry, task).items():
        component = choose(offered, chosen.get(kind, offered[0].name), "data set" if kind == "data" else kind)
        options = _named(component)
        fields[kind] = (options, options())
    for kind, names in added.items():
        if names:
            fields[kind] = several(
                kind, [choose(registry.offered(ADDITIONS[kind], modality.name), n, kind) for n in names]
            )
    return create_model("Run", __base__=RunSettings, **fields)


def several(kind: str, components: Sequence[Component]) -> tuple[type[Settings], Settings]:
    """A table of tables: the options of each of the components under its name, with their defaults."""
    fields: dict[str, Any] = {component.name: (component.options, component.options()) for component in components}
    table = create_model(kind, __base__=Settings, __doc__=f"The options of each {kind}.", **fields)
    return table, table()


def additions(settings: RunSettings, kind: str) -> dict[str, Settings]:
    """The chosen parts of that kind of `ADDITIONS`, by name, with their options."""
    table = getattr(settings, kind, None)
    return {} if table is None else {name: getattr(table, name) for name in type(table).model_fields}


def compose(
    registry: Registry,
    modality_name: str,
    preset: str | None = None,
    file: Mapping[str, Any] | None = None,
    chosen: Mapping[str, str] | None = None,
    origin: str = "the configuration",
    task: str | None = None,
    added: Mapping[str, Sequence[str]] = MappingProxyType({}),
    over: Mapping[str, Any] = MappingProxyType({}),
) -> RunSettings:
    """Default < preset < file < `over`; `task`, `chosen` and `added`, names of components, come from flags.

    Without a preset, the one that is called like the chosen data set is taken where there is one, else `default`.
    """
    modality = registry.modality(modality_name)
    file = dict(file or {})
    _check_shape(file, origin)
    _check_shape(over, origin)
    wanted = (chosen or {}).get("data") or _name_in([file], "data")
    named = wanted if wanted in modality.presets else None
    preset = str(preset or file.get("preset") or named or "default")
    if preset not in modality.presets:
        raise UserError(f"unknown preset {preset!r} for {modality.name}; there are: {', '.join(modality.presets)}")
    recipe = dict(modality.presets[preset].values)
    task = str(task or file.get("task") or recipe.get("task") or "denoise")
    if task not in NETWORKS:
        raise UserError(f"unknown task {task!r}; there are: {', '.join(NETWORKS)}")
    for kind in chosen or {}:
        if kind in NETWORKS.values() and kind != NETWORKS[task]:
            wanted_task = next(name for name, network in NETWORKS.items() if network == kind)
            raise UserError(f"`{kind}` is chosen for `task` {wanted_task} alone; this run's task is {task}")
    if task != recipe.pop("task", "denoise"):  # what is meant for the network of another task
        recipe = {key: value for key, value in recipe.items() if key not in NETWORKS.values()}
    layers: list[Mapping[str, Any]] = [recipe, file, over]
    from_layers = {kind: _name_in(layers, kind) for kind in CHOICES}
    names = {kind: name for kind, name in from_layers.items() if name is not None} | dict(chosen or {})
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(values, _only_for(layer, names, choices(modality, registry, task)))
    for kind, name in names.items():
        values[kind] = {**values.get(kind, {}), "name": name}
    values |= {"modality": modality.name, "preset": preset, "task": task}
    several_of = {}
    for kind in ADDITIONS:
        table = values.pop(kind, {}) or {}
        if table := {name: {} for name in added.get(kind, ())} | dict(table):
            values[kind], several_of[kind] = table, tuple(table)
    return validate(model_for(modality, names, registry, task, several_of), values, origin)


def _check_shape(file: Mapping[str, Any], origin: str) -> None:
    """Refuse what cannot be laid on a preset; pydantic checks the rest."""
    if not isinstance(file.get("preset", ""), str):
        raise UserError(f"{origin}: preset: input should be a name (it is {file['preset']!r})")
    for kind in (*CHOICES, *ADDITIONS, "train", "sample"):
        if not isinstance(file.get(kind, {}), Mapping):
            raise UserError(f"{origin}: {kind}: input should be a table, as in [{kind}] (it is {file[kind]!r})")


def _name_in(layers: list[Mapping[str, Any]], kind: str) -> str | None:
    for layer in reversed(layers):
        part = layer.get(kind)
        if isinstance(part, Mapping) and "name" in part:
            return str(part["name"])
    return None


def _only_for(
    layer: Mapping[str, Any], names: Mapping[str, str], choices: Mapping[str, tuple[Component, ...]]
) -> dict[str, Any]:
    """`layer` without the options of components that a later layer replaced. Options without a name are for any."""
    kept = dict(layer)
    for kind, offered in choices.items():
        chosen = names.get(kind, offered[0].name)
        part = layer.get(kind)
        if isinstance(part, Mapping) and part.get("name", chosen) != chosen:
            kept.pop(kind)
    return kept


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, nested. The ends of training, steps and minutes, replace each other."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            if key == "train" and ENDS & value.keys():
                below = {name: kept for name, kept in below.items() if name not in ENDS}
            value = merge(below, value)
        merged[key] = value
    return merged


ENDS = frozenset({"steps", "minutes"})
"""The options of `train` that end it."""


def validate(model: type[Settings], values: Mapping[str, Any], origin: str) -> Any:
    """`model` filled with `values`, or a `UserError` that names the first wrong key and its file."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}") from None


def explain(error: ValidationError, prefix: str = "") -> str:
    """What pydantic found wrong, in a line: each key, after `prefix`, with what it should be and what it is."""
    lines = []
    for detail in error.errors():
        key = (prefix + ".".join(str(part) for part in detail["loc"])).rstrip(".") or "these values"
        if detail["type"] == "extra_forbidden":
            lines.append(f"{key} is not an option here")
        elif detail["type"] == "missing":
            lines.append(f"{key} is missing")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            # A table that is wrong as a whole has said which of its values are.
            whole = isinstance(detail["input"], Mapping | Settings) and detail["type"] == "value_error"
            lines.append(f"{key}: {message}" + ("" if whole else f" (it is {_shortened(detail['input'])})"))
    return "; ".join(lines)


def _shortened(value: Any) -> str:
    """A value as it is written, up to a length that a line holds."""
    written = repr(value)
    return written if len(written) <= 80 else f"{written[:77]}..."


def as_toml(settings: RunSettings) -> str:
    """Settings as TOML that `read_toml` reads back; what is None is left out."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, or a `UserError` with the place of its mistake."""
    try:
        values = tomllib.loads(read_regular(path.resolve(), MOST_JSON).decode())
        require_shallow(values)
        return values
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from None
