"""How often samples are what their sentences ask for, attribute by attribute, beside a control.

What is right is float `[N]` for each attribute: 1 or 0, or nan where a sentence does not ask for it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from diffcore.plugins.output import Metric
from diffcore.states.noise import generator_for

Right = Mapping[str, Tensor]
"""What is right, float `[N]` by attribute: 1 or 0, or nan where nothing was asked for."""

ALL = "all"
"""The name for all that a sentence asks for."""


def compared(asked: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is right: the values that were `found` equal those that were `asked` for, both int64 `[N]` by attribute.

    Negative values that were asked for stand for "nothing was asked". Also whether everything is right, `all`.
    """
    right = {name: (wanted == found[name]).float().masked_fill(wanted < 0, torch.nan) for name, wanted in asked.items()}
    return with_all(right)


def with_all(right: Right) -> dict[str, Tensor]:
    """The same, and whether all that a sentence asks for is right, `all`."""
    return {**right, ALL: every(torch.stack([*right.values()], 1))}


def every(right: Tensor) -> Tensor:
    """Whether all that is asked for in `[N, k]` is right; nan where nothing is, `[N]`."""
    none = right.isnan().all(1)
    return right.nan_to_num(1).amin(1).masked_fill(none, torch.nan)


def other_rows(n: int) -> Tensor:
    """Another row for each of `n` rows, by a fixed random cycle: whose sentence a sample gets in the control, `[n]`."""
    order = torch.randperm(n, generator=generator_for("sentences of others"))
    rows = torch.empty(n, dtype=torch.int64)
    rows[order] = order.roll(1)
    return rows


def prompt_attributes(
    asked: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    real: Right | None = None,
    real_name: str = "real examples",
    score: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Right] = compared,
) -> list[Metric]:
    """The metrics `prompt_ATTRIBUTE`: how often the values that were `found` are those that were `asked` for.

    Both are int64 `[N]` by attribute, and `score` says what is right. In the control, samples are compared with what
    was asked of the samples in `other_rows`. `real` and `real_name` are as in `attribute_metrics`.
    """
    rows = other_rows(len(next(iter(asked.values()))))
    control = score({name: value[rows] for name, value in asked.items()}, found)
    return attribute_metrics("prompt", score(asked, found), control, real, real_name)


def attribute_metrics(
    prefix: str, right: Right, control: Right, real: Right | None = None, real_name: str = "real examples"
) -> list[Metric]:
    """The part of the samples, in percent, in which each attribute is right, and all of them: `PREFIX_ATTRIBUTE`.

    * `control`: what is right if the same samples are compared with the sentences of other samples, `other_rows`.
    * `real`: what is right of real examples and their own sentences, which says how often the judge errs. They are
      called `real_name`.

    Attributes that no sentence asks for are left out.
    """
    metrics = []
    for name, value in right.items():
        if not value.isnan().all():
            meaning = (
                f"% of {int((~value.isnan()).sum())} samples; {_percent(control[name])} with the prompts of others"
            )
            if real is not None:
                meaning += f"; {_percent(real[name])} for {real_name} with their own"
            metrics.append(Metric(f"{prefix}_{name}", 100 * value.nanmean().item(), meaning))
    return metrics


def attribute_summary(right: Right, samples: str) -> list[str]:
    """A line that says how many of `samples`, a noun, are what was asked for, and how often each attribute is right.

    Samples of which nothing was asked do not count; no line if there are no others.
    """
    asked = ~right[ALL].isnan()
    if not asked.any():
        return []
    parts = [
        f"{name} {int(value.nansum())} of {int((~value.isnan()).sum())}"
        for name, value in right.items()
        if name != ALL and not value.isnan().all()
    ]
    return [f"{int(right[ALL].nansum())} of {int(asked.sum())} {samples} show what was asked for ({', '.join(parts)})"]


def _percent(right: Tensor) -> str:
    return f"{100 * right.nanmean().item():.3g}"
