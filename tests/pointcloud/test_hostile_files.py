"""Files that are damaged, or that were made to harm: each ends in a result or in one line that says why not."""

import io
import os
import zipfile

import numpy
import pytest
import trimesh
from PIL import Image

from diffcore.errors import UserError
from diffcore.plugins.folders import UnusableError
from diffcore.plugins.ledger import Account
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data import datasets
from diffcore_pointcloud.data.clouds import CLOUD_ENDINGS, read_cloud
from diffcore_pointcloud.data.meshes import MESH_ENDINGS, shapes_in
from diffcore_pointcloud.data.reader import CloudReader
from diffcore_pointcloud.data.sources import read_all
from diffcore_pointcloud.formats import content, gltf, obj
from diffcore_pointcloud.options import CloudFacts, FileOptions, ShapesOptions
from tests.pointcloud.test_formats import glb, quantised
from tests.support.measured import count_calls

CODEC = CloudCodec(CloudFacts(points=32, centre=(0, 0, 0), scale=1, colours=True))
BOX = trimesh.creation.box((1, 2, 3))
POINTS = numpy.random.default_rng(0).normal(size=(40, 3)).astype(numpy.float32)
COLOURS = numpy.random.default_rng(1).integers(0, 256, (40, 3), dtype=numpy.uint8)


def files(folder):
    """A small file of each format."""
    for ending in ("ply", "stl", "obj", "off", "glb"):
        BOX.export(folder / f"mesh.{ending}")
    (folder / "text.ply").write_bytes(BOX.export(file_type="ply", encoding="ascii"))
    (folder / "text.stl").write_text(BOX.export(file_type="stl_ascii"))
    trimesh.PointCloud(POINTS, colors=COLOURS).export(folder / "cloud.ply")
    trimesh.PointCloud(POINTS, colors=COLOURS).export(folder / "cloud.glb")
    numpy.save(folder / "a.npy", POINTS)
    numpy.savez_compressed(folder / "a.npz", positions=POINTS, colours=COLOURS)
    table = "\n".join(" ".join(map(str, row)) for row in numpy.hstack([POINTS, COLOURS]).tolist())
    (folder / "a.csv").write_text("x y z r g b\n" + table)
    header = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40\nHEIGHT 1\nPOINTS 40\nDATA "
    (folder / "a.pcd").write_bytes((header + "binary\n").encode() + POINTS.tobytes())
    (folder / "text.pcd").write_text(header + "ascii\n" + "\n".join(" ".join(map(str, row)) for row in POINTS.tolist()))
    pixels = numpy.zeros((4, 4, 3), numpy.uint8)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(pixels))
    corners = BOX.vertices[:, :2]
    visual = trimesh.visual.TextureVisuals(uv=corners, material=material)
    trimesh.Trimesh(BOX.vertices, BOX.faces, visual=visual, process=False).export(folder / "texture.glb")
    return sorted(folder.iterdir())


def damaged(data, generator):
    """The data, cut at a random place, or with some random bytes changed, inserted or removed."""
    match generator.integers(4):
        case 0:
            return data[: generator.integers(len(data))]
        case 1:
            at = int(generator.integers(len(data)))
            return data[:at] + generator.bytes(int(generator.integers(1, 9))) + data[at:]
        case 2:
            at = int(generator.integers(len(data)))
            return data[:at] + data[at + int(generator.integers(1, 9)) :]
        case _:
            changed = bytearray(data)
            for at in generator.integers(len(data), size=generator.integers(1, 6)).tolist():
                changed[at] = int(generator.integers(256))
            return bytes(changed)


def refusal(reader, path):
    """The message with which a file is refused, empty if it is read."""
    try:
        reader.read_part(path)
    except UserError as error:
        return str(error)
    return ""


def test_damaged_files_of_every_format_end_in_a_result_or_in_a_line(tmp_path):
    (tmp_path / "whole").mkdir()
    generator = numpy.random.default_rng(0)
    reader, refused = CloudReader(CODEC), 0
    whole = files(tmp_path / "whole")
    assert {path.suffix for path in whole} >= (CLOUD_ENDINGS | MESH_ENDINGS) - {".xyz", ".txt", ".pts", ".asc"}
    for path in whole:
        reader.read_part(path)
        data = path.read_bytes()
        for _ in range(15):
            other = tmp_path / f"damaged{path.suffix}"
            other.write_bytes(damaged(data, generator))
            line = refusal(reader, other)
            refused += bool(line)
            assert not line or ("\n" not in line and line.startswith(str(other)))
    assert refused > 3 * len(whole)


# References to other files


@pytest.mark.parametrize("kind", ["pipe", "folder", "missing", "link", "elsewhere", "device"])
@pytest.mark.parametrize("ending", ["obj", "ply"])
def test_names_of_other_files_are_not_followed(tmp_path, kind, ending):
    """Pipes would block forever; links and folders lead out of the folder that somebody sent."""
    folder = tmp_path / "a"
    folder.mkdir()
    secret = tmp_path / "secret.mtl"
    secret.write_text("newmtl red\nKd 1 0 0\n")
    target, name = folder / "other.mtl", "other.mtl"
    match kind:
        case "pipe":
            os.mkfifo(target)
        case "folder":
            target.mkdir()
        case "link":
            target.symlink_to(secret)
        case "elsewhere":
            name = "../secret.mtl"
        case "device":
            name = "/dev/zero"
    path = folder / f"a.{ending}"
    if ending == "obj":
        path.write_text(f"mtllib {name}\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl red\nf 1 2 3\n")
    else:
        data = BOX.export(file_type="ply")
        path.write_bytes(data.replace(b"1.0\n", f"1.0\ncomment TextureFile {name}\n".encode(), 1))
    for colours in (False, True):
        (shape,) = shapes_in(path, colours)
        assert not shape.has_colours
    if kind == "missing" and ending == "obj":
        target.write_text("newmtl red\nmap_Kd ../secret.png\nKd 1 0 0\n")
        (shape,) = shapes_in(path, colours=True)
        assert shape.face_colours.tolist() == [[255, 0, 0]]


def test_a_texture_is_decoded_as_a_picture_only(monkeypatch):
    picture = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(picture, "PNG")
    pictures = content.Pictures()
    assert pictures.pixels(picture.getvalue()).tolist() == [[[1, 2, 3]] * 3] * 2
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    assert pictures.pixels(postscript) is None
    assert pictures.pixels(picture.getvalue()[:40]) is None
    monkeypatch.setattr(content, "MOST_PIXELS", 11)
    pictures = content.Pictures()
    for _ in range(3):  # a picture that several materials name is decoded once
        assert pictures.pixels(picture.getvalue()) is not None
    with pytest.raises(UnusableError, match="textures of more than 11 pixels"):
        pictures.pixels(picture.getvalue() + b" ")


def test_text_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MOST_TEXT", 100)
    for path in files(tmp_path):
        text = path.suffix in (".csv", ".obj", ".off") or path.stem == "text"
        assert ("bytes of text; at most 100 are read" in refusal(CloudReader(CODEC), path)) == text, path


@pytest.mark.parametrize("ending", sorted(CLOUD_ENDINGS | MESH_ENDINGS))
def test_pipes_are_refused(tmp_path, ending):
    os.mkfifo(tmp_path / f"a{ending}")
    with pytest.raises(UserError, match="a pipe or a device, not a file"):
        CloudReader(CODEC).read(tmp_path / f"a{ending}")


# Files that claim or hold more than they should


def zipped(header, size, name="positions"):
    """An NPZ file of an array of `size` zero bytes under `header`."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as file:
        file.write(header)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return data.getvalue()


def header(*shape):
    data = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(data, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return data.getvalue()


def test_a_small_file_that_decodes_to_gigabytes_is_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("diffcore_pointcloud.formats.arrays.MOST_DECODED", 2**23)
    (tmp_path / "a.npz").write_bytes(zipped(header(2**20, 3), 12 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    with pytest.raises(UserError, match=r"its arrays decode to 12,58\d,\d{3} bytes; at most 8,388,608 are read"):
        CloudReader(CODEC).read(tmp_path / "a.npz")
    assert content.MOST_DECODED <= 2**29


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.npz", zipped(header(10**9, 3), 1 << 20), "announced"),
        ("a.npz", zipped(header(-1, 3), 1 << 20), "damaged"),
        ("a.npy", header(10**12, 3) + bytes(99), "announced"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n", "announced"),
        ("a.ply", "ply\nformat binary_little_endian 1.0\nelement face 9999999999\n"
                  "property list uint int vertex_indices\nend_header\n", "announced"),
        ("a.ply", b"ply\nformat binary_big_endian 1.0\nelement vertex 2\nproperty float x\nelement face 1\nproperty "
                  b"list uint double vertex_indices\nend_header\n" + bytes(8) + b"\xff" * 40, "announced"),
        ("a.off", "OFF\n999999999 1 0\n", "announced"),
        ("a.stl", bytes(80) + b"\xff" * 4 + bytes(50), "announced"),
        ("a.pcd", "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 99999999\nHEIGHT 999\nDATA binary\n", "announced"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 99999999\nDATA binary_compressed\n"
                  + (20).to_bytes(4, "little") + (12 * 99999999).to_bytes(4, "little") + bytes(20), "at most"),
        ("a.pts", "99999999\n1 2 3\n", "announces"),
    ],
)  # fmt: skip
def test_announced_sizes_are_compared_with_the_file(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=said):
        CloudReader(CODEC).read(path)


def test_instances_of_a_mesh_are_counted_before_they_are_made(tmp_path, monkeypatch):
    tree, binary = quantised()
    tree["nodes"] = [{"mesh": 0} for _ in range(100)]
    tree["scenes"] = [{"nodes": list(range(100))}]
    monkeypatch.setattr("diffcore_pointcloud.formats.gltf.MOST_FACES", 1000)
    (tmp_path / "a.glb").write_bytes(glb(tree, binary))
    with pytest.raises(UserError, match="more than 1,000 points and corners, with all instances"):
        CloudReader(CODEC).read(tmp_path / "a.glb")
    tree["nodes"] = [{"children": [1]}, {"children": [0]}]
    (tmp_path / "a.glb").write_bytes(glb(tree, binary))
    with pytest.raises(UserError, match="nodes that are not a tree"):
        CloudReader(CODEC).read(tmp_path / "a.glb")
    tree["nodes"], tree["scenes"] = [{"mesh": 0}], [{"nodes": [0]}]
    tree["accessors"][0] = {"componentType": 5126, "count": 2**40, "type": "VEC3"}
    (tmp_path / "a.glb").write_bytes(glb(tree, binary))
    with pytest.raises(UserError, match="more than 1,000 points and corners"):
        CloudReader(CODEC).read(tmp_path / "a.glb")


def zeros(tree, count):
    """The number of an accessor of `count` rows that the file does not store, which are zero."""
    tree["accessors"].append({"componentType": 5126, "count": count, "type": "VEC3"})
    return len(tree["accessors"]) - 1


def instances(tree):
    attributes = {"TRANSLATION": zeros(tree, 70_000)}
    tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}


def points(tree):
    tree["meshes"][0]["primitives"] = [{"mode": 0, "attributes": {"POSITION": zeros(tree, 3_000_000)}}]


def strip(tree):
    tree["meshes"][0]["primitives"] = [{"mode": 5, "attributes": {"POSITION": zeros(tree, 1_000_000)}}]


def normals(tree):
    tree["meshes"][0]["primitives"][0]["attributes"]["NORMAL"] = zeros(tree, 3_000_000)


def empty(tree):
    tree["meshes"][0]["primitives"] = [{"attributes": {}}] * 300
    tree["nodes"] = [{"mesh": 0}] * 300
    tree["scenes"] = [{"nodes": list(range(300))}]


@pytest.mark.parametrize("kind", [instances, points, strip, normals, empty])
def test_a_glb_file_has_no_more_points_and_parts_than_suit_its_size(kind):
    tree, binary = quantised()
    kind(tree)
    data = glb(tree, binary)

    def refused():
        with pytest.raises(UnusableError, match=r"more than 2,097,152 points|rows of values; at most 2,097,152 are"):
            gltf.read(data)

    assert count_calls(refused) < 700_000  # 30,000,000 with all instances
    assert len(gltf.read(glb(*quantised()))) == 1


def test_materials_with_pictures_are_read_in_one_pass():
    picture = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(picture, "PNG")

    def read(number):
        faces = "".join(f"usemtl m{k}\nf 1/1 2/2 3/3\n" for k in range(number))
        files = {
            "m.mtl": "".join(f"newmtl m{k}\nmap_Kd p.png\n" for k in range(number)).encode(),
            "p.png": picture.getvalue(),
        }
        text = f"mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n{faces}"
        assert len(obj.read(text.encode(), files.get)) == number

    few, many = (count_calls(lambda n=n: read(n)) for n in (50, 400))
    assert many < 10 * few


def test_facts_of_a_run_cannot_state_more_points_than_data_may_have():
    with pytest.raises(ValueError, match="less than or equal to 65536"):
        CloudFacts(points=2**24, centre=(0, 0, 0), scale=1)
    with pytest.raises(ValueError, match="less than or equal to 1048576"):
        FileOptions(pool=2**40)
    with pytest.raises(UserError, match="a cloud can have at most"):
        CODEC.resized(str(2**30))
    assert CODEC.resized(str(2**20)).space.empty(1)["positions"].shape == (1, 2**20, 3)


def test_data_that_do_not_fit_into_memory_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(datasets, "memory", lambda: 10**9)
    with pytest.raises(UserError, match=r"1,000,000 shapes with 2,048 points each need 24\.6 GB, .* `data\.pool`"):
        datasets.shapes(ShapesOptions(shapes=1_000_000))


def test_of_large_clouds_only_the_pool_is_kept(tmp_path):
    numpy.save(tmp_path / "a.npy", numpy.random.default_rng(0).normal(size=(5000, 3)))
    options = FileOptions(root=str(tmp_path), points=64, pool=70, colours=False)
    found, *_ = read_all(((tmp_path / "a.npy", 0),), read_cloud, options, Account("clouds"), "train", 70)
    assert found[0].positions.shape == (70, 3)
    assert found[0].positions.base is None  # not a view of all points
    assert numpy.ptp(found[0].bounds[:, 0]) > numpy.ptp(found[0].positions[:, 0])
