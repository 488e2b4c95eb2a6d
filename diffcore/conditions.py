"""Conditions: what a sample is asked to be. Each is named and typed and has its own null value.

A batch of conditions is a dictionary of tensors `[B, ...]`. The null value stands for "not given": it is what a
condition is replaced by when it is dropped in training, and what guidance compares with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcore.errors import UserError

Conditions = dict[str, Tensor]


@dataclass(frozen=True)
class ClassCondition:
    """One of K classes, an int64 tensor `[B]`; the null value is K.

    A predictor's output for it is K logits.
    """

    name: str
    classes: tuple[str, ...]

    def null(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """`[B]` of null values."""
        return torch.full((batch,), len(self.classes), dtype=torch.int64, device=device)

    def given(self, value: Tensor) -> Tensor:
        """Which values of `[B]` are not null, `[B]` bool."""
        return value < len(self.classes)

    def parse(self, text: str) -> Tensor:
        """The value that a user wrote: a class's name or, where no class is called so, its index."""
        if text in self.classes:
            return torch.tensor(self.classes.index(text))
        if text.isdecimal() and int(text) < len(self.classes):
            return torch.tensor(int(text))
        shown = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
        raise UserError(f"unknown {self.name} {text!r}; this model knows: {shown}")

    def spread(self, batch: int) -> Tensor:
        """`[B]` values that show what there is: the classes in turn."""
        return torch.arange(batch) % len(self.classes)

    def caption(self, value: Tensor) -> str:
        """A value in words."""
        return self.classes[int(value)] if int(value) < len(self.classes) else "any"

    @property
    def outputs(self) -> int:
        """How many numbers a predictor gives for this condition."""
        return len(self.classes)

    def log_likelihood(self, output: Tensor, value: Tensor) -> Tensor:
        """log p(value) in nats, `[B]`, where a predictor says `output` `[B, outputs]`; 0 where the value is null."""
        known = self.given(value)
        chosen = output.log_softmax(1).gather(1, value.where(known, 0)[:, None])[:, 0]
        return chosen.where(known, 0.0)

    def best_constant(self, values: Tensor) -> Tensor:
        """`[outputs]`: what a predictor that sees nothing says at best of `values`, the shares of the classes."""
        counts = torch.bincount(values[self.given(values)], minlength=len(self.classes)).double()
        return (counts / counts.sum()).clamp(min=1e-12).log().float()

    def measures(self, output: Tensor, value: Tensor) -> dict[str, Tensor]:
        """Figures of a predictor beside the likelihood, each `[n]`, of the values that are given."""
        known = self.given(value)
        return {"accuracy": (output.argmax(1) == value)[known].double()}


Condition = ClassCondition


def nulls(conditions: Sequence[Condition], batch: int, device: torch.device | str = "cpu") -> Conditions:
    """A batch in which no condition is given."""
    return {condition.name: condition.null(batch, device) for condition in conditions}


def any_given(conditions: Sequence[Condition], values: Conditions) -> bool:
    """Whether any sample is asked for anything."""
    return any(bool(c.given(values[c.name]).any()) for c in conditions if c.name in values)


def drop(
    conditions: Sequence[Condition], values: Conditions, probability: float, generator: torch.Generator
) -> Conditions:
    """Replace each condition of each sample by its null value with `probability`, each on its own.

    Ho & Salimans 2022, section 3.2: one network learns the conditional and the unconditional model.
    """
    dropped = {}
    for condition in conditions:
        value = values[condition.name]
        chosen = torch.rand(len(value), generator=generator) < probability
        chosen = chosen.reshape(-1, *[1] * (value.ndim - 1)).to(value.device)
        dropped[condition.name] = torch.where(chosen, condition.null(len(value), value.device), value)
    return dropped


def ask(conditions: Sequence[Condition], asked: Mapping[str, str], batch: int) -> Conditions:
    """The conditions of `batch` samples, as a user asks for them; what is not asked for is null."""
    names = [condition.name for condition in conditions]
    for name in asked:
        if name not in names:
            raise UserError(f"unknown condition {name!r}; this model takes: {', '.join(names) or 'none'}")
    values = nulls(conditions, batch)
    for condition in conditions:
        if condition.name in asked:
            value = condition.parse(asked[condition.name])
            values[condition.name] = value.expand(batch, *value.shape).clone()
    return values
