"""GLB files: binary glTF 2.0 with everything in one file (Khronos Group, ISO/IEC 12113)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.formats.content import MOST_FACES, Pictures
from diffcore_pointcloud.formats.shape import NO_FACES, Floats, Integers, Shape, Texture, require_vertices

SUPPORTED = frozenset(("KHR_mesh_quantization", "EXT_mesh_gpu_instancing", "KHR_texture_transform", "EXT_texture_webp"))
"""The extensions of geometry that are read. Those of materials do not move points, so they are ignored."""

_GEOMETRY = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_DEEPEST = 256
_LEAST, _PER_BYTE = 2**21, 4
"""Points and corners that every file may have, and how many a larger file may have for each of its bytes.

Values that a file does not store are zero, and the same values can be used many times, so a small file could otherwise
take all memory.
"""
_PART = 32
"""What a primitive counts at least, at each of its places: it takes time even if it is empty."""
OURS = "diffcore clouds"
"""The name of the scene in files of `diffcore_pointcloud.output.files.write_glb`: each node is a cloud of its own."""


def read(data: bytes, colours: bool = True) -> list[Shape]:
    """The triangles and points of the scene, one shape for each primitive at each of its places.

    Quantised and normalised values, sparse accessors, strips and fans of triangles, transformations of nodes and
    instances are applied. Nodes of a file of this package keep their own coordinates. Without `colours` no texture is
    decoded. Raises `UnusableError` for damaged files and for extensions that compress geometry.
    """
    return list(_File(data, colours).shapes())


def read_clouds(data: bytes) -> tuple[list[Shape], bool]:
    """The points of the scene that belong to no triangle, as one cloud, and whether this package wrote the file.

    If it did, each node is a cloud of its own, in its own coordinates.
    """
    file = _File(data, colours=False)
    parts = [shape for shape in file.shapes() if not len(shape.faces)]
    if file.ours or len(parts) < 2:
        return parts, file.ours
    fields = [[getattr(part, name) for part in parts] for name in ("positions", "normals", "colours")]
    joined = [None if any(value is None for value in values) else numpy.concatenate(values) for values in fields]
    return [Shape(*joined)], False  # type: ignore[arg-type]


class _File:
    """The JSON and the binary part of a file."""

    def __init__(self, data: bytes, colours: bool) -> None:
        if data[:4] != b"glTF":
            raise UnusableError("not a GLB file: it does not begin with `glTF`")
        version, length = (int.from_bytes(data[k : k + 4], "little") for k in (4, 8))
        if version != 2:
            raise UnusableError(f"glTF of version {version}; version 2 is read")
        if length > len(data):
            raise UnusableError("damaged: the file is shorter than it says")
        chunks: dict[bytes, bytes] = {}
        at = 12
        while at + 8 <= length:
            size, kind = int.from_bytes(data[at : at + 4], "little"), data[at + 4 : at + 8]
            if at + 8 + size > length:
                raise UnusableError("damaged: a part of the file is longer than the file")
            chunks.setdefault(kind, data[at + 8 : at + 8 + size])
            at += 8 + size + -size % 4
        self.json: dict[str, Any] = json.loads(chunks.get(b"JSON", b"{}"))
        self.binary = chunks.get(b"BIN\0", b"")
        self.colours = colours
        self.pictures = Pictures()
        self.most = min(MOST_FACES, max(_LEAST, _PER_BYTE * len(data)))
        self.left = self.most
        needed = [name for name in self.json.get("extensionsRequired", ()) if name in _GEOMETRY]
        if needed:
            raise UnusableError(f"geometry compressed by {', '.join(needed)}, which is not supported")

    def shapes(self) -> Iterator[Shape]:
        nodes, scene = self.json.get("nodes", []), self._scene()
        waiting = [(index, numpy.eye(4), 0) for index in reversed(scene.get("nodes", []))]
        seen: set[int] = set()
        while waiting:
            index, above, depth = waiting.pop()
            if index in seen or depth > _DEEPEST:
                raise UnusableError("damaged: nodes that are not a tree")
            seen.add(index)
            node = nodes[index]
            matrix = numpy.eye(4) if self.ours else above @ _matrix(node)
            waiting += [(child, matrix, depth + 1) for child in reversed(node.get("children", []))]
            if "mesh" in node:
                places = self._instances(node)
                for shape in self._mesh(node["mesh"], len(places)):
                    yield from (shape.transformed(matrix @ place) for place in places)

    @property
    def ours(self) -> bool:
        """Whether this package wrote the file."""
        return self._scene().get("name") == OURS

    def _scene(self) -> Mapping[str, Any]:
        """The scene that is shown; one of all nodes if the file has none."""
        if scenes := self.json.get("scenes", []):
            return scenes[self.json.get("scene", 0)]
        nodes = self.json.get("nodes", [])
        below = {child for node in nodes for child in node.get("children", [])}
        return {"nodes": [index for index in range(len(nodes)) if index not in below]}

    def _instances(self, node: Mapping[str, Any]) -> list[Floats]:
        """The transformations of the instances of a node's mesh; one that changes nothing if there are none."""
        extension = node.get("extensions", {}).get("EXT_mesh_gpu_instancing")
        if extension is None:
            return [numpy.eye(4)]
        given = extension["attributes"]
        known = {key: given[key.upper()] for key in ("translation", "rotation", "scale") if key.upper() in given}
        self._spend(_PART * max((self._length(index) for index in known.values()), default=0))
        known = {key: self._accessor(index) for key, index in known.items()}
        number = min((len(values) for values in known.values()), default=0)
        return [_matrix({name: values[k] for name, values in known.items()}) for k in range(number)]

    def _mesh(self, index: int, instances: int) -> Iterator[Shape]:
        for primitive in self.json["meshes"][index]["primitives"]:
            if any(name in primitive.get("extensions", {}) for name in _GEOMETRY):
                raise UnusableError("compressed geometry (Draco or meshopt), which is not supported")
            attributes = primitive.get("attributes", {})
            if "POSITION" not in attributes:
                self._spend(_PART)
                continue
            length = self._length(attributes["POSITION"])
            corners = self._length(primitive["indices"]) if "indices" in primitive else length
            if primitive.get("mode", 4) in (5, 6):  # each corner of a strip or of a fan makes a triangle
                corners *= 3
            self._spend(instances * max(corners, length, _PART))
            positions = self._accessor(attributes["POSITION"])
            if "indices" in primitive:
                indices = self._accessor(primitive["indices"])[:, 0].astype(numpy.int64)
            else:
                indices = numpy.arange(len(positions))
            require_vertices(indices, len(positions))
            yield from self._primitive(primitive, positions, indices)

    def _length(self, accessor: int) -> int:
        """The number of rows that an accessor announces, which is not negative."""
        return max(int(self.json["accessors"][accessor]["count"]), 0)

    def _spend(self, corners: int) -> None:
        """Count points and corners before they are made. Raises `UnusableError` beyond what the file may have."""
        self.left -= corners
        if self.left < 0:
            size = "" if self.most == MOST_FACES else ", which is too many for a file of its size"
            raise UnusableError(f"more than {self.most:,} points and corners, with all instances{size}")

    def _primitive(self, primitive: Mapping[str, Any], positions: Floats, indices: Integers) -> Iterator[Shape]:
        attributes, mode = primitive["attributes"], primitive.get("mode", 4)
        normals = self._accessor(attributes["NORMAL"]) if "NORMAL" in attributes else None
        colours = self._accessor(attributes["COLOR_0"])[:, :3] if "COLOR_0" in attributes else None
        if mode == 0:
            if "indices" in primitive:
                positions = positions[indices]
                normals, colours = (None if part is None else part[indices] for part in (normals, colours))
            yield Shape(positions, normals, None if colours is None else 255 * colours)
        elif mode in (4, 5, 6):
            faces = _faces(indices, mode)
            tint, texture = self._material(primitive, faces) if self.colours else (None, None)
            factor = numpy.ones(3) if tint is None else tint
            if texture is None and colours is None and tint is not None:
                colours = numpy.ones_like(positions)
            yield Shape(positions, normals, None if colours is None else 255 * colours * factor, faces, None, texture)

    def _material(self, primitive: Mapping[str, Any], faces: Integers) -> tuple[Floats | None, Texture | None]:
        """The colour of the material, None if there is no material, and its texture."""
        if "material" not in primitive:
            return None, None
        surface = self.json["materials"][primitive["material"]].get("pbrMetallicRoughness", {})
        tint = _vector(surface.get("baseColorFactor", [1, 1, 1, 1]), 4)[:3].clip(0, 1)
        where = surface.get("baseColorTexture")
        if where is None:
            return tint, None
        moved = where.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{moved.get('texCoord', where.get('texCoord', 0))}"
        pixels = self._picture(where["index"])
        if pixels is None or name not in primitive["attributes"]:
            return tint, None
        places = self._accessor(primitive["attributes"][name])[:, :2]
        angle, scale = float(moved.get("rotation", 0)), _vector(moved.get("scale", [1, 1]), 2)
        turn = numpy.array([[numpy.cos(angle), numpy.sin(angle)], [-numpy.sin(angle), numpy.cos(angle)]])
        places = (places * scale) @ turn.T + _vector(moved.get("offset", [0, 0]), 2)
        require_vertices(faces, len(places))
        return tint, Texture(pixels, places[faces], tint)

    def _picture(self, index: int) -> NDArray[numpy.uint8] | None:
        texture = self.json["textures"][index]
        source = texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source", texture.get("source"))
        if source is None:
            return None
        image = self.json["images"][source]
        if "bufferView" not in image:
            raise UnusableError("a texture in another file, which is not read")
        if (pixels := self.pictures.pixels(self._view(image["bufferView"]))) is None:
            raise UnusableError("a texture that cannot be decoded")
        return pixels

    def _view(self, index: int) -> bytes:
        view = self.json["bufferViews"][index]
        if view.get("buffer", 0) != 0 or "uri" in self.json.get("buffers", [{}])[0]:
            raise UnusableError("data in another file, which is not read")
        if any(name in view.get("extensions", {}) for name in _GEOMETRY):
            raise UnusableError("compressed geometry (meshopt), which is not supported")
        start, size = int(view.get("byteOffset", 0)), int(view["byteLength"])
        if not 0 <= start <= start + size <= len(self.binary):
            raise UnusableError("damaged: data beyond the end of the file")
        return self.binary[start : start + size]

    def _accessor(self, index: int) -> Floats:
        """The values `[n, width]`; whole numbers that are normalised become fractions."""
        accessor = self.json["accessors"][index]
        kind, width, number = (
            numpy.dtype(_TYPES[accessor["componentType"]]),
            _WIDTHS[accessor["type"]],
            accessor["count"],
        )
        if not 0 <= number <= self.most:
            raise UnusableError(f"{number:,} rows of values; at most {self.most:,} are read")
        if "bufferView" in accessor:
            view = self.json["bufferViews"][accessor["bufferView"]]
            stride = view.get("byteStride", kind.itemsize * width)
            values = self._values(accessor["bufferView"], accessor.get("byteOffset", 0), kind, number, width, stride)
        else:
            values = numpy.zeros((number, width), kind)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            at, new = sparse["indices"], sparse["values"]
            index_kind = numpy.dtype(_TYPES[at["componentType"]])
            rows = self._values(at["bufferView"], at.get("byteOffset", 0), index_kind, sparse["count"], 1)[:, 0]
            values = values.copy()
            values[rows] = self._values(new["bufferView"], new.get("byteOffset", 0), kind, sparse["count"], width)
        result = values.astype(numpy.float64)
        if accessor.get("normalized") and kind.kind in "iu":
            result = (result / numpy.iinfo(kind).max).clip(-1, 1)
        return result

    def _values(
        self, view: int, offset: int, kind: numpy.dtype, number: int, width: int, stride: int | None = None
    ) -> NDArray:
        data, size = self._view(view), kind.itemsize * width
        stride = size if stride is None else stride
        if number == 0:
            return numpy.zeros((0, width), kind)
        if number < 0 or offset < 0 or stride < size or offset + stride * (number - 1) + size > len(data):
            raise UnusableError("damaged: data beyond the end of their part of the file")
        return numpy.ndarray((number, width), kind, data, offset, (stride, kind.itemsize))


def _faces(indices: Integers, mode: int) -> Integers:
    """The triangles `[F, 3]` of a list (4), a strip (5) or a fan (6)."""
    if mode == 4:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if len(indices) < 3:
        return NO_FACES
    first, second, third = indices[:-2].copy(), indices[1:-1].copy(), indices[2:]
    if mode == 6:
        first[:] = indices[0]
    else:
        first[1::2], second[1::2] = second[1::2], first[1::2].copy()
    return numpy.stack([first, second, third], 1)


def _vector(values: Any, length: int) -> Floats:
    vector = numpy.asarray(values, dtype=numpy.float64)
    if vector.shape != (length,):
        raise UnusableError(f"damaged: {length} numbers were expected")
    return vector


def _matrix(node: Mapping[str, Any]) -> Floats:
    """The transformation of a node, by its matrix or by translation, rotation (a quaternion x y z w) and scale."""
    if "matrix" in node:
        return _vector(node["matrix"], 16).reshape(4, 4).T
    matrix = numpy.eye(4)
    x, y, z, w = _vector(node.get("rotation", [0, 0, 0, 1]), 4)
    norm = x * x + y * y + z * z + w * w
    k = 2 / norm if norm > 0 else 0.0
    matrix[:3, :3] = [
        [1 - k * (y * y + z * z), k * (x * y - z * w), k * (x * z + y * w)],
        [k * (x * y + z * w), 1 - k * (x * x + z * z), k * (y * z - x * w)],
        [k * (x * z - y * w), k * (y * z + x * w), 1 - k * (x * x + y * y)],
    ]
    matrix[:3, :3] *= _vector(node.get("scale", [1, 1, 1]), 3)
    matrix[:3, 3] = _vector(node.get("translation", [0, 0, 0]), 3)
    return matrix
