"""Pictures as rows: squares of one size, in memory, or in shards that are mapped from files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from PIL import Image
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.folders import UnusableError
from diffcore.plugins.ledger import Account
from diffcore.system.files import memory
from diffcore.system.shards import Encoded, Form, Row, default_folder, encode
from diffcore_image.pictures import Colour, decode
from diffcore_image.stored import Source

VERSION = "squares 1"
"""Change it together with what is read of a picture, so that shards of earlier versions are not used."""

_AT_ONCE = 2**20
"""Bytes of pictures that are converted at once."""

Told = dict[str, Any]
"""What became of a picture: `refused`, the reason why it has no row; or `changes`, `sides` and `grey`."""


def square_of(source: Source, size: int, background: Colour) -> tuple[numpy.ndarray | None, Told]:
    """A picture in RGB on a background, cropped and scaled to a square, uint8 `[size, size, 3]`, and what became of it.

    None in place of the square if the picture cannot be read.
    """
    try:
        picture = decode(source).on(background)
    except UnusableError as reason:
        return None, {"refused": str(reason)}
    changes, sides = [*picture.changes], picture.image.size
    if sides[0] != sides[1]:
        changes.append("cropped to a square")
    if min(sides) < size:
        changes.append(f"enlarged to {size} pixels")
    square = _square(picture.image.convert("RGB"), size)
    return square, {"changes": changes, "sides": [*sides], "grey": bool((square[..., :1] == square).all())}


def _square(image: Image.Image, size: int) -> numpy.ndarray:
    """The square in the centre of an image, scaled: uint8 `[size, size, 3]`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return numpy.array(image.crop(box))
    return numpy.array(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def tell(account: Account, name: str | Path, told: Told, sizes: set[tuple[int, int]]) -> None:
    """Enter into the account what became of a picture; `sizes` gets its width and height."""
    if "refused" in told:
        account.refuse(name, told["refused"])
        return
    for change in told["changes"]:
        account.change(name, change)
    width, height = told["sides"]
    sizes.add((width, height))


class Squares(Protocol):
    """Pictures that were read."""

    @property
    def told(self) -> Sequence[Told]:
        """What became of each picture."""

    def pixels(self, order: Tensor, grey: bool) -> Tensor:
        """The pictures with these numbers, int64 `[n]`, of those that could be read: uint8 `[n, C, H, W]`."""

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The `moments` of some of these pixels."""


@dataclass(frozen=True)
class InMemory:
    """Pictures in memory: `rows`, uint8 `[N, H, W, 3]`, of those that could be read."""

    rows: Tensor
    told: Sequence[Told]

    def pixels(self, order: Tensor, grey: bool) -> Tensor:
        """The pictures with these numbers, in grey if that is asked for."""
        _, height, width, _ = self.rows.shape
        found = torch.empty((len(order), 1 if grey else 3, height, width), dtype=torch.uint8)
        step = _at_once(height * width * 3)
        for target, chosen in zip(found.split(step), order.split(step), strict=True):
            part = self.rows[chosen].permute(0, 3, 1, 2)
            target.copy_(in_grey(part) if grey else part)
        return found

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The `moments` of the pixels."""
        return moments(pixels)


@dataclass(frozen=True)
class InShards:
    """Pictures that are encoded in shards, and mapped from there."""

    encoded: Encoded

    @property
    def told(self) -> Sequence[Told]:
        """What became of each picture."""
        return self.encoded.records

    def pixels(self, order: Tensor, grey: bool) -> Tensor:
        """The pictures with these numbers, in grey if that is asked for, mapped from a file."""
        _, height, width = self.encoded.form.shape
        if grey:
            return self.encoded.rows(order, Form((1, height, width)), in_grey, "grey")
        return self.encoded.rows(order)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The `moments` of the pixels, which are computed once and then kept beside the shards."""
        kept = self.encoded.kept(f"moments-{len(pixels)}", lambda: [each.tolist() for each in moments(pixels)])
        mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in kept)
        return mean, std


def in_grey(pixels: Tensor) -> Tensor:
    """RGB pictures uint8 `[N, 3, H, W]` in grey, `[N, 1, H, W]`."""
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601 luma
    channels_last = pixels.contiguous(memory_format=torch.channels_last)  # the sums round alike in memory and shards
    return (channels_last.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)


def of_files(
    files: Sequence[Path], size: int, background: Colour, shards: str | None = None, root: str | Path = ""
) -> Squares:
    """The pictures of files, in memory, or in shards in the folder `shards`.

    Without that folder, pictures that would take more than half of this machine's memory are kept in shards in the
    cache. `root` is the folder of the files, for messages.
    """
    form = form_of(size)
    if shards is None and 2 * len(files) * form.bytes <= memory():
        rows = torch.empty((len(files), size, size, 3), dtype=torch.uint8)
        told, count = list[Told](), 0
        for path in files:
            square, what = square_of(path, size, background)
            told.append(what)
            if square is not None:
                rows[count] = torch.from_numpy(square)
                count += 1
        return InMemory(rows[:count], told)
    pieces = form.pieces(len(files))

    def read(number: int) -> Iterator[Row]:
        return rows_of(((files[place], {}) for place in pieces[number]), size, background)

    identities = ["\n".join(_identity(files[place], size, background) for place in piece) for piece in pieces]
    return InShards(encode(shard_folder(shards), identities, form, read, f"images of {root}", len(files)))


def form_of(size: int) -> Form:
    """The form of the rows: uint8 `[3, size, size]`."""
    return Form((3, size, size))


def shard_folder(asked: str | None) -> Path:
    """The folder of the option `data.shards`, or that in the cache. Raises `UserError` for an address."""
    if asked is not None and "://" in asked:
        raise UserError(
            f"`data.shards` {asked} is an address: shards are mapped, so they need a folder of this machine"
        )
    return default_folder() if asked is None else Path(asked)


def rows_of(sources: Iterable[tuple[Source, Told]], size: int, background: Colour) -> Iterator[Row]:
    """The pictures of sources as rows of shards; what is told of each is added to what its source tells."""
    for source, more in sources:
        square, told = square_of(source, size, background)
        row = None if square is None else torch.from_numpy(square).permute(2, 0, 1)
        yield row, {**more, **told}


def identity_of(name: str, version: Sequence[object], size: int, background: Colour) -> str:
    """A text that changes whenever a source, or what is made of it, does. `version` is that of the source."""
    return " ".join(map(str, (VERSION, size, *background, *version, name)))


def _identity(path: Path, size: int, background: Colour) -> str:
    try:
        status = path.stat()
    except OSError:
        return identity_of(str(path), ("missing",), size, background)
    version = (status.st_size, status.st_mtime_ns, status.st_mode)
    return identity_of(str(path), version, size, background)


def _at_once(row: int) -> int:
    return max(1, _AT_ONCE // row)


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 `[N, C, H, W]`, each `[C]`, for pixel values in [0, 1].

    They are computed in float64 from the counts of the 256 values, so no rounding accumulates over the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(pixels.shape[1], 256, dtype=torch.int64)
    for part in pixels.split(_at_once(max(1, pixels[:1].numel()))):  # mapped ones are never all in memory
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)])
    frequency = counts.double() / counts.double().sum(1, keepdim=True)
    mean = frequency @ values
    return mean, ((frequency @ values.square()) - mean.square()).clamp(min=0).sqrt()
