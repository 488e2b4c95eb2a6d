"""How samples are drawn from a run: the settings of the run, and the options that a caller changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from diffcore.denoising.conditions import Condition
from diffcore.denoising.denoiser import Denoise, Denoiser, require_defined
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.names import Grid, Precision
from diffcore.plugins.building import build, require_part
from diffcore.plugins.records import Component
from diffcore.plugins.registry import Registry, choose
from diffcore.process.schedules import Schedule
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.loading import LoadedRun, Loader
from diffcore.runs.model import Model, codec_digest, require_help
from diffcore.runs.settings import SampleSettings, validate
from diffcore.sampling.solvers import Step
from diffcore.states.spaces import describe_difference


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn: a solver's step, the number of steps, their time grid, and guidance.

    * `step`, `solver`: the function of the solver, and its name for messages.
    * `steps`, `grid`: the number of steps, and their spacing.
    * `log_snrs`: the levels of a fitted grid, one per step, in place of `grid`.
    * `guidance`, `guidance_interval`, `guidance_rescale`: weight, interval and rescaling of classifier-free guidance,
      as `diffcore.runs.settings.SampleSettings` describes them.
    * `classifier`, `classifier_weight`: a noisy classifier for classifier guidance, and the weight of its gradient.
    * `weak`, `autoguidance`: a weaker denoiser for autoguidance, and its weight.
    * `classifier_source`, `weak_source`: the runs or checkpoints from which these two were loaded.
    * `guides`: guidance of other kinds, each a decorator of the denoiser, the innermost first.
    * `batch_size`: the number of samples that pass through the network at once.
    * `may_be_fitted`: whether a fitted grid may replace solver and grid, because the caller chose neither.
    * `schedule`: the name of the noise schedule, if it is not the run's own.
    * `guide_names`: the names of `guides`, with their options.
    * `precision`: the precision of the computation inside the network.
    """

    step: Step
    steps: int = 20
    grid: Grid = "tapered"
    guidance: float = 1.0
    batch_size: int = 250
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    classifier: NoisyClassifier | None = None
    classifier_weight: float = 1.0
    weak: Denoise | None = None
    autoguidance: float = 2.0
    guides: tuple[Callable[[Denoise], Denoise], ...] = ()
    log_snrs: tuple[float, ...] | None = None
    solver: str = "a solver of the caller"
    classifier_source: str | None = None
    weak_source: str | None = None
    may_be_fitted: bool = False
    schedule: str | None = None
    guide_names: tuple[str, ...] = ()
    precision: Precision = "float32"

    @property
    def is_guided(self) -> bool:
        """Whether any guidance changes the prediction of the conditional model."""
        return self.guidance != 1 or self.classifier is not None or self.weak is not None or bool(self.guides)

    def describe(self) -> str:
        """The solver, the grid and the guidance in words."""
        grid = "a fitted grid" if self.log_snrs is not None else f"the grid {self.grid}"
        parts = [f"{self.steps} steps of {self.solver} on {grid}"]
        if self.schedule is not None:
            parts.append(f"schedule {self.schedule}")
        parts.append(f"guidance {self.guidance:g}")
        if self.is_guided and self.guidance_interval is not None:
            low, high = self.guidance_interval
            parts.append(f"guided between the log-SNRs {low:g} and {high:g}")
        if self.is_guided and self.guidance_rescale:
            parts.append(f"rescaled by {self.guidance_rescale:g}")
        if self.classifier is not None:
            parts.append(f"a classifier's gradient of weight {self.classifier_weight:g}")
        if self.weak is not None:
            parts.append(f"autoguidance {self.autoguidance:g}")
        if self.guides:
            parts.append("guided by " + " and ".join(self.guide_names or ["guides of the caller"]))
        if self.precision != "float32":
            parts.append(f"computed in {self.precision}")
        return ", ".join(parts)

    def recipe(self) -> dict[str, Any]:
        """Everything in this config that decides the samples, as values of JSON. What has no effect is left out.

        Helping networks are described by a digest of their weights, and functions of the caller by their names.
        """
        values: dict[str, Any] = {"solver": self.solver, "steps": self.steps}
        values |= {"grid": self.grid} if self.log_snrs is None else {"log_snrs": list(self.log_snrs)}
        values |= {"schedule": self.schedule} if self.schedule is not None else {}
        values |= {"guidance": self.guidance, "precision": self.precision}
        if self.is_guided and self.guidance_interval is not None:
            values["guidance_interval"] = list(self.guidance_interval)
        if self.is_guided and self.guidance_rescale:
            values["guidance_rescale"] = self.guidance_rescale
        if self.classifier is not None:
            values |= {"classifier": _identity(self.classifier), "classifier_weight": self.classifier_weight}
        if self.weak is not None:
            values |= {"weak": _identity(self.weak), "autoguidance": self.autoguidance}
        if self.guides:
            values["guides"] = list(self.guide_names) or [_function_name(guide) for guide in self.guides]
        return values


Choice = str | Mapping[str, Any]
"""A part by its name, or by its name and options: `"ddim"`, `{"name": "ddim", "eta": 0.5}`."""


class GuidanceOptions(TypedDict, total=False):
    """The options of guidance and of the computation of the network; see `SamplingOptions`."""

    guidance: float | None
    guidance_interval: tuple[float, float] | None
    guidance_rescale: float | None
    classifier: str | Path | None
    classifier_weight: float | None
    weak: str | Path | None
    autoguidance: float | None
    batch_size: int | None
    precision: Precision | None
    compile: bool | None


class SamplingOptions(GuidanceOptions, total=False):
    """The options of sampling that a caller can change. Options that are missing or None come from the run's settings.

    `solver` and `schedule` are a name, a name with options (`{"name": "ddim", "eta": 0.5}`), or the function or object
    itself. `guides` are names, names with options, or decorators of a denoiser. `classifier` and `weak` are the folders
    of other runs; `weak` can also be the name of a checkpoint of this run. The others are those of
    `diffcore.runs.settings.SampleSettings`.
    """

    solver: Choice | Step | None
    steps: int | None
    grid: Grid | None
    schedule: Choice | Schedule | None
    guides: Sequence[Choice | Callable[[Denoise], Denoise]]


def sampling_config(
    sampling: SampleSettings,
    registry: Registry,
    step: Step | None = None,
    classifier: NoisyClassifier | None = None,
    weak: Denoise | None = None,
    guides: tuple[Callable[[Denoise], Denoise], ...] = (),
) -> SamplingConfig:
    """The sampling config of the settings, with the solver `step`, if given, in place of theirs, and with guidance."""
    name = sampling.solver if step is None else _function_name(step)
    if step is None:
        solver = registry.solver(sampling.solver)
        step = build("solver", solver, solver.options())
    values = sampling.model_dump(exclude={"solver", "compile"})
    return SamplingConfig(step, classifier=classifier, weak=weak, guides=guides, solver=name, **values)


def configured(
    path: Path, loaded: LoadedRun, registry: Registry, options: SamplingOptions, load: Loader
) -> tuple[Model, SamplingConfig]:
    """The model of the run in the folder `path` and its sampling config, both changed by `options`.

    `load` loads the other runs that are used for guidance. Raises `UserError` for options that cannot be combined, and
    `TypeError` for unknown names of options.
    """
    if unknown := options.keys() - SamplingOptions.__annotations__.keys():
        known = ", ".join(SamplingOptions.__annotations__)
        raise TypeError(f"{sorted(unknown)[0]!r} is not an option of sampling; there are: {known}")
    settings, model = loaded.settings, loaded.model
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None and value != ()}
    for weight, helper in (("classifier_weight", "classifier"), ("autoguidance", "weak")):
        if weight in given and helper not in given:
            raise UserError(f"`{weight}` needs `{helper}`, the folder of a run")
    changed = {name: given[name] for name in SampleSettings.model_fields.keys() & given.keys() - {"solver"}}
    sampling = validate(SampleSettings, {**settings.sample.model_dump(), **changed}, "options of sampling")
    if "schedule" in given:
        schedule = build_choice(given["schedule"], registry.offered("schedules"), "schedule")
        require_defined(settings.parameterisation, schedule)
        model = replace(model, schedule=schedule)
    classifier = _classifier(given.get("classifier"), model, load, registry)
    weak = _weak(given.get("weak"), path, model, load, registry)
    for network in (model.network, classifier, weak):
        if network is not None:
            compute_in(network, sampling.precision, sampling.compile)
    offered = registry.offered("guidance", model.modality.name)
    guides = tuple(build_choice(guide, offered, "guide", model.codec) for guide in given.get("guides", ()))
    config = sampling_config(sampling, registry, None, classifier, weak, guides)
    if "solver" in given:
        step = build_choice(given["solver"], registry.offered("solvers"), "solver")
        config = replace(config, step=step, solver=_name_of(given["solver"]))
    return model, replace(
        config,
        classifier_source=_absolute(given.get("classifier")),
        weak_source=_absolute(given.get("weak")),
        may_be_fitted=not given.keys() & {"solver", "grid", "schedule", "guides"},
        schedule=_schedule_name(given.get("schedule")),
        guide_names=tuple(_name_of(guide) for guide in given.get("guides", ())),
    )


def build_choice(choice: Any, offered: Sequence[Component], kind: str, *context: Any) -> Any:
    """The part that is chosen among `offered` by name, or by name and options.

    Anything else is taken to be the part itself, and returned unchanged. Raises `UserError` if it cannot be one.
    """
    if not isinstance(choice, str | Mapping):
        require_part(kind, choice, f"`{kind}`")
        return choice
    values = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"`{kind}` has options but no name: write {{'name': NAME, ...}}")
    component = choose(offered, name, kind)
    return build(kind, component, validate(component.options, values, f"the {kind} {name}"), *context)


def _name_of(choice: Any) -> str:
    if isinstance(choice, str | Mapping):
        return _words(choice)
    return _function_name(choice)


def _words(choice: Choice) -> str:
    """A part's name, with its options in brackets."""
    if isinstance(choice, str):
        return choice
    options = ", ".join(f"{name} {value}" for name, value in choice.items() if name != "name")
    return str(choice["name"]) + (f" ({options})" if options else "")


def _schedule_name(choice: Any) -> str | None:
    if choice is None:
        return None
    return _words(choice) if isinstance(choice, str | Mapping) else type(choice).__name__


def _function_name(part: Any) -> str:
    """The function that made a solver or a guide: `ddim` for the inner function of `ddim(...)`."""
    return getattr(part, "__qualname__", "a function of the caller").split(".")[0]


def _identity(network: Any) -> str:
    """A SHA-256 of the weights of a network; the name of anything else."""
    return tensors_digest(network.state_dict()) if isinstance(network, nn.Module) else _function_name(network)


def _absolute(source: Any) -> str | None:
    """The absolute path of a run folder, or the unchanged name of a checkpoint."""
    if source is None:
        return None
    return str(Path(source).absolute()) if Path(source).is_dir() else str(source)


def _classifier(source: Any, model: Model, load: Loader, registry: Registry) -> NoisyClassifier | None:
    if source is None:
        return None
    helper = load(Path(source), None).model
    what = f"`classifier` {source}"
    require_help(helper, "classifier", what, registry.offered("tasks"))
    check_helper(model, helper, what)
    return helper.classifier


def _weak(source: Any, path: Path, model: Model, load: Loader, registry: Registry) -> Denoiser | None:
    if source is None:
        return None
    folder, checkpoint = (Path(source), None) if Path(source).is_dir() else (path, str(source))
    helper = load(folder, checkpoint).model
    what = f"`weak` {source}"
    require_help(helper, "weak", what, registry.offered("tasks"))
    check_helper(model, helper, what)
    lacking = {condition.name for condition in helper.codec.conditions} - {c.name for c in model.codec.conditions}
    if lacking:
        raise UserError(f"{what} needs conditions that this model does not have: {', '.join(sorted(lacking))}")
    return helper.denoiser


def known_conditions(model: Model, config: SamplingConfig) -> tuple[Condition, ...]:
    """The conditions that can be requested: those of the model, and those that only the classifier of `config` has."""
    own = model.codec.conditions
    names = {condition.name for condition in own}
    others = () if config.classifier is None else config.classifier.conditions
    return (*own, *(condition for condition in others if condition.name not in names))


def check_helper(model: Model, helper: Model, what: str) -> None:
    """Raise `UserError` if a network of another run, called `what` in the message, cannot guide this model.

    Both must have the same kind of data, the same shape of states, and the same definition of shared conditions.
    """
    if helper.modality.name != model.modality.name:
        raise UserError(f"{what} is a model of {helper.modality.name}, but this is a model of {model.modality.name}")
    if difference := describe_difference(helper.codec.space, model.codec.space):
        raise UserError(f"{what} was trained on data of a different form than this model: {difference}")
    if codec_digest(helper.codec) != codec_digest(model.codec):
        raise UserError(f"{what} was trained with other weights of the codec than this model: their states differ")
    own = {condition.name: condition for condition in model.codec.conditions}
    for condition in helper.codec.conditions:
        if own.get(condition.name, condition) != condition:
            raise UserError(
                f"{what} and this model define the condition {condition.name!r} differently: they were trained "
                "on different values"
            )
