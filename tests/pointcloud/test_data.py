from pathlib import Path

import numpy
import pytest
import torch
import trimesh
from PIL import Image
from scipy import stats

from diffcore.cli.flags import run_settings
from diffcore.errors import UserError
from diffcore.plugins.registry import installed
from diffcore.states.noise import Draws
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data import datasets
from diffcore_pointcloud.data.sources import SYNSETS
from diffcore_pointcloud.options import FileOptions, ShapesOptions
from diffcore_pointcloud.plugin import POINTCLOUD
from tests.support.measured import count_calls


def meshes(root, **options):
    return datasets.meshes(FileOptions(root=root, **{"points": 64, "pool": 600, **options}))


def clouds(root, **options):
    return datasets.clouds(FileOptions(root=root, **{"points": 64, "pool": 600, **options}))


def cube(centre=(10.0, 20.0, 30.0), half=1.0):
    mesh = trimesh.creation.box((2 * half,) * 3)
    mesh.apply_translation(centre)
    return mesh


def write(mesh, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)
    return path


def points(n=100, seed=0, scale=1.0):
    return numpy.random.default_rng(seed).normal(size=(n, 3)) * scale


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    numpy.save(path, array)
    return path


# Presets and flags

PRESETS = sorted(
    set(POINTCLOUD.presets) - {"encode", "latent", "joint"}
)  # these take the data of their first stage or the default


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset):
    found, _ = run_settings(["--modality", "pointcloud", "--preset", preset], installed(), "diffcore train")
    assert found.data.name == preset.removesuffix("-gpu").removesuffix("-2048").removesuffix("-captions").removesuffix(
        "-normals"
    ).replace("default", "shapes")
    assert found.data.points == (2048 if preset.endswith(("gpu", "2048")) else 512)


def test_flags_reach_the_data():
    flags = (
        "--data meshes --data.root . --data.normalise each --data.up z --data.skip-unreadable --data.classes bed sofa"
    )
    found, _ = run_settings(["--modality", "pointcloud", *flags.split()], installed(), "diffcore train")
    assert found.data.root == str(Path.cwd())
    assert (found.data.normalise, found.data.up, found.data.skip_unreadable) == ("each", "z", True)
    assert found.data.classes == ("bed", "sofa")
    with pytest.raises(UserError, match=r"data\.classes"):
        run_settings(["--modality", "pointcloud", "--data.classes", "chairs"], installed(), "diffcore train")


# Shapes


def test_classes_are_equally_frequent_and_different_shapes_are_held_out():
    data = datasets.shapes(ShapesOptions(shapes=50, held_out=10, points=64, pool=64, normals=True, colours=True))
    assert data.facts.classes == ("aeroplane", "chair", "lamp", "solid", "table")
    assert torch.bincount(data.examples["label"]).tolist() == [10] * 5
    assert torch.bincount(data.held_out["label"]).tolist() == [2] * 5
    both = torch.cat([data.examples["positions"], data.held_out["positions"]]).flatten(1)
    assert len(both.unique(dim=0)) == 60
    assert both.abs().max() <= 1
    assert data.examples["colours"].dtype == torch.uint8
    again = datasets.shapes(ShapesOptions(shapes=50, held_out=10, points=64, pool=64))
    assert torch.equal(again.examples["positions"], data.examples["positions"])
    other = datasets.shapes(ShapesOptions(shapes=50, held_out=10, points=64, pool=64, seed=1))
    assert not torch.equal(other.examples["positions"], data.examples["positions"])
    alone = datasets.shapes(ShapesOptions(shapes=5, held_out=2, points=64, classes=("chair",)))
    assert alone.facts.classes == ("chair",)
    assert alone.examples["positions"].shape == (5, 2048, 3)


def test_shapes_are_made_with_whole_arrays():
    """The number of function calls does not grow with the number of shapes, so no loop runs over shapes or points."""
    few, many = (count_calls(lambda n=n: datasets.shapes(ShapesOptions(shapes=n, held_out=2))) for n in (50, 400))
    assert many < 1.2 * few


def test_a_pool_must_not_be_smaller_than_a_cloud():
    with pytest.raises(UserError, match=r"`data.pool` 100 must not be smaller than `data.points` 512"):
        datasets.shapes(ShapesOptions(pool=100))


# Meshes


@pytest.mark.parametrize("ending", ["off", "obj", "ply", "stl", "glb"])
def test_points_are_on_the_cube_in_the_file(tmp_path, ending):
    for index in range(2):
        write(cube(), tmp_path / f"{index}.{ending}")
    data = meshes(tmp_path, normals=True, pool=3000)
    assert data.facts.classes == ()
    positions = data.examples["positions"]
    assert positions.dtype == torch.float32
    local = positions[0].double() - torch.tensor([10.0, 20.0, 30.0])
    side = local.abs().argmax(1)
    torch.testing.assert_close(local.abs().amax(1), torch.ones(3000, dtype=torch.float64), atol=4e-6, rtol=0)
    outward = torch.nn.functional.one_hot(side, 3) * local.sign()
    assert torch.equal(data.examples["normals"][0].double(), outward)
    face = side * 2 + (local.gather(1, side[:, None])[:, 0] > 0)
    assert stats.chisquare(torch.bincount(face, minlength=6).numpy()).pvalue > 1e-3
    assert not torch.equal(positions[0], positions[1])  # each file has its own points
    # The second moment of a coordinate over a cube's surface is 5/9: (1 + 1/3 + 1/3) / 3.
    assert data.facts.centre == pytest.approx((10, 20, 30), abs=0.05)
    assert data.facts.scale == pytest.approx((5 / 9) ** 0.5, rel=0.02)


def test_the_joined_first_lines_of_modelnet_are_read(tmp_path):
    lines = cube().export(file_type="off").splitlines()
    assert lines[0] == "OFF"
    (tmp_path / "a.off").write_text("\n".join([lines[0] + lines[1], *lines[2:]]))
    positions = meshes(tmp_path).examples["positions"][0]
    torch.testing.assert_close(positions.amax(0), torch.tensor([11.0, 21.0, 31.0]), atol=0.05, rtol=0)


def test_the_meshes_of_a_scene_are_transformed(tmp_path):
    scene = trimesh.Scene()
    for x in (-5.0, 5.0):
        move = trimesh.transformations.translation_matrix((x, 0, 0))
        scene.add_geometry(trimesh.creation.box((1, 1, 1)), transform=move)
    scene.export(tmp_path / "a.glb")
    x = meshes(tmp_path).examples["positions"][0][:, 0]
    assert x.min() >= -5.5 - 1e-6
    assert x.max() <= 5.5 + 1e-6
    assert x.abs().min() >= 4.5 - 1e-6
    assert 0.4 < (x > 0).double().mean() < 0.6


@pytest.mark.parametrize("ending", ["ply", "glb"])
def test_colours_of_faces_and_vertices(tmp_path, ending):
    mesh = cube((0, 0, 0))
    if ending == "ply":
        mesh.visual.face_colors = numpy.where(mesh.face_normals[:, :1] > 0.5, [[255, 0, 0, 255]], [[0, 0, 255, 255]])
    else:
        mesh.visual.vertex_colors = numpy.where(mesh.vertices[:, :1] > 0, [[255, 0, 0, 255]], [[0, 0, 255, 255]])
    write(mesh, tmp_path / f"a.{ending}")
    held = meshes(tmp_path, colours=True).examples[0]
    red, x = held["colours"][:, 0].double(), held["positions"][:, 0].double()
    if ending == "ply":
        assert torch.equal(red == 255, x > 1 - 1e-6)
    else:  # colours of vertices are interpolated linearly over a face
        torch.testing.assert_close(red, (x + 1) / 2 * 255, atol=1, rtol=0)


def test_colours_of_textures(tmp_path):
    """A square with a texture that is red on the left and green on the right."""
    pixels = numpy.zeros((8, 8, 3), numpy.uint8)
    pixels[:, :4, 0] = pixels[:, 4:, 1] = 255
    corners = numpy.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    material = trimesh.visual.material.SimpleMaterial(image=Image.fromarray(pixels), diffuse=[255] * 4)
    visual = trimesh.visual.TextureVisuals(uv=corners, material=material)
    vertices = numpy.pad(corners, ((0, 0), (0, 1)))
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)
    write(mesh, tmp_path / "a" / "a.obj")
    write(mesh, tmp_path / "a" / "b.glb")
    for held in meshes(tmp_path / "a", colours=True).examples:
        x = held["positions"][:, 0]
        left, right = held["colours"][x < 0.4].float(), held["colours"][x > 0.6].float()
        assert left.mean(0).tolist() == pytest.approx([255, 0, 0], abs=3)
        assert right.mean(0).tolist() == pytest.approx([0, 255, 0], abs=3)


def test_modelnet_s_layout(tmp_path):
    for name, size in (("bed", 1.0), ("sofa", 2.0)):
        for part, count in (("train", 4), ("test", 2)):
            for index in range(count):
                write(cube((0, 0, 0), size), tmp_path / name / part / f"{name}_{index}.off")
    (tmp_path / "bed" / "train" / "._bed_0.off").write_bytes(b"\0\5\26\7")
    (tmp_path / "__MACOSX" / "bed").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "bed" / "x.off").write_text("OFF")
    data = meshes(tmp_path)
    assert data.facts.classes == ("bed", "sofa")
    assert (len(data.examples), len(data.held_out)) == (8, 4)
    assert torch.equal(data.examples["positions"].abs().amax((1, 2)).round().long() - 1, data.examples["label"])
    assert data.notes == ()
    chosen = meshes(tmp_path, classes=("sofa",))
    assert chosen.facts.classes == ("sofa",)
    assert (len(chosen.examples), len(chosen.held_out)) == (4, 2)
    with pytest.raises(UserError, match=r"has no class car; it has: bed, sofa"):
        meshes(tmp_path, classes=("car",))


def test_shapenet_s_layout(tmp_path):
    for synset in ("03001627", "04379243", "12345678"):
        for model in range(3):
            write(cube(), tmp_path / synset / f"m{model}" / "models" / "model_normalized.obj")
    assert meshes(tmp_path).facts.classes == ("12345678", "chair", "table")
    assert meshes(tmp_path / "03001627").facts.classes == ()
    assert len(SYNSETS) == 55


def test_train_and_test_folders_above_the_classes(tmp_path):
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            write(cube(), tmp_path / part / name / "0.stl")
            write(cube(), tmp_path / part / name / "1.stl")
    data = meshes(tmp_path)
    assert (len(data.examples), len(data.held_out)) == (4, 4)
    assert data.ledger.passed_over == {
        "in val folders, as those in test folders are held out": tuple(
            f"val/{name}/{number}.stl" for name in "ab" for number in range(2)
        )
    }


def test_each_shape_can_be_scaled_to_the_cube(tmp_path):
    write(cube((0, 0, 0), 1e-3), tmp_path / "a.ply")
    tall = trimesh.creation.box((1e6, 2e6, 5e5))
    tall.apply_translation((1e9, 0, -1e9))
    write(tall, tmp_path / "b.obj")
    write(cube((1e4, 0, 0), 1e-4), tmp_path / "c.off")
    differing, distant = meshes(tmp_path).notes
    assert differing.startswith("the longest side of the meshes is from 0.0002 to 2e+06: ")
    assert distant.startswith("1 of 3 meshes are more than 10,000 times their size away from the origin")
    data = meshes(tmp_path, normalise="each")
    assert data.notes == ()
    for small in data.examples["positions"][[0, 2]]:
        torch.testing.assert_close(small.abs().amax(1), torch.ones(600), atol=1e-6, rtol=0)
    positions = data.examples["positions"][1]
    torch.testing.assert_close(positions.abs().amax(0), torch.tensor([0.5, 1.0, 0.25]), atol=0.01, rtol=0)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_does_not_matter(tmp_path, unit):
    for index in range(3):
        vertices = cube((0, 0, 0)).vertices * unit
        write(trimesh.Trimesh(vertices, cube().faces, process=False), tmp_path / f"{index}.obj")
        lines = (tmp_path / f"{index}.obj").read_text().splitlines()
        rows = iter(vertices.tolist())  # trimesh writes only 8 decimals
        lines = [("v {:e} {:e} {:e}".format(*next(rows)) if line.startswith("v ") else line) for line in lines]
        (tmp_path / f"{index}.obj").write_text("\n".join(lines))
    data = meshes(tmp_path, pool=3000)
    assert data.notes == ()
    assert data.facts.scale == pytest.approx((5 / 9) ** 0.5 * unit, rel=0.02)
    codec = CloudCodec(data.facts)
    state = codec.encode(data.examples, Draws.of(0, range(len(data.examples)))).state
    assert state.std().item() == pytest.approx(1, abs=0.1)
    back = codec.decode(codec.encode(data.examples).state)["positions"]
    torch.testing.assert_close(back, data.examples["positions"][:, :64], rtol=1e-5, atol=1e-6 * unit)


# Clouds


def test_clouds_in_every_format(tmp_path):
    rows = points()
    unit = rows / numpy.linalg.norm(rows, axis=1, keepdims=True)
    colours = numpy.random.default_rng(1).integers(0, 256, (100, 3), dtype=numpy.uint8)
    numpy.savetxt(tmp_path / "a.xyz", rows)
    numpy.savetxt(tmp_path / "b.txt", numpy.hstack([rows, unit]), delimiter=",", header="x,y,z,nx,ny,nz")
    numpy.save(tmp_path / "c.npy", rows)
    numpy.savez(tmp_path / "d.npz", points=rows.astype(numpy.float32), colors=colours)
    trimesh.PointCloud(rows, colors=colours).export(tmp_path / "e.ply")
    data = clouds(tmp_path)
    expected = torch.from_numpy(rows).float()
    for held in data.examples["positions"]:
        order, want = held[held[:, 0].argsort()], expected[expected[:, 0].argsort()]
        torch.testing.assert_close(order, want, atol=1e-6, rtol=1e-6)
    (tmp_path / "n").mkdir()
    (tmp_path / "b.txt").rename(tmp_path / "n" / "b.txt")
    numpy.savez(tmp_path / "n" / "f.npz", positions=rows, normals=3 * unit)
    for held in clouds(tmp_path / "n", normals=True).examples:
        direction = torch.nn.functional.normalize(held["positions"], dim=1)
        torch.testing.assert_close(held["normals"].float(), direction, atol=1e-3, rtol=0)
    (tmp_path / "k").mkdir()
    (tmp_path / "d.npz").rename(tmp_path / "k" / "d.npz")
    (tmp_path / "e.ply").rename(tmp_path / "k" / "e.ply")
    numpy.savetxt(tmp_path / "k" / "g.txt", numpy.hstack([rows, colours]), header="x y z r g b", comments="")
    numpy.savez(tmp_path / "k" / "h.npz", points=rows, colours=colours / 255)
    for held in clouds(tmp_path / "k", colours=True).examples:
        by_x, want = held["positions"][:, 0].argsort(), rows[:, 0].argsort()
        assert torch.equal(held["colours"][by_x], torch.from_numpy(colours[want]))


def test_pointflow_s_layout(tmp_path):
    for synset in ("02691156", "03001627"):
        for part, count in (("train", 4), ("val", 2), ("test", 3)):
            for index in range(count):
                save(tmp_path / synset / part / f"{index}.npy", points(1500, index).astype(numpy.float32))
    data = clouds(tmp_path)
    assert data.facts.classes == ("airplane", "chair")
    assert (len(data.examples), len(data.held_out)) == (8, 6)
    assert data.examples["positions"].shape == (8, 600, 3)
    assert "count" not in data.examples.keys()


def test_lists_and_readmes_are_no_clouds(tmp_path):
    """The lists that ModelNet, ShapeNet's parts and PartNet put beside the folders of classes."""
    for name in ("airplane", "bed"):
        for index in range(2):
            path = tmp_path / name / f"{name}_{index}.txt"
            path.parent.mkdir(exist_ok=True)
            numpy.savetxt(path, numpy.hstack([points(seed=index), points(seed=1)]), delimiter=",")
    lists = {
        "modelnet40_train.txt": "airplane_0001\nbed_0001\n",
        "synsetoffset2category.txt": "Airplane\t02691156\nBed\t02818832\n",
        "README.txt": "1 2 3\n",
        "notes.txt": "Chairs, 3 of them.\n",
        "metadata.csv": "object_id,class,split\nairplane_0001,airplane,train\n",
        "empty.txt": "",
        "scan.las": "LASF",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    data = clouds(tmp_path)
    assert data.facts.classes == ("airplane", "bed")
    assert len(data.examples) + len(data.held_out or ()) == 4
    assert {why: set(names) for why, names in data.ledger.passed_over.items()} == {
        "text that is no table of points, such as a list of files": {
            "empty.txt", "modelnet40_train.txt", "notes.txt", "synsetoffset2category.txt",
        },
        "without file_name and text, so without captions": {"metadata.csv"},
        "readmes and licences": {"README.txt"},
        "files that end in .las, which are not read (convert them, for example with CloudCompare or Blender)": {
            "scan.las"
        },
    }  # fmt: skip
    assert {why: len(names) for why, names in data.ledger.noted.items()} == {
        "6 columns without names: the first three are x y z, the others are not used": 4
    }


def test_small_clouds_are_padded_and_counted(tmp_path):
    for index, size in enumerate((10, 100, 900)):
        save(tmp_path / f"{index}.npy", points(size, index))
    data = clouds(tmp_path)
    assert data.ledger.changed == {"fewer than 64 points, which are repeated at random": ("0.npy",)}
    assert data.examples["count"].tolist() == [64, 100, 600]
    assert [len(held.unique(dim=0)) for held in data.examples["positions"]] == [10, 100, 600]
    # 54 random repetitions of 10 points: about 5.4 of each.
    assert data.examples["positions"][0, :64].unique(dim=0, return_counts=True)[1].max() < 20
    drawn = CloudCodec(data.facts).encode(data.examples, Draws.of(0, range(len(data.examples)))).state
    assert [len(cloud.unique(dim=0)) for cloud in drawn] == [10, 64, 64]


# Files that cannot be used


def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path):
    for index in range(4):
        write(cube(), tmp_path / f"ok{index}.off")
    whole = (tmp_path / "ok0.off").read_text()
    (tmp_path / "cut.off").write_text(whole[: len(whole) // 2])
    binary = cube().export(file_type="ply")
    (tmp_path / "cut.ply").write_bytes(binary[: len(binary) * 2 // 3])
    (tmp_path / "cut.stl").write_bytes(cube().export(file_type="stl")[:200])
    (tmp_path / "cut.glb").write_bytes(cube().export(file_type="glb")[:100])
    (tmp_path / "noise.off").write_bytes(bytes(range(256)))
    (tmp_path / "empty.obj").write_bytes(b"")
    (tmp_path / "no_faces.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    (tmp_path / "line.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    (tmp_path / "dot.obj").write_text("v 1 2 3\nv 1 2 3\nv 1 2 3\nf 1 2 3\n")
    (tmp_path / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 2 1 0\nf 1 2 3\n")
    (tmp_path / "inf.off").write_text("OFF\n3 1 0\n0 0 inf\n1 0 0\n0 1 0\n3 0 1 2\n")
    trimesh.PointCloud(points()).export(tmp_path / "points.ply")
    with pytest.raises(UserError, match=r"12 of the 16 meshes under .* cannot be used: .*`data.skip_unreadable`") as e:
        meshes(tmp_path)
    assert "\n" not in str(e.value)
    data = meshes(tmp_path, skip_unreadable=True)
    assert len(data.examples) == 4
    assert sum(map(len, data.ledger.passed_over.values())) == 12
    reasons = read_reasons(tmp_path)
    for name, reason in {
        "no_faces.obj": "no faces",
        "points.ply": "no faces",
        "line.obj": "no area",
        "dot.obj": "no area",
        "nan.obj": "not finite",
        "inf.off": "not finite",
    }.items():
        assert reason in reasons[name]


def read_reasons(folder):
    """The reason for each file, read alone."""
    reasons = {}
    for path in sorted(folder.iterdir()):
        alone = folder.parent / f"{folder.name}-{path.name}"
        alone.mkdir()
        (alone / path.name).write_bytes(path.read_bytes())
        load = clouds if path.suffix in (".npy", ".npz", ".xyz", ".txt") else meshes
        if not path.name.startswith("ok"):
            with pytest.raises(UserError) as caught:
                load(alone)
            reasons[path.name] = str(caught.value)
            assert "\n" not in reasons[path.name]
            assert reasons[path.name].startswith(f"none of the 1 {load.__name__} under {alone} can be used: ")
    return reasons


def test_clouds_that_cannot_be_used_are_named_with_the_reason(tmp_path):
    numpy.save(tmp_path / "empty.npy", numpy.zeros((0, 3)))
    numpy.save(tmp_path / "volume.npy", numpy.zeros((4, 100, 3, 1)))
    numpy.save(tmp_path / "flat.npy", numpy.zeros((100, 2)))
    numpy.save(tmp_path / "words.npy", numpy.array([["a", "b", "c"]]))
    numpy.save(tmp_path / "pickled.npy", numpy.array([{}, 1], dtype=object), allow_pickle=True)
    numpy.savez(tmp_path / "names.npz", vertices=points(), edges=points())
    numpy.savez(tmp_path / "uneven.npz", points=points(), normals=points(99))
    numpy.save(tmp_path / "nan.npy", numpy.full((100, 3), numpy.nan))
    numpy.save(tmp_path / "dot.npy", numpy.ones((100, 3)))
    numpy.save(tmp_path / "vast.npy", points(scale=1e35))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "vast.npy").read_bytes()[:300])
    (tmp_path / "text.xyz").write_text("a b c\n1 2 3\n")
    (tmp_path / "uneven.xyz").write_text("1 2 3\n1 2\n")
    (tmp_path / "nothing.xyz").write_text("")
    reasons = read_reasons(tmp_path)
    expected = {
        "empty.npy": "no points",
        "volume.npy": r"shape [4, 100, 3, 1]; expected [points, 3] or more columns",
        "flat.npy": "shape [100, 2]",
        "words.npy": "not of numbers",
        "pickled.npy": "pickled objects, which are not read because",
        "names.npz": "no array with the name positions or points, only vertices, edges",
        "uneven.npz": "normals of shape [99, 3] for 100 points",
        "nan.npy": "not finite",
        "dot.npy": "all points are equal",
        "vast.npy": "unless `data.normalise` is each",
        "cut.npy": "damaged",
        "text.xyz": "not rows of numbers",
        "uneven.xyz": "not rows of numbers",
        "nothing.xyz": "no points",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name], reasons[name]


def test_requested_normals_and_colours_must_exist(tmp_path):
    write(cube(), tmp_path / "a.off")
    with pytest.raises(UserError, match=r"a.off \(no colours\)"):
        meshes(tmp_path, colours=True)
    save(tmp_path / "b.npy", points())
    with pytest.raises(UserError, match=r"b.npy \(no normals\)"):
        clouds(tmp_path, normals=True)
    save(tmp_path / "b.npy", numpy.hstack([points(), 1000 * points(seed=1)]))
    assert len(clouds(tmp_path).examples) == 1  # colours that are not requested do not matter
    with pytest.raises(UserError, match=r"b.npy \(no colours: 6 columns without names: .*; `data.columns` says what"):
        clouds(tmp_path, colours=True)
    with pytest.raises(UserError, match=r"b.npy \(colours that are not between 0 and 255\)"):
        clouds(tmp_path, colours=True, columns=tuple("xyzrgb"))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda root: None, "no folder"),
        (lambda root: root.mkdir(), "no meshes under .*it is empty"),
        (lambda root: save(root / "a.npy", points()), r"there are 1 of \.npy; `data` clouds reads them"),
        (lambda root: (root.mkdir(), (root / "a.blend").write_text("x")), r"there are 1 of \.blend; convert them"),
        (lambda root: (root.mkdir(), (root / "._a.off").write_text("OFF")), "it is empty"),
        (lambda root: (root.mkdir(), (root / "a.off").write_text("x")), "none of the 1 meshes"),
    ],
    ids=["missing", "empty", "clouds", "other files", "hidden", "all unreadable"],
)
def test_a_folder_without_meshes_is_refused_in_a_line(tmp_path, prepare, said):
    prepare(tmp_path / "root")
    with pytest.raises(UserError, match=said) as caught:
        meshes(tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "root") in str(caught.value)


def test_a_root_is_needed():
    with pytest.raises(UserError, match=r"`data\.root`"):
        meshes(None)


def test_train_and_test_must_agree(tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "c")):
        save(tmp_path / part / name / "0.npy", points())
    with pytest.raises(UserError, match="the test folders have classes that the train folders lack: c"):
        clouds(tmp_path)
    (tmp_path / "test" / "c" / "0.npy").unlink()
    assert len(clouds(tmp_path).examples) == 2
    save(tmp_path / "d" / "0.npy", points())
    with pytest.raises(UserError, match=r"1 clouds under .* are neither in a train nor in a test folder"):
        clouds(tmp_path)


def test_the_only_example_of_a_class_is_a_training_example(tmp_path):
    for index in range(39):
        save(tmp_path / "many" / f"{index}.npy", points(seed=index))
    save(tmp_path / "one" / "0.npy", points())
    data = clouds(tmp_path, held_out=0.5)
    assert (len(data.examples), len(data.held_out)) == (21, 19)
    assert (data.examples["label"] == 1).sum() == 1
    assert data.notes == (
        "classes with only one training example: one",
        "classes without a held-out example: one",
    )


def test_classes_without_usable_files_are_left_out(tmp_path):
    for index in range(3):
        save(tmp_path / "b" / f"{index}.npy", points())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.npy").write_bytes(b"x")
    data = clouds(tmp_path, skip_unreadable=True)
    assert data.facts.classes == ("b",)
    assert data.examples["label"].tolist() == [0, 0, 0]
    assert data.ledger.passed_over["classes without a file that can be used"] == ("a",)


def test_one_file_is_a_data_set(tmp_path):
    save(tmp_path / "0.npy", points())
    data = clouds(tmp_path)
    assert len(data.examples) == 1
    assert data.held_out is None


def test_real_furniture(real_data):
    if not (real_data / "furniture").is_dir():
        pytest.skip("no furniture")
    data = meshes(real_data / "furniture", classes=("lamp", "bed"))
    assert data.facts.classes == ("bed", "lamp")
    assert data.notes == ()
    assert (data.examples["positions"].abs().amax((1, 2)) <= 1.001).all()
