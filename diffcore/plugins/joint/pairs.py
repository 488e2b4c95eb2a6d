"""The data set `pairs`: files of two kinds of data or more, of which those of the same place belong together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.building import build
from diffcore.plugins.data import Data
from diffcore.plugins.folders import place_of, split
from diffcore.plugins.joint.record import files_of, joint_modality
from diffcore.plugins.ledger import Account
from diffcore.plugins.records import Modality, Settings
from diffcore.system.walk import walk

LEAST = 4
"""A set has at least so many pairs."""


def pairs(options: Any, parts: Sequence[Modality]) -> Data:
    """The pairs of `data.root/KIND/NAME` with the same NAME, without its ending, for each kind of data.

    NAME may contain folders, such as those of classes. Each kind is read by its own data set, with the options
    `data.KIND`, whose `root` takes the place of `data.root/KIND` where it is given. Raises `UserError` for folders that
    are missing and if there are too few pairs; files without a partner are left out and named in the ledger.
    """
    roots = {part.name: _root(options, part) for part in parts}
    loaded = {part.name: _loaded(part, getattr(options, part.name), roots[part.name]) for part in parts}
    places = {name: {int(place): row for row, place in enumerate(rows["place"])} for name, (_, rows) in loaded.items()}
    common = set.intersection(*({*own} for own in places.values()))
    account = Account("files", str(options.root or ""), sum(map(len, places.values())))
    for name, own in places.items():
        lone = {*own} - common
        for path in walk(roots[name]).files if lone else ():
            if place_of(Path(path)) in lone:
                account.pass_over(f"{name}/{path}", "without a partner of the same name")
    if len(common) < LEAST:
        found = " and ".join(f"{len(own)} of {name}" for name, own in places.items())
        raise UserError(
            f"only {len(common)} files have a partner of the same name without its ending, of {found}; at least "
            f"{LEAST} pairs are needed: give the files of a pair one name, such as "
            + " and ".join(f"{name}/0001" for name in places)
        )
    order = [place for place in places[parts[0].name] if place in common]
    columns: dict[str, Tensor] = {}
    for name, (_, rows) in loaded.items():
        chosen = rows[torch.tensor([places[name][place] for place in order])]
        columns |= {f"{name}.{column}": value for column, value in chosen.items() if column != "place"}
    examples = TensorDict(columns, batch_size=[len(order)])
    examples["label"] = _labels(examples, parts)
    train, held_out = split(examples, options.held_out)
    for each in (train, held_out):
        if each is not None:
            del each["label"]
    facts = _facts(loaded, parts)
    notes = [note for data, _ in loaded.values() for note in data.notes]
    about = {name: f"{len(rows)} read" for name, (_, rows) in loaded.items()}
    return Data(facts, train, held_out, tuple(notes), account.ledger(skip=True, **about))


def _root(options: Any, part: Modality) -> Path:
    """The folder of the files of a part."""
    own = getattr(options, part.name).root
    if own is None and options.root is None:
        raise UserError(
            f"the data set 'pairs' needs `data.root`, a folder with a folder of each kind, such as {part.name}"
        )
    place = Path(own or Path(options.root) / part.name)
    if not place.is_dir():
        raise UserError(f"no folder {place}: it must have the files of {part.name} of each pair")
    return place


def _loaded(part: Modality, options: Any, root: Path) -> tuple[Data, TensorDict]:
    """The data of a part, and all of its examples, each with the column `place`."""
    data: Data = build("data", files_of(part), options.model_copy(update={"root": str(root)}))
    whole: TensorDict = data.examples if data.held_out is None else TensorDict.cat([data.examples, data.held_out])
    if "place" not in whole.keys():
        raise UserError(f"the data set of {part.name} does not say which file an example is from, so it has no pairs")
    return data, whole


def _labels(examples: TensorDict, parts: Sequence[Modality]) -> Tensor:
    """The classes of the pairs, over which the held-out ones are spread: those of the first part that has any."""
    for part in parts:
        if f"{part.name}.label" in examples.keys():
            return examples[f"{part.name}.label"].clone()
    return torch.zeros(len(examples), dtype=torch.int64)


def _facts(loaded: dict[str, tuple[Data, TensorDict]], parts: Sequence[Modality]) -> Settings:
    return joint_modality(parts).facts(**{name: data.facts for name, (data, _) in loaded.items()})
