"""Generates furniture, aeroplanes and solids from parts in random proportions, as triangles, and points on them.

Every part is a loft: a surface through cross-sections. All shapes of a class have the same triangles with different
corners; triangles of absent parts have zero area. So thousands of shapes can be generated and sampled at once. y is up,
the front faces +z, and the longest side of each shape's bounding box extends from -1 to 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Number = Tensor | float

Section = tuple[tuple[Number, Number, Number], Number, Number]
"""A cross-section of a part: its centre, and its half extents along the two other axes in cyclic order."""


PARTS = (
    *("seat", "back", "arm", "leg", "top", "apron", "shelf", "foot", "pole", "belly", "shade"),
    *("fuselage", "wing", "tail", "engine", "solid"),
)
"""The names of the parts of all classes. A part of the same name, such as a leg, may belong to several classes."""


@dataclass(frozen=True)
class Surface:
    """`triangles` `[S, F, 3, 3]` of S shapes, counterclockwise from outside, and `colours` `[S, F, 3]` from 0 to 1.

    `parts` are the parts that the triangles belong to, int64 `[F]`, as indices of `PARTS`.

    `parameters` are numbers of the shapes that can be described in words, float `[S]` by name; nan where a shape has no
    such thing. Lengths are those of the fitted shapes:

    * `legs`: the number of legs; 1 is a column, 2 are the panels of a trestle.
    * `thickness`: the root mean square distance of the surface of a leg from its axis, at its middle.
    * `height`: the height, divided by the longest horizontal side.
    * `round`: whether a top is round.
    * `arms`: whether a seat has arms.
    """

    triangles: Tensor
    colours: Tensor
    parts: Tensor
    parameters: Mapping[str, Tensor]


def surface(name: str, shapes: int, generator: torch.Generator) -> Surface:
    """Random shapes of the class `name`, each fitted to the cube [-1, 1]."""
    parts = _Parts(shapes, generator)
    _CLASSES[name](parts)
    return parts.joined()


def parts_of(name: str) -> Tensor:
    """The parts that shapes of the class `name` can have, as indices of `PARTS`."""
    return surface(name, 1, torch.Generator().manual_seed(0)).parts.unique()


def points_on(triangles: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points `[S, count, 3]` drawn uniformly from triangles `[S, F, 3, 3]`, and the index of their triangle.

    The indices are `[S, count]`. For uniform u and v, (1 - sqrt(u)) a + sqrt(u) (1 - v) b + sqrt(u) v c is uniform in
    the triangle a, b, c (Osada et al. 2002, Shape distributions, eq. 1).
    """
    shapes = len(triangles)
    cumulative = _area_vectors(triangles).norm(dim=-1).double().cumsum(1)
    drawn = torch.rand(shapes, count, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
    # Of equal sums the last one is taken, so triangles with zero area are never drawn.
    faces = torch.searchsorted(cumulative, drawn, right=True).clamp(max=triangles.shape[1] - 1)
    rows = torch.arange(shapes)[:, None]
    a, b, c = triangles[rows, faces].unbind(2)
    u, v = torch.rand(2, shapes, count, 1, generator=generator, dtype=triangles.dtype)
    root = u.sqrt()
    return a + root * ((b - a) + v * (c - b)), faces


def normals_of(triangles: Tensor) -> Tensor:
    """Outward unit normals `[..., 3]` of triangles `[..., 3, 3]`; zero for triangles of zero area."""
    return torch.nn.functional.normalize(_area_vectors(triangles), dim=-1, eps=1e-30)


def _area_vectors(triangles: Tensor) -> Tensor:
    """Normal vectors whose length is twice the area."""
    a, b, c = triangles.unbind(-2)
    return torch.linalg.cross(b - a, c - a)


# Parts


def loft(centres: Tensor, halves: Tensor, axis: int, sides: int = 4) -> Tensor:
    """The surface `[S, F, 3, 3]` through K cross-sections perpendicular to an axis.

    `centres` `[S, K, 3]` must increase along the axis, so that normals point outward. `halves` `[S, K, 2]` are the half
    extents along the two following axes in cyclic order. Sections are rectangles if there are 4 `sides`, else polygons
    in ellipses. A section of zero extent closes the end.
    """
    if sides == 4:
        outline = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    else:
        angle = torch.arange(sides) * (2 * math.pi / sides)
        outline = torch.stack([angle.cos(), angle.sin()], 1)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rings = centres[:, :, None].repeat(1, 1, sides, 1)
    rings[..., first] += halves[:, :, None, 0] * outline[:, 0]
    rings[..., second] += halves[:, :, None, 1] * outline[:, 1]
    low, high = rings[:, :-1], rings[:, 1:]
    low_next, high_next = low.roll(-1, 2), high.roll(-1, 2)
    quads = torch.stack([low, low_next, high_next, low, high_next, high], 3)
    return quads.reshape(len(centres), -1, 3, 3)


def mirrored(triangles: Tensor, axis: int = 0) -> Tensor:
    """The mirror image along an axis, with normals that point outward."""
    flip = torch.ones(3)
    flip[axis] = -1
    return (triangles * flip).flip(2)


SQUARE = 2 / math.sqrt(3)
"""The root mean square distance of the sides of a square from its centre, as a multiple of half a side."""


@dataclass
class _Parts:
    """Collects the parts of a batch of shapes, and draws their random numbers."""

    shapes: int
    generator: torch.Generator
    triangles: list[Tensor] = field(default_factory=list)
    present: list[Tensor] = field(default_factory=list)
    colours: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    notes: dict[str, Tensor] = field(default_factory=dict)

    def between(self, low: float, high: float) -> Tensor:
        """Uniform random numbers `[S]`."""
        return low + (high - low) * torch.rand(self.shapes, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """Random booleans `[S]`."""
        return torch.rand(self.shapes, generator=self.generator) < probability

    def choice(self, weights: Sequence[float]) -> Tensor:
        """Random indices `[S]` with probabilities in proportion to `weights`."""
        cumulative = torch.tensor(weights).cumsum(0)
        return torch.searchsorted(cumulative / cumulative[-1], self.between(0, 1)).clamp(max=len(weights) - 1)

    def colour(self) -> Tensor:
        """A random colour for each shape `[S, 3]`."""
        return torch.rand(self.shapes, 3, generator=self.generator)

    def vector(self, *numbers: Number) -> Tensor:
        """`[S, n]` from n tensors `[S]`, or numbers that are the same for all shapes."""
        return torch.stack([torch.as_tensor(n, dtype=torch.float32).expand(self.shapes) for n in numbers], 1)

    def add(self, part: str, triangles: Tensor, colour: Tensor, present: Tensor | None = None) -> None:
        """Add a piece of a part of `PARTS` with a colour `[S, 3]` to the shapes in which it is `present` `[S]`."""
        self.parts.append(torch.full((triangles.shape[1],), PARTS.index(part)))
        self.triangles.append(triangles)
        self.colours.append(colour[:, None].expand(-1, triangles.shape[1], -1))
        mask = torch.ones(self.shapes, dtype=torch.bool) if present is None else present
        self.present.append(mask[:, None].expand(-1, triangles.shape[1]))

    def pairs(self, part: str, triangles: Tensor, colour: Tensor, present: Tensor | None = None, axis: int = 0) -> None:
        """Add a piece of a part and its mirror image."""
        self.add(part, triangles, colour, present)
        self.add(part, mirrored(triangles, axis), colour, present)

    def stack(
        self,
        sections: Sequence[Section],
        axis: int,
        sides: int = 4,
        closed: bool = True,
    ) -> Tensor:
        """A loft through sections, closed at both ends if `closed`."""
        centres = torch.stack([self.vector(*centre) for centre, _, _ in sections], 1)
        halves = torch.stack([self.vector(first, second) for _, first, second in sections], 1)
        if closed:
            centres = torch.cat([centres[:, :1], centres, centres[:, -1:]], 1)
            halves = torch.nn.functional.pad(halves, (0, 0, 1, 1))
        return loft(centres, halves, axis, sides)

    def box(self, x: tuple[Number, Number], y: tuple[Number, Number], z: tuple[Number, Number]) -> Tensor:
        """A box with lower and upper limits along each axis."""
        middle_x, middle_z = (x[0] + x[1]) / 2, (z[0] + z[1]) / 2
        half_z, half_x = (z[1] - z[0]) / 2, (x[1] - x[0]) / 2
        ends: list[Section] = [((middle_x, level, middle_z), half_z, half_x) for level in y]
        return self.stack(ends, axis=1)

    def note(self, **parameters: Tensor) -> None:
        """Remember parameters `[S]` of the shapes; `thickness` in the unit of the parts."""
        self.notes |= {name: value.float() for name, value in parameters.items()}

    def joined(self) -> Surface:
        """All parts, fitted to the cube. The triangles of absent parts are shrunk to a point of the shape."""
        triangles, present = torch.cat(self.triangles, 1), torch.cat(self.present, 1)
        triangles = torch.where(present[..., None, None], triangles, triangles[:, :1, :1])
        corners = triangles.flatten(1, 2)
        low, high = corners.amin(1), corners.amax(1)
        centre, half = (low + high) / 2, (high - low).amax(1) / 2
        triangles = (triangles - centre[:, None, None]) / half[:, None, None, None]
        notes = {"height": (high - low)[:, 1] / torch.maximum((high - low)[:, 0], (high - low)[:, 2]), **self.notes}
        if "thickness" in notes:
            notes["thickness"] = notes["thickness"] / half
        return Surface(triangles, torch.cat(self.colours, 1), torch.cat(self.parts), notes)


# Classes


def _chair(parts: _Parts) -> None:
    """A seat, a back (solid, of vertical slats or of horizontal rungs), four legs or a pedestal, and sometimes arms."""
    wood, cloth = parts.colour(), parts.colour()
    half_width, half_depth = parts.between(0.2, 0.32), parts.between(0.2, 0.28)
    seat, thickness = parts.between(0.38, 0.5), parts.between(0.03, 0.1)
    narrow = parts.between(0.75, 1)  # width of the seat's rear, relative to its front
    under = seat - thickness
    # For the axis z, the cyclic order of the other axes is x, y.
    ends: list[Section] = [
        ((0, seat - thickness / 2, -half_depth), half_width * narrow, thickness / 2),
        ((0, seat - thickness / 2, half_depth), half_width, thickness / 2),
    ]
    parts.add("seat", parts.stack(ends, axis=2), cloth)

    # The back leans away from the seat.
    tall, lean, deep = parts.between(0.35, 0.65), parts.between(0, 0.14), parts.between(0.015, 0.03)
    half_back = half_width * narrow * parts.between(0.85, 1)
    kind = parts.choice((0.4, 0.3, 0.3))

    def behind(level: Number) -> Number:
        """z of the middle of the back at a level, a fraction of its height."""
        return -half_depth + deep - lean * level

    def plank(x: Number, half: Number, low: Number, high: Number) -> Tensor:
        """A piece of the back between two levels."""
        ends: list[Section] = [((x, seat + tall * level, behind(level)), deep, half) for level in (low, high)]
        return parts.stack(ends, axis=1)

    post, gap = parts.between(0.015, 0.028), parts.between(0, 0.3)
    parts.add("back", plank(0, half_back, gap, 1.0), cloth, kind == 0)
    parts.pairs("back", plank(half_back * 0.6, post, 0.0, gap), wood, kind == 0)
    parts.pairs("back", plank(half_back - post, post, 0.0, 1.0), wood, kind > 0)
    inner = half_back - 2 * post
    rail = parts.between(0.1, 0.25)
    parts.add("back", plank(0, inner, 1 - rail, 1.0), wood, kind > 0)
    slats = torch.randint(2, 6, (parts.shapes,), generator=parts.generator)
    slim = parts.between(0.2, 0.35)
    for index in range(5):
        step = 2 * inner / slats
        parts.add(
            "back",
            plank(-inner + step * (index + 0.5), step * slim, 0.0, 1 - rail),
            wood,
            (kind == 1) & (index < slats),
        )
    for index in range(3):
        low = (1 - rail) * (index + 0.5) / 3
        parts.add("back", plank(0, inner, low, low + 0.1), wood, (kind == 2) & (index < slats - 1))

    # Legs are below the corners and splay outwards towards the floor.
    pedestal = parts.chance(0.25)
    thick, taper, splay = parts.between(0.018, 0.035), parts.between(0.5, 1), parts.between(0, 0.06)
    round_legs = parts.chance(0.4)
    for front in (True, False):
        x = half_width * (1 if front else narrow) - thick
        z = (half_depth - thick) * (1 if front else -1)
        splay_z = splay * (1 if front else -1)
        ends = [((x + splay, 0, z + splay_z), thick * taper, thick * taper), ((x, under, z), thick, thick)]
        parts.pairs("leg", parts.stack(ends, axis=1), wood, ~pedestal & ~round_legs)
        parts.pairs("leg", parts.stack(ends, axis=1, sides=10), wood, ~pedestal & round_legs)
    column, foot, low = parts.between(0.025, 0.05), parts.between(0.2, 0.28), parts.between(0.02, 0.04)
    _pedestal(parts, wood, (column, foot, low, under), pedestal)

    wide = torch.where(round_legs, 1, SQUARE) * thick * (1 + taper) / 2
    parts.note(legs=torch.where(pedestal, 1, 4), thickness=torch.where(pedestal, column, wide))

    arms, rise, wide = parts.chance(0.35), parts.between(0.17, 0.25), parts.between(0.02, 0.035)
    parts.note(arms=arms)
    reach = half_depth * parts.between(0.5, 0.95)
    x = half_width * (1 + narrow) / 2  # the sides are slanted; arms are straight, above the middle of a side
    rest = parts.box((x - wide, x + wide), (seat + rise, seat + rise + 0.03), (-half_depth + deep, reach))
    parts.pairs("arm", rest, wood, arms)
    support = parts.box((x - 0.7 * wide, x + 0.7 * wide), (seat - thickness, seat + rise), (reach - 0.06, reach - 0.01))
    parts.pairs("arm", support, wood, arms)


def _pedestal(
    parts: _Parts,
    colour: Tensor,
    sizes: tuple[Number, Number, Number, Number],
    present: Tensor,
    round_foot: bool = True,
) -> None:
    """A column on a disc. `sizes`: radius of the column, radius and height of the disc, height of the column's top."""
    column, foot, low, top = sizes
    ends: list[Section] = [((0, 0, 0), foot, foot), ((0, low, 0), foot * 0.9, foot * 0.9)]
    parts.add("leg", parts.stack(ends, axis=1, sides=20 if round_foot else 4), colour, present)
    parts.add(
        "leg",
        parts.stack([((0, low, 0), column, column), ((0, top, 0), column, column)], axis=1, sides=12, closed=False),
        colour,
        present,
    )


def _table(parts: _Parts) -> None:
    """A top, round or not, on four legs, a pedestal or a trestle, and sometimes an apron and a shelf."""
    wood, plate = parts.colour(), parts.colour()
    height = parts.between(0.4, 0.8)
    round_top = parts.chance(0.35)
    half_depth = parts.between(0.28, 0.5)
    half_width = torch.where(round_top, half_depth * parts.between(1, 1.25), half_depth * parts.between(1, 2))
    thickness = parts.between(0.02, 0.07)
    under = height - thickness
    ends: list[Section] = [
        ((0, level, 0), half_depth, half_width) for level in (under, height)
    ]  # for the axis y, the order is z, x
    parts.add("top", parts.stack(ends, axis=1), plate, ~round_top)
    parts.add("top", parts.stack(ends, axis=1, sides=28), plate, round_top)

    kind = parts.choice((0.55, 0.25, 0.2))
    kind = torch.where(round_top & (kind == 2), 1, kind)  # trestles only carry rectangular tops
    inset = torch.where(round_top, 0.64, parts.between(0.85, 0.97))
    thick, taper = parts.between(0.02, 0.05), parts.between(0.5, 1)
    round_legs = parts.chance(0.4)
    x, z = half_width * inset - thick, half_depth * inset - thick
    splay = torch.where(parts.chance(0.3), parts.between(0.02, 0.08), 0.0)
    for side in (1, -1):
        ends = [
            ((x + splay, 0, side * (z + splay)), thick * taper, thick * taper),
            ((x, under, side * z), thick, thick),
        ]
        parts.pairs("leg", parts.stack(ends, axis=1), wood, (kind == 0) & ~round_legs)
        parts.pairs("leg", parts.stack(ends, axis=1, sides=10), wood, (kind == 0) & round_legs)
    column = parts.between(0.03, 0.08)
    _pedestal(parts, wood, (column, half_depth * parts.between(0.5, 0.8), parts.between(0.02, 0.06), under), kind == 1)
    wide = torch.where(round_legs, 1, SQUARE) * thick * (1 + taper) / 2
    wide = torch.where(kind == 1, column, torch.where(kind == 0, wide, torch.nan))
    parts.note(round=round_top, legs=torch.tensor([4, 1, 2])[kind], thickness=wide)
    # The trestle: two panels that become wider downwards, and a beam between them.
    panel, away = parts.between(0.02, 0.04), half_width * parts.between(0.6, 0.85)
    ends = [((away, 0, 0), half_depth * 0.85, panel), ((away, under, 0), half_depth * parts.between(0.4, 0.8), panel)]
    parts.pairs("leg", parts.stack(ends, axis=1), wood, kind == 2)
    beam = under * parts.between(0.3, 0.6)
    parts.add("leg", parts.box((-away + panel, away - panel), (beam, beam + 0.08), (-0.025, 0.025)), wood, kind == 2)

    apron = (kind == 0) & ~round_top & parts.chance(0.5)
    drop = parts.between(0.05, 0.1)
    parts.pairs("apron", parts.box((x, x + 0.02), (under - drop, under), (-z, z)), wood, apron)
    parts.pairs("apron", parts.box((-x, x), (under - drop, under), (z, z + 0.02)), wood, apron, axis=2)
    shelf = (kind == 0) & ~round_top & (splay == 0) & parts.chance(0.2)
    level = under * parts.between(0.2, 0.4)
    parts.add("shelf", parts.box((-x, x), (level, level + 0.025), (-z, z)), plate, shelf)


def _stool(parts: _Parts) -> None:
    """A seat, round or square, on three or four legs that splay outwards, or on a column."""
    wood, cloth = parts.colour(), parts.colour()
    height, half = parts.between(0.4, 0.9), parts.between(0.16, 0.24)
    round_seat, thickness = parts.chance(0.5), parts.between(0.03, 0.08)
    under = height - thickness
    ends: list[Section] = [((0, level, 0), half, half) for level in (under, height)]
    parts.add("seat", parts.stack(ends, axis=1), cloth, ~round_seat)
    parts.add("seat", parts.stack(ends, axis=1, sides=24), cloth, round_seat)

    legs = torch.tensor([1, 3, 4])[parts.choice((1, 1, 1))]
    thick, taper = parts.between(0.012, 0.035), parts.between(0.6, 1)
    place, splay = half * parts.between(0.65, 0.85), parts.between(0, 0.07)
    for count in (3, 4):
        for number in range(count):
            angle = 2 * math.pi * (number + 0.5) / count + (math.pi / 2 if count == 3 else 0)
            x, z = math.cos(angle), math.sin(angle)
            out = place + splay
            sections: list[Section] = [
                ((x * out, 0, z * out), thick * taper, thick * taper),
                ((x * place, under, z * place), thick, thick),
            ]
            parts.add("leg", parts.stack(sections, axis=1, sides=10), wood, legs == count)
    column = 1.3 * thick
    _pedestal(parts, wood, (column, half * parts.between(0.7, 1), parts.between(0.02, 0.05), under), legs == 1)
    wide = torch.where(legs == 1, column, thick * (1 + taper) / 2)
    parts.note(round=round_seat, legs=legs, thickness=wide)


def _lamp(parts: _Parts) -> None:
    """A foot, a pole, a shade that is open at the top and the bottom, and a belly in many table lamps."""
    metal, cloth = parts.colour(), parts.colour()
    floor = parts.chance(0.5)

    def either(tall: tuple[float, float], small: tuple[float, float]) -> Tensor:
        return torch.where(floor, parts.between(*tall), parts.between(*small))

    height = either((1.3, 1.7), (0.35, 0.65))
    foot, low = either((0.13, 0.2), (0.07, 0.13)), either((0.02, 0.05), (0.015, 0.04))
    pole = either((0.012, 0.025), (0.01, 0.02))
    square = parts.chance(0.25)
    ends: list[Section] = [((0, 0, 0), foot, foot), ((0, low, 0), foot * 0.92, foot * 0.92)]
    parts.add("foot", parts.stack(ends, axis=1), metal, square)
    parts.add("foot", parts.stack(ends, axis=1, sides=24), metal, ~square)
    shade = torch.where(floor, parts.between(0.22, 0.38), height * parts.between(0.35, 0.5))
    wide = either((0.18, 0.3), (0.12, 0.22))
    narrow = wide * parts.between(0.35, 1)
    ends = [((0, low, 0), pole, pole), ((0, height - shade * 0.3, 0), pole, pole)]
    parts.add("pole", parts.stack(ends, axis=1, sides=10), metal)

    # The belly: a body of revolution about the pole.
    belly = ~floor & parts.chance(0.6)
    top, round_ = height - shade, parts.between(0.04, 0.1)
    sections: list[Section] = []
    for index in range(9):
        angle = math.pi * index / 8
        level = low + (top - low) * (1 - math.cos(angle)) / 2
        radius = pole + round_ * math.sin(angle)
        sections.append(((0, level, 0), radius, radius))
    parts.add("belly", parts.stack(sections, axis=1, sides=16), metal, belly)

    ends = [((0, height - shade, 0), wide, wide), ((0, height, 0), narrow, narrow)]
    boxy = parts.chance(0.2)
    parts.add("shade", parts.stack(ends, axis=1, sides=24, closed=False), cloth, ~boxy)
    parts.add("shade", parts.stack(ends, axis=1, closed=False), cloth, boxy)


def _aeroplane(parts: _Parts) -> None:
    """A fuselage along z with its nose at +z, wings, a tail, and up to four engines under the wings."""
    body, paint = parts.colour(), parts.colour()
    half = parts.between(0.8, 1)
    radius = half * parts.between(0.08, 0.14)
    nose, tail = half * parts.between(0.15, 0.35), half * parts.between(0.4, 0.7)
    droop = radius * parts.between(0.3, 0.8)  # how far the end of the tail is above the axis of the fuselage
    rings: list[tuple[Number, Number, Number]] = []  # height, position along z and radius
    for index in range(6):  # the tail: it becomes thinner and rises towards its end
        width = 1 - (1 - index / 5) ** 1.5
        rings.append((droop * (1 - width), -half + tail * index / 5, radius * (0.15 + 0.85 * width)))
    for index in range(7):  # the nose: half an ellipse
        angle = math.pi / 2 * index / 6
        rings.append((0, half - nose * (1 - math.sin(angle)), radius * math.cos(angle)))
    parts.add("fuselage", parts.stack([((0, y, z), r, r) for y, z, r in rings], axis=2, sides=20), body)

    def wing(
        root: tuple[Number, Number, Number],
        tip: tuple[Number, Number, Number],
        chords: tuple[Number, Number],
        axis: int,
    ) -> Tensor:
        """A tapered plate from root to tip; its chord lies along z."""
        sections: list[Section] = []
        for position, chord in zip((root, tip), chords, strict=True):
            thick = chord * 0.05
            sections.append((position, thick, chord / 2) if axis == 0 else (position, chord / 2, thick))
        return parts.stack(sections, axis=axis)

    span, sweep = half * parts.between(0.7, 1.1), half * parts.between(0, 0.5)
    chord, taper = half * parts.between(0.28, 0.5), parts.between(0.25, 0.8)
    rise = radius * parts.choice((0.5, 0.2, 0.3)).float().sub(1).mul(0.7)  # height of the wing: low, middle or high
    lift, position = span * parts.between(0, 0.12), half * parts.between(0, 0.2)
    inner = radius * 0.7
    parts.pairs(
        "wing", wing((inner, rise, position), (span, rise + lift, position - sweep), (chord, chord * taper), 0), paint
    )

    rear = -half + 0.22 * half
    fin, back = radius * parts.between(1.8, 3), half * parts.between(0.05, 0.25)
    tail_chord = half * parts.between(0.2, 0.3)
    parts.add(
        "tail", wing((0, droop, rear), (0, droop + fin, rear - back), (tail_chord * 1.1, tail_chord * 0.6), 1), paint
    )
    tee = parts.chance(0.2)  # the stabiliser is on top of the fin
    level = torch.where(tee, droop + fin * 0.95, droop)
    begin = torch.where(tee, rear - back, rear)
    reach = half * parts.between(0.25, 0.42)
    parts.pairs(
        "tail",
        wing((0, level, begin), (reach, level, begin - sweep * 0.4), (tail_chord * 0.9, tail_chord * 0.5), 0),
        paint,
    )

    engines = parts.choice((0.25, 0.5, 0.25))
    bulk, long = radius * parts.between(0.3, 0.5), half * parts.between(0.1, 0.16)
    for index, part in enumerate((0.35, 0.65)):  # of the span
        along = position - sweep * part + chord * (1 + (taper - 1) * part) * 0.35
        x, y = inner + (span - inner) * part, rise + lift * part - bulk * 1.15
        ends: list[Section] = [((x, y, along - long), bulk * 0.75, bulk * 0.75), ((x, y, along + long), bulk, bulk)]
        parts.pairs("engine", parts.stack(ends, axis=2, sides=12), body, engines > index)


def _solid(parts: _Parts) -> None:
    """Boxes, pyramids, cylinders, cones, ellipsoids and tori."""
    colour = parts.colour()
    kind = parts.choice((0.18, 0.12, 0.18, 0.16, 0.18, 0.18))
    long, deep, tall = (parts.between(0.45, 1) for _ in range(3))
    blunt = torch.where(parts.chance(0.5), parts.between(0.2, 0.7), 0.0)  # half of the pyramids and cones are truncated
    for pointed, which in ((False, 0), (True, 1)):
        top = blunt if pointed else 1.0
        ends: list[Section] = [((0, -tall, 0), deep, long), ((0, tall, 0), deep * top, long * top)]
        parts.add("solid", parts.stack(ends, axis=1), colour, kind == which)
    for pointed, which in ((False, 2), (True, 3)):
        top = blunt if pointed else 1.0
        ends = [((0, -tall, 0), long, long), ((0, tall, 0), long * top, long * top)]
        parts.add("solid", parts.stack(ends, axis=1, sides=32), colour, kind == which)
    ball = parts.chance(0.4)
    angles = [math.pi * index / 16 for index in range(17)]
    high, wide = (torch.where(ball, long, other) for other in (tall, deep))
    sections: list[Section] = [((0, -high * math.cos(a), 0), wide * math.sin(a), long * math.sin(a)) for a in angles]
    parts.add("solid", parts.stack(sections, axis=1, sides=32, closed=False), colour, kind == 4)
    tube = parts.between(0.15, 0.4)
    angles = [2 * math.pi * index / 16 for index in range(17)]
    sections = [((0, tube * math.sin(a), 0), 1 + tube * math.cos(a), 1 + tube * math.cos(a)) for a in angles]
    parts.add("solid", parts.stack(sections, axis=1, sides=32, closed=False), colour, kind == 5)


_CLASSES: dict[str, Callable[[_Parts], None]] = {
    "aeroplane": _aeroplane,
    "chair": _chair,
    "lamp": _lamp,
    "solid": _solid,
    "stool": _stool,
    "table": _table,
}
