"""What is to be drawn from a run, before it is drawn: the model, the options, and the conditions of each sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcore.denoising.conditions import Condition, Conditions, any_given, captions_of
from diffcore.plugins.building import part_of
from diffcore.plugins.data import Encoded
from diffcore.plugins.output import Captions
from diffcore.plugins.records import Settings
from diffcore.runs.checkpoints import tensors_digest, weights_digest
from diffcore.runs.generation import DrawBatch, batches_of, draw_mask, generate_together, taken
from diffcore.runs.model import Model, codec_digest
from diffcore.runs.samples import Samples, file_names
from diffcore.runs.sampling_config import SamplingConfig, known_conditions
from diffcore.sampling.inverse.editing import Constraint
from diffcore.states.spaces import Mask
from diffcore.states.state import concatenate
from diffcore.system.distributed import gathered, leads, rank, shares_of


@dataclass(frozen=True, eq=False)
class Selection:
    """Samples that were chosen among those that were drawn.

    * `numbers`: the number of the noise of each.
    * `states`: the samples.
    * `recipe`: how they were chosen, as values of JSON.
    """

    numbers: tuple[int, ...]
    states: Encoded
    recipe: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Drawing:
    """`n` samples of `seed` that are still to be drawn.

    * `model`, `checkpoint`: the model, and the checkpoint that its weights come from.
    * `config`: the solver, the time grid and the guidance.
    * `conditions`: one value per sample, `[n, ...]`.
    * `asked`: the requested conditions as the caller wrote them.
    * `size`: the requested number of elements.
    * `constraint`: what the samples must agree with.
    * `writing`: the options with which files are written; None for the defaults.
    * `tabled`: what makes the writer one that also writes tables; None for none.
    * `selection`: the samples themselves, if they were drawn and chosen already.
    """

    model: Model
    checkpoint: Path
    config: SamplingConfig
    conditions: Conditions
    n: int
    seed: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)
    size: str | None = None
    constraint: Constraint | None = None
    writing: Settings | None = None
    tabled: Callable[[Any, Sequence[str]], Any] | None = None
    selection: Selection | None = None

    @cached_property
    def writer(self) -> Any:
        """What writes the samples to files."""
        writer = part_of(self.model.modality, "writer", self.model.codec, *filter(None, [self.writing]))
        return writer if self.tabled is None else self.tabled(writer, self.asked_names)

    @property
    def asked_names(self) -> list[str]:
        """The conditions that are asked of any sample."""
        return [each.name for each in self.known if any_given([each], self.conditions)] + [
            name for name in self.guide_captions if name not in {each.name for each in self.known}
        ]

    @cached_property
    def known(self) -> tuple[Condition, ...]:
        """The conditions that can be requested."""
        return known_conditions(self.model, self.config)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the samples, as values of JSON. Sample i of equal recipes is equal.

        It contains a digest of the weights in place of the paths of the run and its checkpoint, which can be moved.
        """
        values: dict[str, Any] = {
            "modality": self.model.modality.name,
            "checkpoint": self.checkpoint.name,
            "weights": weights_digest(self.checkpoint),
            **({} if (codec := codec_digest(self.model.codec)) is None else {"codec": codec}),
            "seed": self.seed,
            "conditions": {name: _plain(value) for name, value in sorted(self.asked.items())},
            **self.config.recipe(),
        }
        if self.size is not None:
            values["size"] = self.size
        if self.constraint is not None:
            values["constraint"] = self.constraint.recipe or "a constraint of the caller"
        if self.selection is not None:
            values["selection"] = dict(self.selection.recipe)
        if self.writing is not None and (options := self.writing.model_dump(mode="json", exclude_defaults=True)):
            values["write"] = options
        return values

    @cached_property
    def _draw(self) -> DrawBatch:
        return batches_of(self.model, self.config, self.seed, constraint=self.constraint)

    def mask(self, rows: Sequence[int]) -> Mask:
        """The elements of the samples `rows` that exist; None if all always do."""
        if self.selection is not None:
            return None if self.selection.states.mask is None else self.selection.states.mask[list(rows)]
        return self._mask(rows, rows)

    def _mask(self, rows: Sequence[int], numbers: Sequence[int]) -> Mask:
        """The same for the noise of these numbers."""
        conditions = taken(self.conditions, rows)
        return draw_mask(self.model, numbers, conditions, self.seed, self.size, self.constraint, self.config.guides)

    def draw(self, rows: Sequence[int], numbers: Sequence[int] | None = None) -> Encoded | None:
        """Draw the samples `rows`, each process its part of them. The leader gets all, the others None.

        `numbers` are those of their noise, by default the rows themselves.
        """
        numbers = rows if numbers is None else numbers
        shares = [slice(part.start, part.stop) for part in shares_of(len(rows))]
        each = self.draw_parts([rows[part] for part in shares], [numbers[part] for part in shares])
        if each is None:
            return None
        state = concatenate([encoded.state for encoded in each if encoded is not None])
        return Encoded(state, taken(self.conditions, rows), self._mask(rows, numbers))

    def draw_parts(
        self, parts: Sequence[Sequence[int]], numbers: Sequence[Sequence[int]] | None = None
    ) -> list[Encoded | None] | None:
        """Draw as many batches of samples as there are processes at most, each process one. The leader gets all.

        A batch is always the same, whichever process draws it. The result for an empty one is None. `numbers` are those
        of the noise, by default the rows themselves.
        """
        if self.selection is not None:
            return [_rows_of(self.selection.states, rows) if len(rows) else None for rows in parts] if leads() else None
        numbers = parts if numbers is None else numbers

        def part() -> Encoded | None:
            if rank() >= len(parts) or not len(mine := parts[rank()]):
                return None
            own = numbers[rank()]
            return self._draw(own, taken(self.conditions, mine), self._mask(mine, own))

        each = gathered(part)
        return each[: len(parts)] if leads() else None

    def draw_all(self, after_batch: Callable[[int], None]) -> Samples:
        """Draw all samples and keep them in memory. `after_batch` receives the number of samples of each batch."""
        if self.selection is not None:
            states = self.selection.states
            return Samples(states.state, self.conditions, states.mask, self.model, self.known, self.guide_captions)
        drawn = generate_together(
            self.model,
            self.config,
            self.conditions,
            self.n,
            self.seed,
            after_batch,
            constraint=self.constraint,
            mask=self.mask(range(self.n)),
        )
        if drawn is None:  # another process has them
            return Samples(self.model.codec.space.empty(0), {}, None, self.model, self.known)
        return Samples(drawn.state, drawn.conditions, drawn.mask, self.model, self.known, self.guide_captions)

    @cached_property
    def guide_captions(self) -> Mapping[str, str]:
        """The captions that guides give to all samples, by name of the condition, in place of those of its values."""
        return {name: text for guide in self.config.guides for name, text in guide.captions.items()}

    def captions(self, rows: Sequence[int]) -> Captions:
        """The requested conditions of the samples `rows` in words."""
        return [
            {**each, **self.guide_captions} for each in captions_of(self.known, taken(self.conditions, rows), len(rows))
        ]

    def names(self, rows: Sequence[int]) -> list[str]:
        """The names of the files of the samples `rows`, without their endings."""
        return file_names(rows, self.captions(rows), self.known)


def _rows_of(encoded: Encoded, rows: Sequence[int]) -> Encoded:
    """Some rows of a batch."""
    chosen = list(rows)
    mask = None if encoded.mask is None else encoded.mask[chosen]
    return Encoded(encoded.state[chosen], taken(encoded.conditions, chosen), mask)


def _plain(value: Any) -> Any:
    """A requested value as JSON has it; of tensors with several axes, such as pictures, the shape and a digest."""
    if isinstance(value, Tensor) and value.ndim > 1:
        return {"shape": [*value.shape], "sha256": tensors_digest({"": value})}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
