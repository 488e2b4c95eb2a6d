"""The settings of a run, and the error messages for invalid values."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import tyro
from pydantic import Field, ValidationError, field_validator

from diffcore.errors import UserError
from diffcore.names import Device, Grid, OnDivergence, OptimizerName, Parallel, Parameterisation, Precision, Weighting
from diffcore.plugins.records import Place, Settings
from diffcore.runs.suggestions import closest, options_of


class TrainSettings(Settings):
    """How a model is trained: duration, optimiser, loss, logging, checkpoints, and recovery from divergence.

    Training ends after `steps` steps or after `minutes` minutes.
    """

    steps: int | None = Field(None, ge=1, description="Number of training steps.")
    minutes: float | None = Field(None, gt=0, description="Stop after this many minutes of training.")
    batch_size: int = Field(128, ge=1, le=2**20, description="Examples per step, over all processes together.")
    accumulate: int = Field(
        1,
        ge=1,
        le=2**20,
        description="Parts of a batch that pass through the network one after another, to save memory.",
    )
    optimizer: OptimizerName = Field(
        "adam", description="Optimiser: Adam, or Muon, whose steps on matrices are orthogonal."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Learning rate after the warm-up.")
    warmup_steps: int = Field(100, ge=0, description="Steps over which the learning rate rises from zero.")
    decay_after: int = Field(
        2000, ge=1, description="After this step, the learning rate decreases with the inverse square root of the step."
    )
    cooldown: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of `steps`, at the end, over which the learning rate falls to zero, so that the last steps "
        "average out the noise of the gradients. 0: it does not fall, and a longer run continues where this one ends.",
    )
    gradient_clip: float = Field(
        1.0, gt=0, description="Maximum norm of the gradient; larger gradients are scaled down."
    )
    weighting: Weighting = Field("eps", description="Weighting of the loss over the noise levels.")
    field_weights: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        {}, description="Factors of the loss of fields, as `positions 3`; that of other fields is 1."
    )
    distorted: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the examples of log-SNR above 0 that have more noise than the network is told, as the "
        "states of a sampler do that is not exact.",
    )
    distortion: float = Field(
        0.5,
        ge=0,
        le=10,
        description="Standard deviation of the noise that is added to these, in units of what the network is told.",
    )
    buckets: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Number of batches whose examples are sorted by their number of elements, so that little is "
        "computed for elements that do not exist; 0: batches of all sizes. Such steps are not recorded as CUDA graphs.",
    )
    condition_dropout: float = Field(0.1, ge=0, le=1, description="Probability that each condition is dropped.")
    ema_width: float = Field(0.1, gt=0, lt=0.28, description="Relative width of the moving average of the weights.")
    log_every: int = Field(50, ge=1, description="Number of steps between lines of train_log.jsonl.")
    sample_every: int = Field(1000, ge=1, description="Number of steps between pictures of samples.")
    checkpoint_every: int = Field(500, ge=1, description="Number of steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Number of most recent checkpoints that are kept.")
    keep_every: int | None = Field(
        None, ge=1, description="Also keep every checkpoint whose step is a multiple of this number."
    )
    on_divergence: OnDivergence = Field(
        "stop",
        description="When training diverges: stop, or step back to the last checkpoint with a lower learning rate.",
    )
    explosion: float = Field(
        5.0,
        ge=0,
        description="A mean loss above this multiple of the median of recent losses counts as diverged; 0: never.",
    )
    step_back_rate: float = Field(
        0.5, gt=0, lt=1, description="Factor by which each step back multiplies the learning rate."
    )
    most_steps_back: int = Field(
        3, ge=1, le=100, description="Maximum number of steps back, after which training stops."
    )
    evaluate: int = Field(500, ge=0, description="Number of samples for the metrics at the end; 0 computes none.")
    precision: Precision = Field(
        "float32", description="Precision of the computation inside the network; weights are always float32."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: a slow start, then faster steps.")
    cuda_graphs: bool = Field(
        False,
        description="On one GPU, record a step as a CUDA graph and repeat it: several times faster for small networks.",
    )
    parallel: Parallel = Field(
        "ddp", description="With several processes, each holds all weights (ddp) or a part of them (fsdp)."
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


class LevelSettings(Settings):
    """Noise levels of the fields of a state, where they are not all the same.

    A network that is trained with any of these is told the noise level of each field.
    """

    shifts: dict[str, Annotated[float, Field(ge=-30, le=0)]] = Field(
        {}, description="Shifts of the log-SNR of fields, as `FIELD -6`: below 0, a field is decided later."
    )
    independent: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Fraction of the examples in which each field, or each side of a joint state, has a noise level of "
        "its own; by default 0, and 0.7 for joint states.",
    )
    given: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability that a field of these has no noise, so that others are learned given it; by default "
        "0, and 0.3 for joint states.",
    )
    known: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the examples of which a part is known, so that the rest is learned given it.",
    )

    @property
    def by_field(self) -> bool:
        """Whether fields have levels of their own."""
        return any(self.shifts.values()) or bool(self.independent)

    def of_state(self, joint: bool) -> "LevelSettings":
        """The settings with their defaults for a state that is `joint`, or is not."""
        independent = (0.7 if joint else 0.0) if self.independent is None else self.independent
        given = (0.3 if joint and independent else 0.0) if self.given is None else self.given
        return self.model_copy(update={"independent": independent, "given": given})


class LatentSettings(Settings):
    """In what a run diffuses: in states of the data themselves or, with a first stage, in its latents."""

    run: Annotated[Place, tyro.conf.Suppress] = None
    """Folder of a run with the task encode, in whose latents this run diffuses."""
    views: int = Field(
        4,
        ge=0,
        le=1000,
        description="Encodings of each example that are kept, where data are augmented; 0: encode in every step.",
    )


class FirstStage(Settings):
    """The first stage of a run, as its config.json describes it. Its weights are in codec.safetensors.

    * `autoencoder`: the name and the options of the network.
    * `facts`: the facts of the data that the first stage was trained on, which its codec is made of.
    * `last_log_snr`: the log-SNR of the noise that its decoder was trained with; None if it was trained without.
    * `views`: how many encodings of each example with augmentation are kept; 0 where there is no augmentation.
    * `every_step`: whether examples are augmented and encoded in every step instead.
    """

    autoencoder: dict[str, Any]
    facts: dict[str, Any]
    last_log_snr: float | None
    views: int = 0
    every_step: bool = False


class SampleSettings(Settings):
    """How samples are drawn by default: the solver, its time grid, guidance, and how the network computes."""

    solver: Annotated[str | dict[str, Any], tyro.conf.arg(constructor=str)] = Field(
        "adams", description="Name of the solver; a file or a preset may give its options as well."
    )
    steps: int = Field(20, ge=1, le=100_000, description="Number of steps from noise to data.")
    grid: Grid = Field("tapered", description="Spacing of the steps in time.")
    guidance: float = Field(
        1.0, description="Weight of classifier-free guidance; 1 uses the conditional model without guidance."
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, description="Apply guidance only where the log-SNR, -2 ln(sigma / alpha), lies between these two values."
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How far to rescale the guided output to the standard deviation of the unguided one: 0 to 1.",
    )
    classifier_weight: float = Field(1.0, description="Weight of the gradient of a classifier, where one is given.")
    autoguidance: float = Field(
        2.0, description="Weight of autoguidance, where a weaker model is given; 1 disables it."
    )
    particles: int = Field(
        1,
        ge=1,
        le=1024,
        description="Number of trajectories for each sample, of which those that fit what guides are continued.",
    )
    batch_size: int = Field(250, ge=1, le=2**20, description="Number of samples that pass through the network at once.")
    precision: Precision = Field(
        "float32", description="Precision of the computation inside the network; the solver uses float32."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: a slow start, then faster steps.")

    @property
    def solver_name(self) -> str:
        """The name of the solver, without its options."""
        return self.solver if isinstance(self.solver, str) else str(self.solver.get("name", ""))

    @field_validator("guidance_interval")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("the first must be smaller than the second")
        return value


class RunSettings(Settings):
    """Everything that determines what a run does.

    `diffcore.runs.composing.model_for` adds the options of the chosen parts: `task`, `data`, a network, and
    `schedule`.
    """

    modality: Annotated[str, tyro.conf.Suppress]
    preset: Annotated[str, tyro.conf.Suppress] = "default"
    seed: int = Field(0, ge=0, description="Random seed of the initial weights, the order of the data, and the noise.")
    device: Device = Field("auto", description="auto uses a GPU if there is one.")
    parameterisation: Parameterisation = Field("v", description="Quantity that the output of the network represents.")
    levels: LevelSettings = LevelSettings()
    latent: LatentSettings = LatentSettings()
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()


def validate(
    model: type[Settings],
    values: Mapping[str, Any],
    origin: str,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """An instance of `model` with `values`. Raises `UserError` that names the wrong keys and their file, `origin`.

    `elsewhere` are keys that exist for other choices, with what has to be chosen.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error, known=[*options_of(model)], elsewhere=elsewhere)}") from None


MOST_EXPLAINED = 10
"""`explain` describes at most this number of errors."""


def explain(
    error: ValidationError,
    prefix: str = "",
    known: Sequence[str] = (),
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The errors of pydantic in one line: each key, preceded by `prefix`, with the expected and the actual value.

    The first `MOST_EXPLAINED` errors are described, and the others are counted.

    For a key that does not exist, the most similar one among the `known` keys is suggested.
    """
    lines = []
    for detail in error.errors(include_url=False)[:MOST_EXPLAINED]:
        key = (prefix + ".".join(str(part) for part in detail["loc"])).rstrip(".") or "these values"
        if detail["type"] == "extra_forbidden":
            name = key.removeprefix(prefix)
            meant = closest(name, known)
            hint = f", it belongs to {elsewhere[name]}" if name in elsewhere else ""
            hint = hint or (f"; perhaps you meant {meant}" if meant else "")
            lines.append(f"{key} is not an option here{hint}")
        elif detail["type"] == "missing":
            lines.append(f"{key} is missing")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            # For an error of a whole table, the message already names the wrong values.
            whole = isinstance(detail["input"], Mapping | Settings) and detail["type"] == "value_error"
            lines.append(f"{key}: {message}" + ("" if whole else f" (it is {_shortened(detail['input'])})"))
    if more := error.error_count() - len(lines):
        lines.append(f"and {more:,} more")
    return "; ".join(lines)


def _shortened(value: Any) -> str:
    """The representation of a value, at most 80 characters."""
    written = repr(value)
    return written if len(written) <= 80 else f"{written[:77]}..."
