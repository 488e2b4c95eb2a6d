"""The record of a run's data, data.json: the files, the examples of each class, what was changed or passed over."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field

from diffcore.denoising.conditions import ClassCondition
from diffcore.errors import UserError
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.ledger import Reasons, named, short
from diffcore.plugins.records import Settings
from diffcore.runs.folder import RunFolder
from diffcore.runs.settings import validate
from diffcore.system.files import read_json, write_json

logger = logging.getLogger(__name__)

MOST_NAMED = 4 * 2**20
"""The total length of the names of files in data.json, in characters; all further ones are only counted."""

KINDS = {"changed": "changed", "noted": "note", "passed_over": "passed over"}
"""The entries of a record that name files by reason, each with its title."""

_Count = Annotated[int, Field(ge=0, le=2**53)]


class _Entry(Settings):
    """How many files a reason applies to, and the names of some or all of them."""

    count: _Count
    names: tuple[str, ...]


class _Record(Settings):
    """The form of data.json; keys that other versions add are ignored."""

    model_config = ConfigDict(extra="ignore")

    data: str
    what: str
    place: str
    found: _Count
    training: _Count
    held_out: _Count
    layout: str
    classes: dict[str, dict[str, tuple[_Count, _Count]]]
    about: dict[str, str]
    changed: dict[str, _Entry]
    noted: dict[str, _Entry]
    passed_over: dict[str, _Entry]
    notes: tuple[str, ...]
    digest: str | None = None


_DIGESTED = 64

_SHOWN_CLASSES, _SHOWN_REASONS, _SHOWN_NAMES = 12, 8, 3


def record_of(name: str, data: Data, codec: Codec) -> dict[str, Any]:
    """The record of the data set `name`, as it is written to data.json.

    The classes are those of the codec's class conditions whose labels the examples have under the same name.
    """
    ledger, left = data.ledger, [MOST_NAMED]
    return {
        "data": name,
        "what": ledger.what,
        "place": ledger.place,
        "found": ledger.found,
        "training": len(data.examples),
        "held_out": 0 if data.held_out is None else len(data.held_out),
        "layout": ledger.layout,
        "classes": _counts(data, codec),
        "about": dict(ledger.about),
        "changed": _listed(ledger.changed, ledger.found, left),
        "noted": _listed(ledger.noted, None, left),
        "passed_over": _listed(ledger.passed_over, None, left),
        "notes": list(data.notes),
        "digest": _digest(data),
    }


def _digest(data: Data) -> str:
    """A SHA-256 of at most `_DIGESTED` training examples, evenly spaced, which is quick for data of any size."""
    digest, count = hashlib.sha256(), len(data.examples)
    rows = torch.linspace(0, count - 1, min(count, _DIGESTED)).long()
    for name, values in sorted(data.examples[rows].items()):
        if isinstance(values, torch.Tensor):
            digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
            digest.update(values.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the numbers of examples of two records differ, in words; empty if they do not."""
    for key, what in (("training", "examples for training"), ("held_out", "held-out examples")):
        if before[key] != now[key]:
            return f"{before[key]} {what} then, {now[key]} now"
    if before["classes"] != now["classes"]:
        return "the numbers of examples of the classes differ"
    return ""


def same_content(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the examples of two records seem to have the same content; True if that is unknown."""
    return before.get("digest") in (None, now["digest"])


def _counts(data: Data, codec: Codec) -> dict[str, dict[str, list[int]]]:
    """The number of training and of held-out examples of each class, by name of the condition."""
    counts = {}
    for condition in codec.conditions:
        if not isinstance(condition, ClassCondition):
            continue
        labels = data.examples.get(condition.name, None)
        if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            continue
        held = labels[:0] if data.held_out is None else data.held_out[condition.name]
        most = len(condition.classes)
        rows = [torch.bincount(part[(part >= 0) & (part < most)], minlength=most).tolist() for part in (labels, held)]
        counts[condition.name] = {name: list(row) for name, *row in zip(condition.classes, *rows, strict=True)}
    return counts


def _listed(reasons: Reasons, all_of: int | None, left: list[int]) -> dict[str, dict[str, Any]]:
    """The count and the names for each reason; no names if it is true of all files, or if there are too many."""
    listed = {}
    for reason, names in reasons.items():
        kept: list[str] = []
        for name in names if len(names) != all_of else ():
            left[0] -= len(name)
            if left[0] < 0:
                break
            kept.append(name)
        listed[reason] = {"count": len(names), "names": kept}
    return listed


def write_record(run: RunFolder, record: Mapping[str, Any]) -> None:
    """Write data.json."""
    write_json(run.data, record)


def read_record(run: RunFolder) -> dict[str, Any] | None:
    """The record of a run; None if it has none, or if it is damaged, which is logged."""
    if not run.data.exists():
        return None
    try:
        record = read_json(run.data)
        validate(_Record, record, str(run.data))
    except UserError as error:
        logger.warning(f"{run.data} is damaged and is not used: {error}")
        return None
    return dict(record)


def summary(record: Mapping[str, Any]) -> list[str]:
    """The record in a few lines, with the first names only."""
    found, what, place = record["found"], record["what"], record["place"]
    examples = f"{record['training']} for training, {record['held_out']} held out"
    source = f"{found} {what} in {place}; " if place else ""
    lines = [f"data {record['data']}: {source}{examples}"]
    for classes in record["classes"].values():
        shown = [f"{short(name, 60)} {_sum(counts)}" for name, counts in classes.items()]
        lines.append(f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}: {named(shown, _SHOWN_CLASSES)}")
    if record["layout"]:
        lines.append(record["layout"])
    if record["about"]:
        lines.append(", ".join(f"{aspect}: {words}" for aspect, words in record["about"].items()))
    for key, title in KINDS.items():
        entries = list(record[key].items())
        for reason, entry in entries[:_SHOWN_REASONS]:
            lines.append(f"{title}: {told(reason, entry, _SHOWN_NAMES)}")
        if rest := entries[_SHOWN_REASONS:]:
            lines.append(f"{title}: {len(rest)} more reasons: {sum(entry['count'] for _, entry in rest)}")
    return [*lines, *record["notes"]]


def told(reason: str, entry: Mapping[str, Any], most: int) -> str:
    """One reason with its count and the first names; it holds for all files if no names are given."""
    count, names = int(entry["count"]), list(entry["names"])
    more = f" and {count - most} more" if count > most else ""
    return f"{reason}: {count} ({', '.join(short(str(name)) for name in names[:most]) + more if names else 'all'})"


def _sum(counts: Any) -> str:
    training, held = map(int, counts)
    return f"{training}+{held}" if held else f"{training}"
