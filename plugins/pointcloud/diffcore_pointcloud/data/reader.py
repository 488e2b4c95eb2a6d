"""Reads clouds and meshes of the user, complete or partial, as states."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from scipy.optimize import linear_sum_assignment
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.output import Edit, Side
from diffcore.sampling.inverse.unplaced import Unplaced
from diffcore.states.state import State, concatenate, fields, map_fields
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data.clouds import CLOUD_ENDINGS, read_cloud
from diffcore_pointcloud.data.datasets import part_indices
from diffcore_pointcloud.data.meshes import MESH_ENDINGS, shapes_in, surface_of
from diffcore_pointcloud.data.sources import Cloud
from diffcore_pointcloud.data.units import ratio_of_units
from diffcore_pointcloud.formats.content import READ_ERRORS, reason
from diffcore_pointcloud.options import FileOptions
from diffcore_pointcloud.placed import PlacedCodec

logger = logging.getLogger(__name__)

MAX_DISTANCE = 10.0
"""The largest distance of a point from the data's centre, in standard deviations; beyond it the unit must be wrong."""
USUAL, UNUSUAL = 4.0, 2.5
"""The usual longest side of a shape in standard deviations, and the factor beyond which a file is noticed."""
SEED = 0
"""The seed of the choice of points."""


class CloudReader:
    """Reads files as states of a codec: clouds and meshes, of all formats that the data sets read.

    Points are drawn uniformly from the surface of meshes. If a file has more points than needed, random ones are taken,
    as in training: farthest point sampling would give clouds that are more uniform than any training cloud. The same
    file always gives the same points. Positions must be in the unit of the data.
    """

    endings = tuple(sorted(CLOUD_ENDINGS | MESH_ENDINGS))

    def __init__(self, codec: CloudCodec, of: str = "clouds of this model have") -> None:
        """The reader of clouds of the codec; `of` says, before a number of points, which these are."""
        self.codec = codec
        self._of = of

    def read(self, path: Path) -> State:
        """A complete cloud `[1, N, 3]` of the model's N points, in random order.

        Raises `UserError` if the file cannot be read, has fewer points, or lacks the model's normals or colours.
        """
        cloud, points = self._load(path), self.codec.facts.points
        self._require_whole(path, cloud, "use `inpaint` to complete a partial cloud")
        return self._encode(path, cloud, points)[0]

    def read_samples(self, path: Path) -> TensorDict:
        """All clouds of a file, each with the model's N points, in random order, with its normals, colours and labels.

        Raises `UserError` if the file cannot be read, or if a cloud has fewer points, or lacks one of these.
        """
        clouds, points = self._all(path), self.codec.facts.points
        for cloud in clouds:
            self._require_whole(path, cloud, "judge clouds of as many points")
        kinds = {"positions": numpy.float32, "normals": numpy.float32, "colours": numpy.uint8, "parts": numpy.int64}
        each = {
            name: numpy.stack([getattr(cloud, name)[:points] for cloud in clouds]).astype(kinds[name])
            for name in self.codec.fields
        }
        return TensorDict({name: torch.from_numpy(values) for name, values in each.items()}, batch_size=[len(clouds)])

    def _require_whole(self, path: Path, cloud: Cloud, advice: str) -> None:
        """Raise `UserError` if a cloud has too few points, or lacks normals, colours or labels that the model has."""
        points = self.codec.facts.points
        if len(cloud.positions) < points:
            raise UserError(f"{path} has {len(cloud.positions)} points, but {self._of} {points}: {advice}")
        self._require(path, cloud, self.codec.fields)

    def _require(self, path: Path, cloud: Cloud, names: Sequence[str]) -> None:
        """Raise `UserError` if a cloud lacks one of these fields."""
        words = {"parts": "labels of points"}
        if missing := [words.get(name, name) for name in names if getattr(cloud, name) is None]:
            raise UserError(f"{path} has no {' and no '.join(missing)}, which clouds of this model have")

    def read_side(self, name: str, path: Path) -> Side:
        """The side `name` of all clouds of a file: their shape, or the parts of their points.

        Shapes are whole clouds of the model's N points, or meshes. Of the labels of a cloud, N random ones are taken,
        some of them several times if it has fewer. Raises `UserError` for a file without labels, or of too few points.
        """
        points, each = self.codec.facts.points, []
        for cloud in self._all(path):
            if name == "parts":
                self._require(path, cloud, ("parts",))
                parts = _indices(path, cloud.parts, self.codec.facts.part_labels)  # type: ignore[arg-type]
                rows = numpy.arange(points) % len(parts)
                each.append({"parts": self.codec.encoded_parts(torch.from_numpy(parts[None, rows]))})
                continue
            self._require(path, cloud, self.codec.joint["shape"])
            cloud = replace(cloud, parts=None)
            if len(cloud.positions) < points:
                raise UserError(f"{path} has {len(cloud.positions)} points, but {self._of} {points}")
            state = fields(self._encode(path, cloud, points)[0])
            each.append({field: state[field] for field in self.codec.joint["shape"]})
        return Side({field: torch.cat([one[field] for one in each]) for field in each[0]})

    def read_pair(self, first: Path, second: Path) -> tuple[State, State, None]:
        """Two complete clouds; the points of the second are in the order in which they are nearest to the first.

        The order has the least sum of squared distances between points of the same number, an optimal assignment.
        """
        start, end = self.read(first), self.read(second)
        here, there = (next(iter(fields(cloud).values()))[0].double() for cloud in (start, end))
        order = torch.from_numpy(linear_sum_assignment(torch.cdist(here, there).square().numpy())[1])
        return start, map_fields(lambda value: value[:, order], end), None

    def read_part(self, path: Path) -> tuple[State, State]:
        """A partial cloud as a state `[1, N, 3]`, whose first M points are known and the others zero, and its mask.

        The known points have the order of the file, so what a user knows of row k holds of point k. The mask is True
        for known entries. All points of the file are used if they are at most 3/4 of the model's N, else N / 2 of them,
        which leaves room for the missing part. Normals and colours that the file does not have are not known. Raises
        `UserError` if the file cannot be read.
        """
        cloud = self._part(path)
        return self._encode(path, cloud, len(cloud.positions))

    def read_unplaced(self, path: Path) -> Edit:
        """A partial cloud whose place and size in the whole are not known, otherwise read as by `read_part`.

        Its known points p are s p + t in a state, with a number s > 0 and a vector t that are drawn. Samples are
        decoded in the frame of the file. Raises `UserError` for a file whose points all lie at one place.
        """
        cloud = self._part(path)
        positions = cloud.positions.astype(numpy.float64)
        centred = positions - positions.mean(0)
        spread = float(numpy.sqrt(numpy.square(centred).mean()))
        if not spread > 0:
            raise UserError(f"{path}: all points lie at one place, so they have no size to be drawn")
        facts = self.codec.facts
        usual = centred / spread * facts.scale + numpy.array(facts.centre)
        state, known = self._encode(path, replace(cloud, positions=usual), len(positions))
        shape = _only_positions(state, torch.from_numpy(centred / spread))
        shifts = [_only_positions(state, row.expand(len(positions), 3)) for row in torch.eye(3)]
        codec = PlacedCodec(self.codec, torch.from_numpy(positions))
        part = Unplaced(shape, concatenate(shifts))
        return Edit(state, known, codec, codec.recipe, unplaced=part, agreement="upright", settled=codec.upright)

    def _part(self, path: Path) -> Cloud:
        """The points of a file that are known, in their order: all of them, or half as many as the model has."""
        cloud, points = self._load(path), self.codec.facts.points
        count = len(cloud.positions)
        used = count if 4 * count <= 3 * points else max(1, points // 2)
        if used < count:
            logger.warning(
                f"{path}: {used} of {count:,} points are used as known points, and {points - used} are generated; "
                f"all points of a file are used if it has at most {3 * points // 4}"
            )
        return cloud.in_order(used)

    def _load(self, path: Path) -> Cloud:
        clouds = self._all(path)
        if len(clouds) != 1:
            raise UserError(
                f"{path} has {len(clouds)} clouds; give a file with one, such as one of the PLY files that are "
                "written for each sample into a folder"
            )
        return clouds[0]

    def _all(self, path: Path) -> list[Cloud]:
        ending, facts = path.suffix.lower(), self.codec.facts
        if ending not in CLOUD_ENDINGS | MESH_ENDINGS:
            listed = ", ".join(sorted(CLOUD_ENDINGS | MESH_ENDINGS))
            raise UserError(f"{path}: files of point clouds must end in {listed}")
        if not path.exists():
            raise UserError(f"{path}: there is no such file")
        options = FileOptions(
            points=facts.points,
            normals=facts.normals,
            colours=facts.colours,
            joint="parts" if facts.parts else None,
            up=facts.up,
        )
        try:
            clouds = _clouds_in(path, options)
        except READ_ERRORS as error:
            raise UserError(f"{path} cannot be used: {reason(error)}") from None
        for note in dict.fromkeys(cloud.note for cloud in clouds if cloud.note):
            logger.warning(f"{path}: {note}")
        return clouds

    def _padded(self, path: Path, name: str, cloud: Cloud, used: int) -> torch.Tensor:
        """A field of the first `used` points, as examples have it, `[1, P, ...]`; zero where it is not known."""
        values, facts = getattr(cloud, name), self.codec.facts
        kind = {"colours": numpy.uint8, "parts": numpy.uint8}.get(name, numpy.float64)
        padded = numpy.zeros((1, facts.points) if name == "parts" else (1, facts.points, 3), kind)
        if values is not None:
            if name == "parts":
                values = _indices(path, values, facts.part_labels)
            padded[0, :used] = values[:used]
        return torch.from_numpy(padded)

    @numpy.errstate(all="ignore")
    def _encode(self, path: Path, cloud: Cloud, used: int) -> tuple[State, State]:
        """The encoded state of the first `used` points, zero where it is not known, and the mask of known entries."""
        points = self.codec.facts.points
        examples, known = {"label": torch.zeros(1, dtype=torch.int64)}, {}
        for name, space in fields(self.codec.space.empty(1)).items():
            name = name or "positions"
            examples[name], width = self._padded(path, name, cloud, used), space.shape[-1]
            is_known = (torch.arange(points) < used) & (getattr(cloud, name) is not None)
            known[name] = is_known[None, :, None].expand(1, -1, width).clone()
        state = self.codec.encode(TensorDict(examples, batch_size=[1])).state
        mask = known["positions"] if isinstance(state, torch.Tensor) else TensorDict(known, batch_size=[1])
        state = map_fields(lambda value, is_known: torch.where(is_known, value, 0.0), state, mask)
        positions = next(iter(fields(state).values()))
        distance = positions.norm(dim=-1).max().item()
        ratio = float((cloud.bounds[1] - cloud.bounds[0]).max()) / (USUAL * self.codec.facts.scale)
        like = _like(ratio)
        if distance > MAX_DISTANCE:
            centre = ", ".join(f"{value:.3g}" for value in self.codec.facts.centre)
            raise UserError(
                f"{path}: points are up to {distance:.3g} standard deviations away from the centre of the data, "
                f"({centre}), with a standard deviation of {self.codec.facts.scale:.3g}; convert them to its unit{like}"
            )
        if ratio > 0 and not 1 / UNUSUAL < ratio < UNUSUAL:
            logger.warning(
                f"{path}: the longest side is about {ratio:.3g} times that of usual shapes of the data{like}; if its "
                "unit differs from that of the data, convert it"
            )
        return state, mask


def _indices(path: Path, labels: numpy.ndarray, known: Sequence[int]) -> numpy.ndarray:
    """`part_indices` of the labels in a file; the error says in which."""
    try:
        return part_indices(labels, known)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _only_positions(like: State, positions: torch.Tensor) -> State:
    """A state `[1, N, 3]` with these positions of the first points, and with zeros elsewhere."""
    values = map_fields(torch.zeros_like, like)
    next(iter(fields(values).values()))[0, : len(positions)] = positions.to(torch.float32)
    return values


def _like(ratio: float) -> str:
    """Which units have this ratio, for a message; empty if none have."""
    if not ratio > 0:
        return ""
    units = ratio_of_units(ratio) if ratio > 1 else " to ".join(ratio_of_units(1 / ratio).split(" to ")[::-1])
    return f" (like {units})" if units else ""


def _clouds_in(path: Path, options: FileOptions) -> list[Cloud]:
    """The clouds in a file, or the surface of its meshes if it has faces."""
    generator = numpy.random.default_rng(SEED)
    if path.suffix.lower() not in MESH_ENDINGS:
        return read_cloud(path, options, generator)
    meshes = [shape for shape in shapes_in(path, options.colours) if len(shape.faces)]
    if meshes or path.suffix.lower() not in CLOUD_ENDINGS:
        return [surface_of(meshes, options, generator)]
    return read_cloud(path, options, generator)
