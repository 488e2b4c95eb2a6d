"""Writes samples of joint states: the files of each side by its own writer, and pages that show the sides together."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from diffcore.plugins.building import part_of
from diffcore.plugins.joint.codec import JointCodec
from diffcore.plugins.joint.samples import of_side
from diffcore.plugins.output import Captions
from diffcore.plugins.records import lazy

_page = lazy("diffcore.evaluation")("page:page")


class JointWriter:
    """Writes a file of each side for each sample, `0001.SIDE.ENDING`, and HTML pages of several samples."""

    endings = (".html",)

    def __init__(self, codec: JointCodec) -> None:
        self._writers = {
            name: part_of(modality, "writer", codec.sides[name]) for name, modality in codec.modalities.items()
        }

    def each(self, samples: Any, folder: Path, names: Sequence[str], captions: Captions = ()) -> list[Path]:
        """Write the files of each sample. The paths are those of the first side."""
        paths: list[list[Path]] = []
        for side, writer in self._writers.items():
            own = [f"{name}.{side}" for name in names]
            paths.append(writer.each(of_side(samples, side), folder, own, captions))
        return paths[0]

    def together(self, samples: Any, path: Path, columns: int, captions: Captions = ()) -> None:
        """Write a page that shows all samples, and needs no network."""
        path.write_text(_page("Samples", [("", self.html(samples, columns, captions))]), errors="backslashreplace")

    def html(self, samples: Any, columns: int, captions: Captions = (), trajectories: bool = False) -> str:
        """Rows of samples, with each side in a line of its own.

        Captions are above the rows: writers may put samples of one caption together.
        """
        parts = []
        for start in range(0, len(samples), columns):
            row = samples[start : start + columns]
            words = [", ".join(caption.values()) for caption in captions[start : start + columns]]
            parts.append(f"<h3>{escape(' · '.join(words))}</h3>" if any(words) else "")
            for side, writer in self._writers.items():
                shown = writer.html(of_side(row, side), columns, (), trajectories)
                parts.append(f"<h4>{escape(side)}</h4>\n{shown}")
        return "\n".join(parts)
