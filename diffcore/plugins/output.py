"""What a modality does with samples: files, pictures for people, and metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.sampling.inverse.unplaced import Unplaced
from diffcore.states.spaces import Mask
from diffcore.states.state import State

Batches = Iterable[tuple[Any, "Captions"]]
"""Samples in batches, each with its captions. It can be iterated several times, and is never in memory as a whole."""

Captions = Sequence[Mapping[str, str]]
"""For each sample, the values that were requested of it, as text, by name of condition; empty if there are none."""


class Writer(Protocol):
    """Writes samples to files.

    `captions` holds the values that were requested of each sample; a writer may put them beside the samples.
    """

    endings: tuple[str, ...]
    """Endings of the files that hold all samples at once. The first is that of the overview."""

    def each(self, samples: Any, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample to its own file, `folder/name` with the ending of the modality; return the paths."""

    def together(self, samples: Any, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write all samples into one file, in the format that the ending of `path` names."""

    def stream(self, batches: Batches, path: Path) -> None:
        """Write any number of samples into one file, in the format that the ending of `path` names.

        Optional: it is called for the endings in the attribute `streams`, a tuple of some of `endings`. A single file
        of another ending, which `together` writes, can hold at most 1,000 samples.
        """

    def html(self, samples: Any, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """Return an HTML fragment that shows the samples in rows of `columns` and needs no network.

        With `trajectories`, each row shows one sample while it is generated; the last column is the result. A writer
        with the attribute `shows_real`, true, also takes the argument `real`: real examples in the form of samples, one
        to show beside each of the samples.
        """

    def summary(self, samples: Any, captions: Captions = ()) -> list[str]:
        """Return lines for the screen that compare what was requested with what the samples are.

        Optional: writers that cannot measure samples may omit this method.
        """


@dataclass(frozen=True, eq=False)
class Edit:
    """A sample of which a part is known, and the rest is to be filled in.

    * `values`: the encoded sample, `[1, ...]`, with any finite values where it is not known.
    * `known`: a state of booleans `[1, ...]`, True where it is known.
    * `codec`: the codec that decodes the samples. It can be of another size than the model's, and put in what is known
      exactly, where the model's own loses something.
    * `recipe`: everything that decides what this codec does, as values of JSON.
    * `pieces`: where elements are joined, as by bonds, the number of pieces that the known ones are in.
    * `linked(states, mask, rows)`: for samples `[B, ...]`, the samples, and whether each is in one piece; None where
      elements are not joined.
    * `unplaced`: what the known part may become, if its place and size are drawn; None if they are known.
    * `agreement`, `settled`: as for `Given`, for samples of any rows.
    """

    values: State
    known: State
    codec: Any
    recipe: Mapping[str, Any]
    pieces: int = 1
    linked: "Settle | None" = None
    unplaced: Unplaced | None = None
    agreement: str = ""
    settled: "Settle | None" = None


@dataclass(frozen=True, eq=False)
class Given:
    """What is known of n samples, one after another.

    * `values`: the encoded samples, `[n, ...]`, with any finite values where they are not known.
    * `known`: a state of booleans `[n, ...]`, or `[1, ...]`, True where they are known.
    * `mask`: the elements that exist, bool `[n, N]`; None if all always do.
    * `agreement`: in a word, what samples have to agree with beyond what is known, such as "stereo"; empty for nothing.
    * `settled(states, mask, rows)`: for samples `[B, ...]` of these rows, the samples to take in their place, such as
      reflected ones, and whether each agrees.
    """

    values: State
    known: State
    mask: Mask = None
    agreement: str = ""
    settled: "Settle | None" = None


@dataclass(frozen=True, eq=False)
class Side:
    """One side of m joint states (`diffcore.plugins.data.Codec.joint`), of which the others are drawn.

    * `values`: its encoded fields, `[m, ...]`, by name.
    * `mask`: the elements that exist, bool `[m, N]`, where their number varies and this side has them.
    """

    values: Mapping[str, Tensor]
    mask: Mask = None


Settle = Callable[[State, Mask, Sequence[int]], tuple[State, Sequence[bool]]]
"""See `Given.settled`."""


class Reader(Protocol):
    """Files to states, so that samples can be made to agree with what a user has. Mistakes raise `UserError`.

    Readers may leave out functions that mean nothing for their data; a flag that needs one is then refused. The
    attribute `endings`, a tuple such as `(".png", ".jpg")`, says which files of a folder are samples; without it, all.
    """

    def read(self, path: Path) -> State:
        """One encoded sample `[1, ...]` of the model's own size."""

    def read_sized(self, path: Path) -> tuple[State, Mask]:
        """One encoded sample `[1, ...]` and its elements that exist, bool `[1, N]`, where their number varies.

        It then takes the place of `read`.
        """

    def read_pair(self, first: Path, second: Path) -> tuple[State, State, Mask]:
        """Two encoded samples of as many elements, and the elements that exist; None if all always do.

        Element i of the first corresponds to element i of the second. For data whose elements have no order; the
        others need only `read`.
        """

    def read_missing(self, path: Path) -> State:
        """A state of booleans `[1, ...]`: True where the sample is to be filled in (white), False where it is known."""

    def read_part(self, path: Path) -> tuple[State, State]:
        """A part of a sample, encoded `[1, ...]`, and a state of booleans `[1, ...]`: True where it is known.

        For data whose files show by themselves what is missing, such as sets of which some elements are given.
        """

    def read_around(self, path: Path, free: Sequence[int], attach: Sequence[int] | None) -> Edit:
        """A part of a sample without its elements of the numbers `free`; new ones are joined to those `attach` alone.

        Optional, for data whose elements are joined, such as by bonds, or whose states do not say everything of a
        sample, such as where it lies. It takes the place of `read_part` for inpainting.
        """

    def read_unplaced(self, path: Path) -> Edit:
        """A part of a sample whose place and size in the whole are not known, and are drawn (`Edit.unplaced`).

        Its codec decodes samples in the frame of the file.
        """

    def read_given(self, name: str, path: Path) -> Given:
        """What a file says of samples, for the flag `name` of `Modality.givens`."""

    def read_side(self, name: str, path: Path) -> Side:
        """The side `name` of joint states, from a file of one or several entries. For codecs that are `joint`."""

    def read_gap(self, path: Path, gap: str | None) -> Edit:
        """A sample with a part that is to be filled in; `gap` says which, as a user writes it.

        Without `gap`, it is what the file lacks of a whole sample, such as all after its end. For data with an order,
        such as time.
        """

    def read_samples(self, path: Path) -> Any:
        """All samples of a file, as `Codec.decode` returns them, also those that are not valid, to be judged.

        Without it, a file has one sample, which is read by `read` and decoded.
        """

    def read_coarse(self, path: Path) -> tuple[State, int]:
        """A smaller sample, encoded, and the whole factor by which the model's own size is larger."""


Value = float | int | bool | str | None
"""What is known of one sample: a number, a text or a truth value; None where it has none."""


class Scorer(Protocol):
    """Named values of single samples: the columns of tables, and what samples are kept and ranked by.

    * `columns`: the usual columns of a table, in order, with what they mean.
    * `more`: further ones, which take longer or are rarely of interest, with what they mean.
    * `identity`: the name of a value that is equal for equal samples; None if there is none.
    """

    columns: Mapping[str, str]
    more: Mapping[str, str]
    identity: str | None

    def require(self, names: Sequence[str]) -> None:
        """Raise `UserError` for a name that does not exist.

        Other names than those of `columns` and `more` may exist, such as those of scalar conditions, whose values are
        what a sample turned out to have.
        """

    def score(self, samples: Any, names: Sequence[str]) -> Mapping[str, Sequence[Value]]:
        """The values of these names for each of the samples, in the form that `Codec.decode` returns."""

    def similarity(self, samples: Any, others: Any) -> Sequence[Sequence[float]]:
        """How similar each of the samples is to each of the others, from 0 to 1 for equal ones; nan where unknown.

        Optional: it says how different the results of a search are, and how far they are from what it started with.
        """


@dataclass(frozen=True)
class Metric:
    """A number that measures how good samples are, with its meaning and what to compare it with."""

    name: str
    value: float
    meaning: str


@dataclass(frozen=True)
class Picture:
    """Samples to show, in the form that `Codec.decode` returns, with a title.

    The writer of the modality shows them in rows of `columns`, and with `captions` if there are any. With
    `trajectories`, each row shows one sample while it is generated, as in `Writer.html`. `real` makes real examples
    with the conditions of the samples, for writers that show these too (`shows_real`).
    """

    title: str
    samples: Any
    columns: int = 10
    captions: Captions = ()
    trajectories: bool = False
    real: Callable[[], Any] | None = None


class Distance(Protocol):
    """How different samples are from each other, in the form that `Codec.decode` returns.

    * `words`: what it is, with its unit, such as "RMS of pixel values".
    * `most`: the number of training examples that samples are compared with in a report, at most.
    """

    words: str
    most: int

    def __call__(self, samples: Any, others: Any) -> Tensor:
        """The distances `[n, m]` of n samples to m others; not finite for samples that have none."""


class Evaluator(Protocol):
    """Samples to metrics."""

    def __call__(self, samples: Any, conditions: Conditions) -> list[Metric]:
        """The metrics of `samples`, which were requested to have the `conditions`."""

    def measure(self, samples: Any) -> dict[str, Tensor]:
        """The value that each sample turned out to have, `[n]`, by name of scalar condition; nan where it has none.

        It has only conditions whose values can be measured. Evaluators of data without scalar conditions may leave
        this function out.
        """

    def of_side(self, name: str, samples: Any, real: Any) -> list[Metric]:
        """The metrics of samples whose side `name` was drawn given the other sides of the `real` examples, one for one.

        Both are in the form that `Codec.decode` returns. The real examples are those of `Data.held_out`, or of
        `Data.examples` where there are none, in the rows of `diffcore.plugins.data.spread_rows`. Only for codecs that
        are `joint`, and optional there.
        """


class Logger(Protocol):
    """A place that a run's numbers and pictures go to beside its folder. Nothing that it raises ends a run."""

    def row(self, row: Mapping[str, float]) -> None:
        """A line of train_log.jsonl, with its `step`."""

    def picture(self, step: int, path: Path) -> None:
        """A picture of samples, in a file that the modality's writer wrote."""

    def metrics(self, step: int, metrics: Sequence[Metric]) -> None:
        """The metrics of an evaluation."""

    def close(self) -> None:
        """Training is over, well or not."""
