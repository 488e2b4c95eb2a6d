"""Clouds to PLY, NPZ, GLB and pictures, and to the report."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy
from tensordict import TensorDict

from diffcore.evaluation import viewer
from diffcore.plugins.output import Captions
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.output.files import beside, write_glb, write_npz, write_ply
from diffcore_pointcloud.output.points import unbatched, upright
from diffcore_pointcloud.output.scenes import scene
from diffcore_pointcloud.output.turntable import embedded, sheet, strip, write_turning

_STRIPS = 12
"""Samples that are shown from all around too."""
_LARGEST_SHEET = 2048
"""Pixels of a sheet from left to right at most, where tiles are not too small."""


class CloudWriter:
    """Samples are a TensorDict of `positions` `[B, N, 3]` and perhaps `normals` and `colours`.

    They have no faces, so every file holds points. PLY and NPZ hold the samples as they are; in what is for looking at
    (pictures, GLB, the report) the data's upright axis is y and points whose coordinates are not finite are left out.
    """

    endings = (".png", ".npz", ".glb", ".ply", ".gif")

    def __init__(self, codec: CloudCodec) -> None:
        self._up = codec.facts.up

    def each(self, samples: TensorDict, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Each sample as a binary PLY; what was asked stands in its comments."""
        paths = [folder / f"{name}.ply" for name in names]
        for points, path, words in zip(unbatched(samples), paths, _words(samples, captions), strict=True):
            write_ply(points, path, _comments(words))
        return paths

    def together(self, samples: TensorDict, path: Path, columns: int, captions: Captions = ()) -> None:
        """All samples in one file.

        `.png` is a sheet of pictures and `.gif` the same going round; `.npz` holds arrays of all; `.glb` has
        clouds in rows of `columns`, and `.ply` all in one row along x. A lone one is where it is.
        """
        clouds, words = unbatched(samples), _words(samples, captions)
        shown = [upright(points, self._up) for points in clouds]
        legends = [_legend(one) for one in words]
        match path.suffix.lower():
            case ".npz":
                write_npz(clouds, path, captions)
            case ".glb":
                numbered = [" ".join(filter(None, [f"{k}", legend])) for k, legend in enumerate(legends, 1)]
                write_glb(shown, path, columns, numbered)
            case ".ply":
                write_ply(beside(clouds), path, _comments(words[0]) if len(words) == 1 else ())
            case ".gif":
                write_turning(shown, path, columns, legends)
            case _:
                side = _LARGEST_SHEET // max(1, min(columns, len(shown)))
                sheet(shown, columns, legends, max(128, min(384, side // 4 * 4))).save(path)

    def html(self, samples: TensorDict, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """Scenes that can be turned; below them, but not for `trajectories`, views from all around as pictures.

        The pictures serve where scripts are off and in print; there are those of the first 12. Samples are numbered,
        the same in both.
        """
        shown, words = [upright(points, self._up) for points in unbatched(samples)], _words(samples, captions)
        titles = [": ".join(filter(None, [f"{k}", _legend(one)])) for k, one in enumerate(words, 1)]
        scenes = viewer.html([scene(points, title) for points, title in zip(shown, titles, strict=True)], columns)
        if trajectories:
            return scenes
        tiles = "".join(
            f'<metric style="margin:0;font-size:.7rem;text-align:center"><img alt="{escape(title)}: views from all '
            f'around" src="{embedded(strip(points))}" style="width:100%;border-radius:4px">'
            f"<figcaption>{escape(title)}</figcaption></metric>"
            for points, title in zip(shown[:_STRIPS], titles[:_STRIPS], strict=True)
        )
        grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr));gap:.5rem"
        return (
            f"{scenes}<details open><summary>From all around: {min(len(shown), _STRIPS)} of {len(shown)}</summary>"
            f'<div style="{grid};margin-top:.5rem">{tiles}</div></details>'
        )

    def summary(self, samples: TensorDict, captions: Captions = ()) -> list[str]:
        """How many points samples have, how large their boxes are on average, and how many points are nowhere."""
        shown = unbatched(samples)
        finite = [points.finite.positions for points in shown]
        boxes = [numpy.ptp(positions.astype(numpy.float64), axis=0) for positions in finite if len(positions)]
        lines = [f"{len(shown)} clouds of {samples['positions'].shape[1]} points"]
        if boxes:
            means = " x ".join(f"{side:.3g}" for side in numpy.mean(boxes, 0))
            lines[0] += f", {means} on average (x, y, z, in the data's unit)"
        lost = sum(map(len, shown)) - sum(map(len, finite))
        if lost:
            held = sum(len(kept) < len(points) for kept, points in zip(finite, shown, strict=True))
            lines.append(f"{lost} points of {held} clouds have coordinates that are not finite")
        return lines


def _words(samples: TensorDict, captions: Captions) -> Sequence[Mapping[str, str]]:
    """What was asked of each sample."""
    if captions and len(captions) != samples.shape[0]:
        raise ValueError(f"words of {len(captions)} samples for {samples.shape[0]}")
    return captions or [{}] * samples.shape[0]


def _legend(words: Mapping[str, str]) -> str:
    """The words alone where one thing was asked, else with their names."""
    return (
        next(iter(words.values())) if len(words) == 1 else ", ".join(f"{name} {word}" for name, word in words.items())
    )


def _comments(words: Mapping[str, str]) -> list[str]:
    return [f"asked {name}: {word}" for name, word in words.items()]
