"""Options of the plugin's parts, and what is known of a set of point clouds."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from diffcore.components import Settings


class CloudFacts(Settings):
    """What samples need to know of the clouds a model was trained on."""

    points: int = Field(ge=1)
    """Points of a cloud."""
    classes: tuple[str, ...] = ()
    centre: tuple[float, float, float]
    """Mean place over all points of all training clouds, in the data's unit."""
    scale: float = Field(gt=0)
    """Standard deviation of coordinates about `centre`, in the data's unit: one number, so shapes keep their form."""
    normals: bool = False
    colours: bool = False


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


Root = Annotated[Path | None, AfterValidator(_absolute)]
"""A folder; kept as an absolute path, so a run finds its data from everywhere."""


class LatentOptions(Settings):
    width: int = Field(64, ge=4, description="Size of a point's token.")
    latents: int = Field(32, ge=1, description="Latent tokens, through which points speak with each other.")
    latent_width: int = Field(128, ge=4, description="Size of a latent token.")
    rounds: int = Field(3, ge=1, description="How often latents read from the points and are read by them.")
    depth: int = Field(1, ge=0, description="Transformer blocks of the latents in a round.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide both widths.")
    octaves: int = Field(4, ge=0, description="Waves of coordinates that points are told by, each twice as fine.")
    mlp_ratio: float = Field(2.0, gt=0, description="Width of the points' hidden layer, in widths.")


class TransformerOptions(Settings):
    width: int = Field(128, ge=4, description="Size of a point's token.")
    depth: int = Field(6, ge=1, description="Transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide the width.")
    octaves: int = Field(4, ge=0, description="Waves of coordinates that points are told by, each twice as fine.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the hidden layer, in widths.")
