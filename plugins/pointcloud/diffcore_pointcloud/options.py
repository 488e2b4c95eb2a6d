"""Options of the plugin's parts, and what is known of a set of point clouds."""

from typing import Literal

from pydantic import Field

from diffcore.plugins.records import Place, Settings

ShapeClass = Literal["aeroplane", "chair", "lamp", "solid", "table"]


class CloudFacts(Settings):
    """What samples need to know of the clouds a model was trained on."""

    points: int = Field(ge=1, le=2**24)
    """Points of a cloud."""
    classes: tuple[str, ...] = ()
    centre: tuple[float, float, float]
    """Mean place over all points of all training clouds, in the data's unit."""
    scale: float = Field(gt=0)
    """Standard deviation of coordinates about `centre`, in the data's unit: one number, so shapes keep their form."""
    normals: bool = False
    colours: bool = False
    colour_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of red, green and blue, each from 0 to 1."""
    colour_std: float = Field(0.25, gt=0)
    """Standard deviation of the three about their means: one number."""
    up: Literal["y", "z"] = "y"
    """The axis that points up."""
    rotate: bool = False
    """Whether training turns clouds about the upright line through `centre` at random."""
    mirror: bool = False
    """Whether training mirrors clouds at random: x becomes -x about `centre`."""


class CloudOptions(Settings):
    """What all sets of clouds have in common."""

    points: int = Field(512, ge=1, le=65_536, description="Points of a cloud.")
    pool: int | None = Field(
        None,
        ge=1,
        description="Points kept of each shape, of which training draws others each time; "
        "4 x points, at least 2048, if not given.",
    )
    normals: bool = Field(False, description="Clouds have normals: the direction of the surface at each point.")
    colours: bool = Field(False, description="Points have colours.")
    rotate: bool = Field(False, description="Turn clouds about the upright axis at random in training.")
    mirror: bool = Field(False, description="Mirror clouds at random in training: x becomes -x.")
    seed: int = Field(0, ge=0, description="Decides which points are drawn of each shape.")


class ShapesOptions(CloudOptions):
    shapes: int = Field(4000, ge=1, le=1_000_000, description="Shapes to train on, evenly over the classes.")
    held_out: int = Field(250, ge=2, le=100_000, description="Further shapes, kept back for the metrics.")
    classes: tuple[ShapeClass, ...] = Field(
        ("aeroplane", "chair", "lamp", "solid", "table"), min_length=1, description="Kinds of shapes."
    )


class FileOptions(CloudOptions):
    root: Place = Field(None, description="The folder: one folder a class, or one of all.")
    classes: tuple[str, ...] = Field((), description="Take these classes alone; all if not given.")
    normalise: Literal["set", "each"] = Field(
        "set",
        description="set: one scale for all, so samples have the data's unit; "
        "each: every shape is first made to fit the cube [-1, 1].",
    )
    up: Literal["y", "z"] = Field("y", description="The axis that points up (ModelNet: z, ShapeNet: y).")
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be used, instead of stopping.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Share kept back for the metrics, where there are no test folders."
    )


class LatentOptions(Settings):
    width: int = Field(64, ge=4, description="Size of a point's token.")
    latents: int = Field(32, ge=1, description="Latent tokens, through which points speak with each other.")
    latent_width: int = Field(128, ge=4, description="Size of a latent token.")
    rounds: int = Field(2, ge=1, description="How often latents read from the points and are read by them.")
    depth: int = Field(1, ge=0, description="Transformer blocks of the latents in a round.")
    heads: int = Field(2, ge=1, description="Attention heads; must divide both widths.")
    octaves: int = Field(4, ge=0, description="Waves of coordinates that points are told by, each twice as fine.")
    mlp_ratio: float = Field(2.0, gt=0, description="Width of the points' hidden layer, in widths.")


class TransformerOptions(Settings):
    width: int = Field(128, ge=4, description="Size of a point's token.")
    depth: int = Field(6, ge=1, description="Transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide the width.")
    octaves: int = Field(4, ge=0, description="Waves of coordinates that points are told by, each twice as fine.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the hidden layer, in widths.")
