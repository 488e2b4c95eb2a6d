"""The data sets of images: the digits of scikit-learn, sets that torchvision reads, and a user's own folder.

All have uint8 `pixels` `[N, C, H, W]` and int64 `label` `[N]`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ImageColor
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from diffcore.denoising.text import shown
from diffcore.denoising.words import words_of
from diffcore.errors import UserError, first_line
from diffcore.plugins.data import Data
from diffcore.plugins.folders import Files, split, tree, uneven, with_places, without_empty
from diffcore.plugins.ledger import Account, Ledger, named
from diffcore.system.files import memory
from diffcore_image.options import (
    DigitsOptions,
    FolderOptions,
    ImageFacts,
    LargeSetOptions,
    MnistOptions,
    PictureOptions,
)
from diffcore_image.pictures import Colour
from diffcore_image.reading.squares import Squares, moments, of_files, square_of, tell
from diffcore_image.stored import ENDINGS


def examples(pixels: Tensor, labels: Tensor) -> TensorDict:
    """One TensorDict of `pixels` `[N, C, H, W]` and `label` `[N]`."""
    return TensorDict({"pixels": pixels.contiguous(), "label": labels.long()}, batch_size=[len(pixels)])


def data(
    train: TensorDict,
    held_out: TensorDict | None,
    classes: Sequence[str],
    flip: bool = False,
    notes: Sequence[str] = (),
    background: Colour = (255, 255, 255),
    ledger: Ledger | None = None,
    texts: Sequence[str] = (),
    statistics: Callable[[Tensor], tuple[Tensor, Tensor]] = moments,
) -> Data:
    """A `Data` whose mean and standard deviation are those of the training images, which `statistics` computes.

    `background` is the colour behind transparent pixels of the images that are read for inpainting and upscaling.
    `texts` are the captions of the images, whose numbers are the column `captions` (see `diffcore.plugins.text`).
    """
    pixels = train["pixels"]
    _, channels, height, width = pixels.shape
    mean, std = statistics(pixels)
    facts = ImageFacts(
        channels=channels,
        height=height,
        width=width,
        classes=tuple(classes),
        mean=tuple(mean.tolist()),
        std=tuple(std.clamp(min=1e-3).tolist()),
        flip=flip,
        background=background,
    )
    return Data(facts, train, held_out, tuple(notes), ledger or Ledger("images", about=about(pixels)), tuple(texts))


def about(pixels: Tensor, sizes: Collection[tuple[int, int]] = ()) -> dict[str, str]:
    """Size and colour of images, in words; `sizes` are the widths and heights of their files."""
    _, channels, height, width = pixels.shape
    size = f"{width}x{height} pixels"
    if {*sizes} - {(width, height)}:
        smallest, largest = (choose(sizes, key=lambda sides: sides[0] * sides[1]) for choose in (min, max))
        size += f" (files: {_format(smallest)} to {_format(largest)})"
    return {"size": size, "colour": "grey" if channels == 1 else "RGB"}


def digits(options: DigitsOptions) -> Data:
    """scikit-learn's copy of the UCI optical digits: 1,797 images of 8x8; values of 0 to 16 are scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (torch.from_numpy(bunch.images)[:, None] * (255 / 16)).round().to(torch.uint8)
    train, held_out = split(examples(pixels, torch.from_numpy(bunch.target)), options.held_out)
    return data(train, held_out, [str(digit) for digit in range(10)])


def mnist(options: MnistOptions) -> Data:
    """MNIST, from the files `*-ubyte` in `root` or in a folder `raw` under it; see `_from_torchvision` for errors."""
    from torchvision.datasets import MNIST

    return _from_torchvision(_placed(MNIST, options.root), options, [str(digit) for digit in range(10)], options.size)


def fashion_mnist(options: MnistOptions) -> Data:
    """Fashion-MNIST, from the same files as MNIST; see `_from_torchvision` for errors."""
    from torchvision.datasets import FashionMNIST

    placed = _placed(FashionMNIST, options.root)
    return _from_torchvision(placed, options, FashionMNIST.classes, options.size)


_TRAINING_IMAGES = "train-images-idx3-ubyte"
"""One of the four files of MNIST, of Fashion-MNIST and of other sets in their format."""


def _placed(dataset: type, root: str | None) -> type:
    """A data set in the format of MNIST that torchvision looks for where it lies.

    torchvision only looks in `root/MNIST/raw`. Users also name the folder MNIST, the folder raw, or one in which only
    raw lies. A folder that is named after another set of the same format is not taken.
    """
    name = dataset.__name__
    # torchvision would read the pickles of its earlier versions, in a folder processed, instead of the files.
    placed = type(name, (dataset,), {"_check_legacy_exist": lambda self: False})
    if root is None:
        return placed
    place = Path(root)
    others = {"mnist", "fashionmnist", "kmnist", "qmnist"} - {name.lower()}
    for folder in _places(place, name):
        parents = {part.lower().replace("-", "").replace("_", "") for part in folder.parts[-2:]}
        if (folder / _TRAINING_IMAGES).is_file() and not parents & others:
            return type(name, (placed,), {"raw_folder": str(folder)})
    return placed


def _places(root: Path, name: str) -> tuple[Path, ...]:
    """The folders in which the files of the data set `name` may lie."""
    return root / name / "raw", root / name, root / "raw", root


def cifar10(options: LargeSetOptions) -> Data:
    """CIFAR-10, from the folder `cifar-10-batches-py` in `root`, or from `root` itself if that is its name.

    Its files are pickles. torchvision verifies their checksums before it reads them. See `_from_torchvision` for
    errors.
    """
    from torchvision.datasets import CIFAR10

    if options.root is not None and Path(options.root).name == CIFAR10.base_folder:
        options = options.model_copy(update={"root": str(Path(options.root).parent)})
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
        train, test = (_checked(_pixels(part.data), torch.as_tensor(part.targets), classes, size) for part in parts)
    except RuntimeError as error:
        if options.download:
            raise UserError(
                f"{name} could not be downloaded into {options.root} ({first_line(error)}); try again, "
                "or set `data.root` to a folder that contains it"
            ) from None
        raise UserError(
            f"{name} is not in {options.root}, or its files are damaged{_packed(Path(options.root), name)}; "
            "set `data.root` to the folder that contains it, or download it with `data.download`"
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


_SIDES = {1: 28, 3: 32}
"""The height and width of the images of these sets in pixels, by the number of their channels."""


def _checked(pixels: Tensor, labels: Tensor, classes: Sequence[str], size: int) -> TensorDict:
    """Images with a border and their labels. Raises `ValueError` if they cannot be those of the data set."""
    side = _SIDES[pixels.shape[1]]
    if pixels.shape[2:] != (side, side):
        raise ValueError(f"images of {pixels.shape[3]}x{pixels.shape[2]} pixels instead of {side}x{side}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} of {len(classes)} classes")
    return examples(_padded(pixels, size), labels)


def _packed(root: Path, name: str) -> str:
    """What to do if the files of MNIST lie in one of their places as they were downloaded, packed."""
    places = [folder / f"{_TRAINING_IMAGES}.gz" for folder in _places(root, name)]
    packed = next((path for path in places if path.is_file()), None)
    return f" ({packed} is packed: unpack it and the three files beside it with gunzip)" if packed else ""


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

    Raises `UserError` with the names of the files that cannot be read, each with the reason; with `skip_unreadable`,
    these files are passed over, and the ledger names them.
    """
    background = colour_of(options.background)
    files = tree(options.root, ENDINGS, "folder", "images", level=options.class_level, captioned=True)
    everything = (*files.train, *(files.test or ()))
    account, sizes = files.account(), set[tuple[int, int]]()
    captions = files.texts(account)
    squares = of_files([path for path, _ in everything], options.size, background, options.shards, files.root)
    for (path, _), told in zip(everything, squares.told, strict=True):
        tell(account, path, told, sizes)
    used = [number for number, told in enumerate(squares.told) if "refused" not in told]
    paths = [everything[number][0] for number in used]
    columns = TensorDict({"label": torch.tensor([everything[number][1] for number in used]).long()}, [len(used)])
    columns = with_places(captions.added(columns, paths), paths, str(options.root))
    held = None if files.test is None else torch.tensor(used) >= len(files.train)
    notes = [*files.notes, *(_sided(captions.texts) if options.flip else ())]
    return of_squares(squares, columns, held, files.classes, options, account, sizes, notes, captions.texts)


def of_squares(
    squares: Squares,
    columns: TensorDict,
    held: Tensor | None,
    classes: Sequence[str],
    options: PictureOptions,
    account: Account,
    sizes: set[tuple[int, int]],
    notes: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Data:
    """The data of pictures that were read.

    * `columns`: `label` `[N]` and whatever else is known of each picture that could be read.
    * `held`: which of them are held out, bool `[N]`; None holds out a share `options.held_out` of each class.
    * `sizes`: the widths and heights of the files.

    Raises `UserError` if no picture is left, and for those that cannot be read unless they are to be skipped.
    """
    columns["row"] = torch.arange(len(columns))
    grey_ones = torch.tensor([told["grey"] for told in squares.told if "refused" not in told], dtype=torch.bool)
    train = columns if held is None else columns[~held]
    if not len(train):
        raise account.nothing_left()
    grey = options.colour == "grey" or (options.colour == "auto" and bool(grey_ones[train["row"]].all()))
    held_out = None
    if held is None:
        train, held_out = split(columns, options.held_out)
    elif bool(held.any()):
        held_out = columns[held]
    classes, train, held_out = without_empty(classes, train, held_out, account)
    parts = [part for part in (train, held_out) if part is not None]
    # Files that cannot be used are told before the others are joined, which may take a while.
    ledger = account.ledger(
        options.skip_unreadable, **about(torch.empty(0, 1 if grey else 3, *[options.size] * 2), sizes)
    )
    pixels = squares.pixels(torch.cat([part["row"] for part in parts]), grey)
    for part, own in zip(parts, pixels.split([len(part) for part in parts]), strict=True):
        part["pixels"] = own
        del part["row"]
    notes, background = [*notes, *uneven(classes, train, held_out)], colour_of(options.background)
    return data(train, held_out, classes, options.flip, notes, background, ledger, texts, squares.moments)


def _sided(texts: Sequence[str]) -> list[str]:
    """A note about captions that are wrong for a mirrored image, if there are any."""
    sided = [text for text in texts if {"left", "right"} & {*words_of(text)}]
    where = "captions that say left or right, which is wrong for images that `data.flip` mirrors"
    return [f"{where}: {len(sided)} ({named([*map(shown, sided)], 3)})"] if sided else []


def colour_of(name: str) -> Colour:
    """Red, green and blue of a colour that is named or written as #rrggbb. Raises `UserError`."""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UserError(
            f"`data.background` {name!r} is not a colour: write a name, such as white, or #rrggbb"
        ) from None
    return red, green, blue


def require_room(count: int, size: int) -> None:
    """Raise `UserError` if the memory of this machine cannot hold so many images."""
    needed = count * 3 * size**2
    if needed > memory():
        raise UserError(
            f"{count} images of {size}x{size} pixels take {needed / 1e9:.1f} GB, and this machine has "
            f"{memory() / 1e9:.1f} GB of memory: choose a smaller `data.size`"
        )


def _format(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class Loaded:
    """Pictures that were read from files: RGB `pixels`, uint8 `[N, 3, H, W]`, with the label and the file of each."""

    pixels: Tensor
    labels: list[int]
    files: list[Path]


def load(files: Files, size: int, background: Colour, account: Account, sizes: set[tuple[int, int]]) -> Loaded:
    """Read the pictures of files in RGB, on a background, cropped and scaled to squares of `size` pixels.

    The account gets what was changed and what cannot be read, and `sizes` the widths and heights of the files.
    """
    rows, labels, used = torch.empty((len(files), size, size, 3), dtype=torch.uint8), list[int](), list[Path]()
    for path, label in files:
        square, told = square_of(path, size, background)
        tell(account, path, told, sizes)
        if square is not None:
            rows[len(used)] = torch.from_numpy(square)
            labels.append(label)
            used.append(path)
    return Loaded(rows[: len(used)].permute(0, 3, 1, 2), labels, used)
