"""Encode and decode with the codec of a model, which may be a module with weights.

A codec of formulas takes all samples at once, on the CPU. A codec that is an `nn.Module` works on the device of the
model, without gradients, and with a limited number of samples at a time.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffcore.plugins.data import Codec, Data, Encoded
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.model import Model, codec_digest
from diffcore.runs.prepared_shards import prepared_in_shards
from diffcore.states.noise import Draws, seed_of
from diffcore.states.spaces import Mask
from diffcore.states.state import State, concatenate, named
from diffcore.system.cache import cache_folder
from diffcore.system.cached_tensors import read_tensors_entry, write_tensors_entry
from diffcore.system.mapped import any_mapped

if TYPE_CHECKING:
    from tensordict import TensorDict

AT_ONCE = 64
"""The number of samples that a codec with weights encodes or decodes at once."""


@torch.no_grad()
def decode(model: Model, state: State, mask: Mask = None) -> Any:
    """Decode states `[B, ...]` to samples in the modality's own form, on the CPU.

    Raises `TypeError` if a codec with weights decodes to anything else than a tensor, a TensorDict or a list: the parts
    of a batch cannot be joined then.
    """
    codec = model.codec
    if not isinstance(codec, nn.Module):
        return codec.decode(state, mask)
    parts = []
    for rows in slices(state.shape[0]):
        present = None if mask is None else mask[rows].to(model.device)
        parts.append(codec.decode(state[rows].to(model.device), present))
    return joined_samples(parts)


@torch.no_grad()
def encode(model: Model, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
    """Encode examples of the data set; with `draws`, with random augmentations. The result is on the CPU."""
    codec = model.codec
    if not isinstance(codec, nn.Module):
        return codec.encode(prepared(codec, examples, torch.device("cpu")), draws)
    parts = []
    for rows in slices(len(examples)):
        ready = prepared(codec, examples[rows], model.device)
        own = None if draws is None else _rows_of(draws, rows, model.device)
        parts.append(codec.encode(ready.to(model.device), own))
    masks = [part.mask.cpu() for part in parts if part.mask is not None]
    return Encoded(
        concatenate([part.state.cpu() for part in parts]),
        {name: torch.cat([part.conditions[name].cpu() for part in parts]) for name in parts[0].conditions},
        torch.cat(masks) if masks else None,
    )


def prepared_data(model: Model, data: Data) -> "TensorDict":
    """The training examples as `codec.encode` takes them: unchanged unless the codec has `prepare`.

    What it made of them is kept in the cache, by a digest of the examples, the facts and the weights of the codec, or
    of what its attribute `preparation` says that `prepare` depends on. What it made of examples that are mapped from
    files is mapped from files as well, in the same values.
    """
    codec, examples = model.codec, data.examples
    if not hasattr(codec, "prepare"):
        return examples
    if any_mapped(examples):
        return _prepared_mapped(model, data, augmented=True)
    identity = f"{_preparation(codec, data)} {tensors_digest(dict(examples.items()))}"
    path = cache_folder() / "prepared" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
    if (kept := read_tensors_entry(path)) is not None:
        return named(kept)
    made = prepared(codec, examples, model.device, Draws.of(seed_of("prepared"), range(len(examples))))
    write_tensors_entry(path, dict(made.items()))
    return made


def prepared_plainly(model: Model, data: Data) -> "TensorDict":
    """The examples as `codec.encode` takes them, without augmented forms. Only mapped ones are kept, in files."""
    if hasattr(model.codec, "prepare") and any_mapped(data.examples):
        return _prepared_mapped(model, data, augmented=False)
    return prepared(model.codec, data.examples, model.device)


def _prepared_mapped(model: Model, data: Data, augmented: bool) -> "TensorDict":
    """What the codec prepares of mapped examples, in shards; with their random numbers if they are `augmented`."""
    codec: Any = model.codec

    @torch.no_grad()
    def prepare(numbers: range) -> "tuple[TensorDict, TensorDict]":
        given = data.examples[numbers.start : numbers.stop].to(model.device)
        draws = Draws.of(seed_of("prepared"), numbers, model.device) if augmented else None
        return given, codec.prepare(given, draws)

    identity = f"{_preparation(codec, data)} {'augmented' if augmented else 'plain'}"
    return prepared_in_shards(data.examples, prepare, identity, AT_ONCE)


def _preparation(codec: Codec, data: Data) -> str:
    """What decides what the codec prepares of an example."""
    return " ".join(
        [
            f"{type(codec).__module__}.{type(codec).__qualname__}",
            data.facts.model_dump_json(),
            getattr(codec, "preparation", None) or codec_digest(codec) or "no weights",
        ]
    )


@torch.no_grad()
def prepared(codec: Codec, examples: "TensorDict", device: torch.device, draws: Draws | None = None) -> "TensorDict":
    """Examples as `codec.encode` takes them, on the CPU, or unchanged if the codec has no `prepare`.

    With `draws`, the random numbers of the examples, augmented forms of them may be prepared too.
    """
    if not hasattr(codec, "prepare"):
        return examples
    parts = [
        codec.prepare(examples[rows].to(device), None if draws is None else _rows_of(draws, rows, device)).cpu()
        for rows in slices(len(examples))
    ]
    return joined_samples(parts)


def _rows_of(draws: Draws, rows: slice, device: torch.device) -> Draws:
    return Draws(draws.seed, draws.samples[rows].to(device))


def slices(n: int) -> Iterator[slice]:
    """Consecutive parts of n samples, one of them empty if n is 0."""
    return (slice(start, start + AT_ONCE) for start in range(0, max(n, 1), AT_ONCE))


def joined_samples(parts: list[Any]) -> Any:
    """Samples of several batches in one, on the CPU: tensors, TensorDicts or lists.

    Raises `TypeError` for other forms.
    """
    first = parts[0]
    if isinstance(first, list):
        return [sample for part in parts for sample in part]
    if isinstance(first, Tensor) or hasattr(first, "batch_size"):
        return torch.cat([part.cpu() for part in parts])
    raise TypeError(f"a codec with weights must decode to a tensor, a TensorDict or a list, not {type(first).__name__}")
