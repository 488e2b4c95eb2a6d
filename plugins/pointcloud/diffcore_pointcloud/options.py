"""Options of the plugin's parts, and the facts that describe a set of point clouds."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffcore.names import ClassLevel
from diffcore.plugins.enlarging import EnlargingFacts, EnlargingOptions, indivisible
from diffcore.plugins.records import ClassNames, Place, Settings
from diffcore.plugins.text_facts import TextFacts

ShapeClass = Literal["aeroplane", "chair", "lamp", "solid", "stool", "table"]
"""The classes of the data set `shapes`."""


MOST_PARTS = 256
"""The largest number of labels of parts."""
MOST_POINTS = 65_536
"""The largest number of points of the clouds that a model is trained on."""


_Coordinate = Annotated[float, Field(ge=-1e31, le=1e31)]
_Colour = Annotated[float, Field(ge=0, le=1)]


def _require_factor(factor: int, points: int) -> None:
    if reason := indivisible(factor, f"the number of points, which is {points}", points):
        raise ValueError(reason)


class CloudFacts(EnlargingFacts):
    """Statistics of the training clouds and how they are augmented, which the codec needs to encode and decode."""

    points: int = Field(ge=1, le=MOST_POINTS)
    """Number of points of a cloud."""
    classes: ClassNames = ()
    """The names of the classes; empty if there are none."""
    centre: tuple[_Coordinate, _Coordinate, _Coordinate]
    """Mean position over all points of all training clouds, in the data's unit."""
    scale: float = Field(ge=1e-31, le=1e31)
    """Standard deviation of the coordinates about `centre`, in the data's unit. It is one number for all axes, so that
    shapes keep their proportions."""
    normals: bool = False
    """Whether clouds have normals."""
    colours: bool = False
    """Whether clouds have colours."""
    colour_mean: tuple[_Colour, _Colour, _Colour] = (0.5, 0.5, 0.5)
    """Mean of red, green and blue, each from 0 to 1."""
    colour_std: float = Field(0.25, ge=1e-6, le=1)
    """Standard deviation of red, green and blue about their means: one number for all three."""
    parts: ClassNames = ()
    """The names of the parts of shapes, if each point has the label of its part."""
    part_labels: tuple[int, ...] = ()
    """The labels of the parts, as files have them."""
    part_fractions: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """The fraction of the points of all training clouds that are of each part."""
    up: Literal["y", "z"] = "y"
    """The axis that points up."""
    rotate: bool = False
    """Whether training rotates clouds randomly about the upright line through `centre`."""
    mirror: bool = False
    """Whether training mirrors half of the clouds: x becomes -x about `centre`."""
    text: TextFacts | None = None
    """The texts of the clouds, if they have any."""
    described: ClassNames = ()
    """The classes of generated shapes that the texts describe, which a judge can compare with clouds.

    They are empty if the texts are others."""

    @model_validator(mode="after")
    def _whole(self) -> "CloudFacts":
        _require_factor(self.upscale, self.points)
        if not len(self.parts) == len(self.part_labels) == len(self.part_fractions):
            raise ValueError("`parts`, `part_labels` and `part_fractions` must have the same length")
        return self

    @property
    def smaller(self) -> "CloudFacts":
        """The facts of the clouds that the model enlarges."""
        return self.model_copy(update={"points": self.points // self.upscale, "upscale": 0})


class CloudOptions(EnlargingOptions):
    """Options that all data sets of point clouds have."""

    points: int = Field(512, ge=1, le=MOST_POINTS, description="Number of points of a cloud.")
    pool: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="Number of points stored for each shape, from which each training step draws some; "
        "by default 4 times `points`, but at least 2048.",
    )
    normals: bool = Field(False, description="Generate normals: the direction of the surface at each point.")
    colours: bool = Field(False, description="Generate colours of points.")
    joint: Literal["parts"] | None = Field(
        None,
        description="Generate what belongs to a shape with it: parts, the label of the part that each point is of. "
        "Either can then be drawn given the other.",
    )
    rotate: bool = Field(False, description="Rotate training clouds randomly about the upright axis.")
    mirror: bool = Field(False, description="Mirror training clouds randomly: x becomes -x.")
    seed: int = Field(0, ge=0, description="Seed of the points that are drawn from each shape.")

    @model_validator(mode="after")
    def _whole(self) -> "CloudOptions":
        _require_factor(self.upscale, self.points)
        if self.upscale and self.joint:
            raise ValueError("`data.upscale` cannot be used with `data.joint`: clouds are enlarged without their parts")
        return self


class ShapesOptions(CloudOptions):
    """Options of the data set `shapes`: random furniture, aeroplanes and solids."""

    shapes: int = Field(
        4000, ge=1, le=1_000_000, description="Number of training shapes, divided equally among the classes."
    )
    held_out: int = Field(250, ge=2, le=100_000, description="Number of further shapes held out for the metrics.")
    classes: tuple[ShapeClass, ...] = Field(
        ("aeroplane", "chair", "lamp", "solid", "table"), min_length=1, description="Classes of shapes to generate."
    )
    captions: bool = Field(
        False, description="Describe the shapes in sentences, which say what they are, in place of classes."
    )

    @model_validator(mode="after")
    def _upright(self) -> "ShapesOptions":
        if self.captions and self.rotate:
            raise ValueError(
                "`data.captions` describes shapes that face forward, so `data.rotate` cannot be used with it"
            )
        return self


class FileOptions(CloudOptions):
    """Options of the data sets `meshes` and `clouds`: a folder of files of the user."""

    root: Place = Field(None, description="The folder of the files, with or without a subfolder for each class.")
    class_level: ClassLevel = Field(
        "auto",
        description="Which folders are classes: the first (outermost), the last (innermost), none, or as they look.",
    )
    classes: tuple[str, ...] = Field((), description="Use only these classes; all by default.")
    normalise: Literal["set", "each"] = Field(
        "set",
        description="set: scale all shapes by the same factor, so samples have the data's unit; "
        "each: first fit every shape to the cube [-1, 1].",
    )
    up: Literal["y", "z"] = Field("y", description="The axis that points up (ModelNet: z, ShapeNet: y).")
    columns: tuple[str, ...] = Field(
        (),
        description="What the columns of files without names are, such as x y z nx ny nz or x y z red green blue; "
        "other words for columns that are not used.",
    )
    drop_not_finite: bool = Field(
        False, description="Leave out the points of clouds whose coordinates are not finite, instead of their files."
    )
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be used instead of stopping.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Fraction of the shapes held out for the metrics if there are no test folders."
    )


class WritingOptions(Settings):
    """How files of samples are written."""

    mesh: bool = Field(False, description="Write the surface through the points, which have normals, as a mesh.")
    resolution: int = Field(
        128, ge=16, le=512, description="mesh: grid points along the longest side, from which the surface is made."
    )
    format: Literal["glb", "obj", "ply", "stl"] = Field("glb", description="mesh: format of the files in a folder.")

    @model_validator(mode="after")
    def _of_meshes(self) -> "WritingOptions":
        if not self.mesh and (extra := sorted(self.model_fields_set - {"mesh"})):
            raise ValueError(f"{' and '.join(extra)} are options of meshes: give mesh true too")
        return self


class LatentOptions(Settings):
    """Options of the denoiser `latent`."""

    width: int = Field(64, ge=4, description="Size of a point's token.")
    latents: int = Field(32, ge=1, description="Number of latent tokens, through which points exchange information.")
    latent_width: int = Field(128, ge=4, description="Size of a latent token.")
    rounds: int = Field(2, ge=1, description="Number of times that latents attend to points and points to latents.")
    depth: int = Field(1, ge=0, description="Number of transformer blocks of the latents in each round.")
    heads: int = Field(2, ge=1, description="Attention heads; must divide both widths.")
    octaves: int = Field(4, ge=0, description="Number of frequencies of the Fourier features of coordinates.")
    mlp_ratio: float = Field(2.0, gt=0, description="Size of the hidden layer of the points' MLP, in units of width.")


class TransformerOptions(Settings):
    """Options of the denoiser `transformer`."""

    width: int = Field(128, ge=4, description="Size of a point's token.")
    depth: int = Field(6, ge=1, description="Number of transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide the width.")
    octaves: int = Field(4, ge=0, description="Number of frequencies of the Fourier features of coordinates.")
    mlp_ratio: float = Field(4.0, gt=0, description="Size of the hidden layer of the MLPs, in units of width.")


class TokensOptions(Settings):
    """Options of the denoiser `tokens`, of latents."""

    width: int = Field(128, ge=4, description="Size of a token.")
    depth: int = Field(4, ge=1, description="Number of transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide the width.")
    mlp_ratio: float = Field(4.0, gt=0, description="Size of the hidden layer of the MLPs, in units of width.")


class AutoencoderOptions(Settings):
    """Options of the autoencoder `tokens`."""

    tokens: int = Field(32, ge=1, le=4096, description="Number of tokens of the latent.")
    latent: int = Field(8, ge=1, le=1024, description="Channels of a token of the latent.")
    width: int = Field(64, ge=4, description="Size of a point's token.")
    inner: int = Field(128, ge=4, description="Size of a token inside the network.")
    rounds: int = Field(1, ge=1, description="Number of times that tokens and points attend to each other.")
    depth: int = Field(1, ge=0, description="Number of transformer blocks of the tokens in each round.")
    heads: int = Field(2, ge=1, description="Attention heads; must divide both widths.")
    octaves: int = Field(4, ge=0, description="Number of frequencies of the Fourier features of coordinates.")
