"""A trained run in Python: samples, metrics, fitted grids, likelihoods, and constraints on samples."""

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from diffcore.api.modes import in_own_modes
from diffcore.api.showing import show_messages
from diffcore.denoising.conditions import ClassCondition, Condition, Conditions, parse_conditions, parsed
from diffcore.denoising.given import require_values
from diffcore.errors import UserError
from diffcore.names import Device, Divergence, InverseMethod
from diffcore.plugins import registry as plugins
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric
from diffcore.plugins.registry import Registry
from diffcore.plugins.text import NAME, encoder_of
from diffcore.runs.composing import additions
from diffcore.runs.consent import require_consent
from diffcore.runs.data_record import difference as examples_differ
from diffcore.runs.data_record import read_record, record_of
from diffcore.runs.drawing import Drawing
from diffcore.runs.fitted_grid import read_fitted_grids, with_fitted_grid, write_fitted_grid
from diffcore.runs.folder import RunFolder
from diffcore.runs.generation import (
    example_conditions,
    require_conditions,
    resized,
    unguided_without_conditions,
)
from diffcore.runs.loading import LoadedRun, load_run
from diffcore.runs.measurements import Source, inpainting_of, upscaling_of
from diffcore.runs.model import Model, build_additions, data_of, require_draws
from diffcore.runs.moved import with_data_at
from diffcore.runs.output import Written, write_samples
from diffcore.runs.place import default_place
from diffcore.runs.samples import Samples
from diffcore.runs.sampling_config import (
    GuidanceOptions,
    SamplingConfig,
    SamplingOptions,
    configured,
    known_conditions,
)
from diffcore.runs.settings import RunSettings, validate
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.solvers import ddpm
from diffcore.states.noise import whole
from diffcore.states.spaces import describe_difference
from diffcore.states.state import State, concatenate
from diffcore.system.distributed import from_leader, in_turn, leads
from diffcore.system.files import require_writable
from diffcore.system.progress import bar, counter

if TYPE_CHECKING:
    from diffcore.runs.tuning import Tuning

logger = logging.getLogger(__name__)

Prompt = str | Sequence[str]
"""A text for all samples, or several that the samples have in turn."""

Asked = Mapping[str, Any]
"""Values of conditions by name: `2.5`, a range `(40, 60)` or `"40..60"`, or a list of one for each sample.

A class is its name, `"cat"`, or its index from 0 after `#`, `"#3"`. The number `3` is the class called "3", never an
index. In a tensor, as in `Samples.conditions`, whole numbers are indices of classes. Where a value is no
number, such as a picture, a tensor is one value for all samples, or one for each.
"""


@dataclass(frozen=True)
class Run:
    """A trained run: a folder with a model, and everything that can be done with it.

    `checkpoint` is the name of one of its checkpoints, the newest by default; `device` the one that it was trained on
    by default. The model is loaded when it is first needed, with averaged weights. `data_at` are the places of its data
    if they have moved, by option of the data set: `{"root": PATH}`. With `trust`, a run of another user may read the
    files and download the data that its configuration names, and `resume` starts its loggers.
    """

    path: Path
    checkpoint: str | None = None
    device: Device | None = None
    registry: Registry = field(default_factory=lambda: plugins.installed(), repr=False, compare=False)
    data_at: Mapping[str, Any] = field(default_factory=dict, compare=False)
    trust: bool = field(default=False, compare=False)

    @cached_property
    def loaded(self) -> LoadedRun:
        """The settings, the model and the checkpoint that its weights come from."""
        return self._load(self.path, self.checkpoint)

    @property
    def settings(self) -> RunSettings:
        """The settings of the run."""
        return self.loaded.settings

    @property
    def model(self) -> Model:
        """The model with averaged weights: codec, network and schedule."""
        return self.loaded.model

    @cached_property
    @in_own_modes
    def data(self) -> Data:
        """The data that the run was trained on, read again.

        Raises `UserError` where they are others now, and, without `trust`, if another user made the run and its
        configuration names places or a download.
        """
        if not (from_leader(lambda: self.loaded.own) or self.trust):
            require_consent(self.path, self.settings, self.data_at, loggers=False)
        settings, encoder = with_data_at(self.settings, self.data_at), encoder_of(self.model.codec.conditions)
        data = in_turn(lambda: data_of(self.path, settings, self.registry, encoder))
        if difference := describe_difference(self.model.modality.codec(data.facts).space, self.model.codec.space):
            raise UserError(f"{self.path} was trained on other data than are there now: {difference}")
        before = read_record(RunFolder(self.path))
        now = record_of(self.settings.data.name, data, self.model.codec)  # type: ignore[attr-defined]
        if before is not None and leads() and (words := examples_differ(before, now)):
            logger.warning(f"{self.path} was trained on other data than are there now: {words}")
        return data

    @in_own_modes
    def sample(
        self,
        n: int = 16,
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        constraint: Constraint | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` samples. Sample i of a seed depends on the seed, on i and on its conditions alone.

        A grid that `tune` fitted is used where the number of steps, the checkpoint and the guidance are those that it
        was fitted to, and no solver, grid or schedule is given; what is used is logged.

        Args:
            n: How many.
            label: Short for `conditions={"label": ...}`: the name of a class, or `"#3"` for the class with index 3.
            prompt: Short for `conditions={"prompt": ...}`: a text, or several that the samples have in turn.
            conditions: What the samples shall be, by name of condition; without any, all there is in turn.
            seed: Decides the noise.
            size: How many elements a sample has, `9`, or `"7..9"` where that varies.
            constraint: What samples have to agree with; `inpaint` and `upscale` make the usual ones of files.
            **options: How to draw: `steps`, `solver`, `guidance` and the other fields of
                `diffcore.runs.sampling_config.SamplingOptions`.

        Raises:
            UserError: For conditions, sizes and options that do not exist or do not fit.
        """
        show_messages()
        drawing = self.drawing(n, label, conditions, seed, size, constraint, options, prompt)
        with counter("sampling", n) as after_batch:
            return drawing.draw_all(after_batch)

    @in_own_modes
    def sample_to(
        self,
        out: str | os.PathLike[str] | None = None,
        n: int = 16,
        *,
        replace: bool = False,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        constraint: Constraint | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Written | None:
        """Draw `n` samples and write them to files while they are drawn. The memory does not depend on `n`.

        What is drawn is kept if the call is interrupted, and the same call goes on from there. With several processes,
        the first one writes the files, and the others return None.

        Args:
            out: A folder for one file per sample, or one file for all, whose extension the kind of data supports; by
                default `samples/seed-SEED` in the folder of the run, or the next such name without other samples.
            n: The number of samples.
            replace: Replace other samples in `out`.
            label, prompt, conditions, seed, size, constraint, **options: As for `sample`;
                `diffcore.runs.measurements` makes the constraints of `inpaint` and `upscale`.

        Raises:
            UserError: As for `sample`, and if `out` contains anything but samples of the same recipe.
        """
        show_messages()
        drawing = self.drawing(n, label, conditions, seed, size, constraint, options, prompt)
        place = from_leader(
            lambda: Path(out) if out is not None else default_place(RunFolder(self.path).samples, drawing)
        )
        try:
            with bar("sampling") as report:
                return write_samples(
                    drawing, place, replace, lambda done, count: report(done / count, f"{done} of {count}")
                )
        finally:
            if out is None and leads():
                with contextlib.suppress(OSError):  # it is not empty, unless no sample was drawn
                    place.rmdir()

    @in_own_modes
    def drawing(
        self,
        n: int,
        label: str | None,
        conditions: Asked | None,
        seed: int,
        size: str | int | None,
        constraint: Constraint | None,
        options: SamplingOptions,
        prompt: Prompt | None = None,
    ) -> Drawing:
        """What `sample` draws with these arguments. Raises `UserError` for what cannot be drawn."""
        if n < 1:
            raise UserError(f"`n` {n}: draw at least 1 sample")
        seed = whole(seed)
        model, config = self.config(options)
        require_draws(model, self.path)
        if size is not None and model.codec.sizes is None:
            if constraint is not None:
                raise UserError("`size` cannot be changed where samples have to agree with a file")
            if kept := next((guide.words for guide in config.guides if guide.least_size), None):
                raise UserError(f"`size` cannot be changed where samples keep elements: {kept}")
            model = resized(model, str(size))
        if constraint is not None and not constraint.given and options.get("solver") is None:
            # Fresh noise in each step corrects what the constraint does to the path. Given fields do nothing to it.
            config = replace(config, step=ddpm(), solver="ddpm", may_be_fitted=False)
        asked = _asked(label, conditions, prompt, n)
        for guide in config.guides:
            if twice := next((name for name in guide.asks if name in asked), None):
                raise UserError(f"`{twice}` is given, and the guide {guide.name} sets it: give one of them")
            asked |= guide.asks
        _require_text(model, asked)
        values = self._conditions(model, config, asked, n, seed, examples=constraint is None)
        if all(options.get(name) is None for name in ("guidance", "classifier", "guides")):
            # The guidance of the run's settings is not an error where no condition is given.
            config = unguided_without_conditions(model, config, values)
        require_conditions(model, config, values)
        if constraint is None:
            config = with_fitted_grid(config, RunFolder(self.path), self.loaded.checkpoint.name)
        else:
            logger.info(f"drawing with {config.describe()}, so that samples agree with a measurement")
        drawing = Drawing(
            model,
            self.loaded.checkpoint,
            config,
            values,
            n,
            seed,
            asked,
            None if size is None else str(size),
            constraint,
        )
        drawing.mask(range(1))
        return drawing

    @in_own_modes
    def inpaint(
        self,
        source: Source,
        mask: Source | None = None,
        n: int = 16,
        *,
        method: InverseMethod | None = None,
        noise_std: float = 0.0,
        resamplings: int = 10,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        size: str | int | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` samples that agree with a file or an encoded sample where it is known.

        Args:
            source: A file of the run's kind of data, or an encoded sample `[1, ...]`.
            mask: A file in which white is to be filled in, or a state of booleans that is True there; without it the
                file itself must show what is missing, such as a set of which some elements are given.
            n: How many.
            method: `"mmps"` (the default), `"dps"` or `"repaint"`.
            noise_std: For mmps and dps: how far the source may be off, in standard deviations of the data.
            resamplings: For repaint: how often each step is done.
            label, prompt, conditions, seed, size, **options: As for `sample`. Where sizes vary, they are drawn so
                that all known elements exist.
        """
        require_draws(self.model, self.path)
        constraint = inpainting_of(self.model, source, mask, method, noise_std, resamplings)
        return self.sample(
            n,
            label=label,
            prompt=prompt,
            conditions=conditions,
            seed=seed,
            size=size,
            constraint=constraint,
            **options,
        )

    @in_own_modes
    def upscale(
        self,
        source: Source,
        n: int = 16,
        *,
        factor: int | None = None,
        method: InverseMethod | None = None,
        noise_std: float = 0.0,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        seed: int = 0,
        **options: Unpack[SamplingOptions],
    ) -> Samples:
        """Draw `n` samples whose block means are a smaller file, or a smaller encoded state with its `factor`.

        `method` is `"mmps"` (the default) or `"dps"`; the other arguments are those of `inpaint` and `sample`.
        """
        require_draws(self.model, self.path)
        constraint = upscaling_of(self.model, source, factor, method, noise_std)
        return self.sample(
            n, label=label, prompt=prompt, conditions=conditions, seed=seed, constraint=constraint, **options
        )

    @in_own_modes
    def evaluate(
        self,
        n: int = 500,
        *,
        seed: int = 0,
        metrics: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
        show: Callable[[list[Metric]], None] = lambda metrics: None,
        failed: list[str] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Metric]:
        """Metrics of `n` samples, or of `n` held-out examples if the task draws no samples.

        They are kept in metrics.json and the report.

        evaluations.json keeps the metrics of all evaluations, each with its recipe; those of an equal recipe are
        replaced. `show` is called with the metrics before they are written. If the run cannot be written to, this is
        logged before the work, and the metrics are not kept.

        `metrics` are more than those of the settings, by name or by name with their options. An evaluator or a metric
        that fails is logged and left out, and the warning is added to the list `failed`. Where several processes
        evaluate together, the first has the metrics and the others have none.
        """
        show_messages()
        from diffcore.evaluation.evaluate import evaluate, recipe_of, write_metrics, write_report
        from diffcore.evaluation.request import PICTURED, EvaluationRequest

        if n < 1:
            raise UserError(f"`n` {n}: evaluate at least 1 sample")
        seed = whole(seed)
        _require_used(self.model, self.path, options)
        model, config = self.config(options)
        data, folder = self.data, RunFolder(self.path)
        kept = from_leader(lambda: self._can_be_written("the metrics are shown, and not kept"))
        if model.task.draws:
            shown = unguided_without_conditions(model, config, example_conditions(model, 1, config))
            config = replace(with_fitted_grid(shown, folder, self.loaded.checkpoint.name), guides=config.guides)
        wanted = additions(self.settings, "metric") | self._metrics(metrics)
        built = build_additions(self.registry, "metrics", model.modality.name, wanted, model.codec, data)

        def complain(text: str) -> None:
            logger.warning(text)
            if failed is not None:
                failed.append(text)

        request = EvaluationRequest(self.settings, config, n, seed, extra_metrics=built, complain=complain)
        found = evaluate(model, data, request)
        if leads():
            show(found)
        if leads() and kept:
            used = config if model.task.draws else None
            write_metrics(folder, found, recipe_of(self.loaded.checkpoint, used, n, seed))
            write_report(folder, model, data, replace(request, n=PICTURED, together=False))
        return found

    @in_own_modes
    def tune(
        self,
        steps: int,
        *,
        trajectories: int = 64,
        iterations: int = 150,
        seed: int = 0,
        show: Callable[["Tuning"], None] = lambda found: None,
        **options: Unpack[GuidanceOptions],
    ) -> "Tuning":
        """Fit `steps` levels and a method to this run's own flow, and keep them for samples of as many steps.

        Nothing is kept where the run's own way of drawing is as good. `trajectories` of the model are followed to fit
        to, in `iterations` steps of Adam. `show` is called with the result before it is written. Raises `OSError`
        before the work if the run cannot be written to.
        """
        show_messages()
        from diffcore.runs.tuning import tune

        if others := options.keys() - GuidanceOptions.__annotations__.keys():
            raise TypeError(f"tune() takes no {sorted(others)[0]!r}: solver, grid and schedule are what it fits")
        for name, value, least in (("trajectories", trajectories, 1), ("iterations", iterations, 0)):
            if value < least:
                raise UserError(f"`{name}` {value}: write a whole number, {least} or larger")
        model, config = self.config(SamplingOptions(steps=steps, **options))  # type: ignore[typeddict-item]
        require_draws(model, self.path)
        if not config.may_be_fitted:
            raise UserError("a fitted grid is found again by the names of its `guides`: tune with names, not functions")
        folder = RunFolder(self.path)
        read_fitted_grids(folder)  # a damaged file is known before the work
        require_writable(self.path)
        with bar("tuning") as report:
            found = tune(
                model,
                config,
                self.loaded.checkpoint.name,
                trajectories=trajectories,
                iterations=iterations,
                seed=seed,
                after_iteration=lambda done: report(done, "of the iterations"),
            )
        show(found)
        write_fitted_grid(folder, steps, found.fitted)
        return found

    @in_own_modes
    def log_likelihood(
        self,
        source: Samples | State | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        label: str | None = None,
        prompt: Prompt | None = None,
        conditions: Asked | None = None,
        divergence: Divergence = "exact",
        probes: int = 1,
        steps: int | None = None,
        seed: int = 0,
        given: Collection[str] = (),
    ) -> Tensor:
        """log p(x0) of each sample by the probability flow, `[B]` float64, in nats.

        It is the density of the encoded state, per unit of volume of its space. `source` are samples of a run, encoded
        states `[B, ...]`, or files. `conditions` are what the samples are given; without any, the conditions of
        `Samples`, else none. The other arguments are those of `diffcore.likelihood.flow.log_likelihood`.
        """
        from diffcore.likelihood.flow import log_likelihood

        model, mask = self.model, None
        require_draws(model, self.path)
        if isinstance(source, Samples):
            state, mask = source.state, source.mask
        elif isinstance(source, str | os.PathLike):
            state = self._read([source])
        elif isinstance(source, Sequence):
            state = self._read(source)
        else:
            state = source
        asked = _asked(label, conditions, prompt, len(state))
        own = model.codec.conditions
        if isinstance(source, Samples) and not asked:
            values = {condition.name: source.conditions[condition.name] for condition in own}
        else:
            values = _values(asked, own, len(state), seed)
        return log_likelihood(
            model.denoiser,
            state.to(model.device),
            model.codec.space,
            model.schedule,
            conditions={name: value.to(model.device) for name, value in values.items()},
            mask=None if mask is None else mask.to(model.device),
            divergence=divergence,
            probes=probes,
            steps=steps,
            seed=seed,
            given=given,
        )

    def resume(self, train: Mapping[str, Any] | None = None) -> "Run":
        """Go on training from the checkpoint, and return the run with what was learned.

        `train` are fields of the settings' `train` that shall differ: another end, `{"steps": 9000}`, or
        `on_divergence`. An unbroken run and one that was stopped and resumed give the same losses and weights.
        """
        show_messages()
        from diffcore.api.resuming import go_on  # the training loop, which other uses of a run do without

        changed = dict(train or {})
        if unknown := changed.keys() - RESUMABLE:
            raise UserError(
                f"`train.{sorted(unknown)[0]}` cannot change while a run goes on; {', '.join(sorted(RESUMABLE))} can"
            )
        go_on(self.path, self.registry, changed, self.device, self.checkpoint, self.data_at, self.trust)
        return Run(self.path, None, self.device, self.registry)

    def config(self, options: SamplingOptions) -> tuple[Model, SamplingConfig]:
        """The model, and how `sample` draws from it with these options."""
        return configured(self.path, self.loaded, self.registry, options, self._load)

    def _can_be_written(self, otherwise: str) -> bool:
        """Whether the folder of the run can be written to; a warning says what happens otherwise."""
        try:
            require_writable(self.path)
        except OSError as error:
            logger.warning(f"{self.path} cannot be written to ({error.strerror}): {otherwise}")
            return False
        return True

    @in_own_modes
    def _load(self, path: Path, checkpoint: str | None) -> LoadedRun:
        return load_run(path, self.registry, self.device, checkpoint, self.trust)

    def _conditions(
        self, model: Model, config: SamplingConfig, asked: Asked, n: int, seed: int, examples: bool
    ) -> Conditions:
        """The requested values; if none are given, examples of all values, or null values if `examples` is false."""
        if examples and not asked:
            return example_conditions(model, n, config)
        known = known_conditions(model, config)
        values = _values(asked, known, n, seed)
        for condition in known:
            if warning := condition.warning(values[condition.name]):
                logger.warning(warning)
        return values

    def _metrics(self, metrics: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The options of the metrics that are named."""
        named = metrics if isinstance(metrics, Mapping) else {name: {} for name in metrics}
        offered = self.registry.offered("metrics", self.model.modality.name)
        chosen = {name: plugins.choose(offered, name, "metric") for name in named}
        return {
            name: options if isinstance(options := named[name], part.options)
            else validate(part.options, options, f"the metric {name}")
            for name, part in chosen.items()
        }  # fmt: skip

    def _read(self, paths: Sequence[str | os.PathLike[str]]) -> State:
        reader = self.model.modality.reader
        if reader is None:
            raise UserError(f"the plugin for {self.model.modality.name} cannot read files")
        read = part_of(self.model.modality, "reader", self.model.codec).read
        return concatenate([read(Path(path)) for path in paths])


RESUMABLE = frozenset({"steps", "minutes", "on_divergence", "evaluate"})
"""Options of training that can change while a run goes on."""


def load(
    path: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    device: Device | None = None,
    data: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Run:
    """The run in the folder `path`, from its newest checkpoint or the one of that name.

    If its data have moved, `data` names their place, `{"root": PATH}`; only metrics and further training read them.
    With `trust`, these may do what the configuration of another user's run says: read and download data, and start
    loggers.

    Raises `UserError` where there is no such run or checkpoint, or where it is damaged.
    """
    run = Run(Path(path).absolute(), checkpoint, device, data_at=dict(data or {}), trust=trust)
    _ = run.loaded
    return run


def _asked(label: str | None, conditions: Asked | None, prompt: Prompt | None = None, n: int = 1) -> dict[str, Any]:
    """All that is requested of `n` samples, by name of the condition."""
    asked = dict(conditions or {})
    each = prompt if prompt is None or isinstance(prompt, str) else in_turn_of(prompt, n)
    for name, value in (("label", label), (NAME, each)):
        if value is not None:
            if name in asked:
                raise UserError(f"`{name}` is given twice: leave it out of `conditions`")
            asked[name] = value
    return asked


def _require_text(model: Model, asked: Asked) -> None:
    """Raise `UserError` if a prompt is requested of a model that was trained without captions."""
    known = [condition.name for condition in model.codec.conditions]
    if NAME in asked and NAME not in known:
        others = f"; it takes: {', '.join(known)}" if known else ""
        raise UserError(f"this model was trained without captions, so it takes no `{NAME}`{others}")


def in_turn_of(texts: Sequence[str], n: int) -> list[str]:
    """`n` of the texts in turn. Raises `UserError` if there are none."""
    if not texts:
        raise UserError("`prompt` is an empty list: give a text, or several")
    return [texts[index % len(texts)] for index in range(n)]


def _require_used(model: Model, path: Path, options: SamplingOptions) -> None:
    """Raise `UserError` for an option of drawing where the task of the run draws no samples."""
    computing = {"batch_size", "precision", "compile"}
    unused = [name for name, value in options.items() if value is not None and name not in computing]
    if unused and not model.task.draws:
        raise UserError(
            f"`{unused[0]}` has no effect: {path} has the task {model.task.name}, which draws no samples; leave it out"
        )


def _values(asked: Asked, known: Sequence[Condition], n: int, seed: int) -> Conditions:
    """The values `[n, ...]` of all known conditions; null where nothing is asked.

    Where one value is not a number, such as a picture, a tensor holds the values themselves: one for all, or n.
    """
    whole: dict[str, str] = {}
    each: dict[str, Sequence[Any]] = {}
    tensors: dict[str, Tensor] = {}
    shapes = {condition.name: condition.shape for condition in known}
    for name, value in asked.items():
        if isinstance(value, Tensor) and (shape := shapes.get(name, ())):
            tensors[name] = value.expand(n, *shape) if value.shape == shape else value
            continue
        if isinstance(value, Tensor):
            is_class = name in {condition.name for condition in known if isinstance(condition, ClassCondition)}
            value = [f"#{index}" for index in value.tolist()] if is_class else value.tolist()
        if isinstance(value, list):
            if len(value) != n:
                raise UserError(f"`conditions`: {name} has {len(value)} values for {n} samples")
            each[name] = value
        else:
            whole[name] = _text(value)
    values = parse_conditions(known, {**whole, **{name: _text(v[0]) for name, v in each.items()}}, range(n), seed)
    for condition in known:
        if condition.name in each:
            values[condition.name] = _parsed(condition, [*map(_text, each[condition.name])], seed)
    require_values(known, tensors, n)
    return values | tensors


def _parsed(condition: Condition, texts: Sequence[str], seed: int) -> Tensor:
    """The value of each sample `[n, ...]`. Each distinct text is parsed once, for all samples that have it."""
    indices: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        indices.setdefault(text, []).append(index)
    rows = torch.cat([parsed(condition, text, which, seed) for text, which in indices.items()])
    order = torch.tensor([index for which in indices.values() for index in which])
    return rows[order.argsort()]


def _text(value: Any) -> str:
    """A value as a user writes it; a pair is a range."""
    return f"{value[0]}..{value[1]}" if isinstance(value, tuple) and len(value) == 2 else str(value)
