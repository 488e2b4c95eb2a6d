"""Options of the plugin's data sets, and the facts about a set of images that are saved with a run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffcore.names import ClassLevel
from diffcore.plugins.enlarging import EnlargingFacts, EnlargingOptions, indivisible
from diffcore.plugins.records import ClassNames, Place
from diffcore.plugins.text_facts import TextFacts

_Level = Annotated[int, Field(ge=0, le=255)]


MOST_PIXELS = 2048
"""The largest height and width of the images that a model is trained on."""


class ImageFacts(EnlargingFacts):
    """What the codec needs to know of the images that a model was trained on. It is saved with each run."""

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=1, le=MOST_PIXELS)
    width: int = Field(ge=1, le=MOST_PIXELS)
    classes: ClassNames = ()
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    """Mean of each channel, for pixel values in [0, 1]."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1)], ...]
    """Standard deviation of each channel, for pixel values in [0, 1]."""
    flip: bool = False
    """Whether training mirrors images at random."""
    background: tuple[_Level, _Level, _Level] = (255, 255, 255)
    """The colour behind transparent pixels: red, green and blue."""
    text: TextFacts | None = None
    """The texts of the images, if they have any."""

    judge: Literal["scenes", "emoji"] | None = None
    """The data set whose judge says whether pictures show what their texts ask for, if it has one."""

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> "ImageFacts":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} numbers each, one for each channel")
        if reason := self.not_enlarged_by(self.upscale):
            raise ValueError(reason)
        return self

    def not_enlarged_by(self, factor: int) -> str | None:
        """Why images cannot be made smaller by the factor; None if they can."""
        sides = f"the sides of the images, which are {self.width}x{self.height} pixels"
        return indivisible(factor, sides, self.height, self.width)


class DigitsOptions(EnlargingOptions):
    """Options of the data set `digits`."""

    held_out: float = Field(
        0.2, gt=0, le=0.5, description="Fraction of the images that is held out of training, for evaluation."
    )


class LargeSetOptions(EnlargingOptions):
    """Options of the data sets that torchvision reads: `cifar10` and, with a size, `mnist` and `fashion-mnist`."""

    root: Place = Field(None, description="Folder that contains the data set in its official layout.")
    download: bool = Field(False, description="Download the data set into the folder of root if it is not there.")
    flip: bool = Field(False, description="Mirror images left to right at random during training.")


class MnistOptions(LargeSetOptions):
    """Options of the data sets `mnist` and `fashion-mnist`."""

    size: int = Field(32, ge=28, le=256, description="Height and width in pixels; 28x28 images get a black border.")


class ScenesOptions(EnlargingOptions):
    """Options of the data set `scenes`."""

    pictures: int = Field(20_000, ge=100, le=1_000_000, description="Number of training pictures.")
    two_objects: float = Field(
        0.75, ge=0, le=1, description="Fraction of the training pictures that show two objects; the others show one."
    )
    held_out: int = Field(
        2000, ge=4, le=1_000_000, multiple_of=4, description="Number of pictures for evaluation, in four equal groups."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the pictures and sentences, not of what is held out.")


class EmojiOptions(EnlargingOptions):
    """Options of the data set `emoji`."""

    root: Place = Field(
        None, description="Folder with pictures of emoji and their names, or with one such folder for each style."
    )
    size: Literal[32, 64] = Field(32, description="Height and width in pixels.")
    background: str = Field("white", description="Colour behind transparent pixels: a name, such as black, or #rrggbb.")
    unseen: Literal["subjects", "pairs"] = Field(
        "subjects",
        description="What is held out: subjects, or pairs of a subject and a style, of which training has both.",
    )
    held_out: float = Field(0.1, gt=0, le=0.5, description="Fraction of the subjects, or of the pairs, held out.")
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be read, instead of stopping.")


class PictureOptions(EnlargingOptions):
    """Options of the data sets of a user's own pictures."""

    root: Place = Field(None, description="Folder of images, or of one folder of images per class.")
    size: int = Field(
        32,
        ge=1,
        le=MOST_PIXELS,
        description="Height and width in pixels; images are scaled to it by their shorter side, then cropped.",
    )
    colour: Literal["auto", "rgb", "grey"] = Field(
        "auto", description="Colour mode; auto uses grey if every image is grey, else rgb."
    )
    background: str = Field("white", description="Colour behind transparent pixels: a name, such as black, or #rrggbb.")
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be read, instead of stopping.")
    flip: bool = Field(False, description="Mirror images left to right at random during training.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Fraction that is held out for evaluation if there is no test folder."
    )
    shards: Place = Field(
        None,
        description="Folder for shards: the images are encoded into it once, and mapped from there instead of held in "
        "memory. Images of more than half of the memory are, in the cache folder, if none is named.",
    )


class FolderOptions(PictureOptions):
    """Options of the data set `folder`."""

    class_level: ClassLevel = Field(
        "auto",
        description="Which folders are classes: the first (outermost), the last (innermost), none, or as they look.",
    )


class WebDatasetOptions(PictureOptions):
    """Options of the data set `webdataset`."""

    root: Place = Field(
        None,
        description="Tar files: a folder of them, a file, a pattern such as train-{000..127}.tar or *.tar, or an "
        "address that fsspec reads.",
    )


class ParquetOptions(PictureOptions):
    """Options of the data set `parquet`."""

    root: Place = Field(
        None,
        description="Parquet files: a folder of them, a file, a pattern such as *.parquet, or an address that fsspec "
        "reads.",
    )
    image: str | None = Field(None, description="Column of the images; by default image, img, picture, jpg or png.")
    label: str | None = Field(None, description="Column of the classes; by default label, labels, class or fine_label.")
    caption: str | None = Field(
        None, description="Column of the captions; by default text, caption, captions or prompt."
    )
