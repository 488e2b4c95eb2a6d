"""Writes clouds as PLY, NPZ, GLB, pictures, and HTML for the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy
from tensordict import TensorDict

from diffcore.evaluation import viewer
from diffcore.plugins.output import Batches, Captions
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.options import WritingOptions
from diffcore_pointcloud.output.files import write_glb, write_npz, write_ply, write_row
from diffcore_pointcloud.output.points import Points, unbatched, upright
from diffcore_pointcloud.output.scenes import scene
from diffcore_pointcloud.output.turntable import data_url, sheet, strip, write_animation

_STRIPS = 12
"""The number of samples that the report also shows from all sides."""
_MAX_SHEET_WIDTH = 2048
"""The largest width of a sheet in pixels, unless its tiles would become too small."""


def writer_of(codec: CloudCodec, options: WritingOptions) -> Any:
    """The writer of points, or of meshes if the options say so."""
    if not options.mesh:
        return CloudWriter(codec)
    from diffcore_pointcloud.output.meshes import MeshWriter  # it imports this module

    return MeshWriter(codec, options)


class CloudWriter:
    """Writes samples, a TensorDict of `positions` `[B, N, 3]` and optional `normals`, `colours` and labels `parts`.

    Samples have no faces, so all files contain points. PLY and NPZ contain the samples unchanged. In pictures, GLB and
    the report, which are for viewing, the data's upright axis becomes y, and points that are not finite are left out.
    """

    endings = (".png", ".npz", ".glb", ".ply", ".gif")
    streams = (".npz", ".ply")

    def __init__(self, codec: CloudCodec) -> None:
        self._up = codec.facts.up
        self._parts = dict(zip(codec.facts.part_labels, codec.facts.parts, strict=True))

    def each(self, samples: TensorDict, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write each sample as a binary PLY file, with its conditions as comments."""
        paths = [folder / f"{name}.ply" for name in names]
        for points, path, caption in zip(unbatched(samples), paths, captions_of(samples, captions), strict=True):
            write_ply(points, path, [*_comments(caption), *self._names()])
        return paths

    def _names(self) -> list[str]:
        """The names of the labels of parts, as comments of a PLY file."""
        return [f"label {label}: {name}" for label, name in self._parts.items() if f"{label}" != name]

    def together(self, samples: TensorDict, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write all samples into one file.

        `.png` is a sheet of pictures, and `.gif` a sheet that rotates. `.npz` has arrays of all samples. `.glb` has the
        clouds in rows of `columns`, and `.ply` all clouds in one row along x; a single cloud is not moved.
        """
        clouds, captions = unbatched(samples), captions_of(samples, captions)
        shown = [upright(points, self._up) for points in clouds]
        legends = [legend(caption) for caption in captions]
        match path.suffix.lower():
            case ".npz" | ".ply":
                self.stream([(samples, captions)], path)
            case ".glb":
                numbered = [" ".join(filter(None, [f"{k}", legend])) for k, legend in enumerate(legends, 1)]
                write_glb(shown, path, columns, numbered)
            case ".gif":
                write_animation(shown, path, columns, legends)
            case _:
                sheet(shown, columns, legends, tile_side(columns, len(shown))).save(path)

    def stream(self, batches: Batches, path: Path) -> None:
        """Write any number of samples into an `.npz` or `.ply` file, batch by batch, as `together` does."""
        clouds = _Clouds(batches)
        asked = [caption for samples, captions in batches for caption in captions_of(samples, captions)]
        if path.suffix.lower() == ".npz":
            write_npz(clouds, path, asked)
        else:
            write_row(clouds, path, [*(_comments(asked[0]) if len(asked) == 1 else ()), *self._names()])

    def html(self, samples: TensorDict, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """Interactive scenes, and below them pictures of the first 12 samples from all sides, with the same numbers.

        The pictures are for print and for browsers without scripts; `trajectories` have none.
        """
        shown = [upright(points, self._up) for points in unbatched(samples)]
        legends = [legend(caption) for caption in captions_of(samples, captions)]
        numbers = [f"{k}" if len(shown) > 1 else "" for k in range(1, len(shown) + 1)]
        titles = [": ".join(filter(None, each)) for each in zip(numbers, legends, strict=True)]
        scenes = viewer.html([scene(points, title) for points, title in zip(shown, titles, strict=True)], columns)
        if trajectories:
            return scenes
        tiles = "".join(
            f'<figure style="margin:0;font-size:.7rem;text-align:center"><img alt="{escape(title)}: views from all '
            f'sides" src="{data_url(strip(points))}" style="width:100%;border-radius:4px">'
            f"<figcaption>{escape(title)}</figcaption></figure>"
            for points, title in zip(shown[:_STRIPS], titles[:_STRIPS], strict=True)
        )
        grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr));gap:.5rem"
        return (
            f"{scenes}<details open><summary>From all sides: {min(len(shown), _STRIPS)} of {len(shown)}</summary>"
            f'<div style="{grid};margin-top:.5rem">{tiles}</div></details>'
        )

    def summary(self, samples: TensorDict, captions: Captions = ()) -> list[str]:
        """The number of points of the samples, the mean size of their boxes, their parts, and points not finite."""
        shown = unbatched(samples)
        finite = [points.finite.positions for points in shown]
        boxes = [numpy.ptp(positions.astype(numpy.float64), axis=0) for positions in finite if len(positions)]
        lines = [f"{len(shown)} clouds of {samples['positions'].shape[1]} points"]
        if boxes:
            means = " x ".join(f"{side:.3g}" for side in numpy.mean(boxes, 0))
            lines[0] += f", {means} on average (x, y, z, in the data's unit)"
        if self._parts:
            shares = [(samples["parts"] == label).double().mean().item() for label in self._parts]
            each = zip(self._parts.values(), shares, strict=True)
            lines.append("parts: " + ", ".join(f"{name} {share:.0%}" for name, share in each if share > 0))
        not_finite = sum(map(len, shown)) - sum(map(len, finite))
        if not_finite:
            affected = sum(len(kept) < len(points) for kept, points in zip(finite, shown, strict=True))
            lines.append(f"{not_finite} points of {affected} clouds have coordinates that are not finite")
        return lines


@dataclass(frozen=True, eq=False)
class _Clouds:
    """The clouds of batches one after another, which are decoded anew each time they are iterated."""

    batches: Batches

    def __iter__(self) -> Iterator[Points]:
        return (points for samples, _ in self.batches for points in unbatched(samples))


def tile_side(columns: int, count: int) -> int:
    """The side of each tile of a sheet of `count` tiles in pixels."""
    side = _MAX_SHEET_WIDTH // max(1, min(columns, count))
    return max(128, min(384, side // 4 * 4))


def captions_of(samples: TensorDict, captions: Captions) -> Sequence[Mapping[str, str]]:
    """The caption of each sample; empty ones if there are none."""
    if captions and len(captions) != samples.shape[0]:
        raise ValueError(f"there are {len(captions)} captions for {samples.shape[0]} samples")
    return captions or [{}] * samples.shape[0]


def legend(caption: Mapping[str, str]) -> str:
    """The value alone for one condition, else names and values."""
    if len(caption) == 1:
        return next(iter(caption.values()))
    return ", ".join(f"{name} {value}" for name, value in caption.items())


def _comments(caption: Mapping[str, str]) -> list[str]:
    return [f"asked {name}: {value}" for name, value in caption.items()]
