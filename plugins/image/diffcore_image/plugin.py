"""The records of the image plugin. Importing this module is fast: torch is imported by the builders only."""

from collections.abc import Callable, Iterable
from typing import Any

from diffcore.nn.options import DiTOptions, EncoderOptions, GridAutoencoderOptions, UNetOptions
from diffcore.plugins.enlarging import EnlargingOptions
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import Component, Modality, Widget, lazy
from diffcore_image.options import (
    DigitsOptions,
    EmojiOptions,
    FolderOptions,
    ImageFacts,
    LargeSetOptions,
    MnistOptions,
    ParquetOptions,
    ScenesOptions,
    WebDatasetOptions,
)
from diffcore_image.presets import PRESETS

API_VERSION = 2

_lazy, _nn = lazy("diffcore_image"), lazy("diffcore.nn")


def _data(target: str) -> Callable[[Any], Any]:
    """The builder of a data set by name, which also learns of smaller images."""

    def build(options: EnlargingOptions) -> Any:
        return _lazy("stages.enlarging:with_small_images")(_lazy(target))(options)

    return build


IMAGE = Modality(
    name="image",
    summary="images, grey or RGB",
    datasets=(
        Component(
            "digits",
            "1,797 handwritten digits of 8x8 pixels, from scikit-learn",
            _data("datasets:digits"),
            DigitsOptions,
        ),
        Component(
            "mnist", "70,000 handwritten digits of 28x28 pixels, padded to 32x32", _data("datasets:mnist"), MnistOptions
        ),
        Component(
            "fashion-mnist",
            "70,000 pictures of clothes of 28x28 pixels, padded to 32x32",
            _data("datasets:fashion_mnist"),
            MnistOptions,
        ),
        Component("cifar10", "60,000 photographs of 32x32 pixels", _data("datasets:cifar10"), LargeSetOptions),
        Component(
            "scenes",
            "rendered pictures of 32x32 pixels with sentences: one or two coloured shapes",
            _data("scenes.dataset:scenes"),
            ScenesOptions,
        ),
        Component(
            "emoji",
            "your own pictures of emoji with their names and tags",
            _data("emoji.dataset:emoji"),
            EmojiOptions,
        ),
        Component(
            "folder",
            "your own images: one folder per class, or one folder of all",
            _data("datasets:folder"),
            FolderOptions,
        ),
        Component(
            "webdataset",
            "your own images in tar files of WebDataset, local or at an address",
            _data("reading.archives:webdataset"),
            WebDatasetOptions,
            requires=("webdataset",),
            install="pip install diffcore[webdataset]",
        ),
        Component(
            "parquet",
            "your own images in Parquet files, as Hugging Face has them, local or at an address",
            _data("reading.tables:parquet"),
            ParquetOptions,
            requires=("pyarrow",),
            install="pip install diffcore[parquet]",
        ),
    ),
    denoisers=(
        Component(
            "unet",
            "U-Net on patches",
            _nn("builders:unet"),
            UNetOptions,
            accepts=("tokens", "like_state"),
            small={"width": 16, "patch": 2},
        ),
        Component(
            "dit",
            "diffusion transformer on patches",
            _nn("builders:dit"),
            DiTOptions,
            accepts=("tokens", "like_state"),
            small={"width": 32, "depth": 2, "heads": 2, "patch": 2},
        ),
    ),
    classifiers=(
        Component(
            "encoder", "the first half of a U-Net, averaged over all positions", _nn("builders:encoder"), EncoderOptions
        ),
    ),
    networks={
        "autoencoder": (
            Component(
                "grid",
                "convolutions down to a smaller grid and up again",
                _lazy("stages.autoencoder:autoencoder"),
                GridAutoencoderOptions,
                small={"width": 8, "factor": 2},
            ),
        )
    },
    fidelity=_lazy("stages.autoencoder:fidelity"),
    presets=PRESETS,
    facts=ImageFacts,
    codec=_lazy("codec:ImageCodec"),
    writer=_lazy("output.writer:ImageWriter"),
    evaluator=_lazy("evaluator:build_evaluator"),
    reader=_lazy("reader:ImageReader"),
    distance=_lazy("output.distance:PixelDistance"),
    widgets=(Widget("mask", "Paint what is filled in.", _lazy("output.painter:painter")),),
    contract=_lazy("contract:contract"),
    requires=("torch", "torchvision", "PIL", "sklearn"),
)


@hookimpl
def diffcore_modalities() -> Iterable[Modality]:
    return (IMAGE,)
