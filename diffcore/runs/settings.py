"""The settings of a run, and how a mistake in them is reported."""

from collections.abc import Mapping
from typing import Annotated, Any

import tyro
from pydantic import Field, ValidationError, field_validator

from diffcore.errors import UserError
from diffcore.names import Device, Grid, OnDivergence, Parallel, Parameterisation, Precision, Task, Weighting
from diffcore.plugins.records import Settings


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
