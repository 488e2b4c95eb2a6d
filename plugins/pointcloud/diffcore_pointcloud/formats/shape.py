"""What a file contains: points, and the triangles between them."""

from dataclasses import dataclass, field, replace

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError

Floats = NDArray[numpy.float64]
Integers = NDArray[numpy.int64]

NO_FACES: Integers = numpy.zeros((0, 3), numpy.int64)


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture on triangles: `pixels` `[H, W, 3]`, and for each triangle three places in it, `places` `[F, 3, 2]`.

    A place is (to the right, down), from 0 to 1 over the picture, which is repeated outside. The colours of the
    picture are multiplied by `tint` `[3]`.
    """

    pixels: NDArray[numpy.uint8]
    places: Floats
    tint: Floats

    def colours(self, faces: Integers, weights: Floats) -> Floats:
        """The colours `[P, 3]`, from 0 to 255, in triangles `faces` `[P]` at barycentric `weights` `[P, 3]`."""
        places = numpy.nan_to_num((self.places[faces] * weights[..., None]).sum(1)) % 1
        height, width = self.pixels.shape[:2]
        column = (places[:, 0] * width).astype(int).clip(0, width - 1)
        row = (places[:, 1] * height).astype(int).clip(0, height - 1)
        return self.pixels[row, column] * self.tint


@dataclass(frozen=True, eq=False)
class Shape:
    """Points with optional normals and colours, and triangles between them. Values are as in the file, unchecked.

    * `positions`: `[V, 3]`.
    * `normals`: `[V, 3]` of any length, or None.
    * `colours`: `[V, 3]`, from 0 to 255, or None.
    * `faces`: `[F, 3]` indices of points; none for a cloud.
    * `face_colours`: `[F, 3]`, from 0 to 255, or None.
    * `texture`: the colours of triangles, or None.
    * `note`: what of the file is not used, in a few words.
    * `labels`: numbers of the parts that the points are of, `[V]`, or None.
    """

    positions: Floats
    normals: Floats | None = None
    colours: Floats | None = None
    faces: Integers = field(default_factory=lambda: NO_FACES)
    face_colours: Floats | None = None
    texture: Texture | None = None
    note: str = ""
    labels: Floats | None = None

    @property
    def has_colours(self) -> bool:
        """Whether points or triangles have colours."""
        return not (self.colours is None and self.face_colours is None and self.texture is None)

    def colours_on(self, faces: Integers, weights: Floats) -> Floats:
        """Colours `[P, 3]` in triangles `faces` `[P]` at barycentric `weights` `[P, 3]`; grey if there are none."""
        if self.texture is not None:
            return self.texture.colours(faces, weights)
        if self.face_colours is not None:
            return self.face_colours[faces]
        if self.colours is not None:
            return (self.colours[self.faces[faces]] * weights[..., None]).sum(1)
        return numpy.full((len(faces), 3), 128.0)

    def transformed(self, matrix: Floats) -> "Shape":
        """The shape with `matrix` `[4, 4]` applied to points, and its inverse transpose to normals."""
        linear, normals = matrix[:3, :3], self.normals
        if normals is not None:
            cofactors = numpy.stack([numpy.cross(linear[i - 2], linear[i - 1]) for i in range(3)])
            normals = normals @ (cofactors * (-1.0 if numpy.linalg.det(linear) < 0 else 1.0)).T
        return replace(self, positions=self.positions @ linear.T + matrix[:3, 3], normals=normals)


def require_vertices(indices: Integers, count: int) -> None:
    """Raise `UnusableError` if indices are not those of `count` points."""
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        raise UnusableError(f"faces with points that do not exist; the file has {count:,} points")
