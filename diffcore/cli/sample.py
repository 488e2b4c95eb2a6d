"""`diffcore sample RUN`: samples from a trained run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, create_model

from diffcore.assembly import Model, build_model, load_weights
from diffcore.checkpoints import find_checkpoint
from diffcore.cli.flags import parse
from diffcore.components import Component, Settings
from diffcore.conditions import Conditions, ask
from diffcore.config import Device, RunSettings
from diffcore.errors import UserError
from diffcore.evaluation import spread_conditions
from diffcore.generation import Recipe, generate
from diffcore.progress import counter, say
from diffcore.registry import Registry, installed
from diffcore.runs import open_run


class FromRun(Settings):
    """What every command that reads a trained run takes."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    checkpoint: str | None = None
    """Name of a checkpoint, such as step-00001000; the newest by default."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""


class Drawing(FromRun):
    """How to draw. What is None is as the run's configuration has it."""

    steps: int | None = Field(None, ge=1, description="Steps from noise to data.")
    grid: Literal["karras", "time", "log-snr"] | None = Field(None, description="How the steps are spaced.")
    guidance: float | None = Field(None, description="Weight of classifier-free guidance; 1 is no guidance.")
    batch_size: int | None = Field(None, ge=1, description="Samples that go through the network at once.")
    seed: int = Field(0, ge=0, description="Sample i of a seed is the same in every batch.")


class Options(Drawing):
    n: int = Field(16, ge=1, description="How many samples.")
    label: str | None = Field(None, description="Short for --condition label=...")
    condition: tyro.conf.UseAppendAction[tuple[str, ...]] = Field(
        (), description="key=value, once for each condition; without any, all are shown in turn."
    )
    out: Path | None = Field(None, description="A folder, or one file whose ending the modality writes.")


def main(arguments: Sequence[str]) -> int:
    registry = installed()
    options, solver = drawing_options(Options, arguments, registry, "diffcore sample", "Draw samples from a run.")
    settings, model = trained(options, registry)
    recipe = recipe_for(options, solver, settings, registry)
    conditions = _asked(options, model)
    writer = model.modality.writer()
    out = options.out or _unused(options.run / "samples" / f"seed-{options.seed}")
    single = out.suffix.lower() in writer.endings
    if out.suffix and not single and not out.is_dir():
        raise UserError(f"{out}: {model.modality.name} writes {', '.join(writer.endings)}; or give a folder")
    (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    with counter("sampling", options.n) as after_batch:
        states = generate(model, recipe, conditions, options.n, options.seed, after_batch)
    samples = model.codec.decode(states)
    columns = min(10, options.n)
    if single:
        writer.together(samples, out, columns)
        say(f"{options.n} samples: {out}")
    else:
        writer.each(samples, out, _names(model, conditions, options.n))
        overview = out / f"grid{writer.endings[0]}"
        writer.together(samples, overview, columns)
        say(f"{options.n} samples: {out}, together in {overview}")
    return 0


def drawing_options(
    model: type[Any], arguments: Sequence[str], registry: Registry, prog: str, about: str
) -> tuple[Any, Component | None]:
    """Read flags; `--solver NAME` is taken first, since the options of that solver alone exist: `--solver.eta`."""
    rest, name = _take(list(arguments), "solver")
    about += f" --solver is one of {', '.join(registry.solvers)}."
    if name is None:
        return parse(model, rest, prog, about), None
    solver = registry.solver(name)
    options = create_model(model.__name__, __base__=model, solver=(Annotated[solver.options, ...], solver.options()))
    return parse(options, rest, prog, about), solver


def _take(arguments: list[str], name: str) -> tuple[list[str], str | None]:
    for position, argument in enumerate(arguments):
        if argument == f"--{name}":
            if position + 1 == len(arguments):
                raise UserError(f"--{name} needs a value")
            return arguments[:position] + arguments[position + 2 :], arguments[position + 1]
        if argument.startswith(f"--{name}="):
            return arguments[:position] + arguments[position + 1 :], argument.partition("=")[2]
    return arguments, None


def trained(options: FromRun, registry: Registry) -> tuple[RunSettings, Model]:
    """The settings of a run and its model with averaged weights."""
    run, description = open_run(options.run, registry)
    settings = description.settings.model_copy(update={"device": options.device})
    model = build_model(settings, description.facts, registry)
    load_weights(model, find_checkpoint(run, options.checkpoint))
    return settings, model


def recipe_for(options: Any, solver: Component | None, settings: RunSettings, registry: Registry) -> Recipe:
    """The run's own way of drawing, with what the flags change."""

    def pick(name: str) -> Any:
        value = getattr(options, name)
        return getattr(settings.sample, name) if value is None else value

    if solver is None:
        solver = registry.solver(settings.sample.solver)
        step = solver.build(solver.options())
    else:
        step = solver.build(options.solver)
    return Recipe(step, pick("steps"), pick("grid"), pick("guidance"), pick("batch_size"))


def _asked(options: Options, model: Model) -> Conditions:
    asked: dict[str, str] = {}
    for pair in options.condition:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--condition {pair!r}: write it as key=value")
        asked[key] = value
    if options.label is not None:
        asked["label"] = options.label
    if not asked:
        return spread_conditions(model, options.n)
    return ask(model.codec.conditions, asked, options.n)


def _unused(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, … where that exists."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _names(model: Model, conditions: Conditions, n: int) -> list[str]:
    """File names: the number and what was asked for."""

    def words(index: int) -> str:
        captions = (condition.caption(conditions[condition.name][index]) for condition in model.codec.conditions)
        return "".join(f"-{re.sub(r'[^A-Za-z0-9_.]+', '_', caption)}" for caption in captions)

    return [f"{index:04d}{words(index)}" for index in range(n)]
