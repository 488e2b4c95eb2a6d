"""What models that enlarge samples have in common: their options, their facts, and what a smaller sample is."""

from typing import Any

from pydantic import Field

from diffcore.plugins.records import Settings

LARGEST_FACTOR = 64
"""The largest factor by which a model enlarges."""
COARSE = "coarse"
"""The name of the condition that a smaller sample is."""


class EnlargingOptions(Settings):
    """Options of data sets whose models may enlarge samples."""

    upscale: int = Field(
        0,
        ge=0,
        le=LARGEST_FACTOR,
        description="Give the model the sample smaller by this factor, so that it learns to enlarge.",
    )
    upscale_noise: float = Field(
        0.3, ge=0, le=10, description="Largest standard deviation of the noise on the smaller samples in training."
    )

    @property
    def enlarging(self) -> dict[str, Any]:
        """The fields of `EnlargingFacts` with these options; empty, for the defaults, if the model does not enlarge."""
        return {"upscale": self.upscale, "upscale_noise": self.upscale_noise} if self.upscale else {}


class EnlargingFacts(Settings):
    """What the codec of a model needs to know if the model enlarges. It is saved with the run."""

    upscale: int = Field(0, ge=0, le=LARGEST_FACTOR)
    """The factor by which the model enlarges samples; 0 if it does not."""
    upscale_noise: float = Field(0.0, ge=0, le=10)
    """The largest standard deviation of the noise on the smaller samples in training."""


def indivisible(factor: int, what: str, *sizes: int) -> str | None:
    """Why samples of these sizes cannot be made smaller by the factor; `what` has the sizes, in words.

    None if they can, and for a factor of 0, which stands for models that do not enlarge.
    """
    if factor == 0 or (factor > 1 and not any(size % factor for size in sizes)):
        return None
    return f"`data.upscale` {factor}: it must be a whole number from 2 on that divides {what}"
