"""The data sets: generated shapes, and a user's own meshes and clouds.

Examples have a pool of points for each shape: `positions` `[N, pool, 3]`, optional `normals` and uint8 `colours` of the
same shape, optional uint8 `parts` `[N, pool]`, the parts of the points as indices of the names in the facts, and int64
`label` `[N]`, the class.
"""

from collections.abc import Mapping, Sequence

import numpy
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.plugins.folders import split, uneven, with_places, without_empty
from diffcore.plugins.ledger import Account
from diffcore.plugins.text import indexed
from diffcore.plugins.wordings import UNSAID
from diffcore.states.noise import generator_for
from diffcore.system.files import memory
from diffcore_pointcloud.data.clouds import CLOUD_ENDINGS, read_cloud
from diffcore_pointcloud.data.meshes import MESH_ENDINGS, pool_of, read_mesh
from diffcore_pointcloud.data.shapes import PARTS, normals_of, parts_of, points_on, surface
from diffcore_pointcloud.data.sources import Cloud, Read, listed, read_all
from diffcore_pointcloud.data.units import mixed_units
from diffcore_pointcloud.described.sentences import WORDINGS, values_of, write
from diffcore_pointcloud.options import MOST_PARTS, CloudFacts, CloudOptions, FileOptions, ShapesOptions

WORDINGS_EACH = 2
"""Sentences of each generated training shape, of which training draws one at random."""

_BATCH = 250
"""The number of shapes that are generated at once."""


def shapes(options: ShapesOptions) -> Data:
    """Random furniture, aeroplanes and solids; the classes take turns.

    With `captions`, each training shape has two sentences that may leave something out, and each held-out shape one
    that says everything; they take the place of the classes.
    """
    classes = tuple(dict.fromkeys(options.classes))
    (train, values), (held_out, held_out_values) = (
        _generated(options, classes, count, part)
        for count, part in ((options.shapes, "train"), (options.held_out, "held out"))
    )
    parts = _parts(classes) if options.joint else {}
    ledger = Account("shapes").ledger(skip=False, **_about(train, options))
    if not options.captions:
        return Data(_facts(train, classes, options, parts), train, held_out, ledger=ledger)
    generator = generator_for(options.seed, "sentences")
    captions = [*zip(*(write(values, generator) for _ in range(WORDINGS_EACH)), strict=True)]
    held_out_captions = [*zip(write(held_out_values, generator, complete=True))]
    texts, numbers = indexed([*captions, *held_out_captions])
    train["captions"], held_out["captions"] = numbers[: len(train)], numbers[len(train) :, :1]
    facts = _facts(train, (), options, parts).model_copy(update={"described": classes})
    return Data(facts, train, held_out, ledger=ledger, texts=texts)


def _generated(
    options: ShapesOptions, classes: Sequence[str], count: int, part: str
) -> tuple[TensorDict, dict[str, Tensor]]:
    """Examples of generated shapes, and what can be said of them, by attribute of `WORDINGS`."""
    pool = _pool(options)
    require_room(count, pool, options)
    label = torch.arange(count) % len(classes)
    fields = {"positions": torch.empty(count, pool, 3, dtype=torch.float16)}
    if options.normals:
        fields["normals"] = torch.empty(count, pool, 3, dtype=torch.float16)
    if options.colours:
        fields["colours"] = torch.empty(count, pool, 3, dtype=torch.uint8)
    if options.joint:
        fields["parts"] = torch.empty(count, pool, dtype=torch.uint8)
    labels = _parts(classes)
    of_part = torch.tensor([labels.get(part, 0) for part in PARTS], dtype=torch.uint8)
    values = {name: torch.full((count,), UNSAID) for name in WORDINGS}
    for index, name in enumerate(classes[:count]):
        for number, rows in enumerate((label == index).nonzero()[:, 0].split(_BATCH)):
            generator = generator_for(options.seed, "shapes", part, name, number)
            batch = surface(name, len(rows), generator)
            points, faces = points_on(batch.triangles, pool, generator)
            fields["positions"][rows] = points.half()
            if options.captions:
                for attribute, value in values_of(name, batch.parameters).items():
                    values[attribute][rows] = value
            of_points = torch.arange(len(rows))[:, None], faces
            if options.normals:
                fields["normals"][rows] = normals_of(batch.triangles[of_points]).half()
            if options.colours:
                fields["colours"][rows] = (batch.colours[of_points] * 255).round().to(torch.uint8)
            if options.joint:
                fields["parts"][rows] = of_part[batch.parts][faces]
    return TensorDict({**fields, "label": label}, batch_size=[count]), values


def _parts(classes: Sequence[str]) -> dict[str, int]:
    """The names of the parts that shapes of these classes can have, with their labels, which are 0, 1, .."""
    occur = torch.cat([parts_of(name) for name in classes]).unique()
    return {PARTS[part]: label for label, part in enumerate(occur.tolist())}


def meshes(options: FileOptions) -> Data:
    """A folder of meshes: OFF, OBJ, PLY, STL or GLB. Points are drawn uniformly from their surfaces.

    Raises `UserError` for `joint`, as surfaces have no labels of points.
    """
    if options.joint:
        raise UserError("`data.joint` parts: meshes have no labels of points; `data` shapes and clouds have them")
    return _from_files(options, read_mesh, MESH_ENDINGS, "meshes", CLOUD_ENDINGS, "clouds")


def clouds(options: FileOptions) -> Data:
    """A folder of clouds: PLY, PCD, NPY, NPZ, GLB, or text (XYZ, PTS, ASC, CSV, TXT)."""
    return _from_files(options, read_cloud, CLOUD_ENDINGS, "clouds", MESH_ENDINGS, "meshes")


def _from_files(
    options: FileOptions, read: Read, endings: frozenset[str], what: str, others: frozenset[str], other: str
) -> Data:
    pool = _pool(options)
    listing = listed(options, endings, what, others, other)
    account = listing.account()
    captions = listing.texts(account)
    train, labels, sources = read_all(listing.train, read, options, account, "train", pool)
    if not train:
        raise account.nothing_left()
    parts = _labels_of(train) if options.joint else {}
    examples, held_out, everything = _stacked(train, labels, options, pool, parts), None, list(train)
    examples = with_places(captions.added(examples, sources), sources, str(options.root))
    if listing.test is not None:
        tested, test_labels, sources = read_all(listing.test, read, options, account, "test", pool)
        everything += tested
        if len(tested) > 1:
            held_out = captions.added(_stacked(tested, test_labels, options, pool, parts), sources)
            held_out = with_places(held_out, sources, str(options.root))
    classes, examples, held_out = without_empty(listing.classes, examples, held_out, account)
    if listing.test is None:
        examples, held_out = split(examples, options.held_out)
    notes = [*listing.notes, *uneven(classes, examples, held_out), *_warnings(everything, labels, options, what)]
    ledger = account.ledger(options.skip_unreadable, **_about(examples, options))
    return Data(_facts(examples, classes, options, parts), examples, held_out, tuple(notes), ledger, captions.texts)


def _labels_of(clouds: Sequence[Cloud]) -> dict[str, int]:
    """The labels of the parts of clouds by their names, which are the labels. Raises `UserError` if they are many."""
    labels = sorted(
        {label for cloud in clouds if cloud.parts is not None for label in numpy.unique(cloud.parts).tolist()}
    )
    if len(labels) > MOST_PARTS:
        raise UserError(f"`data.joint` parts: {len(labels):,} different labels of points; at most {MOST_PARTS}")
    return {str(label): label for label in labels}


def _about(examples: TensorDict, options: CloudOptions) -> dict[str, str]:
    """Points and fields of clouds, in words."""
    fields = [name for name in ("normals", "colours", "parts") if name in examples.keys()]
    pool = examples["positions"].shape[1]
    return {"points": f"{options.points} of {pool} in each shape"} | ({"with": ", ".join(fields)} if fields else {})


def _pool(options: CloudOptions) -> int:
    pool = pool_of(options)
    if pool < options.points:
        raise UserError(f"`data.pool` {pool} must not be smaller than `data.points` {options.points}")
    return pool


def require_room(count: int, pool: int, options: CloudOptions) -> None:
    """Raise `UserError` if `count` pools of `pool` points do not fit into the memory of this machine."""
    needed = count * pool * (3 * (4 + 2 * options.normals + options.colours) + (options.joint == "parts"))
    if needed > memory():
        raise UserError(
            f"{count:,} shapes with {pool:,} points each need {needed / 1e9:.1f} GB, and this machine has "
            f"{memory() / 1e9:.1f} GB of memory: choose a smaller `data.pool`"
        )


def _warnings(everything: Sequence[Cloud], labels: Sequence[int], options: FileOptions, what: str) -> list[str]:
    """Notes about data that can be used but may give bad results; `labels` are those of the first clouds."""
    notes = []
    if options.normalise == "set":
        bounds = numpy.stack([cloud.bounds for cloud in everything])
        size = (bounds[:, 1] - bounds[:, 0]).max(1)
        if units := mixed_units(size[: len(labels)], labels, what):
            notes.append(units)
        elif size.max() > 1000 * size.min():
            notes.append(
                f"the longest side of the {what} is from {size.min():.3g} to {size.max():.3g}: if their units differ, "
                "set `data.normalise` to each, which scales each of them to the cube [-1, 1]"
            )
        distant = int((numpy.abs(bounds).max((1, 2)) > 1e4 * size).sum())
        if distant:
            notes.append(
                f"{distant} of {len(everything)} {what} are more than 10,000 times their size away from the origin, "
                "where float32 is inaccurate: set `data.normalise` to each, which moves each of them to the origin"
            )
    return notes


def _stacked(
    clouds: Sequence[Cloud], labels: Sequence[int], options: FileOptions, pool: int, parts: Mapping[str, int]
) -> TensorDict:
    """Pools of one size: the first points of larger clouds, and all points of smaller ones, some of them repeated.

    If some clouds are smaller, `count` is the number of points at the start of each pool to draw from. `parts` are the
    labels of the training clouds; `UserError` is raised for others.
    """
    require_room(len(clouds), pool, options)
    generator = numpy.random.default_rng(options.seed)
    counts = [min(pool, max(len(cloud.positions), options.points)) for cloud in clouds]
    pool = max(counts)
    fields: dict[str, list[Tensor]] = {"positions": []}
    for cloud in clouds:
        points = len(cloud.positions)
        index = numpy.arange(pool)
        index[points:] = generator.integers(points, size=max(0, pool - points))
        fields["positions"].append(torch.from_numpy(cloud.positions[index].astype(numpy.float32)))
        if options.normals and cloud.normals is not None:
            fields.setdefault("normals", []).append(torch.from_numpy(cloud.normals[index].astype(numpy.float16)))
        if options.colours and cloud.colours is not None:
            fields.setdefault("colours", []).append(torch.from_numpy(cloud.colours[index]))
        if options.joint and cloud.parts is not None:
            fields.setdefault("parts", []).append(torch.from_numpy(part_indices(cloud.parts[index], [*parts.values()])))
    stacked = {name: torch.stack(values) for name, values in fields.items()}
    stacked["label"] = torch.tensor(labels, dtype=torch.int64)
    if min(counts) < pool:
        stacked["count"] = torch.tensor(counts)
    return TensorDict(stacked, batch_size=[len(clouds)])


def part_indices(labels: NDArray[numpy.int64], known: Sequence[int]) -> NDArray[numpy.uint8]:
    """The places of labels among those that are `known`, which are sorted. Raises `UserError` for others."""
    places = numpy.searchsorted(known, labels).clip(max=len(known) - 1)
    if (strange := labels[numpy.array(known)[places] != labels]).size:
        raise UserError(f"a point with the label {strange[0]}, which no training cloud has")
    return places.astype(numpy.uint8)


def _facts(examples: TensorDict, classes: Sequence[str], options: CloudOptions, parts: Mapping[str, int]) -> CloudFacts:
    """The facts of the training clouds; `parts` are the labels of their parts by name."""
    centre, scale = moments(examples["positions"])
    more: dict[str, object] = {}
    if options.colours:
        mean, std = moments(examples["colours"])
        more = {"colour_mean": tuple((mean / 255).tolist()), "colour_std": max(std / 255, 0.01)}
    if parts:
        counts = torch.bincount(examples["parts"].flatten().int(), minlength=len(parts)).double()
        fractions = tuple((counts / counts.sum()).tolist())
        more |= {"parts": tuple(parts), "part_labels": tuple(parts.values()), "part_fractions": fractions}
    return CloudFacts(
        points=options.points,
        classes=tuple(classes),
        centre=tuple(centre.tolist()),
        scale=scale,
        normals=options.normals,
        colours=options.colours,
        up=options.up if isinstance(options, FileOptions) else "y",
        rotate=options.rotate,
        mirror=options.mirror,
        **options.enlarging,
        **more,
    )


def moments(values: Tensor) -> tuple[Tensor, float]:
    """Mean `[3]` of vectors `[N, P, 3]`, and one standard deviation of all coordinates about it, in float64."""
    number = values.shape[0] * values.shape[1]
    mean = torch.stack([part.double().sum((0, 1)) for part in values.split(500)]).sum(0) / number
    square = sum(((part.double() - mean) ** 2).sum().item() for part in values.split(500))
    return mean, (square / (3 * number)) ** 0.5
