"""How samples are drawn from a run: the settings of the run, and the options that a caller changes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from diffcore.denoising.conditions import Condition
from diffcore.denoising.denoiser import require_defined
from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.names import Grid, Precision
from diffcore.plugins.guidance import Guidance
from diffcore.plugins.registry import Registry
from diffcore.plugins.text import require_text
from diffcore.process.schedules import ByField, Schedule, Until, ending_at
from diffcore.runs.choices import Choice, build_choice, name_of
from diffcore.runs.guides import SHORT, Guide, build_guides, network_loader, recipe_of, short_guides, with_new
from diffcore.runs.loading import LoadedRun, Loader
from diffcore.runs.model import Model, last_log_snr
from diffcore.runs.settings import SampleSettings, validate
from diffcore.sampling.loop import levels_of
from diffcore.sampling.solvers import Step
from diffcore.sampling.timesteps import grid
from diffcore.states.level import Levels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn: a solver's step, the number of steps, their time grid, and guidance.

    * `step`, `solver`: the function of the solver, and its name for messages.
    * `steps`, `grid`: the number of steps, and their spacing.
    * `log_snrs`: the levels of a fitted grid, one per step, in place of `grid`.
    * `guides`: the guidance of the denoiser, a list of which the first is the innermost.
    * `particles`: the number of trajectories for each sample; see `diffcore.sampling.particles`.
    * `all_particles`: whether so many consecutive samples are the trajectories of one group instead.
    * `batch_size`: the number of samples that pass through the network at once.
    * `may_be_fitted`: whether a fitted grid may replace solver and grid, because the caller chose neither.
    * `schedule`: the name of the noise schedule, if it is not the run's own.
    * `precision`: the precision of the computation inside the network.
    """

    step: Step
    steps: int = 20
    grid: Grid = "tapered"
    guides: tuple[Guidance, ...] = ()
    particles: int = 1
    all_particles: bool = False
    batch_size: int = 250
    log_snrs: tuple[float, ...] | None = None
    solver: str = "a solver of the caller"
    may_be_fitted: bool = False
    schedule: str | None = None
    precision: Precision = "float32"

    def describe(self) -> str:
        """The solver, the grid and the guidance in words."""
        grid = "a fitted grid" if self.log_snrs is not None else f"the grid {self.grid}"
        parts = [f"{self.steps} steps of {self.solver} on {grid}"]
        if self.schedule is not None:
            parts.append(f"schedule {self.schedule}")
        words = " and ".join(guide.words for guide in self.guides)
        parts.append(f"guided by {words}" if words else "without guidance")
        if self.particles > 1:
            parts.append(f"with {self.particles} particles for each sample")
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
        values |= {"particles": self.particles} if self.particles > 1 else {}
        return values | {"guidance": self.guidance_recipe(), "precision": self.precision}

    def guidance_recipe(self) -> list[dict[str, Any]]:
        """The recipe of each guidance."""
        return [recipe_of(guide) for guide in self.guides]


class GuidanceOptions(TypedDict, total=False):
    """The options of guidance and of the computation of the network; see `SamplingOptions`."""

    guidance: float | None
    guidance_interval: tuple[float, float] | None
    guidance_rescale: float | None
    classifier: str | Path | None
    classifier_weight: float | None
    negative_prompt: str | None
    weak: str | Path | None
    autoguidance: float | None
    guides: Sequence[Guide] | None
    batch_size: int | None
    precision: Precision | None
    compile: bool | None


class SamplingOptions(GuidanceOptions, total=False):
    """The options of sampling that a caller can change. Options that are missing or None come from the run's settings.

    `solver` and `schedule` are a name, a name with options (`{"name": "ddim", "eta": 0.5}`), or the function or object
    itself. `guides` are names, names with options, decorators of a denoiser, or `diffcore.plugins.guidance.Guidance`,
    the innermost first; with `guides`, the guidance of the run's settings is not used. `guidance`, `guidance_interval`,
    `guidance_rescale`, `negative_prompt`, `classifier` and `weak` are short for a guide each
    (`diffcore.runs.guides.short_guides`). `classifier` and `weak` are the folders of other runs; `weak` can also be the
    name of a checkpoint of this run. The others are those of `diffcore.runs.settings.SampleSettings`.
    """

    solver: Choice | Step | None
    steps: int | None
    grid: Grid | None
    schedule: Choice | Schedule | None
    particles: int | None


def sampling_config(
    sampling: SampleSettings, registry: Registry, model: Model, guides: tuple[Guidance, ...] | None = None
) -> SamplingConfig:
    """The sampling config of the settings for this model, with the guidance `guides`, if given, in place of theirs."""
    if guides is None:
        guides = build_guides(short_guides(sampling), registry, model)
    values = sampling.model_dump(include={"steps", "grid", "particles", "batch_size", "precision"})
    step = build_choice(sampling.solver, registry.offered("solvers"), "solver")
    return SamplingConfig(step, guides=guides, solver=name_of(sampling.solver), **values)


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
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    _require_combinable(given)
    own = settings.sample.model_dump()
    if "guides" in given:
        own |= _without_guidance(settings.sample, given)
    changed = {name: given[name] for name in SampleSettings.model_fields.keys() & given.keys() - {"solver"}}
    sampling = validate(SampleSettings, {**own, **changed}, "options of sampling")
    if "negative_prompt" in given and sampling.guidance == 1:
        raise UserError("`negative_prompt` needs `guidance`, a weight larger than 1, which moves samples away from it")
    if "negative_prompt" in given:
        require_text(model.codec.conditions, "negative_prompt")
    if "schedule" in given:
        schedule = build_choice(given["schedule"], registry.offered("schedules"), "schedule")
        require_defined(settings.parameterisation, schedule)
        model = replace(model, schedule=_like(model.schedule, schedule))
    compute_in(model.network, sampling.precision, sampling.compile)
    guides = short_guides(
        sampling, given.get("classifier"), given.get("weak"), given.get("guides", ()), given.get("negative_prompt")
    )
    loader = network_loader(path, model, sampling, load, registry)
    built = build_guides(guides, registry, model, loader, given.get("guides", ()))
    config = sampling_config(sampling, registry, model, built)
    if "solver" in given:
        step = build_choice(given["solver"], registry.offered("solvers"), "solver")
        config = replace(config, step=step, solver=name_of(given["solver"]))
    described = all(isinstance(guide, str | Mapping) for guide in given.get("guides", ()))
    return model, replace(
        config,
        may_be_fitted=described and not given.keys() & {"solver", "grid", "schedule"},
        schedule=_schedule_name(given.get("schedule")),
    )


def _require_combinable(given: Mapping[str, Any]) -> None:
    """Raise `UserError` for a weight without what it weighs, and for a guidance that is given in two ways."""
    for weight, helper in (("classifier_weight", "classifier"), ("autoguidance", "weak")):
        if weight in given and helper not in given:
            raise UserError(f"`{weight}` needs `{helper}`, the folder of a run")
    guides = given.get("guides", ())
    if isinstance(guides, str | Mapping) or not isinstance(guides, Sequence):
        raise UserError("`guides` is a list: write [NAME, ...] or [{'name': NAME, ...}, ...]")
    listed = [
        guide if isinstance(guide, str) else guide.get("name") for guide in guides if isinstance(guide, str | Mapping)
    ]
    for short, name in SHORT.items():
        if short in given and name in listed:
            raise UserError(f"`{short}` is short for the guide {name}, which `guides` has too: give one of them")


def _without_guidance(sampling: SampleSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the settings of guidance. A line is logged if the run has others, which are not used."""
    fields = SampleSettings.model_fields
    names = ("guidance", "guidance_interval", "guidance_rescale")
    if unused := [n for n in names if n not in given and getattr(sampling, n) != fields[n].default]:
        words = ", ".join(f"{name} {getattr(sampling, name)}" for name in unused)
        logger.info(f"the guidance of the run's settings ({words}) is not used, because `guides` is given")
    return {name: fields[name].default for name in names}


def _like(own: Schedule, other: Schedule) -> Schedule:
    """The schedule `other`, with the shifts of `own` if that has levels by field, until the end of `own`."""
    last = own.last if isinstance(own, Until) else None
    if isinstance(own, ByField):
        return replace(own, base=_like(own.base, other))
    return ending_at(other, last)


def _schedule_name(choice: Any) -> str | None:
    if choice is None:
        return None
    return name_of(choice) if isinstance(choice, str | Mapping) else type(choice).__name__


def time_grid(model: Model, config: SamplingConfig) -> Tensor:
    """The log-SNRs `[steps]` of the levels of the config, without the clean end."""
    if config.log_snrs is None:
        return grid(config.grid, model.schedule, config.steps, last_log_snr(model.codec))
    return torch.tensor(config.log_snrs, dtype=torch.float64)


def all_levels(model: Model, config: SamplingConfig) -> list[Levels]:
    """The levels that samples of the config pass, with their end."""
    return levels_of(model.schedule, time_grid(model, config), last_log_snr(model.codec))


def known_conditions(model: Model, config: SamplingConfig) -> tuple[Condition, ...]:
    """The conditions that can be requested: those of the model, and those that guidance of `config` adds."""
    known = tuple(model.codec.conditions)
    for guide in config.guides:
        known = with_new(known, guide)
    return known
