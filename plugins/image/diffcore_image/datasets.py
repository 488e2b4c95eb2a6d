"""The data sets: embedded, official formats, and a user's own folder.

All become uint8 `pixels` `[N, C, H, W]` and int64 `label` `[N]`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from diffcore.errors import UserError, first_line
from diffcore.plugins.data import Data
from diffcore.plugins.folders import Files, left_out, named, split, tree
from diffcore_image.options import DigitsOptions, FolderOptions, ImageFacts, LargeSetOptions, MnistOptions

IMAGE_ENDINGS = frozenset(Image.registered_extensions())
"""Files with these endings are taken for images."""


def examples(pixels: Tensor, labels: Tensor) -> TensorDict:
    """Pixels and labels as one batch."""
    return TensorDict({"pixels": pixels.contiguous(), "label": labels.long()}, batch_size=[len(pixels)])


def data(
    train: TensorDict,
    held_out: TensorDict | None,
    classes: Sequence[str],
    flip: bool = False,
    notes: Sequence[str] = (),
) -> Data:
    """A `Data` whose facts are measured on the training images."""
    pixels = train["pixels"]
    _, channels, height, width = pixels.shape
    mean, std = moments(pixels)
    facts = ImageFacts(
        channels=channels,
        height=height,
        width=width,
        classes=tuple(classes),
        mean=tuple(mean.tolist()),
        std=tuple(std.clamp(min=1e-3).tolist()),
        flip=flip,
    )
    return Data(facts, train, held_out, tuple(notes))


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 `[N, C, H, W]`, pixels in [0, 1], exact in float64."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.unbind(1)]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    return mean, ((share @ values.square()) - mean.square()).clamp(min=0).sqrt()


def digits(options: DigitsOptions) -> Data:
    """scikit-learn's copy of the UCI optical digits: 1,797 images of 8x8 with values 0 to 16, as 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (torch.from_numpy(bunch.images)[:, None] * (255 / 16)).round().to(torch.uint8)
    train, held_out = split(examples(pixels, torch.from_numpy(bunch.target)), options.held_out)
    return data(train, held_out, [str(digit) for digit in range(10)])


def mnist(options: MnistOptions) -> Data:
    """MNIST: `root/MNIST/raw/*-ubyte`."""
    from torchvision.datasets import MNIST

    return _official(MNIST, options, [str(digit) for digit in range(10)], options.size)


def fashion_mnist(options: MnistOptions) -> Data:
    """Fashion-MNIST: `root/FashionMNIST/raw/*-ubyte`."""
    from torchvision.datasets import FashionMNIST

    return _official(FashionMNIST, options, FashionMNIST.classes, options.size)


def cifar10(options: LargeSetOptions) -> Data:
    """CIFAR-10: `root/cifar-10-batches-py`, whose files torchvision checks by their sums before it reads them."""
    from torchvision.datasets import CIFAR10

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return _official(CIFAR10, options, names, 32)


def _official(kind: Callable[..., Any], options: LargeSetOptions, classes: Sequence[str], size: int) -> Data:
    name = kind.__name__
    if options.root is None:
        raise UserError(
            f"{name} needs `data.root` PATH, the folder that holds it (or `data.download` to fetch it there)"
        )
    try:
        loaded = [kind(options.root, train=part, download=options.download) for part in (True, False)]
        train, test = (examples(_bordered(_pixels(part.data), size), torch.as_tensor(part.targets)) for part in loaded)
    except RuntimeError as error:
        if options.download:
            raise UserError(f"{name} could not be fetched into {options.root}: {first_line(error)}") from None
        raise UserError(
            f"{name} is not in {options.root} (or its files are damaged); "
            "give the folder that holds it, or fetch it with `data.download`"
        ) from None
    except OSError as error:
        if options.download:
            raise UserError(
                f"{name} could not be fetched into {options.root} ({first_line(error)}): "
                "is this machine offline? Give the folder that holds it with `data.root`"
            ) from None
        raise UserError(f"{name} in {options.root} cannot be read: {first_line(error)}") from None
    except (ValueError, AssertionError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{name} in {options.root} is damaged: {first_line(error)}") from None
    return data(train, test, classes, options.flip)


def _pixels(stored: Any) -> Tensor:
    """`[N, H, W]` or numpy `[N, H, W, C]` as `[N, C, H, W]`."""
    pixels = torch.as_tensor(stored)
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _bordered(pixels: Tensor, size: int) -> Tensor:
    """Black borders up to `size` pixels a side."""
    vertical, horizontal = size - pixels.shape[2], size - pixels.shape[3]
    sides = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    return functional.pad(pixels, sides) if any(sides) else pixels


def folder(options: FolderOptions) -> Data:
    """A folder of images, in one of the layouts of `diffcore.plugins.folders.tree`.

    Files that cannot be read raise a `UserError` that names them, or with `skip_unreadable` are left out and named in
    the notes.
    """
    files = tree(options.root, IMAGE_ENDINGS, "folder", "images")
    unreadable: list[str] = []
    train, grey = _load(files.train, options, unreadable, None)
    if train is None:
        raise UserError(f"none of the {len(files.train)} images under {options.root} can be read: {named(unreadable)}")
    held_out = None
    if files.test is not None:
        held_out, _ = _load(files.test, options, unreadable, grey)
    else:
        train, held_out = split(train, options.held_out)
    total = len(files.train) + len(files.test or ())
    notes = left_out(unreadable, total, options.root, "images", options.skip_unreadable)
    return data(train, held_out, files.classes, options.flip, notes)


def _load(
    files: Files, options: FolderOptions, unreadable: list[str], grey: bool | None
) -> tuple[TensorDict | None, bool]:
    """Read, scale and stack the files; adds those that fail to `unreadable`. Also whether the result is grey."""
    pictures, labels = [], []
    for path, label in files:
        try:
            with Image.open(path) as image:
                pictures.append(_square(image.convert("RGB"), options.size))
            labels.append(label)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
            unreadable.append(str(path))
    if not pictures:
        return None, False
    pixels = torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2)
    if grey is None:
        same = bool((pixels[:, :1] == pixels).all())
        grey = options.colour == "grey" or (options.colour == "auto" and same)
    if grey:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601 luma
        pixels = (pixels.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)
    return examples(pixels, torch.tensor(labels)), grey


def _square(image: Image.Image, size: int) -> numpy.ndarray:
    """Scale the shorter side to `size` and cut the longer one at the centre: `[size, size, 3]`."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return numpy.asarray(image.crop((left, top, left + size, top + size)))
