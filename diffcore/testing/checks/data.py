"""Checks of the data, which come before those of networks: numbers, conditions, masks, and the order of examples."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import ClassCondition, Condition, ScalarCondition
from diffcore.plugins.building import build, require_part, seeded_globally
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.records import Component
from diffcore.states.form import form_difference, shapes_of
from diffcore.states.state import fields
from diffcore.testing.checks.build import entry_module
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import (
    combined,
    digest_of,
    field_prefix,
    name_list,
    same_states,
    source_location,
)
from diffcore.testing.plugin import PluginUnderTest

MOST_ENCODED = 4096
"""At most so many training examples are encoded to look at them."""


def data_sound(plugin: PluginUnderTest) -> Measurement:
    """Encoded examples are states of the space with finite numbers, conditions that exist, and masks that sampling has.

    * Each state has the fields and shapes of the space, and no entry is nan or infinite.
    * There is one value `[B]` for each condition of the codec, by its name, and for no other. Labels are whole numbers
      from 0 to K - 1; K means "not given". Numbers are finite; nan means "not given".
    * A mask is bool `[B, N]`, N as the space has it, and each sample has an element. If sizes vary, the codec has
      `sizes`, and the elements that exist come first, as in the masks that sampling makes (`Sizes.mask`).
    """
    examples, rows = _looked_at(plugin)
    encode = source_location(plugin.codec.encode)
    encoded = plugin.encode(examples)
    if not isinstance(encoded, Encoded):
        kind = "None" if encoded is None else f"a {type(encoded).__name__}"
        return Measurement(False, f"`encode` returns {kind}", "a diffcore.plugins.data.Encoded", encode)
    expected = {name: (len(rows), *shape[1:]) for name, shape in shapes_of(plugin.space.empty(1)).items()}
    if difference := form_difference(encoded.state, expected):
        measured = f"encoded states have not the form of the space: {difference}"
        return Measurement(False, measured, "the fields and shapes of the space", encode)
    measurements = [_finite_states(plugin, examples, encoded, rows)]
    for complaint in (*_condition_names(plugin, encoded), *_condition_values(plugin, encoded, rows)):
        measurements.append(Measurement(False, complaint, "one value for each condition, which it can have", encode))
    for complaint in _masks(plugin, encoded, rows):
        measurements.append(Measurement(False, complaint, "masks like those of samples", encode))
    return combined(*measurements)


def _looked_at(plugin: PluginUnderTest) -> tuple[Any, Tensor]:
    """Training examples and their rows: all, or of many a sample and those with numbers that are not finite."""
    examples = plugin.data.examples
    if len(examples) <= MOST_ENCODED:
        return examples, torch.arange(len(examples))
    suspicious = torch.zeros(len(examples), dtype=torch.bool)
    for value in fields(examples).values():
        if value.is_floating_point():
            suspicious |= ~value.isfinite().flatten(1).all(1)
    rows = torch.arange(0, len(examples), math.ceil(len(examples) / MOST_ENCODED))
    rows = torch.cat([rows, suspicious.nonzero()[:MOST_ENCODED, 0]]).unique()
    return examples[rows], rows


def _finite_states(plugin: PluginUnderTest, examples: Any, encoded: Encoded, rows: Tensor) -> Measurement:
    """The first field and row that is not finite, with the fields of the example that are not."""
    for name, value in fields(encoded.state).items():
        bad = (~value.isfinite().flatten(1).all(1)).nonzero()[:, 0]
        if not len(bad):
            continue
        row = int(bad[0])
        raw = [
            field
            for field, values in fields(examples).items()
            if values.is_floating_point() and not bool(values[row].isfinite().all())
        ]
        cause = f"the example's {name_list(raw)} is not finite" if raw else "the example itself is finite"
        return Measurement(
            False,
            f"{field_prefix(name)}nan or infinite numbers in {len(bad)} of {len(rows)} encoded examples, first in row "
            f"{int(rows[row])} of the training data; {cause}",
            "finite states",
            f"the data set {plugin.dataset.name}" if raw else source_location(plugin.codec.encode),
        )
    return Measurement(True, f"{len(rows)} encoded examples are sound", "finite states, conditions and masks")


def _condition_names(plugin: PluginUnderTest, encoded: Encoded) -> Iterator[str]:
    known = [condition.name for condition in plugin.codec.conditions]
    if missing := [name for name in known if name not in encoded.conditions]:
        given = name_list(encoded.conditions) or "none"
        yield f"`encode` gives no value of the condition {name_list(missing)}; it gives: {given}"
    elif others := [name for name in encoded.conditions if name not in known]:
        yield f"`encode` gives {name_list(others)}, which is not among the conditions: {name_list(known) or 'none'}"


def _condition_values(plugin: PluginUnderTest, encoded: Encoded, rows: Tensor) -> Iterator[str]:
    for condition in plugin.codec.conditions:
        if condition.name in encoded.conditions:
            value = encoded.conditions[condition.name]
            if not isinstance(value, Tensor) or tuple(value.shape) != (len(rows), *condition.shape):
                shape = [*value.shape] if isinstance(value, Tensor) else type(value).__name__
                yield f"the condition {condition.name} has the shape {shape} for {len(rows)} examples"
            elif complaint := _condition_value(condition, value, rows):
                yield complaint


def _condition_value(condition: Condition, value: Tensor, rows: Tensor) -> str | None:
    if isinstance(condition, ClassCondition):
        count = len(condition.classes)
        if value.is_floating_point():
            return f"the condition {condition.name} has labels of the type {value.dtype}, not whole numbers"
        outside = ((value < 0) | (value > count)).nonzero()[:, 0]
        if len(outside):
            row = int(outside[0])
            return (
                f"the condition {condition.name} has the label {int(value[row])} in row {int(rows[row])}; its labels "
                f"are 0 to {count - 1}"
            )
        if bool((value == count).any()) and not bool((value == 0).any()):
            return (
                f"the condition {condition.name} has labels from {int(value.min())} to {count}, and none is 0: they "
                f"begin with 0, and {count} means that no class is given"
            )
    if isinstance(condition, ScalarCondition):
        if not value.is_floating_point():
            return f"the condition {condition.name} has numbers of the type {value.dtype}, not floats"
        infinite = value.isinf().nonzero()[:, 0]
        if len(infinite):
            return f"the condition {condition.name} is infinite in row {int(rows[infinite[0]])}"
        if not bool(condition.given(value).any()):
            return f"the condition {condition.name} is nan, not given, in all {len(rows)} examples"
    return None


def _masks(plugin: PluginUnderTest, encoded: Encoded, rows: Tensor) -> Iterator[str]:
    mask, sizes = encoded.mask, plugin.codec.sizes
    if mask is None:
        if sizes is not None:
            yield "the codec has `sizes`, but `encode` returns no mask"
        return
    counts = {shape[1] if len(shape) > 1 else 0 for shape in shapes_of(plugin.space.empty(1)).values()}
    if mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != len(rows):
        yield f"the mask is {str(mask.dtype).removeprefix('torch.')} {[*mask.shape]}, not bool [{len(rows)}, N]"
    elif counts != {mask.shape[1]}:
        yield f"the mask has {mask.shape[1]} elements, and the fields of the space {sorted(counts)}"
    elif bool((empty := ~mask.any(1)).any()):
        yield f"no element exists in row {int(rows[empty.nonzero()[0, 0]])}"
    elif sizes is None and not bool(mask.all()):
        yield "elements are absent, but the codec's `sizes` is None: samples would always have all elements"
    elif bool((gap := (mask[:, 1:] & ~mask[:, :-1]).any(1)).any()):
        row = int(gap.nonzero()[0, 0])
        pattern = "".join("1" if exists else "0" for exists in mask[row].tolist()[:40])
        yield (
            f"the mask of row {int(rows[row])} is {pattern}: elements that exist must come first, as in the masks of "
            "samples"
        )


def held_out_differs(plugin: PluginUnderTest) -> Measurement:
    """Held-out examples are not training examples: at most half of them occur in the training data, bit for bit.

    Metrics compare samples with held-out examples, so a model that copies its training data must not look perfect. Data
    with few possible examples may repeat some of them.
    """
    data = plugin.data
    if data.held_out is None:
        raise NotApplicableError("nothing is held out")
    held_out = data.held_out[torch.arange(0, len(data.held_out), math.ceil(len(data.held_out) / 2000) or 1)]
    if not len(held_out):
        return Measurement(False, "0 held-out examples", "held-out examples, or None", f"{plugin.dataset.name}")
    seen = set(_row_digests(data.examples))
    copies = sum(digest in seen for digest in _row_digests(held_out))
    return Measurement(
        copies <= len(held_out) / 2,
        f"{copies} of {len(held_out)} held-out examples are training examples too",
        "at most half of them",
        f"the data set {plugin.dataset.name}",
    )


def _row_digests(examples: Any) -> Iterator[bytes]:
    columns = []
    for _, value in sorted(fields(examples).items()):
        rows = value.detach().cpu().contiguous().reshape(len(value), -1)
        columns.append(rows.view(torch.uint8).numpy() if rows.numel() else rows.numpy())
    for row in range(len(examples)):
        yield hashlib.sha256(b"".join(column[row].tobytes() for column in columns)).digest()


def data_repeat(plugin: PluginUnderTest) -> Measurement:
    """The data set is the same, in the same order, when it is built again, also by another process.

    A run that is resumed, evaluated or repeated builds its data again. The global random generators have another seed
    then, and so has the order of Python's sets. Generators of your own with a fixed seed, and sorted names, help.
    """
    component, options = plugin.dataset, plugin.data_options
    with seeded_globally(20260101):
        again = component.build(options)
    require_part("data", again, f"the data set {component.name!r}")
    where = f"the data set {component.name}: {source_location(component.build)}"
    expected = "the same facts, and the same examples in the same order"
    if difference := _difference(plugin.data, again):
        return Measurement(False, f"{difference} differ when they are built again", expected, where)
    try:
        module = entry_module(plugin, component)
    except NotApplicableError:
        return Measurement(True, "the same when built again; not tried in a new process", expected, where)
    found = _built_elsewhere(module, plugin.modality.name, component, options)
    if not isinstance(found, dict):
        return Measurement(False, f"building the data in a new process fails with: {found}", expected, where)
    different = [name for name, digest in digests(plugin.data).items() if found.get(name) != digest]
    return Measurement(
        not different,
        f"{name_list(different)} differ in a new process" if different else "the same in a new process",
        expected,
        where,
    )


def _difference(first: Data, second: Data) -> str:
    """The parts of two data sets that differ."""
    if len(first.examples) != len(second.examples):
        return f"the numbers of examples, {len(first.examples)} and {len(second.examples)},"
    different = [] if first.facts == second.facts else ["facts"]
    different += [] if same_states(first.examples, second.examples) else ["examples"]
    held_out = [first.held_out, second.held_out]
    if any(part is not None for part in held_out) and (
        any(part is None for part in held_out) or not same_states(*held_out)
    ):
        different.append("held-out examples")
    return " and ".join(different)


def digests(data: Data) -> dict[str, str]:
    """A digest of each part of a data set, by name."""
    found = {"facts": hashlib.sha256(data.facts.model_dump_json().encode()).hexdigest()}
    for name, part in (("examples", data.examples), ("held-out examples", data.held_out)):
        if part is not None:
            found[name] = digest_of(part)
    return found


HASH_SEED = "20260101"
"""The seed of the hashes of a process that builds data once more."""

_BUILD = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
module, modality, name, options = json.loads(sys.argv[2])
from diffcore.testing.checks.data import built, digests
print("\\n" + json.dumps(digests(built(importlib.import_module(module), modality, name, options))))
"""


def _built_elsewhere(module: str, modality: str, component: Component, options: Any) -> dict[str, str] | str:
    """The digests of the data that a new process builds, which has another seed of hashes; else its error."""
    arguments = [json.dumps(sys.path), json.dumps([module, modality, component.name, options.model_dump(mode="json")])]
    done = new_process(_BUILD, arguments)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def new_process(code: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python code with these arguments in a new process, which has another seed of hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": HASH_SEED}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def built(module: Any, modality: str, name: str, options: dict[str, Any]) -> Data:
    """The data set `name` of a modality that the entry-point module offers, built from options."""
    offered: list[Component] = []
    for hook in ("diffcore_modalities", "diffcore_datasets"):
        for record in getattr(module, hook, tuple)():
            offered += record.datasets if record.name == modality and hook == "diffcore_modalities" else ()
            offered += [record] if hook == "diffcore_datasets" else []
    component = next(each for each in offered if each.name == name)
    data: Data = build("data", component, component.options(**options))
    return data
