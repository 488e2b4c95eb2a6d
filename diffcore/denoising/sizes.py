"""The distribution of sample sizes: how many elements of a state exist, for data of varying size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions
from diffcore.denoising.ranges import read_range
from diffcore.errors import UserError
from diffcore.states.noise import Draws


def whole_number(size: str) -> int:
    """The number of elements that a user asks for, from 1 on. Raises `UserError` for anything else."""
    if not size.isdecimal() or int(size) < 1:
        raise UserError(f"`size` {size!r}: write a whole number, 1 or larger")
    return int(size)


@dataclass(frozen=True)
class Sizes:
    """The distribution of sizes, from the training examples.

    * `largest`: the largest size; sizes are between 1 and `largest`.
    * `counts`: the number of training examples of each size that occurs.
    * `about`: for each scalar condition that depends on the size, by name, its mean and standard deviation among the
      examples of each size, in the order of `counts`. They must be finite, also for sizes with few examples.
    """

    largest: int
    counts: Mapping[int, int]
    about: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @classmethod
    def measured(
        cls, sizes: Tensor, largest: int | None = None, scalars: Mapping[str, Tensor] = MappingProxyType({})
    ) -> "Sizes":
        """The sizes of examples: `counts` of `sizes` `[n]`, and `about` of the `scalars`, values `[n]` by name.

        `largest` is the number of elements of the space, by default the largest of the sizes. nan stands for examples
        without a value. A size with fewer than two values gets the mean and standard deviation of all examples.
        """
        found, counts = sizes.cpu().unique(return_counts=True)

        def rows(values: Tensor) -> tuple[tuple[float, float], ...]:
            values = values.cpu().double()
            known = ~values.isnan()
            own = [values[known & (sizes.cpu() == size)] for size in found]
            enough = [part if len(part) > 1 else values[known] for part in own]
            return tuple((part.mean().item(), part.std(correction=0).item()) for part in enough)

        return cls(
            int(found.max()) if largest is None else largest,
            dict(zip(found.tolist(), counts.tolist(), strict=True)),
            {name: rows(values) for name, values in scalars.items()},
        )

    def log_probabilities(self, conditions: Conditions, batch: int) -> Tensor:
        """log p(size | conditions) up to a constant, `[batch, sizes]`, in the order of `counts`.

        p(n | c) is proportional to p(n) prod_k N(c_k; mean_kn, std_kn) over the conditions that are given. This is
        Bayes' rule, if the conditions are normal and independent among the examples of one size. It is computed on the
        CPU in float64.
        """
        total = torch.tensor([float(count) for count in self.counts.values()], dtype=torch.float64).log()
        total = total.expand(batch, -1)
        for name, table in self.about.items():
            if name not in conditions:
                continue
            mean, std = torch.tensor(table, dtype=torch.float64).T
            std, value = std.clamp(min=1e-6), conditions[name].cpu().double()[:, None]
            log_density = -0.5 * ((value - mean) / std).square() - std.log()
            total = total + log_density.where(~value.isnan(), 0.0)
        return total

    def draw(self, indices: Sequence[int], seed: int, conditions: Conditions, least: Tensor | None = None) -> Tensor:
        """The sizes of the samples `indices` of `seed` drawn from p(size | conditions), int64 `[B]`.

        `least` `[B]` is the smallest size that each sample may have. Raises `UserError` if no size is so large.
        """
        sizes = torch.tensor(list(self.counts))
        logits = self.log_probabilities(conditions, len(indices))
        if least is not None:
            allowed = sizes >= least[:, None]
            if not bool(allowed.any(1).all()):
                raise UserError(f"{int(least.max())} elements are known, and samples have at most {int(sizes.max())}")
            logits = logits.where(allowed, -torch.inf)
        cumulative = logits.softmax(1).cumsum(1)
        u = Draws.of(seed, indices).uniform("size", dtype=torch.float64)
        position = (cumulative < u[:, None]).sum(1).clamp(max=len(self.counts) - 1)
        return sizes[position]

    def parse(
        self, text: str, indices: Sequence[int], seed: int, conditions: Conditions, least: Tensor | None = None
    ) -> Tensor:
        """The sizes that a user asks for, int64 `[B]`: `9` for all, or a range, `7..9`, `7..` or `..9`.

        Within a range, sizes are drawn from p(size | conditions), and at least `least` `[B]`. Raises `UserError` if
        `text` is neither a size nor a range, if it lies outside the sizes of the training examples, if no training
        example has a size in the range, or if all sizes in it are smaller than `least`.
        """
        try:
            first, last = read_range(text, int)
        except ValueError:
            raise UserError(f"`size` {text!r}: write a whole number, or a range such as 7..9") from None
        smallest, largest = min(self.counts), max(self.counts)
        first, last = smallest if first is None else first, largest if last is None else last
        if last < first and not text.startswith("..") and not text.endswith(".."):
            raise UserError(f"`size` {text}: the range ends before it begins; write {last}..{first}")
        if least is not None and last < least.max():
            raise UserError(f"`size` {text}: {int(least.max())} elements are known; ask for at least as many")
        if first == last and smallest <= first <= largest:
            return torch.full((len(indices),), first)
        within = {size: count for size, count in self.counts.items() if first <= size <= last}
        if not within or not 1 <= first <= last <= self.largest:
            shown = ", ".join(map(str, sorted(self.counts))) if len(self.counts) <= 10 else f"{smallest} to {largest}"
            raise UserError(f"`size` {text}: the training examples have other sizes: {shown}")
        kept = [position for position, size in enumerate(self.counts) if size in within]
        about = {name: [table[position] for position in kept] for name, table in self.about.items()}
        return Sizes(self.largest, within, about).draw(indices, seed, conditions, least)

    def mask(self, sizes: Tensor) -> Tensor:
        """The mask `[B, largest]` of samples with these sizes `[B]`: the first elements of each sample exist."""
        return torch.arange(self.largest) < sizes[:, None]
