"""Options of the tables of noise levels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffcore.plugins.records import Settings

_Beta = Annotated[float, Field(gt=0, lt=1)]


class BetaTableOptions(Settings):
    """The table of noise levels of a scheduler, by the names that diffusers gives these values."""

    num_train_timesteps: int = Field(1000, ge=2, le=100_000, description="Length T of the chain.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = Field(
        "linear", description="How the betas go from beta_start to beta_end."
    )
    beta_start: float = Field(1e-4, gt=0, lt=1, description="beta of the cleanest step.")
    beta_end: float = Field(0.02, gt=0, lt=1, description="beta of the noisiest step.")
    trained_betas: tuple[_Beta, ...] = Field((), description="All betas, in place of the four values above.")
    rescale_betas_zero_snr: bool = Field(False, description="Move the table so that its last level is pure noise.")

    @model_validator(mode="after")
    def _length(self) -> "BetaTableOptions":
        if len(self.trained_betas) == 1:
            raise ValueError("trained_betas needs at least two values")
        return self
