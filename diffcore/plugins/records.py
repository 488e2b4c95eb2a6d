"""The records with which plugins (and the core itself) offer their parts.

Importing this module is quick: it imports no torch. A record names a part, describes it in a sentence, declares its
options as a pydantic model and holds a builder; whatever is heavy is imported inside the builder, when the part is
used.
"""

import importlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

API_VERSION = 2
"""The version of the hooks and of these records.

A plugin sets `API_VERSION = 2` in its entry-point module; one that was made for another version is listed, but not
used.
"""


class Settings(BaseModel):
    """Base of every options model: unknown keys are errors, values are checked, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def absolute(path: Any) -> Any:
    """`path` as an absolute path, where `~` is the home folder; what is neither a text nor a path stays as it is.

    An address, such as `s3://bucket/pictures`, stays as it is too.
    """
    if isinstance(path, str) and "://" in path:
        return path
    try:
        return str(Path(path).expanduser().absolute()) if isinstance(path, str | Path) else path
    except RuntimeError:
        raise ValueError("~ is not known here, because this user has no home folder") from None


Place = Annotated[str | None, BeforeValidator(absolute)]
"""An option that names a file or a folder; it is kept as an absolute path, so a run finds its data from everywhere.

A run of another user needs consent to read it. Other options that look like paths need it too, and so do data sets
whose option `download` is true.
"""


IN_TRAINING = "in training only"
"""Marks an option, `Annotated[Place, IN_TRAINING]`, that names what training alone reads: samples need no consent."""


def places(options: type[Settings]) -> list[str]:
    """The names of the options that are a `Place`."""
    return [
        name
        for name, field in options.model_fields.items()
        if any(getattr(part, "func", None) is absolute for part in field.metadata)
    ]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"the name {twice!r} occurs twice")
    return names


ClassNames = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], AfterValidator(_distinct)]
"""Names of classes, as the facts of data have them: all different, each of 1 to 1000 characters."""


class NoOptions(Settings):
    """Options of a part that has none."""


def lazy(package: str) -> Callable[[str], Callable[..., Any]]:
    """Builders by name: `lazy("package")("module:name")` is that function; its module is imported when it is called."""

    def builder(target: str) -> Callable[..., Any]:
        module, _, name = f"{package}.{target}".rpartition(":")

        def call(*arguments: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*arguments)

        return call

    return builder


WORDS: Mapping[str, str] = {"data": "data set", "text": "text encoder"}
"""What a kind of part is called in messages, where that is not its name."""


@dataclass(frozen=True)
class Component:
    """A named part with options.

    `build(options, *context)` makes the part; what the context is depends on the kind:

    | kind | build | returns |
    |---|---|---|
    | schedule | `(options)` | `diffcore.process.schedules.Schedule` |
    | solver | `(options)` | `diffcore.sampling.solvers.Step` |
    | data set | `(options)` | `diffcore.plugins.data.Data` |
    | denoiser | `(options, space)`, or `(options, space, inputs)` if it `accepts` any | the backbone, an `nn.Module` |
    | classifier | `(options, space, outputs)` | a backbone that gives `[B, outputs]`, an `nn.Module` |
    | autoencoder | `(options, codec)` | `diffcore.plugins.autoencoder.Autoencoder`, an `nn.Module` |
    | guidance | `(options, context)` | a function from a denoiser to another, or `diffcore.plugins.guidance.Guidance` |
    | text encoder | `(options, texts, learned)` | `diffcore.denoising.text.TextEncoder` |
    | metric | `(options, codec, data)` | a function of samples and conditions to `diffcore.plugins.output.Metric`s |
    | logger | `(options, folder, settings)` | `diffcore.plugins.output.Logger` of the run in `folder` |
    | task | `(options, codec, settings, backbone)` | the module that is trained; see `Task` |

    The context of guidance is a `diffcore.plugins.guidance.GuidanceContext`; its builder can also return a
    `diffcore.plugins.guidance.Guidance`, which says more, such as the conditions that it needs.

    `modalities` names the kinds of data that a part is for, all where it is None. `symmetries` are what a denoiser
    promises to respect, by names that its modality's `Contract` give a meaning to. `small` are options with which the
    part is quick, for the checks of `diffcore check-plugin`. For guidance, a metric or a task it may also be a function
    of a `Trial` that returns such options, where these depend on the kind of data.

    `accepts` are the inputs that a denoiser can take besides the state, the conditioning vector and the mask, such as
    `("tokens", "like_state")`. Its builder then also receives `diffcore.denoising.inputs.Inputs`: how many channels of
    each there are, and whether it is told what is known and an estimate.

    `install` is a command that installs the modules in `requires`.
    """

    name: str
    summary: str
    build: Callable[..., Any]
    options: type[Settings] = NoOptions
    requires: tuple[str, ...] = ()
    modalities: frozenset[str] | None = None
    symmetries: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()
    small: "Mapping[str, Any] | Callable[[Trial], Mapping[str, Any]]" = field(default_factory=dict, compare=False)
    install: str = ""

    def serves(self, modality: str) -> bool:
        """Whether this part is for that kind of data."""
        return self.modalities is None or modality in self.modalities


@dataclass(frozen=True)
class Trial:
    """The kind of data that a part is tried with, for `Component.small`.

    * `modality`, `codec`: its record and its codec.
    * `samples`: a few examples in the form that the codec's `decode` returns.
    * `folder`: an empty folder for files that options name.

    `Component.small` raises `UserError` if the part cannot be used with this kind of data.
    """

    modality: "Modality"
    codec: Any
    samples: Any
    folder: Path


NOISY_BATCH = lazy("diffcore.tasks")("batch:draw_batch")
"""The default of `Task.draw`: batches of examples with noise and its levels, `diffcore.tasks.batch.Batch`."""

CLEAN_BATCH = lazy("diffcore.tasks")("batch:draw_examples")
"""For `Task.draw` of tasks without noise: batches of examples, `diffcore.tasks.batch.Examples`."""

_HELD_OUT_LOSS = lazy("diffcore.evaluation")("held_out:evaluate")


@dataclass(frozen=True, kw_only=True)
class Task(Component):
    """What a run trains: a module, its loss, and what is shown and measured of it.

    The options of a task are those of `--task.OPTION`. Functions are best given by `lazy`. In all of them, `model` is a
    `diffcore.runs.model.Model`, whose `network` is the module, `data` a `diffcore.plugins.data.Data`, `settings` are
    those of the run, with the task's options in `settings.task`, and `request` is a
    `diffcore.evaluation.request.EvaluationRequest`.

    * `network`: the kind of network that the run chooses, by which the flag is called: `"denoiser"` and `"classifier"`
      are offered by modalities and hooks, any other kind by `Modality.networks` and by `networks` of the task itself.
    * `build(options, codec, settings, backbone)`: the module, where `backbone(*context)` builds the chosen network from
      its options and the context that networks of this kind take. Where the module has `backbone`, a module, and
      `precision`, as a `Denoiser` has, it can compute in bfloat16 and be compiled.
    * `loss(model, batch, settings)`: the loss of each example of the batch, `[B]`, differentiable.
    * `losses_by_field(model, batch, settings)`: the mean of the loss in parts, by name, to report which diverged.
    * `draw(model, settings, data, step)`: the batch of a step: `NOISY_BATCH`, `CLEAN_BATCH`, or a function.
    * `initialise(model, settings)`: change the initial weights of a new run, which `build` has drawn.
    * `evaluate(model, data, request)`: a list of `diffcore.plugins.output.Metric`; by default the loss of held-out
      examples.
    * `pictures(model, data, request)`: yields `diffcore.plugins.output.Picture`s. All are in the report; the first is
      also written during training, every `train.sample_every` steps.
    * `report(model, data, request)`: further sections of the report, pairs of a title and HTML.
    * `loss_label`: what the loss is, for the axis of its curve.
    * `draws`: whether the module is a `diffcore.denoising.denoiser.Denoiser` that draws samples.
    * `flow`: whether that denoiser estimates E[x0 | x] at every level, so that the probability flow can be followed.
    * `helps`: the options that take a run of this task: `"classifier"` and `"weak"` of sampling, `"teacher"` of
      distillation, and `"latent"` of training. With the last, the module has `autoencoder`, a
      `diffcore.plugins.autoencoder.Autoencoder`, and `last_log_snr`, the log-SNR of the noise that latents keep, or
      None.
    * `advice`: what can be done with a run that draws no samples, with `{run}` for its folder.
    """

    loss: Callable[..., Any]
    network: str = "denoiser"
    networks: tuple[Component, ...] = ()
    losses_by_field: Callable[..., Any] | None = None
    draw: Callable[..., Any] = NOISY_BATCH
    initialise: Callable[..., None] | None = None
    evaluate: Callable[..., Any] = _HELD_OUT_LOSS
    pictures: Callable[..., Any] | None = None
    report: Callable[..., Any] | None = None
    loss_label: str = "loss"
    draws: bool = False
    flow: bool = True
    helps: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Command:
    """A command of the command line: `main` takes the arguments after its name and returns the exit status."""

    name: str
    summary: str
    main: Callable[[Sequence[str]], int]
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportFormat:
    """A format that `diffcore export RUN --format NAME --out PLACE` writes runs in.

    `export(run, out, registry)` writes the run in the folder `run` to the new file or folder `out` and returns `out`;
    `registry` is the `diffcore.plugins.registry.Registry` of what is installed. It raises `UserError` if `out` exists
    and for runs that the format cannot hold. Functions are best given by `lazy`.

    `parts` are functions like `export` for other parts of a run, by the name after `--part`. `install` is a command
    that installs the modules in `requires`.
    """

    name: str
    summary: str
    export: Callable[[Path, Path, Any], Path]
    parts: Mapping[str, Callable[[Path, Path, Any], Path]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    install: str = ""


@dataclass(frozen=True)
class Widget:
    """A part of the page of `diffcore demo` with which a visitor points at what of a sample shall be filled in.

    * `argument`: the argument of `diffcore.api.run.Run.inpaint` that it sets: `"mask"`, `"gap"` or `"free"`.
    * `label`: what to do with it, in a few words.
    * `html(codec, sample)`: an HTML fragment for one sample, in the form that the codec's `decode` returns, as a batch
      of one. Its scripts run in a frame without a network and without access to the page. They call `choose(text)` with
      the value as `inpaint` takes it; a mask is a PNG file as a data URL.

    Where a kind of data has no widget for an argument, the page has a field for its text, or for a file.
    """

    argument: str
    label: str
    html: Callable[[Any, Any], str]


@dataclass(frozen=True)
class Preset:
    """A named starting point: a summary and the values that differ from the defaults, nested as in TOML."""

    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Modality:
    """A kind of data: its data sets, codec, denoisers, presets, files and metrics.

    `codec(facts)` makes a `diffcore.plugins.data.Codec` from the facts of a data set, so that samples can be
    decoded without the data. The first data set and denoiser are the defaults; the preset `default` must exist.

    `writer(codec)` makes a `diffcore.plugins.output.Writer`: samples to files. With `writing`, the options with which
    users choose how files are written (`--write.OPTION`), it is `writer(codec, options)`. `outputs` are options of
    files that have a flag of their own: with `{"mesh": {"form": "mesh"}}`, `--mesh PLACE` is short for `--out PLACE
    --write.form mesh`. `givens` are the flags, with a sentence on each, of files that say what is known of samples
    (`Reader.read_given`).
    `evaluator(codec, data, cache)` makes a `diffcore.plugins.output.Evaluator`: samples to metrics, or None where the
    data allows none. `reader(codec)` makes a `diffcore.plugins.output.Reader`: files to states, for editing; None where
    files cannot be read.

    `scorer(codec, data, functions)` makes a `diffcore.plugins.output.Scorer`: samples to values of each, for tables and
    to keep some of the samples. `data` is a function that returns the `Data` of the run, or None where there are none;
    it is called for values that need them only. `functions` are Python functions of the user, by name; what they take
    is a matter of the modality.

    `fidelity(codec)` makes a function of samples and of their reconstructions by an autoencoder that returns a list of
    `diffcore.plugins.output.Metric`: how similar they are, in the usual measure of this kind of data. Its autoencoders
    are `networks["autoencoder"]`.

    `classifiers` are networks for the task `classify`, the first the default: they learn to predict the conditions of
    noisy states, for guidance. `networks` has those of other kinds that tasks train, by `Task.network`.

    `distance(codec)` makes a `diffcore.plugins.output.Distance`: how different samples are, to show the training
    examples that are nearest to samples. `widgets` are parts of the page of `diffcore demo` for this kind of data.

    `contract(codec)` makes a `diffcore.plugins.contract.Contract`: what `diffcore check-plugin` may hold the plugin to
    beyond what every plugin is held to.
    """

    name: str
    summary: str
    datasets: tuple[Component, ...]
    denoisers: tuple[Component, ...]
    presets: Mapping[str, Preset]
    facts: type[Settings]
    codec: Callable[[Any], Any]
    writer: Callable[..., Any]
    writing: type[Settings] = NoOptions
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    givens: Mapping[str, str] = field(default_factory=dict)
    evaluator: Callable[..., Any] | None = None
    classifiers: tuple[Component, ...] = ()
    networks: Mapping[str, tuple[Component, ...]] = field(default_factory=dict)
    reader: Callable[[Any], Any] | None = None
    contract: Callable[[Any], Any] | None = None
    fidelity: Callable[[Any], Any] | None = None
    scorer: Callable[..., Any] | None = None
    distance: Callable[[Any], Any] | None = None
    widgets: tuple[Widget, ...] = ()
    requires: tuple[str, ...] = ()

    def networks_of(self, kind: str) -> tuple[Component, ...]:
        """The networks of that kind, `"denoiser"` or another `Task.network`, the default first."""
        return {"denoiser": self.denoisers, "classifier": self.classifiers, **self.networks}.get(kind, ())

    def parts_of(self, kind: str) -> tuple[Component, ...]:
        """The parts of a kind of the registry that take a modality of their own, such as `"datasets"`."""
        return self.datasets if kind == "datasets" else self.networks_of(kind.removesuffix("s"))


def missing(record: Component | Modality | Command | ExportFormat) -> list[str]:
    """The modules in `requires` that this Python cannot find."""

    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # a parent package is not there
            return False

    return [name for name in record.requires if not found(name)]
