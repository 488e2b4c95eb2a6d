"""Three-dimensional scenes of balls, points and sticks that can be rotated in a report, without a network connection.

An HTML fragment contains its scenes as data, and the script that draws them (`viewer.js`, on a 2D canvas), so it works
without other files. The script runs once even if a page has several fragments, and `once` removes its copies.
"""

import base64
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

import numpy

_SHORT = 32767
"""Positions are stored as 16-bit integers, with an error of at most 1.5e-5 of half the width of the scene."""


class Stick(NamedTuple):
    """A stick from point `start` to point `end`, of `lines` parallel lines. Each half has a colour of its own."""

    start: int
    end: int
    lines: int = 1
    colours: tuple[str, str] | None = None
    """The colours of the two halves; None for those of the points."""


@dataclass(frozen=True)
class Scene:
    """Points, drawn as shaded balls (without highlights if there are more than 1,000), and sticks between them.

    The first axis points to the right, the second up, and the third to the viewer. A scene is centred and scaled to its
    tile. Positions that are not finite are drawn at the origin. Raises `ValueError` if lengths do not match, a stick
    ends at a point that does not exist, or a colour is invalid.
    """

    points: numpy.ndarray
    """Positions `[n, 3]`, in any unit."""
    colours: str | Sequence[str]
    """`#rrggbb`, one for all points or one for each."""
    radii: float | Sequence[float]
    """In the unit of the positions, one for all points or one for each."""
    sticks: Sequence[Stick] = ()
    caption: str = ""
    thickness: float = 0.1
    """Radius of a single stick, in the unit of the positions."""

    def __post_init__(self) -> None:
        points = numpy.asarray(self.points)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points of a scene must have the shape [n, 3], not {list(points.shape)}")
        for name in ("colours", "radii"):
            values = getattr(self, name)
            if not isinstance(values, str | float | int) and len(values) != len(points):
                raise ValueError(f"{len(values)} {name} for {len(points)} points")
        colours = [self.colours] if isinstance(self.colours, str) else [*self.colours]
        for colour in {*colours, *(colour for stick in self.sticks for colour in stick.colours or ())}:
            if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
                raise ValueError(f"a colour of a scene must be #rrggbb, not {colour!r}")
        if any(not 0 <= end < len(points) for stick in self.sticks for end in stick[:2]):
            raise ValueError(f"a stick must end at one of the {len(points)} points")


def html(scenes: Sequence[Scene], columns: int) -> str:
    """An HTML fragment with a grid of scenes, `columns` per row.

    Dragging and the arrow keys rotate a scene; a double click and Home reset it. After a click on the scene, the mouse
    wheel zooms; before, it scrolls the page. `+` and `-` zoom too.
    """
    tiles = "".join(_tile(scene) for scene in scenes)
    return f'<div class="scenes" style="--columns:{max(1, min(columns, len(scenes)))}">{tiles}</div>{_ASSETS}'


def once(page: str) -> str:
    """A page of several fragments with only the first copy of the script."""
    before, script, after = page.partition(_ASSETS)
    return before + script + after.replace(_ASSETS, "")


def _tile(scene: Scene) -> str:
    data = escape(json.dumps(compact(scene), separators=(",", ":")))
    caption = escape(scene.caption)
    label = escape(f"{scene.caption or 'Scene'}: {len(scene.points)} points in 3D, arrow keys rotate")
    return (
        f'<figure><canvas role="img" tabindex="0" aria-label="{label}" data-scene="{data}"></canvas>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def compact(scene: Scene) -> dict[str, Any]:
    """A scene as JSON: positions as 16-bit integers in base64, and colours and radii as lists of different values."""
    points = numpy.nan_to_num(numpy.asarray(scene.points, dtype=numpy.float64), nan=0, posinf=0, neginf=0)
    if len(points):
        points = points - (points.max(0) + points.min(0)) / 2
    n, unit = len(points), float(numpy.abs(points).max(initial=0)) / _SHORT or 1.0
    return {
        "unit": unit,
        "points": _base64((points / unit).round(), "<i2"),
        "colours": _palette([scene.colours] * n if isinstance(scene.colours, str) else list(scene.colours)),
        "radii": _palette(
            [round(float(r), 4) for r in ([scene.radii] * n if isinstance(scene.radii, float | int) else scene.radii)]
        ),
        "sticks": [[*stick[:3], *(stick.colours or ())] for stick in scene.sticks],
        "thickness": scene.thickness,
    }


def _palette(values: Sequence[Hashable]) -> list[Any]:
    """The different values, and the index of the value of each point; empty if all have the same value."""
    different = {value: index for index, value in enumerate(dict.fromkeys(values))}
    if len(different) <= 1:
        return [list(different), ""]
    return [list(different), _base64([different[value] for value in values], "<u2")]


def _base64(values: Any, kind: str) -> str:
    return base64.b64encode(numpy.asarray(values).astype(kind).tobytes()).decode()


_STYLE = """
.scenes { display: grid; grid-template-columns: repeat(var(--columns), minmax(5rem, 1fr)); gap: .5rem;
  max-width: calc(var(--columns) * 36rem); overflow-x: auto; color: CanvasText; background: Canvas; }
.scenes figure { margin: 0; min-width: 0; }
.scenes canvas { display: block; width: 100%; aspect-ratio: 1; touch-action: pan-y; cursor: grab; border-radius: 4px; }
.scenes canvas:active { cursor: grabbing; }
.scenes canvas:focus-visible { outline: 2px solid #2563eb; outline-offset: -2px; }
.scenes figcaption { font-size: .7rem; line-height: 1.3; overflow-wrap: anywhere; text-align: center; }
"""
_SCRIPT = files("diffcore.evaluation").joinpath("viewer.js").read_text(encoding="utf-8")
_ASSETS = f"<style>{_STYLE}</style><script>\n{_SCRIPT}</script>"
