"""The data sets of images: the digits of scikit-learn, sets that torchvision reads, and a user's own folder.

All have uint8 `pixels` `[N, C, H, W]` and int64 `label` `[N]`.
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
from diffcore.plugins.folders import Files, split, tree, uneven, without_empty
from diffcore.plugins.ledger import Account, Ledger
from diffcore_image.options import DigitsOptions, FolderOptions, ImageFacts, LargeSetOptions, MnistOptions

IMAGE_ENDINGS = frozenset(Image.registered_extensions())
"""Files with these endings are read as images."""


def examples(pixels: Tensor, labels: Tensor) -> TensorDict:
    """One TensorDict of `pixels` `[N, C, H, W]` and `label` `[N]`."""
    return TensorDict({"pixels": pixels.contiguous(), "label": labels.long()}, batch_size=[len(pixels)])


def data(
    train: TensorDict,
    held_out: TensorDict | None,
    classes: Sequence[str],
    flip: bool = False,
    notes: Sequence[str] = (),
    ledger: Ledger | None = None,
) -> Data:
    """A `Data` whose mean and standard deviation are those of the training images."""
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
    return Data(facts, train, held_out, tuple(notes), ledger or Ledger("images", about=_about(pixels)))


def _about(pixels: Tensor) -> dict[str, str]:
    """Size and colour of images, in words."""
    _, channels, height, width = pixels.shape
    return {"size": f"{width}x{height} pixels", "colour": "grey" if channels == 1 else "colour"}


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 `[N, C, H, W]`, each `[C]`, for pixel values in [0, 1].

    They are computed in float64 from the counts of the 256 values, so no rounding accumulates over the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.unbind(1)]).double()
    frequency = counts / counts.sum(1, keepdim=True)
    mean = frequency @ values
    return mean, ((frequency @ values.square()) - mean.square()).clamp(min=0).sqrt()


def digits(options: DigitsOptions) -> Data:
    """scikit-learn's copy of the UCI optical digits: 1,797 images of 8x8; values of 0 to 16 are scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (torch.from_numpy(bunch.images)[:, None] * (255 / 16)).round().to(torch.uint8)
    train, held_out = split(examples(pixels, torch.from_numpy(bunch.target)), options.held_out)
    return data(train, held_out, [str(digit) for digit in range(10)])


def mnist(options: MnistOptions) -> Data:
    """MNIST, from the files `root/MNIST/raw/*-ubyte`; see `_from_torchvision` for errors."""
    from torchvision.datasets import MNIST

    return _from_torchvision(MNIST, options, [str(digit) for digit in range(10)], options.size)


def fashion_mnist(options: MnistOptions) -> Data:
    """Fashion-MNIST, from the files `root/FashionMNIST/raw/*-ubyte`; see `_from_torchvision` for errors."""
    from torchvision.datasets import FashionMNIST

    return _from_torchvision(FashionMNIST, options, FashionMNIST.classes, options.size)


def cifar10(options: LargeSetOptions) -> Data:
    """CIFAR-10, from the folder `root/cifar-10-batches-py`; see `_from_torchvision` for errors.

    Its files are pickles. torchvision verifies their checksums before it reads them.
    """
    from torchvision.datasets import CIFAR10

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return _from_torchvision(CIFAR10, options, names, 32)


def _from_torchvision(dataset: Callable[..., Any], options: LargeSetOptions, classes: Sequence[str], size: int) -> Data:
    """A data set of torchvision; its test images are held out.

    Raises `UserError` if the files are missing or damaged, or if the download fails.
    """
    name = dataset.__name__
    if options.root is None:
        raise UserError(f"{name} needs `data.root`, the folder that contains it; `data.download` downloads it there")
    try:
        parts = [dataset(options.root, train=train, download=options.download) for train in (True, False)]
        train, test = (examples(_padded(_pixels(part.data), size), torch.as_tensor(part.targets)) for part in parts)
    except RuntimeError as error:
        if options.download:
            raise UserError(
                f"{name} could not be downloaded into {options.root} ({first_line(error)}); try again, "
                "or set `data.root` to a folder that contains it"
            ) from None
        raise UserError(
            f"{name} is not in {options.root}, or its files are damaged; set `data.root` to the folder that "
            "contains it, or download it with `data.download`"
        ) from None
    except OSError as error:
        if options.download:
            raise UserError(
                f"{name} could not be downloaded into {options.root} ({first_line(error)}); check the connection, "
                "or set `data.root` to a folder that contains it"
            ) from None
        raise UserError(
            f"{name} in {options.root} cannot be read ({first_line(error)}); check its files, "
            "or set `data.root` to another folder"
        ) from None
    except (ValueError, AssertionError, EOFError, KeyError, TypeError) as error:
        raise UserError(
            f"{name} in {options.root} is damaged ({first_line(error)}); remove its files and download it again "
            "with `data.download`"
        ) from None
    return data(train, test, classes, options.flip)


def _pixels(stored: Any) -> Tensor:
    """Stored images, `[N, H, W]` or `[N, H, W, C]`, as a tensor `[N, C, H, W]`."""
    pixels = torch.as_tensor(stored)
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def _padded(pixels: Tensor, size: int) -> Tensor:
    """Images with a black border, `size` pixels high and wide."""
    vertical, horizontal = size - pixels.shape[2], size - pixels.shape[3]
    sides = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    return functional.pad(pixels, sides) if any(sides) else pixels


def folder(options: FolderOptions) -> Data:
    """A folder of images, in one of the layouts of `diffcore.plugins.folders.tree`.

    Raises `UserError` with the names of the files that cannot be read; with `skip_unreadable`, these files are passed
    over, and the ledger names them.
    """
    files = tree(options.root, IMAGE_ENDINGS, "folder", "images", level=options.class_level)
    account = files.account()
    train, grey = _load(files.train, options, account, None)
    if train is None:
        raise account.nothing_left()
    held_out = None
    if files.test is not None:
        held_out, _ = _load(files.test, options, account, grey)
    else:
        train, held_out = split(train, options.held_out)
    classes, train, held_out = without_empty(files.classes, train, held_out, account)
    ledger = account.ledger(options.skip_unreadable, **_about(train["pixels"]))
    return data(train, held_out, classes, options.flip, [*files.notes, *uneven(classes, train, held_out)], ledger)


def _load(files: Files, options: FolderOptions, account: Account, grey: bool | None) -> tuple[TensorDict | None, bool]:
    """Read and resize the files; return them, None without any, and whether they are grey.

    `grey` decides that; None applies `options.colour`. The account gets what was changed and what cannot be read.
    """
    images, labels = [], []
    for path, label in files:
        try:
            with Image.open(path) as image:
                images.append(_square(image.convert("RGB"), options.size))
                size = image.size
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
            account.refuse(path, _reason(error))
            continue
        labels.append(label)
        if size[0] != size[1]:
            account.change(path, "cropped to a square")
        if min(size) < options.size:
            account.change(path, f"enlarged to {options.size} pixels")
    if not images:
        return None, False
    pixels = torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2)
    if grey is None:
        equal_channels = bool((pixels[:, :1] == pixels).all())
        grey = options.colour == "grey" or (options.colour == "auto" and equal_channels)
    if grey:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601 luma
        pixels = (pixels.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)
    return examples(pixels, torch.tensor(labels)), grey


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def _square(image: Image.Image, size: int) -> numpy.ndarray:
    """Scale the shorter side to `size` and crop the longer one around the centre: uint8 `[size, size, 3]`."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return numpy.asarray(image.crop((left, top, left + size, top + size)))
