"""Options of the plugin's parts, and what is known of a set of images."""

from typing import Literal

from pydantic import Field

from diffcore.plugins.records import Place, Settings


class ImageFacts(Settings):
    """What samples need to know of the images a model was trained on."""

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...]
    """Mean of each channel, pixels in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel."""
    flip: bool = False
    """Whether training mirrors images at random."""


class DigitsOptions(Settings):
    held_out: float = Field(0.2, gt=0, le=0.5, description="Share kept back for the metrics.")


class LargeSetOptions(Settings):
    root: Place = Field(None, description="Folder that holds the set in its official layout.")
    download: bool = Field(False, description="Fetch the set into root where it is missing.")
    flip: bool = Field(False, description="Mirror images at random in training.")


class MnistOptions(LargeSetOptions):
    size: int = Field(32, ge=28, le=256, description="Pixels a side; the 28x28 pictures get a black border.")


class FolderOptions(Settings):
    root: Place = Field(None, description="Folder of class folders of images, or of images.")
    size: int = Field(32, ge=1, le=2048, description="Pixels a side; images are scaled, then cut at the centre.")
    colour: Literal["auto", "rgb", "grey"] = Field("auto", description="auto: grey where every image is.")
    skip_unreadable: bool = Field(False, description="Leave out files that cannot be read, instead of stopping.")
    flip: bool = Field(False, description="Mirror images at random in training.")
    held_out: float = Field(
        0.1, gt=0, le=0.5, description="Share kept back for the metrics, where there is no test folder."
    )
