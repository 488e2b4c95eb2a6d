"""What a data set and a codec are to the core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from diffcore.denoising.conditions import Condition, Conditions
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.ledger import Ledger
from diffcore.plugins.records import Settings
from diffcore.states.noise import Draws
from diffcore.states.spaces import Mask, Space
from diffcore.states.state import State, concatenate
from diffcore.system.mapped import is_mapped

if TYPE_CHECKING:
    from tensordict import TensorDict

    from diffcore.likelihood.bound import Bins


@dataclass(frozen=True)
class Data:
    """A data set, as compact as it comes: a batch is an index select of `examples`.

    `facts` is all that the codec needs to know of the data (sizes, names of classes, means); it is saved with
    the run, so samples are decoded without the data. `held_out` are examples that training never sees, or None.
    `ledger` says what the files or records of a user became; `notes` are more lines for the user, such as warnings.
    `asked` are examples whose texts the samples of an evaluation are drawn for, in place of those of `held_out`; they
    may be training examples too. `texts` are all captions, each once; the column `captions` of the examples has their
    numbers, see `diffcore.plugins.text`. `sizes` are not given by data sets: the numbers of elements of the examples,
    int64 `[n]`, where batches are sorted by them (`diffcore.tasks.buckets`); nor is `ahead`, which reads the batches of
    the next steps where the examples are mapped from files (`diffcore.tasks.ahead`).
    """

    facts: Settings
    examples: "TensorDict"
    held_out: "TensorDict | None" = None
    notes: tuple[str, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    texts: tuple[str, ...] = ()
    asked: "TensorDict | None" = None
    sizes: Tensor | None = None
    ahead: "ReadsAhead | None" = None


class ReadsAhead(Protocol):
    """What reads batches ahead of the steps of training that use them."""

    def rows(self, step: int, chosen: Tensor) -> "TensorDict":
        """The examples with the numbers `chosen`, int64 `[B]`, those that this process reads for step `step`."""


@dataclass(frozen=True)
class Encoded:
    """A batch as the diffusion sees it: states near zero mean and unit variance, conditions, and a mask."""

    state: State
    conditions: Conditions
    mask: Mask = None


def joined(parts: Sequence[Encoded], conditions: Conditions | None = None) -> Encoded:
    """The states and masks of all parts, one after another, with the `conditions` of the whole; by default none."""
    masks = [part.mask for part in parts if part.mask is not None]
    return Encoded(concatenate([part.state for part in parts]), conditions or {}, torch.cat(masks) if masks else None)


class Drawn(Protocol):
    """Samples of a model: their `state`, as `codec.decode` takes it, and what they are `decoded` to."""

    @property
    def codec(self) -> "Codec":
        """The codec of the model."""

    @property
    def state(self) -> State:
        """The encoded samples, `[n, ...]`."""

    @property
    def decoded(self) -> Any:
        """The samples in the modality's own form."""


class Codec(Protocol):
    """Examples to states and back.

    A codec may be an `nn.Module`. Its weights are not trained: they are what the codec has when a run begins, and the
    run keeps a copy. It then works on the device of the model and without gradients, and `decode` returns a tensor, a
    TensorDict or a list, because samples are decoded in parts.
    """

    @property
    def space(self) -> Space:
        """The space of the states."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What samples can be asked to be."""

    @property
    def sizes(self) -> Sizes | None:
        """How many elements of a state exist, where that varies; None where all always do."""

    def prepare(self, examples: "TensorDict", draws: Draws | None = None) -> "TensorDict":
        """Compute once what `encode` would otherwise compute in every step; `encode` then gets the result.

        It receives examples of the data set, on the device of the model, in parts, and must not write to them. What it
        returns has a row for each of them and is kept in the cache. If a column of the examples is mapped from a file,
        it is kept in shards instead, from which it is mapped too; all rows must have the same form then. A codec
        without `prepare` encodes the examples themselves. `draws` are random numbers of each example, the same in every
        run; they are None where no augmentation will be asked for.
        """

    def encode(self, examples: "TensorDict", draws: Draws | None = None) -> Encoded:
        """Encode a batch, on the device where it is.

        With `draws`, apply the random augmentations that the data ask for. They give each example random numbers of its
        own, so that its augmentation does not depend on the rest of the batch: `draws.uniform("flip") < 0.5`.
        """

    def decode(self, state: State, mask: Mask = None) -> "Tensor | TensorDict | list":
        """States to samples in the modality's own form, which its writer and evaluator take."""

    def draw_known(self, state: State, mask: Mask, draws: Draws) -> State:
        """What is known of each state of a batch in training with `levels.known`: booleans of the form of the state.

        They are drawn with `draws`, and cover the kinds of parts that samples shall be drawn around. Only for kinds of
        data whose networks are told what is known; the others leave this method out.
        """

    @property
    def bounds(self) -> tuple[State, State]:
        """The smallest and the largest state that are decoded without clipping, `[1, ...]`.

        Only where decoding clips, as for pixels; the others leave this property out.
        """

    @property
    def bins(self) -> "Bins":
        """The values of states, where these are discrete, such as bytes; for bits per dimension.

        Only for data with discrete values; the others leave this property out.
        """

    @property
    def joint(self) -> Mapping[str, tuple[str, ...]]:
        """The sides of a joint state: two things or more of which each can be drawn given the others, by name.

        They have the names of their fields; every field of the state belongs to one side. The fields of a side have one
        noise level, and the sides have levels of their own (`levels.independent`). Only for states that are joint; the
        others leave this property out. A mask is for fields with elements: those without any have the space `Whole`.
        """

    def about_sizes(self, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the encoded fields `given` of a side, each `[B, ...]`, say of the sizes: values `[B]` for `Sizes.about`.

        Only for joint states whose number of elements depends on a side without elements; the others leave it out.
        """

    @property
    def last_log_snr(self) -> float | None:
        """The log-SNR at which sampling ends, if `decode` takes states with this noise on them.

        Sampling then returns x0 + exp(-last_log_snr / 2) eps, and training needs no level with less noise. Only for
        codecs whose decoder was trained with noise; the others leave this property out.
        """

    @property
    def of_samples(self) -> "Codec":
        """The codec of the samples, which the writer, reader and evaluator of the modality receive.

        Only for codecs that are made of another one, as those of latents are; the others leave this property out.
        """

    def require_smaller(self, codec: "Codec") -> None:
        """Raise `UserError` unless samples of `codec` are small ones that this model enlarges.

        Only for models with a condition that is a `CoarseCondition`; the others leave this function out.
        """

    def coarse(self, samples: Drawn) -> Tensor:
        """The coarse states `[B, ...]` of small samples, for the `CoarseCondition` of this model.

        Only for models that enlarge; the others leave this function out.
        """

    def as_samples(self, examples: "TensorDict") -> "Tensor | TensorDict | list":
        """Examples of the data set in the form that `decode` returns, without what encoding loses.

        Only for data whose reports show real examples beside samples; the others leave this function out.
        """

    def resized(self, size: str) -> "Codec":
        """The codec of samples of another size, for the same network.

        `size` is what a user writes: a number of elements (`diffcore.denoising.sizes.whole_number`), or another measure
        of the kind of data, such as seconds. Raises `UserError` for sizes that samples cannot have. Only where samples
        of any size are alike; the others leave this function out.
        """


def sides_of(codec: Codec) -> Mapping[str, tuple[str, ...]]:
    """The sides of joint states of the codec, with the names of their fields; none if its states are not joint."""
    return getattr(codec, "joint", None) or {}


def spread_rows(examples: "TensorDict", n: int) -> Tensor:
    """At most `n` of the rows of examples, at equal distances, int64: those that sides of joint states are drawn for.

    Data sets may be sorted by class.
    """
    count = min(n, len(examples))
    return torch.arange(count) * len(examples) // max(count, 1)


def few_of_mapped(examples: "TensorDict", most: int = 2**28) -> "TensorDict":
    """The examples; of those that are mapped from a file, rows at equal distances that take at most `most` bytes.

    For what needs many examples in memory at once, such as the metrics of an evaluator.
    """
    columns = [value for value in examples.values(True, True) if isinstance(value, Tensor)]
    size = sum(value.numel() * value.element_size() for value in columns)
    if size <= most or not any(map(is_mapped, columns)):
        return examples
    return examples[spread_rows(examples, max(1, len(examples) * most // size))]
