"""How large samples are, where that varies: how many elements of a state exist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffcore.conditions import Conditions
from diffcore.errors import UserError
from diffcore.noise import uniform


@dataclass(frozen=True)
class Sizes:
    """The distribution of sizes 1 to `largest`, by counts of training examples.

    `about` has for each scalar condition that bears on the size, in the order of `counts`, its mean and standard
    deviation among the examples of that size.
    """

    largest: int
    counts: Mapping[int, int]
    about: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def log_probabilities(self, conditions: Conditions, batch: int) -> Tensor:
        """log p(size | conditions) `[batch, sizes]` up to a constant, in the order of `counts`.

        p(n | c) is proportional to p(n) prod_k N(c_k; mean_kn, std_kn) over the conditions that are given: Bayes' rule
        with conditions normal and independent among examples of one size.
        """
        total = torch.tensor([float(count) for count in self.counts.values()], dtype=torch.float64).log()
        total = total.expand(batch, -1)
        for name, table in self.about.items():
            if name not in conditions:
                continue
            mean, std = torch.tensor(table, dtype=torch.float64).T
            z = (conditions[name].double()[:, None] - mean) / std.clamp(min=1e-6)
            total = total + (-0.5 * z.square() - std.clamp(min=1e-6).log()).nan_to_num(0.0)
        return total

    def draw(self, indices: Sequence[int], seed: int, conditions: Conditions) -> Tensor:
        """Sizes of the samples `indices` of `seed`, int64 `[B]`, given what they are asked to be."""
        cumulative = self.log_probabilities(conditions, len(indices)).softmax(1).cumsum(1)
        u = torch.stack([uniform(seed, "size", index) for index in indices])
        position = (cumulative < u[:, None]).sum(1).clamp(max=len(self.counts) - 1)
        return torch.tensor(list(self.counts))[position]

    def asked(self, text: str, indices: Sequence[int], seed: int, conditions: Conditions) -> Tensor:
        """Sizes as a user asks for them: `9`, or `7..9` for the data's distribution within. int64 `[B]`.

        Raises `UserError` for what is no size, or none that this model can draw.
        """
        low, dots, high = text.partition("..")
        if not low.strip().isdecimal() or (dots and not high.strip().isdecimal()):
            raise UserError(f"--size {text!r}: write a whole number, or a range such as 7..9")
        first, last = int(low), int(high) if dots else int(low)
        if first < 1 or last < first or last > self.largest:
            raise UserError(f"--size {text}: this model draws sizes from 1 to {self.largest}")
        if first == last:
            return torch.full((len(indices),), first)
        within = {size: count for size, count in self.counts.items() if first <= size <= last}
        if not within:
            raise UserError(f"--size {text}: no training example has such a size; there are {self.words()}")
        kept = [position for position, size in enumerate(self.counts) if size in within]
        about = {name: [table[position] for position in kept] for name, table in self.about.items()}
        return Sizes(self.largest, within, about).draw(indices, seed, conditions)

    def words(self) -> str:
        """The range of sizes that occur."""
        return f"{min(self.counts)} to {max(self.counts)}"

    def mask(self, sizes: Tensor) -> Tensor:
        """`[B, largest]`: the first elements of each sample exist."""
        return torch.arange(self.largest) < sizes[:, None]
