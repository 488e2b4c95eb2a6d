"""`diffcore sample RUN`: samples from a trained run."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from pydantic import Field, create_model

from diffcore.cli.edit import EditOptions, editing, edits
from diffcore.cli.flags import parse
from diffcore.cli.screen import say
from diffcore.denoising.conditions import Conditions, captions_of, parse_conditions
from diffcore.denoising.denoiser import Denoiser, require_defined
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.evaluation.evaluate import example_conditions
from diffcore.names import Device, Grid, Precision
from diffcore.plugins.output import Captions
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry, choose, installed
from diffcore.process.schedules import Schedule
from diffcore.runs.checkpoints import EMA, count_numbers, newest_sound
from diffcore.runs.fitted_grid import read_fitted_grids
from diffcore.runs.folder import Run, open_run
from diffcore.runs.generation import as_asked, draw_mask, generate_together, require_conditions, resized
from diffcore.runs.model import (
    Model,
    SamplingConfig,
    build_additions,
    build_model,
    check_helper,
    known_conditions,
    load_weights,
    sampling_config,
)
from diffcore.runs.settings import RunSettings, SampleSettings, several, validate
from diffcore.sampling.solvers import Step, ddpm
from diffcore.system.distributed import leads
from diffcore.system.progress import counter


class FromRun(Settings):
    """What every command that reads a trained run takes."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    checkpoint: str | None = None
    """Name of a checkpoint, such as step-00001000; the newest by default."""
    device: Device | None = None
    """auto takes a GPU where there is one; without a flag, as the run was trained."""


class DrawOptions(FromRun):
    """How to draw. What is None is as the run's configuration has it."""

    steps: int | None = Field(None, ge=1, description="Steps from noise to data.")
    grid: Grid | None = Field(None, description="How the steps are spaced.")
    guidance: float | None = Field(None, description="Weight of classifier-free guidance; 1 is no guidance.")
    guidance_interval: tuple[float, float] | None = Field(
        None, description="Constraint only where the log-SNR, -2 ln(sigma / alpha), lies between LO and HI."
    )
    guidance_rescale: float | None = Field(
        None, description="0 to 1: how far the guided output gets the spread of the unguided one."
    )
    classifier: Path | None = Field(None, description="A run with --task classify whose gradient guides.")
    classifier_weight: float | None = Field(None, description="Weight of the classifier's gradient; 1 is Bayes' rule.")
    weak: str | None = Field(
        None, description="Autoguidance against a checkpoint of this run, or another run's folder."
    )
    autoguidance: float | None = Field(None, description="Weight of autoguidance; 1 is none.")
    batch_size: int | None = Field(None, ge=1, description="Samples that go through the network at once.")
    precision: Precision | None = Field(None, description="Numbers inside the network; the solver's are float32.")
    compile: bool | None = Field(None, description="Have torch.compile translate the network.")
    seed: int = Field(0, ge=0, description="Sample i of a seed is the same in every batch.")


class Options(EditOptions, DrawOptions):
    n: int = Field(16, ge=1, description="How many samples.")
    label: str | None = Field(None, description="Short for --condition label=...")
    condition: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (),
        description="key=value, once for each condition; without any, all in turn (editing: none).",
    )
    target: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (), description="The same as --condition, for numbers: key=2.5, or key=40..60 for a range; several together."
    )
    size: str | None = Field(None, description="How many elements a sample has: 9, or, where that varies, 7..9.")
    out: Path | None = Field(None, description="A folder, or one file whose ending the modality writes.")


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    drawing = read_drawing(Options, arguments, registry, "diffcore sample", "Draw samples from a run.")
    options = drawing.options
    _, model, config = trained(drawing, registry, tuned=not edits(options))  # tuned levels are for the plain flow
    if model.is_classifier:
        raise UserError(
            f"{options.run} is a classifier, which draws no samples; it guides a model of the same data: "
            f"diffcore sample RUN --classifier {options.run}"
        )
    if options.size is not None and model.codec.sizes is None:
        model = resized(model, options.size)
    constraint = editing(options, model)
    if constraint is not None and drawing.step is None:
        config = replace(config, step=ddpm())  # fresh noise mends what the guide does to the path
    conditions = _asked(options, model, config, spread=constraint is None)
    if options.guidance is None and options.classifier is None:  # the run's own guidance needs nothing to be asked for
        config = as_asked(model, config, conditions)
    require_conditions(model, config, conditions)
    mask = draw_mask(model, range(options.n), conditions, options.seed, options.size)
    writer = model.modality.writer(model.codec)
    out = options.out or _unused(options.run / "samples" / f"seed-{options.seed}")
    single = out.suffix.lower() in writer.endings
    if (out.suffix or out.is_file()) and not single and not out.is_dir():
        raise UserError(f"{out}: {model.modality.name} writes {', '.join(writer.endings)}; or give a folder")
    if leads():
        (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    with counter("sampling", options.n) as after_batch:
        drawn = generate_together(
            model, config, conditions, options.n, options.seed, after_batch, constraint=constraint, mask=mask
        )
    if drawn is None:
        return 0
    samples = model.codec.decode(drawn.state, drawn.mask)
    captions = captions_of(known_conditions(model, config), conditions, options.n)
    columns = min(10, options.n)
    if single:
        writer.together(samples, out, columns, captions)
        say(f"{options.n} samples: {out}")
    else:
        writer.each(samples, out, _names(captions), captions)
        overview = out / f"grid{writer.endings[0]}"
        writer.together(samples, overview, columns, captions)
        say(f"{options.n} samples: {out}, together in {overview}")
    summary = getattr(writer, "summary", None)
    for line in summary(samples, captions) if summary else ():
        say(line)
    return 0


@dataclass(frozen=True)
class Drawing:
    """What flags say of drawing: the options, and the parts that they choose, where they can be, made already."""

    options: Any
    step: Step | None = None
    schedule: Schedule | None = None
    added: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the parts that there may be several of, by flag, in whose table of `options` their own are."""

    def chosen(self, flag: str) -> dict[str, Settings]:
        """The parts that the flag names, with their options."""
        names = self.added.get(flag, ())
        return {name: getattr(getattr(self.options, flag), name) for name in names}


SEVERAL = {"guide": "guidance", "metric": "metrics"}
"""Flags that choose any number of parts, with the kind of the registry that they choose from."""


def read_drawing(
    model: type[DrawOptions],
    arguments: Sequence[str],
    registry: Registry,
    prog: str,
    about: str,
    flags: Sequence[str] = ("guide",),
) -> Drawing:
    """Read flags. Those that choose parts (`flags`: of `SEVERAL`) come first: only their options exist."""
    rest, solver = take(list(arguments), "solver")
    rest, schedule = take(rest, "schedule")
    added = {}
    for flag in flags:
        rest, found = take_all(rest, flag)
        added[flag] = tuple(dict.fromkeys(found))
    about += (
        f" --solver NAME is one of {', '.join(registry.solvers)};"
        f" --schedule NAME, in place of the one of training, one of {', '.join(registry.schedules)}."
    )
    for flag in flags:
        if offered := getattr(registry, SEVERAL[flag]):
            about += f" --{flag} NAME, any number of times, is one of {', '.join(offered)}."
    parts = {}
    if solver is not None:
        parts["solver"] = registry.solver(solver)
    if schedule is not None:
        parts["schedule"] = registry.schedule(schedule)
    fields: dict[str, Any] = {kind: (part.options, part.options()) for kind, part in parts.items()}
    for flag, names in added.items():
        if names:
            fields[flag] = several(flag, [choose(registry.offered(SEVERAL[flag]), name, flag) for name in names])
    options = parse(create_model(model.__name__, __base__=model, **fields), rest, prog, about)
    made = {kind: part.build(getattr(options, kind)) for kind, part in parts.items()}
    return Drawing(options, made.get("solver"), made.get("schedule"), added)


def take(arguments: list[str], name: str) -> tuple[list[str], str | None]:
    """The arguments without the flag `name`, and its value where it is there."""
    for position, argument in enumerate(arguments):
        if argument == f"--{name}":
            if position + 1 == len(arguments):
                raise UserError(f"--{name} needs a value")
            return arguments[:position] + arguments[position + 2 :], arguments[position + 1]
        if argument.startswith(f"--{name}="):
            return arguments[:position] + arguments[position + 1 :], argument.partition("=")[2]
    return arguments, None


def take_all(arguments: list[str], name: str) -> tuple[list[str], list[str]]:
    """The arguments without any flag `name`, and its values."""
    values: list[str] = []
    while True:
        arguments, value = take(arguments, name)
        if value is None:
            return arguments, values
        values.append(value)


def trained(drawing: Drawing, registry: Registry, tuned: bool = True) -> tuple[RunSettings, Model, SamplingConfig]:
    """The settings of a run, its model with averaged weights, and the config: the run's, with what flags change.

    Unless a solver, a grid or a schedule is asked for, what `diffcore tune` found for as many steps is used; without a
    number of steps, what it found last.
    """
    options = drawing.options
    settings, model = load_run(options.run, registry, options.device, options.checkpoint)
    if drawing.schedule is not None:
        require_defined(settings.parameterisation, drawing.schedule)
        model = replace(model, schedule=drawing.schedule)
    flags = {name: getattr(options, name, None) for name in SampleSettings.model_fields if name != "solver"}
    changed = {name: value for name, value in flags.items() if value is not None}
    sampling = validate(SampleSettings, {**settings.sample.model_dump(), **changed}, "flags")
    for weight, helper in (("classifier_weight", "classifier"), ("autoguidance", "weak")):
        if weight in changed and getattr(options, helper) is None:
            raise UserError(f"--{weight.replace('_', '-')} needs --{helper} RUN")
    classifier, weak = _predictor(options, model, registry), _weak(options, model, registry)
    for network in (model.network, classifier, weak):
        if network is not None:
            compute_in(network, sampling.precision, sampling.compile)
    guides = build_additions(registry, "guidance", model.modality.name, drawing.chosen("guide"), model.codec)
    config = sampling_config(sampling, registry, drawing.step, classifier, weak, tuple(guides.values()))
    if tuned and not guides and drawing.step is None and drawing.schedule is None and options.grid is None:
        config = _as_tuned(config, Run(options.run), options.steps)
    return settings, model, config


def _as_tuned(config: SamplingConfig, run: Run, steps: int | None) -> SamplingConfig:
    known = read_fitted_grids(run)
    found = known.get(steps) if steps is not None else next(reversed(known.values()), None)
    if found is None:
        return config
    source = f"from {found.checkpoint}, guidance {found.guidance:g}"
    say(f"{len(found.log_snrs)} steps as {run.fitted_grids} has them, {source}")
    return replace(config, step=found.step(), steps=len(found.log_snrs), log_snrs=found.log_snrs)


def load_run(
    path: Path, registry: Registry, device: Device | None, checkpoint: str | None
) -> tuple[RunSettings, Model]:
    """The settings of a run and its model with averaged weights, ready to be evaluated."""
    run, description = open_run(path, registry)
    settings = on_device(description.settings, device)

    def load(path: Path) -> Model:
        # The header of the weights comes first: a network is built that is no larger than they are.
        model = build_model(settings, description.facts, registry, count_numbers(path, EMA))
        load_weights(model, path)
        return model

    _, model = newest_sound(run, load, checkpoint)
    model.network.eval().requires_grad_(False)
    return settings, model


def _predictor(options: DrawOptions, model: Model, registry: Registry) -> NoisyClassifier | None:
    if options.classifier is None:
        return None
    _, helper = load_run(options.classifier, registry, options.device, None)
    what = f"--classifier {options.classifier}"
    if not helper.is_classifier:
        raise UserError(f"{what} draws samples and predicts nothing: train a classifier with --task classify")
    check_helper(model, helper, what)
    return helper.classifier


def _weak(options: DrawOptions, model: Model, registry: Registry) -> Denoiser | None:
    if options.weak is None:
        return None
    folder = Path(options.weak)
    other = folder.is_dir()
    run, checkpoint = (folder, None) if other else (options.run, options.weak)
    _, helper = load_run(run, registry, options.device, checkpoint)
    what = f"--weak {options.weak}"
    if helper.is_classifier:
        raise UserError(f"{what} is a classifier; autoguidance compares with a weaker model of the same data")
    check_helper(model, helper, what)
    lacking = {condition.name for condition in helper.codec.conditions} - {c.name for c in model.codec.conditions}
    if lacking:
        raise UserError(f"{what} wants conditions that this model does not take: {', '.join(sorted(lacking))}")
    return helper.denoiser


def on_device(settings: RunSettings, device: Device | None) -> RunSettings:
    """The settings, on another device if one is given."""
    return settings if device is None else settings.model_copy(update={"device": device})


def _asked(options: Options, model: Model, config: SamplingConfig, spread: bool) -> Conditions:
    """What is asked for; where nothing is, all there is in turn, or with `spread` off nothing in particular."""
    label = () if options.label is None else (f"label={options.label}",)
    asked: dict[str, str] = {}
    forms = {"condition": "key=value", "target": "key=2.5, or key=40..60", "label": "NAME"}
    for flag, pairs in (("condition", options.condition), ("target", options.target), ("label", label)):
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UserError(f"--{flag} {pair!r}: write it as {forms[flag]}")
            if key in asked:
                raise UserError(f"--{flag} {value if flag == 'label' else pair}: {key} is asked for twice")
            asked[key] = value
    if spread and not asked:
        return example_conditions(model, options.n, config)
    known = known_conditions(model, config)
    conditions = parse_conditions(known, asked, range(options.n), options.seed)
    for condition in known:
        if doubt := condition.warning(conditions[condition.name]):
            say(doubt)
    return conditions


def _unused(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, … where that exists."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _names(captions: Captions) -> list[str]:
    """File names: the number and what was asked for."""

    def words(values: Iterable[str]) -> str:
        return "".join(f"-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', value)}" for value in values)

    return [f"{index:04d}{words(caption.values())}" for index, caption in enumerate(captions)]
