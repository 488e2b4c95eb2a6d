"""Readers of clouds: text in all its dialects, arrays, PLY and PCD, by values that are known by construction."""

import logging
import struct

import meshio
import numpy
import pytest
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data import datasets
from diffcore_pointcloud.data.clouds import read_cloud
from diffcore_pointcloud.data.reader import CloudReader
from diffcore_pointcloud.formats import text
from diffcore_pointcloud.options import CloudFacts, FileOptions
from diffcore_pointcloud.output.writer import CloudWriter

POSITIONS = numpy.array([[0.5, -1, 2], [3, 4.25, -5], [-6, 7, 8e-1], [9, 10, 11]])
NORMALS = numpy.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.6, 0.8]])
COLOURS = numpy.array([[255, 0, 10], [0, 128, 20], [1, 2, 3], [7, 8, 9]])


def cloud(path, **options):
    """The only cloud in a file, with its points in the order of the file."""
    (found,) = read_cloud(path, FileOptions(**options), numpy.random.default_rng(0))
    order = numpy.random.default_rng(0).permutation(len(found.positions)).argsort()
    return (*(None if part is None else part[order] for part in (found.positions, found.normals, found.colours)), found)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(*columns, between=" ", end="\n"):
    table = numpy.concatenate([numpy.reshape(column, (4, -1)) for column in columns], 1)
    return end.join(between.join(f"{value:g}" for value in row) for row in table) + end


PLAIN = rows(POSITIONS)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "4\n" + PLAIN,
        "\ufeff" + PLAIN,
        ("\ufeff" + PLAIN).encode("utf-16-le"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", "\r\n\r\n"),
        rows(POSITIONS, between=","),
        rows(POSITIONS, between=", "),
        rows(POSITIONS, between=";"),
        rows(POSITIONS, between=";", end=";\n"),
        rows(POSITIONS, between=";").replace(".", ","),
        rows(POSITIONS, between="\t"),
        rows(POSITIONS, between="\t").replace(".", ","),
        rows(numpy.abs(POSITIONS) + 0.125, between=" ").replace(".", ","),
        "# x, y and z are in metres\n" + PLAIN,
        "// a comment\n" + PLAIN + "# the end\n",
        "X Y Z\n" + PLAIN,
        "//X Y Z\n4\n" + PLAIN,
        '"x","y","z"\n' + rows(POSITIONS, between=","),
        "x [m];y [m];z [m]\n" + rows(POSITIONS, between=";"),
        "z,y,x\n" + rows(POSITIONS[:, ::-1], between=","),
        "time,x,y,z\n" + rows([1, 2, 3, 4], POSITIONS, between=","),
    ],
)  # fmt: skip
def test_dialects_of_text(tmp_path, content):
    positions, normals, colours, _ = cloud(written(tmp_path / "a.txt", content))
    shifted = isinstance(content, str) and "0,625" in content
    assert positions == pytest.approx(numpy.abs(POSITIONS) + 0.125 if shifted else POSITIONS)
    assert normals is None
    assert colours is None


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("x y z nx ny nz", (POSITIONS, NORMALS)),
        ("x y z r g b", (POSITIONS, COLOURS)),
        ("X,Y,Z,Red,Green,Blue", (POSITIONS, COLOURS)),
        ("//X Y Z R G B Nx Ny Nz", (POSITIONS, COLOURS, NORMALS)),
        ("# x y z normal_x normal_y normal_z label", (POSITIONS, NORMALS, [1, 2, 3, 4])),
        ("x y z diffuse_red diffuse_green diffuse_blue", (POSITIONS, COLOURS)),
        ("x y z Rf Gf Bf", (POSITIONS, COLOURS / 255)),
        ("x y z intensity", (POSITIONS, [1, 2, 3, 4])),
    ],
)
def test_named_columns(tmp_path, header, columns):
    content = header + "\n" + rows(*columns, between="," if "," in header else " ")
    has = [any(part is field for part in columns) for field in (NORMALS, COLOURS)]
    has[1] |= "Rf" in header
    positions, normals, colours, _ = cloud(written(tmp_path / "a.csv", content), normals=True, colours=True)
    assert positions == pytest.approx(POSITIONS)
    assert [normals is not None, colours is not None] == has
    if normals is not None:
        assert normals == pytest.approx(NORMALS)
    if colours is not None:
        assert numpy.array_equal(colours, COLOURS)


@pytest.mark.parametrize("ending", [".xyz", ".npy"])
@pytest.mark.parametrize(
    "columns",
    [
        (POSITIONS, [1, 2, 3, 4]), (POSITIONS, NORMALS), (POSITIONS, COLOURS), (POSITIONS, NORMALS, [1, 2, 3, 4]),
        (POSITIONS, NORMALS, COLOURS),
    ],
)  # fmt: skip
def test_columns_without_names_are_not_guessed(tmp_path, columns, ending):
    table = numpy.concatenate([numpy.reshape(column, (4, -1)) for column in columns], 1)
    path = tmp_path / f"a{ending}"
    numpy.save(path, table) if ending == ".npy" else written(path, rows(table))
    positions, normals, colours, found = cloud(path, normals=True, colours=True)
    assert positions == pytest.approx(POSITIONS)
    assert (normals, colours) == (None, None)
    assert found.note == (f"{table.shape[1]} columns without names: the first three are x y z, the others are not used")
    names = {id(NORMALS): ["nx", "ny", "nz"], id(COLOURS): ["r", "g", "b"]}
    given = ["x", "y", "z", *(name for part in columns[1:] for name in names.get(id(part), ["_"]))]
    positions, normals, colours, found = cloud(path, normals=True, colours=True, columns=tuple(given))
    assert (normals is not None) == any(part is NORMALS for part in columns)
    assert (colours is not None) == any(part is COLOURS for part in columns)
    assert normals is None or normals == pytest.approx(NORMALS)
    assert colours is None or numpy.array_equal(colours, COLOURS)
    assert found.note == ""
    with pytest.raises(Exception, match=r"columns, but `data\.columns` names 2: x y"):
        cloud(path, columns=("x", "y"))


def test_pts_files_have_intensity_and_colours(tmp_path):
    content = "4\n" + rows(POSITIONS, [-5, 0, 7, 9], COLOURS)
    positions, _, colours, _ = cloud(written(tmp_path / "a.pts", content), colours=True)
    assert positions == pytest.approx(POSITIONS)
    assert numpy.array_equal(colours, COLOURS)
    with pytest.raises(Exception, match="the first line announces 5 points, and 4 follow"):
        cloud(written(tmp_path / "b.pts", "5\n" + PLAIN))


@pytest.mark.parametrize(
    ("content", "is_table"),
    [
        (PLAIN, True), ("4\n" + PLAIN, True), ("x,y,z\n1,2,3\n", True), ("//X Y Z\n1 2 3", True),
        ("airplane_0001\nairplane_0002\n", False), ("Airplane\t02691156\nBag\t02773838\n", False),
        ("A data set of chairs.\nSee the x, y and z axes.\n", False), ("", False), ("1\n2\n3\n", False),
        ("id,synsetId,subSynsetId,modelId,split\n1,2,3,4,5\n", False),
    ],
)  # fmt: skip
def test_text_that_is_a_table_of_points(content, is_table):
    assert text.is_table(content.encode()) is is_table


# Arrays


def test_arrays_by_the_names_of_other_programs(tmp_path):
    single = POSITIONS.astype(numpy.float32)
    red, green, blue = (COLOURS / 255).T
    numpy.savez(tmp_path / "point_e.npz", coords=single, R=red, G=green, B=blue)
    numpy.savez(tmp_path / "lone.npz", arr_0=single)
    numpy.savez_compressed(tmp_path / "xyz.npz", x=single[:, 0], y=single[:, 1], z=single[:, 2])
    numpy.savez(tmp_path / "points.npz", points=single, normals=2 * NORMALS, colors=COLOURS.astype(numpy.uint8))
    numpy.save(tmp_path / "order.npy", numpy.asfortranarray(single))
    table = numpy.zeros(4, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])
    for k, name in enumerate(table.dtype.names):
        table[name] = numpy.hstack([POSITIONS, COLOURS])[:, k]
    numpy.save(tmp_path / "fields.npy", table)
    coloured = {"point_e.npz", "points.npz", "fields.npy"}
    for path in tmp_path.iterdir():
        positions, normals, colours, _ = cloud(path, colours=True, normals=True)
        assert positions == pytest.approx(POSITIONS), path
        assert (colours is not None) == (path.name in coloured)
        assert colours is None or numpy.array_equal(colours, COLOURS)
        assert (normals is not None) == (path.name == "points.npz")


def test_several_clouds_in_one_array(tmp_path):
    several = numpy.random.default_rng(0).normal(size=(5, 70, 3))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    numpy.save(tmp_path / "a" / "all.npy", several)
    numpy.save(tmp_path / "b" / "one.npy", several[0])
    data = datasets.clouds(FileOptions(root=str(tmp_path), points=64, pool=70))
    assert data.facts.classes == ("a", "b")
    found = data.examples["positions"][data.examples["label"] == 0]
    assert sorted(found.double().sum((1, 2)).tolist()) == pytest.approx(sorted(several.sum((1, 2)).tolist()), abs=1e-4)


# PLY and PCD


def ply(names, table, types=None):
    head = f"ply\nformat ascii 1.0\nelement vertex {len(table)}\n"
    head += "".join(f"property {kind} {name}\n" for name, kind in zip(names, types or ["float"] * 20, strict=False))
    return head + "end_header\n" + "\n".join(" ".join(f"{value:.9g}" for value in row) for row in table) + "\n"


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_clouds_in_ply_agree_with_meshio(tmp_path, binary):
    mesh = meshio.Mesh(POSITIONS, [], {name: NORMALS[:, k] for k, name in enumerate(("nx", "ny", "nz"))})
    meshio.write(tmp_path / "a.ply", mesh, binary=binary)
    other = meshio.read(tmp_path / "a.ply")
    positions, normals, _, _ = cloud(tmp_path / "a.ply", normals=True)
    assert positions == pytest.approx(other.points)
    assert normals[:, 2] == pytest.approx(other.point_data["nz"])


def test_colours_of_splats(tmp_path):
    """The colour of a Gaussian splat is 0.5 + f_dc / (2 sqrt(pi)), from 0 to 1."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    harmonics = (COLOURS / 255 - 0.5) * 2 * numpy.pi**0.5
    harmonics[0, 0] = 3.0  # brighter than white
    table = numpy.hstack([POSITIONS, numpy.zeros((4, 3)), harmonics, numpy.zeros((4, 1))])
    positions, _, colours, _ = cloud(written(tmp_path / "a.ply", ply(names, table)), colours=True)
    assert positions == pytest.approx(POSITIONS)
    assert numpy.array_equal(colours, COLOURS)


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green",
                                                                              "diffuse_blue")])  # fmt: skip
@pytest.mark.parametrize(("kind", "unit"), [("uchar", 1), ("float", 1 / 255), ("ushort", 257)])
def test_names_and_types_of_colours(tmp_path, names, kind, unit):
    table = numpy.hstack([POSITIONS, COLOURS * unit])
    path = written(tmp_path / "a.ply", ply(["x", "y", "z", *names], table, ["float"] * 3 + [kind] * 3))
    assert numpy.array_equal(cloud(path, colours=True)[2], COLOURS)


def lzf(data):
    """A compressed form of `data`: its first 8 bytes, a run of 4 bytes that repeats them, then the rest."""
    start, rest = data[:8], data[12:]
    literals = b"".join(bytes([len(part) - 1]) + part for part in (rest[k : k + 32] for k in range(0, len(rest), 32)))
    return bytes([7]) + start + bytes([(2 << 5), 7]) + literals


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd_files(tmp_path, kind):
    positions = POSITIONS.astype("<f4")
    positions[2, 0] = positions[0, 0]  # what the compressed form repeats
    packed = (COLOURS << [16, 8, 0]).sum(1).astype("<u4")
    header = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ rgb\nSIZE 4 4 4 1 4\nTYPE F F F U F\nCOUNT 1 1 1 2 1\n"
    header += f"WIDTH 4\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 4\nDATA {kind}\n"
    floats = packed.view("<f4")
    if kind == "ascii":
        lines = [(*row, 0, 0, colour) for row, colour in zip(positions.tolist(), floats.tolist(), strict=True)]
        body = "\n".join(" ".join(f"{value:.9g}" for value in line) for line in lines).encode()
    elif kind == "binary":
        body = b"".join(
            row.tobytes() + b"\0\0" + colour.tobytes() for row, colour in zip(positions, floats, strict=True)
        )
    else:
        columns = positions.T.tobytes() + bytes(8) + floats.tobytes()
        assert columns[8:12] == columns[0:4]
        body = lzf(columns)
        body = struct.pack("<II", len(body), len(columns)) + body
    found, _, colours, _ = cloud(written(tmp_path / "a.pcd", header.encode() + body), colours=True)
    assert found == pytest.approx(positions)
    assert numpy.array_equal(colours, COLOURS)


def test_points_that_are_not_finite_are_dropped_on_request(tmp_path):
    table = numpy.vstack([POSITIONS, [numpy.nan, 1, 2], [3, numpy.inf, 4]])
    numpy.save(tmp_path / "a.npy", table)
    with pytest.raises(Exception, match=r"of 2 of 6 points; `data\.drop_not_finite` leaves out such points"):
        cloud(tmp_path / "a.npy")
    positions, _, _, found = cloud(tmp_path / "a.npy", drop_not_finite=True)
    assert positions == pytest.approx(POSITIONS)
    assert numpy.array_equal(found.bounds, [POSITIONS.min(0), POSITIONS.max(0)])
    data = datasets.clouds(FileOptions(root=str(tmp_path), points=4, pool=4, drop_not_finite=True))
    assert data.ledger.changed == {"used without their points that are not finite": ("a.npy",)}
    numpy.save(tmp_path / "b.npy", numpy.full((5, 3), numpy.nan))
    with pytest.raises(Exception, match="no point with finite coordinates"):
        cloud(tmp_path / "b.npy", drop_not_finite=True)


# What this package writes


@pytest.mark.parametrize("up", ["y", "z"])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", ["all.npz", "all.glb", "folder"])
def test_samples_are_read_back(tmp_path, name, count, up):
    generator = numpy.random.default_rng(0)
    positions = generator.normal(size=(count, 64, 3)).astype(numpy.float32)
    colours = generator.integers(0, 256, (count, 64, 3), dtype=numpy.uint8)
    codec = CloudCodec(CloudFacts(points=64, centre=(0, 0, 0), scale=1, colours=True, up=up))
    fields = {"positions": torch.from_numpy(positions), "colours": torch.from_numpy(colours)}
    writer, samples = CloudWriter(codec), TensorDict(fields, batch_size=[count])
    (tmp_path / "out").mkdir()
    if name == "folder":
        writer.each(samples, tmp_path / "out", [f"{k:04d}" for k in range(count)])
    else:
        writer.together(samples, tmp_path / "out" / name, 2, [{"label": "chair"}] * count)
    options = FileOptions(root=str(tmp_path / "out"), points=64, pool=64, colours=True, up=up)
    examples = datasets.clouds(options).examples
    assert len(examples) >= count - 1  # of more than one, some are held out

    def clouds(positions, colours):
        rows = numpy.concatenate([positions.round(4), colours], 2).tolist()
        return {tuple(sorted(map(tuple, each))) for each in rows}

    assert clouds(examples["positions"].numpy(), examples["colours"].numpy()) <= clouds(positions, colours)
    path = next((tmp_path / "out").iterdir())
    if count == 1 or name == "folder":
        assert CloudReader(codec).read(path)["positions"].shape == (1, 64, 3)
    else:
        with pytest.raises(UserError, match="has 4 clouds; give a file with one"):
            CloudReader(codec).read(path)


def test_the_reader_says_what_it_does_not_use(tmp_path, caplog):
    codec = CloudCodec(CloudFacts(points=8, centre=(0, 0, 0), scale=5, normals=True))
    path = written(tmp_path / "a.xyz", rows(POSITIONS, NORMALS))
    with caplog.at_level(logging.WARNING):
        _, known = CloudReader(codec).read_part(path)
    assert known["positions"].any()
    assert not known["normals"].any()
    assert "6 columns without names: the first three are x y z" in caplog.text
