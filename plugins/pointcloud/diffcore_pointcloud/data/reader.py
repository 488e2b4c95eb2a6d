"""Clouds and meshes of the user's own, whole or in part, as states."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.folders import UnusableError
from diffcore.states.state import State, fields, map_fields
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data.clouds import CLOUD_ENDINGS, read_cloud
from diffcore_pointcloud.data.meshes import MESH_ENDINGS, read_mesh
from diffcore_pointcloud.data.sources import Cloud, Read, first_line
from diffcore_pointcloud.options import FileOptions

logger = logging.getLogger(__name__)

FARTHEST = 10.0
"""Points farther from the data's centre, in standard deviations of the data, are of another unit or place."""
SEED = 0
"""Decides which points are taken."""


class CloudReader:
    """Files to the states of a codec: PLY, XYZ, TXT, NPY and NPZ of points; OFF, OBJ, PLY, STL and GLB of faces.

    Faces are sampled evenly by area. Where there are more points than are needed, any are taken, as in training: if
    they were those farthest from each other, the cloud would be more even than all that the model has seen. The same
    file always gives the same points. Positions are in the data's unit.
    """

    def __init__(self, codec: CloudCodec) -> None:
        self.codec = codec

    def read(self, path: Path) -> State:
        """A whole cloud `[1, N, 3]` of the model's N points, in any order."""
        cloud, points = self._load(path), self.codec.facts.points
        if len(cloud.positions) < points:
            raise UserError(
                f"{path} has {len(cloud.positions)} points; this model's clouds have {points}: "
                f"a part of a cloud can be completed with `inpaint`"
            )
        if missing := [name for name in self.codec.fields if getattr(cloud, name) is None]:
            raise UserError(f"{path} has no {' and no '.join(missing)}, which this model's clouds have")
        return self._encode(path, cloud, points)[0]

    def read_part(self, path: Path) -> tuple[State, State]:
        """A partial cloud of M points: a state `[1, N, 3]` with them first and zeros after, and where it is known.

        All points are taken where they are at most 3 in 4 of the model's N, else N / 2 of them, so that there is room
        for what is missing. Normals and colours that the file lacks are not known either.
        """
        cloud, points = self._load(path), self.codec.facts.points
        given = len(cloud.positions)
        taken = given if 4 * given <= 3 * points else max(1, points // 2)
        if taken < given:
            logger.warning(
                f"{path}: {taken} of {given:,} points are taken as known and {points - taken} drawn; "
                f"all are taken of a file of at most {3 * points // 4}"
            )
        return self._encode(path, cloud, taken)

    def _load(self, path: Path) -> Cloud:
        ending, facts = path.suffix.lower(), self.codec.facts
        if ending not in CLOUD_ENDINGS | MESH_ENDINGS:
            raise UserError(f"{path}: clouds are read from {', '.join(sorted(CLOUD_ENDINGS | MESH_ENDINGS))}")
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        readers = [read for read, known in ((read_mesh, MESH_ENDINGS), (read_cloud, CLOUD_ENDINGS)) if ending in known]
        options = FileOptions(points=facts.points, normals=facts.normals, colours=facts.colours)
        try:
            return _first_of(readers, path, options)
        except UnusableError as error:
            raise UserError(f"{path}: {error}") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None
        except Exception as error:  # readers of damaged files fail in every way
            raise UserError(f"{path} cannot be read as {ending[1:].upper()}: {first_line(error)}") from None

    def _encode(self, path: Path, cloud: Cloud, taken: int) -> tuple[State, State]:
        """The first `taken` points, encoded, zeros where nothing is known, and where something is."""
        points = self.codec.facts.points
        examples, known = {"label": torch.zeros(1, dtype=torch.int64)}, {}
        for name in self.codec.fields:
            values = getattr(cloud, name)
            padded = numpy.zeros((1, points, 3), numpy.uint8 if name == "colours" else numpy.float64)
            if values is not None:
                padded[0, :taken] = values[:taken]
            examples[name] = torch.from_numpy(padded)
            there = (torch.arange(points) < taken) & (values is not None)
            known[name] = there[None, :, None].expand(1, -1, 3).clone()
        state = self.codec.encode(TensorDict(examples, batch_size=[1])).state
        mask = known["positions"] if isinstance(state, torch.Tensor) else TensorDict(known, batch_size=[1])
        state = map_fields(lambda value, there: torch.where(there, value, 0.0), state, mask)
        away = next(iter(fields(state).values())).norm(dim=-1).max().item()
        if away > FARTHEST:
            raise UserError(
                f"{path}: points lie {away:.3g} standard deviations of the data from its centre, "
                f"{self._place()}; give them in the data's unit"
            )
        return state, mask

    def _place(self) -> str:
        facts = self.codec.facts
        return f"({', '.join(f'{value:.3g}' for value in facts.centre)}) with a deviation of {facts.scale:.3g}"


def _first_of(readers: Sequence[Read], path: Path, options: FileOptions) -> Cloud:
    """What the first reader gives that can use the file: a PLY may have faces or not."""
    for read in readers[:-1]:
        with contextlib.suppress(UnusableError):
            return read(path, options, numpy.random.default_rng(SEED))
    return readers[-1](path, options, numpy.random.default_rng(SEED))
