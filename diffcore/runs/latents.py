"""The codec of latents: the codec of samples, and the encoder and decoder of a first stage behind it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffcore.denoising.conditions import Condition
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.data import Codec, Encoded
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.settings import FirstStage
from diffcore.states.channels import scaled
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, fields, from_fields, named

if TYPE_CHECKING:
    from tensordict import TensorDict


class LatentCodec(nn.Module):
    """Examples to latents of zero mean and unit variance in each channel, and back.

    A latent is z = (E(x) - mean) / std, where x is the state of the codec `first` and E the encoder; D(std z + mean) is
    decoded. The conditions and the sizes are those of the codec `of_samples`.

    * `of_samples`: the codec of the data that are diffused.
    * `first`: the codec of the data that the first stage was trained on; it makes the states.
    * `autoencoder`: the networks, see `diffcore.plugins.autoencoder.Autoencoder`.
    * `stage`: how the first stage was made.
    """

    def __init__(self, of_samples: Codec, first: Codec, autoencoder: nn.Module, stage: FirstStage) -> None:
        super().__init__()
        self.of_samples, self.first, self.autoencoder, self.stage = of_samples, first, autoencoder, stage
        counts = {field_key(name): field.shape[self._axis] for name, field in fields(self.space.empty(1)).items()}
        self.mean = nn.ParameterDict({key: nn.Parameter(torch.zeros(count)) for key, count in counts.items()})
        self.std = nn.ParameterDict({key: nn.Parameter(torch.ones(count)) for key, count in counts.items()})

    @property
    def space(self) -> Space:
        """The space of the latents."""
        return self.autoencoder.space  # type: ignore[return-value]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of the data that are diffused."""
        return self.of_samples.conditions

    @property
    def sizes(self) -> Sizes | None:
        """The sizes of the data that are diffused."""
        return self.of_samples.sizes

    @property
    def last_log_snr(self) -> float | None:
        """The log-SNR at which sampling ends."""
        return self.stage.last_log_snr

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.mean.parameters()).device

    @property
    def _axis(self) -> int:
        return self.autoencoder.channel_axis  # type: ignore[return-value]

    @property
    def preparation(self) -> str:
        """A digest of all that decides what `prepare` makes of an example."""
        described = json.dumps([self.stage.facts, self.stage.views, tensors_digest(self.autoencoder.state_dict())])
        return hashlib.sha256(described.encode()).hexdigest()

    def set_statistics(self, means: dict[str, Tensor], stds: dict[str, Tensor]) -> None:
        """Set the mean and the standard deviation of each channel."""
        with torch.no_grad():
            for name in means:
                self.mean[field_key(name)].copy_(means[name])
                self.std[field_key(name)].copy_(stds[name])

    def prepare(self, examples: "TensorDict", draws: Draws | None = None) -> "TensorDict":
        """The examples with their latents beside them, not yet scaled: `[B, 1 + views, ...]` of each field.

        The first is that of the example itself, the others are those of augmented ones.
        """
        own = getattr(self.of_samples, "prepare", None)
        ready = examples if own is None else own(examples, draws)
        encodings = [self._latent(examples, None)]
        for view in range(self.stage.views if draws is not None else 0):
            assert draws is not None
            moved = Draws(draws.seed, draws.samples * self.stage.views + view)
            encodings.append(self._latent(examples, moved))
        latents = {
            _column(name): torch.stack([fields(encoding)[name] for encoding in encodings], 1)
            for name in fields(encodings[0])
        }
        return named({**dict(ready.items()), **latents})

    def encode(self, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
        """Encode prepared examples; with `draws`, each as one of its augmented encodings, if there are any."""
        described = self.of_samples.encode(examples, draws)
        columns = {name: examples[_column(name)] for name in fields(self.space.empty(1))}
        if draws is not None and self.stage.every_step:
            latent = self._latent(examples, draws)
        else:
            views = next(iter(columns.values())).shape[1] - 1
            chosen = 1 + draws.integers("view", views) if draws is not None and views else None
            latent = from_fields({name: _chosen(column, chosen) for name, column in columns.items()})
        return Encoded(self._scaled(latent, described.mask), described.conditions, described.mask)

    def latent(self, state: State, mask: Mask = None) -> State:
        """The latents of states of the codec `first`."""
        return self._scaled(self.autoencoder.encode(state, mask), mask)  # type: ignore[operator]

    def decode(self, state: State, mask: Mask = None) -> Any:
        """Decode latents to samples, in float32 whatever the denoiser computes in."""
        return self.first.decode(self.reconstruct(state, mask), mask)

    def reconstruct(self, state: State, mask: Mask = None) -> State:
        """The states of the codec `first` that the decoder makes of latents."""
        mean, std = self._statistics()
        decoded = self.autoencoder.decode(scaled(state, self._axis, std, mean), mask)  # type: ignore[operator]
        state_of = getattr(self.autoencoder, "state_of", None)
        return self.first.space.project(decoded if state_of is None else state_of(decoded, mask), mask)

    def raw_parts(self, prepared: "TensorDict", at_once: int) -> "RawParts":
        """All encodings of prepared examples before they are scaled, and their masks, of `at_once` examples at a time.

        Where states have no mask, only the columns of latents are read.
        """
        masked = self.of_samples.encode(prepared[:1].to(self.device)).mask is not None
        if not masked:
            prepared = prepared.select(*map(_column, fields(self.space.empty(1))))
        return RawParts(self, prepared, at_once, masked)

    def raw(self, prepared: "TensorDict", masked: bool = True) -> tuple[State, Mask]:
        """All encodings of prepared examples before they are scaled, one after another, and their mask."""
        mask = self.of_samples.encode(prepared).mask if masked else None
        columns = {name: prepared[_column(name)] for name in fields(self.space.empty(1))}
        views = next(iter(columns.values())).shape[1]
        flat = from_fields({name: column.flatten(0, 1) for name, column in columns.items()})
        return flat, None if mask is None else mask.repeat_interleave(views, 0)

    def _scaled(self, latent: State, mask: Mask) -> State:
        mean, std = self._statistics()
        inverse = {name: 1 / value for name, value in std.items()}
        shift = {name: -value * inverse[name] for name, value in mean.items()}
        return self.space.project(scaled(latent, self._axis, inverse, shift), mask)

    def _latent(self, examples: "TensorDict", draws: Draws | None) -> State:
        encoded = encoded_by(self.first, examples, draws)
        return self.autoencoder.encode(encoded.state, encoded.mask)  # type: ignore[operator, no-any-return]

    def _statistics(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        names = fields(self.space.empty(1))
        return {name: self.mean[field_key(name)] for name in names}, {name: self.std[field_key(name)] for name in names}


@dataclass(frozen=True)
class RawParts:
    """The encodings of prepared examples in parts, which are made anew whenever they are gone through."""

    codec: LatentCodec
    prepared: "TensorDict"
    at_once: int
    masked: bool

    def __iter__(self) -> Iterator[tuple[State, Mask]]:
        """Each part on the device of the codec."""
        for start in range(0, len(self.prepared), self.at_once):
            part = self.prepared[start : start + self.at_once].to(self.codec.device)
            yield self.codec.raw(part, self.masked)


def encoded_by(codec: Codec, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
    """Encode examples that are not prepared yet; with `draws`, augmented ones."""
    own = getattr(codec, "prepare", None)
    return codec.encode(examples if own is None else own(examples, draws), draws)


class LatentReader:
    """Reads files of samples as latents; what `diffcore.plugins.output.Reader` reads otherwise is not read."""

    def __init__(self, reader: Any, codec: LatentCodec) -> None:
        self.reader, self.codec = reader, codec

    def read(self, path: Path) -> State:
        """The latent of a sample in a file, `[1, ...]`, on the CPU."""
        return self._latent(self.reader.read(path))

    @torch.no_grad()
    def _latent(self, state: State, mask: Mask = None) -> State:
        device = self.codec.device
        return self.codec.latent(state.to(device), None if mask is None else mask.to(device)).cpu()


class LatentMaskReader(LatentReader):
    """Also reads what is missing of a sample: all cells of the latent in which anything is missing."""

    def read_missing(self, path: Path) -> State:
        """A latent of booleans `[1, ...]`: True where the sample is to be filled in."""
        return self.codec.autoencoder.cells(self.reader.read_missing(path))  # type: ignore[operator, no-any-return]


class LatentSetReader(LatentReader):
    """Reads samples whose number of elements varies, or whose elements have no order."""

    def __getattr__(self, name: str) -> Any:
        """`read_sized` and `read_pair`, if the reader of samples has them."""
        if name in ("read_sized", "read_pair") and hasattr(self.reader, name):
            return getattr(self, f"_{name}")
        raise AttributeError(name)

    def _read_sized(self, path: Path) -> tuple[State, Mask]:
        state, mask = self.reader.read_sized(path)
        return self._latent(state, mask), mask

    def _read_pair(self, first: Path, second: Path) -> tuple[State, State, Mask]:
        start, end, mask = self.reader.read_pair(first, second)
        return self._latent(start, mask), self._latent(end, mask), mask


def latent_reader(reader: Any, codec: LatentCodec) -> LatentReader:
    """The reader of latents that is made of the reader of samples."""
    if hasattr(reader, "read_sized") or hasattr(reader, "read_pair"):
        return LatentSetReader(reader, codec)
    masks = hasattr(reader, "read_missing") and hasattr(codec.autoencoder, "cells")
    return (LatentMaskReader if masks else LatentReader)(reader, codec)


def field_key(name: str) -> str:
    """The name of a field as the key of a parameter."""
    return f"field_{name}"


def _column(name: str) -> str:
    """The column of the latents of a field in prepared examples."""
    return f"latent:{name}"


def _chosen(column: Tensor, view: Tensor | None) -> Tensor:
    """The encodings `[B, ...]` with the numbers `view` `[B]` of `[B, 1 + views, ...]`; the first if that is None."""
    if view is None:
        return column[:, 0]
    return column[torch.arange(len(column), device=column.device), view]
