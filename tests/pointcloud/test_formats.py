"""Readers of meshes: against meshio and trimesh on the same files, and against values by construction."""

import itertools
import json
import struct

import meshio
import numpy
import pytest
import trimesh

from diffcore.plugins.folders import UnusableError
from diffcore_pointcloud.data.meshes import shapes_in
from diffcore_pointcloud.formats import gltf, obj, off, ply
from diffcore_pointcloud.geometry.polygons import triangulated

BOX = trimesh.creation.box((1, 2, 3))
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
MIXED = [("quad", numpy.array(QUADS[:3])), ("triangle", numpy.array([[2, 3, 7], [2, 7, 6]]))]


def area(shape):
    corners = shape.positions[shape.faces]
    return (
        numpy.linalg.norm(numpy.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    )


def whole(shapes):
    (shape,) = [shape for shape in shapes if len(shape.faces)]
    return shape


# A second reader


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("ending", ["ply", "stl", "obj", "off"])
def test_meshes_agree_with_meshio(tmp_path, ending, binary):
    path = tmp_path / f"a.{ending}"
    mesh = meshio.Mesh(BOX.vertices, [("triangle", BOX.faces)])
    meshio.write(path, mesh, **({"binary": binary} if ending in ("ply", "stl") else {}))
    other = meshio.read(path)
    shape = whole(shapes_in(path, colours=False))
    wanted = other.points[other.cells_dict["triangle"]]
    assert shape.positions[shape.faces] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_triangles_and_quads_in_one_file(tmp_path, binary):
    path = tmp_path / "a.ply"
    meshio.write(path, meshio.Mesh(BOX.vertices, MIXED), binary=binary)
    other = meshio.read(path)
    assert sum(len(cells.data) for cells in other.cells) == 5
    shape = whole(shapes_in(path, colours=False))
    assert shape.positions == pytest.approx(other.points)
    assert len(shape.faces) == 8
    # The sides across x, y and z have the areas 6, 3 and 2; three quads and two triangles that make up a fourth.
    sides = [whole(ply.read(ply_of(BOX.vertices, [quad]))) for quad in (*QUADS[:3], QUADS[3])]
    assert area(shape) == pytest.approx(sum(map(area, sides)))


@pytest.mark.parametrize("ending", ["ply", "stl", "obj", "off", "glb"])
def test_meshes_agree_with_trimesh(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    trimesh.creation.icosphere(2).apply_translation((1, 2, 3)).export(path)
    other = trimesh.load_mesh(path, process=False)
    shape = whole(shapes_in(path, colours=False))
    assert shape.positions[shape.faces] == pytest.approx(numpy.asarray(other.triangles))


# PLY


def ply_of(vertices, faces, order="<", lists="uchar int"):
    """A PLY file in text (`order` None) or binary."""
    kind = {None: "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = f"ply\nformat {kind} 1.0\nelement vertex {len(vertices)}\nproperty double x\nproperty double y\n"
    head += f"property double z\nelement face {len(faces)}\nproperty list {lists} vertex_indices\nend_header\n"
    if order is None:
        rows = [" ".join(map(str, row)) for row in vertices] + [" ".join(map(str, (len(f), *f))) for f in faces]
        return (head + "\n".join(rows)).encode()
    body = numpy.asarray(vertices, f"{order}f8").tobytes()
    count, index = (numpy.dtype(order + {"uchar": "u1", "int": "i4", "uint": "u4"}[name]) for name in lists.split())
    return head.encode() + body + b"".join(
        numpy.array(len(face), count).tobytes() + numpy.array(face, index).tobytes() for face in faces
    )  # fmt: skip


@pytest.mark.parametrize("order", [None, "<", ">"])
@pytest.mark.parametrize("lists", ["uchar int", "int uint"])
@pytest.mark.parametrize("faces", [[[0, 1, 2]], [[0, 1, 2], [0, 1, 3, 2]], [[0, 1, 3, 2], [4, 5, 7]], []])
def test_every_kind_of_ply(order, lists, faces):
    (shape,) = ply.read(ply_of(BOX.vertices.tolist(), faces, order, lists))
    assert numpy.array_equal(shape.positions, BOX.vertices)
    assert len(shape.faces) == sum(len(face) - 2 for face in faces)
    assert {tuple(sorted(set(row))) for row in shape.faces.tolist()} <= {
        tuple(sorted(three)) for face in faces for three in itertools.combinations(face, 3)
    }


def test_other_elements_and_lists_of_a_ply_are_passed_over():
    head = "ply\nformat ascii 1.0\ncomment TextureFile /dev/zero\nelement camera 1\nproperty float view\n"
    head += "element vertex 3\nproperty float x\nproperty float y\nproperty float z\nproperty uchar diffuse_red\n"
    head += "property uchar diffuse_green\nproperty uchar diffuse_blue\nelement face 1\n"
    head += "property list uchar float texcoord\nproperty list uchar int vertex_index\nproperty int flags\nend_header\n"
    body = "9\n0 0 0 1 2 3\n1 0 0 4 5 6\n0 1 0 7 8 9\n6 0 0 1 0 0 1 3 0 1 2 77\n"
    (shape,) = ply.read((head + body).encode())
    assert shape.faces.tolist() == [[0, 1, 2]]
    assert shape.colours.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


# Polygons


@pytest.mark.parametrize("read", ["obj", "off", "ply"])
@pytest.mark.parametrize("turned", [False, True])
def test_concave_polygons_are_cut_inside_their_outline(read, turned):
    """The letter L, of area 3, with its inner corner at (1, 1); a fan from its first corner would leave it."""
    outline = [(0, 2), (0, 0), (2, 0), (2, 1), (1, 1), (1, 2)]
    outline = outline[::-1] if turned else outline
    vertices = [(x, y, 0.5 * x + 0.25 * y) for x, y in outline]
    slope = (1 + 0.5**2 + 0.25**2) ** 0.5
    indices = range(len(vertices))
    lines = ["{} {} {}\n".format(*vertex) for vertex in vertices]
    text = {
        "obj": "".join(f"v {line}" for line in lines) + "f -6 -5 -4 -3 -2 -1\n",
        "off": f"OFF\n6 1 0\n{''.join(lines)}6 {' '.join(map(str, indices))}",
        "ply": ply_of(vertices, [list(indices)], None).decode(),
    }[read]
    (shape,) = {"obj": obj, "off": off, "ply": ply}[read].read(text.encode())
    assert len(shape.faces) == 4
    assert area(shape) == pytest.approx(3 * slope)
    middle = shape.positions[shape.faces].mean(1)[:, :2]
    assert not ((middle > 1).all(1)).any()
    corners = shape.positions[shape.faces][..., :2]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    turning = numpy.sign(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    assert (turning == (-1 if turned else 1)).all()  # triangles face the side that the polygon faces


def test_a_dart_and_a_star_and_points_on_a_line():
    dart = numpy.array([(0, 0, 0), (2, 1, 0), (0, 2, 0), (0.5, 1, 0)], float)  # concave at the last corner: area 1.5
    for shift in range(4):
        order = numpy.roll(numpy.arange(4), shift)
        faces, owner = triangulated(dart, numpy.array([4]), order)
        corners = dart[faces]
        sizes = numpy.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
        assert sizes.sum() == pytest.approx(1.5)
        assert (sizes > 0).all()
        assert owner.tolist() == [0, 0]
    line = numpy.array([(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0), (0.0, 1, 0)])
    faces, _ = triangulated(line, numpy.array([6]), numpy.arange(6))
    corners = line[faces]
    sizes = numpy.linalg.norm(numpy.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert sizes.sum() == pytest.approx(4)
    with pytest.raises(UnusableError, match="points that do not exist"):
        triangulated(line, numpy.array([3]), numpy.array([0, 1, 6]))


# OBJ


def test_negative_indices_count_from_where_they_stand():
    """Three boxes, each followed by its own faces."""
    text = ""
    for x in (0, 10, 20):
        text += "".join(f"v {v[0] + x} {v[1]} {v[2]}\n" for v in BOX.vertices)
        text += "".join("f " + " ".join(f"{index - 8}//" for index in face) + "\n" for face in BOX.faces)
    (shape,) = obj.read(text.encode())
    assert len(shape.faces) == 36
    assert area(shape) == pytest.approx(3 * BOX.area)
    middles = shape.positions[shape.faces].mean(1)[:, 0]
    assert [int((abs(middles - x) <= 0.5).sum()) for x in (0, 10, 20)] == [12, 12, 12]


def test_lines_of_obj_files():
    text = "# a comment\no thing\nv 0 0 0 1 0 0\nv 1 0 \\\n 0 0 1 0\nv 0 1 0 0 0 1\nvn 0 0 1\nvt 0 0\ns off\nl 1 2\n"
    (shape,) = obj.read((text + "f 1/1/1 2/1/1 3/1/1 # a face\n").encode())
    assert shape.positions.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert shape.colours.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert shape.faces.tolist() == [[0, 1, 2]]
    for bad in ("f 1 2 4", "f 0 1 2", "f 1 2 x", "f -4 1 2"):
        with pytest.raises(UnusableError, match="faces with"):
            obj.read((text + bad).encode())


def test_colours_of_materials():
    text = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl red\nf 1 2 3\nusemtl none\nf 1 2 4\n"
    library = b"newmtl red\nKd 1 0.2 0\n"
    (shape,) = obj.read(text.encode(), {"a.mtl": library}.get)
    assert shape.face_colours.tolist() == [[255, 51, 0], [127.5] * 3]
    assert shape.note == ""
    (plain,) = obj.read(text.encode())
    assert not plain.has_colours
    (missing,) = obj.read(text.encode(), {"a.mtl": library + b"map_Kd gone.png\n"}.get)
    assert missing.face_colours.tolist() == shape.face_colours.tolist()
    assert missing.note.startswith("textures that are missing")


# OFF


def test_kinds_of_off_files():
    rows = "0 0 0 {}\n1 0 0 {}\n0 1 0 {}\n"
    colours = ["255 0 0 255", "0 255 0 255", "0 0 255 255"]
    (shape,) = off.read(("COFF\n# a comment\n3 1 0\n" + rows.format(*colours) + "3 0 1 2\n").encode())
    assert shape.colours.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    (shape,) = off.read(("NOFF 3 1 0\n" + rows.format(*["0 0 1"] * 3) + "3 0 1 2 0.5 0.25 0\n").encode())
    assert shape.normals.tolist() == [[0, 0, 1]] * 3
    assert shape.face_colours.tolist() == [[127.5, 63.75, 0]]
    (shape,) = off.read(("OFF3 1 0\n" + rows.format("", "", "") + "3 0 1 2\n").encode())
    assert shape.faces.tolist() == [[0, 1, 2]]


# GLB


def glb(tree, binary=b""):
    text = json.dumps({"asset": {"version": "2.0"}, **tree}).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def quantised(scale=2.0, **node):
    """A box of the size 1 x 2 x 3 whose corners are normalised 16-bit numbers, in a node that scales it."""
    corners = numpy.round(BOX.vertices / 1.5 * 32767).astype("<i2")
    padded = numpy.pad(corners, ((0, 0), (0, 1)))  # rows of 8 bytes, of which 6 are used
    faces = BOX.faces.astype("<u2")
    accessors = [
        {"bufferView": 0, "componentType": 5122, "normalized": True, "count": 8, "type": "VEC3"},
        {"bufferView": 1, "componentType": 5123, "count": faces.size, "type": "SCALAR"},
    ]
    views = [
        {"buffer": 0, "byteOffset": 0, "byteLength": padded.nbytes, "byteStride": 8},
        {"buffer": 0, "byteOffset": padded.nbytes, "byteLength": faces.nbytes},
    ]
    mesh = {"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}
    tree = {
        "extensionsRequired": ["KHR_mesh_quantization"], "accessors": accessors, "bufferViews": views,
        "meshes": [mesh], "nodes": [{"mesh": 0, "scale": [scale * 1.5] * 3, **node}], "scenes": [{"nodes": [0]}],
        "buffers": [{"byteLength": padded.nbytes + faces.nbytes}],
    }  # fmt: skip
    return tree, padded.tobytes() + faces.tobytes()


def test_quantised_meshes_have_their_own_size():
    (shape,) = gltf.read(glb(*quantised()))
    assert numpy.ptp(shape.positions, axis=0) == pytest.approx([2, 4, 6], abs=1e-3)
    assert area(shape) == pytest.approx(4 * BOX.area, rel=1e-3)


def test_instances_are_repeated():
    tree, binary = quantised(scale=1 / 1.5)
    places = numpy.array([[0, 0, 0], [10, 0, 0], [0, 20, 0]], "<f4")
    turns = numpy.array([[0, 0, 0, 1], [0, 0, 0.5**0.5, 0.5**0.5], [0, 0, 0, 1]], "<f4")
    for array, kind in ((places, "VEC3"), (turns, "VEC4")):
        tree["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": array.nbytes})
        view = len(tree["bufferViews"]) - 1
        tree["accessors"].append({"bufferView": view, "componentType": 5126, "count": 3, "type": kind})
        binary += array.tobytes()
    instancing = {"attributes": {"TRANSLATION": 2, "ROTATION": 3}}
    tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": instancing}
    shapes = gltf.read(glb(tree, binary))
    assert [shape.positions.mean(0).round(2).tolist() for shape in shapes] == [[0, 0, 0], [10, 0, 0], [0, 20, 0]]
    sides = [numpy.ptp(shape.positions, axis=0) for shape in shapes]
    assert sides[0] == pytest.approx(numpy.array([1, 2, 3]) / 1.5, abs=1e-3)
    assert sides[1] == pytest.approx(numpy.array([2, 1, 3]) / 1.5, abs=1e-3)  # a quarter turn about z


def test_transformations_of_nodes_agree_with_trimesh(tmp_path):
    scene = trimesh.Scene()
    for k in range(3):
        turn = trimesh.transformations.random_rotation_matrix(numpy.random.default_rng(k).random(3))
        scene.add_geometry(BOX, transform=trimesh.transformations.translation_matrix((5 * k, 0, 0)) @ turn)
    scene.export(tmp_path / "a.glb")
    other = trimesh.load_scene(tmp_path / "a.glb", process=False).dump()
    shapes = shapes_in(tmp_path / "a.glb", colours=False)
    assert len(shapes) == 3
    for shape, mesh in zip(shapes, sorted(other, key=lambda mesh: mesh.centroid[0]), strict=True):
        assert shape.positions[shape.faces].mean((0, 1)) == pytest.approx(mesh.triangles.mean((0, 1)), abs=1e-5)
        assert numpy.sort(shape.positions, 0) == pytest.approx(numpy.sort(mesh.vertices, 0), abs=1e-5)


@pytest.mark.parametrize(("mode", "indices"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3]), (4, [0, 1, 2, 0, 2, 3])])
def test_strips_fans_and_lists(mode, indices):
    square = numpy.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
    faces = gltf._faces(numpy.array(indices), mode)
    corners = square[faces]
    assert numpy.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).tolist() == [[0, 0, 1]] * 2


def test_compressed_geometry_is_refused_by_name():
    tree, binary = quantised()
    tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    with pytest.raises(UnusableError, match="KHR_draco_mesh_compression, which is not supported"):
        gltf.read(glb(tree, binary))
