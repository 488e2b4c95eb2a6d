"""A check of what the codec knows of the data, its facts, against the data themselves."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffcore.denoising.conditions import ScalarCondition
from diffcore.denoising.sizes import Sizes
from diffcore.plugins.data import Encoded
from diffcore.states.categories import Categories
from diffcore.states.state import fields
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import combined, source_location
from diffcore.testing.plugin import PluginUnderTest

_COUNTED = 4096


def facts_match(plugin: PluginUnderTest) -> Measurement:
    """Sizes, scalar conditions and categories say of the data what the data are.

    * `Sizes`: `largest` is the number of elements of the masks, each size of an example is in `counts`, the shares of
      the sizes agree, and `about` has a finite mean and standard deviation for each size, near those of the examples.
    * `ScalarCondition`: the values have about the mean and standard deviation of the condition, and lie within its
      quantiles, which do not fall.
    * `Categories` of a network's `views`: each entry of the encoded data is one of the codes, and the frequencies sum
      to 1 and agree.
    """
    encoded = plugin.encoded(_COUNTED)
    complaints = [*_sizes(plugin, encoded), *_scalars(plugin, encoded), *_categories(plugin, encoded)]
    where = source_location(type(plugin.codec))
    wrong = [Measurement(False, complaint, "facts that agree with the data", where) for complaint in complaints]
    return combined(*wrong, Measurement(True, "the facts agree with the data", "facts that agree with the data", where))


def _apart(first: Tensor, second: Tensor, count: int) -> bool:
    """Whether two lists of shares differ by more than chance: their total variation distance."""
    distance = 0.5 * (first - second).abs().sum().item()
    return distance > 0.1 + 1.5 * (len(first) / max(count, 1)) ** 0.5


def _sizes(plugin: PluginUnderTest, encoded: Encoded) -> Iterator[str]:
    sizes, mask = plugin.codec.sizes, encoded.mask
    if sizes is None or mask is None:
        return
    if sizes.largest != mask.shape[1]:
        yield f"`sizes.largest` is {sizes.largest}, and masks have {mask.shape[1]} elements"
        return
    found, counts = mask.sum(1).unique(return_counts=True)
    if unknown := [size for size in found.tolist() if size not in sizes.counts]:
        yield f"`sizes.counts` has no size {unknown[0]}, which examples have; it has {sorted(sizes.counts)}"
        return
    by_size = dict(zip(found.tolist(), counts.tolist(), strict=True))
    told = torch.tensor([float(count) for count in sizes.counts.values()])
    seen = torch.tensor([float(by_size.get(size, 0)) for size in sizes.counts])
    if _apart(told / told.sum(), seen / seen.sum(), len(mask)):
        shares = ", ".join(f"{size}: {share:.0%}" for size, share in zip(sizes.counts, seen / seen.sum(), strict=True))
        yield f"`sizes.counts` is {dict(sizes.counts)}, and the examples have {shares}"
    yield from _about(plugin, sizes, encoded)


def _about(plugin: PluginUnderTest, sizes: Sizes, encoded: Encoded) -> Iterator[str]:
    """What is wrong with the tables of conditions by size."""
    scalars = {c.name: c for c in plugin.codec.conditions if isinstance(c, ScalarCondition)}
    assert encoded.mask is not None
    number = encoded.mask.sum(1)
    for name, table in sizes.about.items():
        if name not in scalars:
            yield f"`sizes.about` has {name!r}, which is no scalar condition; there are: {', '.join(scalars) or 'none'}"
            continue
        if len(table) != len(sizes.counts):
            yield f"`sizes.about[{name!r}]` has {len(table)} rows for {len(sizes.counts)} sizes"
            continue
        if not bool(torch.tensor(table).isfinite().all()):
            yield f"`sizes.about[{name!r}]` is not finite: a size with few examples needs the mean of all"
            continue
        value = encoded.conditions[name]
        for size, (mean, std) in zip(sizes.counts, table, strict=True):
            own = value[(number == size) & scalars[name].given(value)].double()
            if len(own) >= 30 and abs(own.mean().item() - mean) > 0.5 * max(std, own.std().item(), 1e-6):
                yield f"`sizes.about[{name!r}]` has the mean {mean:.4g} for size {size}; it is {own.mean().item():.4g}"
                break


def _scalars(plugin: PluginUnderTest, encoded: Encoded) -> Iterator[str]:
    for condition in plugin.codec.conditions:
        if not isinstance(condition, ScalarCondition):
            continue
        value = encoded.conditions[condition.name]
        known = value[condition.given(value)].double()
        mean, std = known.mean().item(), known.std(correction=0).item()
        quantiles = torch.tensor(condition.quantiles, dtype=torch.float64)
        if abs(mean - condition.mean) > 0.5 * max(std, condition.std, 1e-6) + 1e-6 * abs(mean):
            yield f"the condition {condition.name} has the mean {condition.mean:.4g}; the examples have {mean:.4g}"
        elif len(known) > 1 and not 0.5 * std <= condition.std <= 2 * std + 1e-6 * abs(mean):
            yield (
                f"the condition {condition.name} has the standard deviation {condition.std:.4g}; the examples have "
                f"{std:.4g}"
            )
        elif len(quantiles) < 2 or bool((quantiles[1:] < quantiles[:-1]).any()):
            yield f"the quantiles of the condition {condition.name} are not two or more numbers that do not fall"
        else:
            outside = ((known < quantiles[0] - std) | (known > quantiles[-1] + std)).double().mean().item()
            if outside > 0.05:
                yield (
                    f"{outside:.0%} of the examples have values of {condition.name} outside of its quantiles, "
                    f"{quantiles[0]:.4g} to {quantiles[-1]:.4g}"
                )


def _categories(plugin: PluginUnderTest, encoded: Encoded) -> Iterator[str]:
    values = fields(encoded.state)
    counted = fields(plugin.entries_with_noise(encoded.state, encoded.mask))
    for name, view in plugin.model.denoiser.views.items():
        if not isinstance(view, Categories):
            continue
        if name not in values:
            yield f"the network's `views` have the field {name!r}; the fields are: {', '.join(values)}"
            continue
        lengths = {len(code) for code in view.codes}
        if lengths != {values[name].shape[-1]} or len(view.frequencies) != len(view.codes):
            yield (
                f"{name}: the categories have {len(view.codes)} codes of {sorted(lengths)} numbers and "
                f"{len(view.frequencies)} frequencies; the last axis of the field has {values[name].shape[-1]}"
            )
            continue
        entries = values[name][counted[name].any(-1)]
        table = view.table(entries)
        nearest = view.nearest(entries)
        scale = table.abs().max().clamp(min=1e-6)
        off = ((entries - table[nearest]).abs().amax(1) > 1e-3 * scale).double().mean().item()
        if off:
            yield f"{name}: {off:.0%} of the encoded entries are none of the codes of the categories"
            continue
        told, seen = torch.tensor(view.frequencies), torch.bincount(nearest, minlength=len(view.codes)) / len(nearest)
        if abs(told.sum().item() - 1) > 1e-3:
            yield f"{name}: the frequencies of the categories sum to {told.sum().item():.4g}, not 1"
        elif _apart(told, seen, len(nearest)):
            yield f"{name}: the frequencies of the categories are {_shares(told)}; in the data they are {_shares(seen)}"


def _shares(values: Tensor) -> str:
    return ", ".join(f"{value:.2g}" for value in values.tolist()[:8]) + (", …" if len(values) > 8 else "")
