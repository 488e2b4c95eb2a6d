"""Files read by other libraries, pictures of points at known positions, and the report."""

import math
import re
from functools import partial
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy
import pytest
import torch
import trimesh
from PIL import Image
from tensordict import TensorDict

from diffcore.evaluation.page import page
from diffcore_pointcloud.output import turntable
from diffcore_pointcloud.output.painting import AZIMUTH, painted, view
from diffcore_pointcloud.output.points import RAMP, Points, colours, extent, unbatched, upright
from diffcore_pointcloud.output.scenes import MAX_POINTS, scene
from diffcore_pointcloud.output.writer import CloudWriter


def writer(up="y"):
    return CloudWriter(SimpleNamespace(facts=SimpleNamespace(up=up, parts=(), part_labels=())))


def made(batch=3, points=40, normals=False, coloured=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    fields = {"positions": torch.randn(batch, points, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + 3}
    if normals:
        fields["normals"] = torch.nn.functional.normalize(torch.randn(batch, points, 3, generator=generator), dim=-1)
    if coloured:
        fields["colours"] = torch.randint(0, 256, (batch, points, 3), generator=generator).to(torch.uint8)
    return TensorDict(fields, batch_size=[batch])


ASKED = [{"label": "chair"}, {"label": "line\nbreak é"}, {"label": "lamp"}]


# Files


@pytest.mark.parametrize(("normals", "coloured"), [(False, False), (True, False), (False, True), (True, True)])
def test_ply_files_contain_the_exact_values(tmp_path, normals, coloured):
    samples = made(normals=normals, coloured=coloured)
    paths = writer().each(samples, tmp_path, ["a", "b", "c"], ASKED)
    assert [path.name for path in paths] == ["a.ply", "b.ply", "c.ply"]
    for k, path in enumerate(paths):
        read = trimesh.load(path, process=False)
        assert isinstance(read, trimesh.PointCloud)
        assert numpy.array_equal(read.vertices, samples["positions"][k].numpy())
        rows = read.metadata["_ply_raw"]["vertex"]["data"]
        names = ["x", "y", "z"] + ["nx", "ny", "nz"] * normals + ["red", "green", "blue"] * coloured
        assert list(rows.dtype.names) == names
        if normals:
            found = numpy.stack([rows[name] for name in ("nx", "ny", "nz")], -1).reshape(-1, 3)
            assert numpy.array_equal(found, samples["normals"][k].numpy())
        if coloured:
            assert numpy.array_equal(read.colors[:, :3], samples["colours"][k].numpy())
    header = paths[1].read_bytes().split(b"end_header")[0].decode()
    assert "comment asked label: line break ?" in header.splitlines()


def test_npz_files_have_an_array_of_each_field_and_condition(tmp_path):
    samples = made(normals=True, coloured=True)
    writer("z").together(samples, tmp_path / "all.npz", 2, ASKED)
    with numpy.load(tmp_path / "all.npz") as found:
        assert set(found.files) == {"positions", "normals", "colours", "asked_label"}
        for name in ("positions", "normals", "colours"):
            assert numpy.array_equal(found[name], samples[name].numpy())
            assert found[name].dtype == samples[name].numpy().dtype
        assert found["asked_label"].tolist() == [words["label"] for words in ASKED]
    writer().together(made(), tmp_path / "plain.npz", 2)
    with numpy.load(tmp_path / "plain.npz") as found:
        assert found.files == ["positions"]


def test_glb_files_have_each_cloud_as_points_side_by_side(tmp_path):
    samples = made(coloured=True)
    writer().together(samples, tmp_path / "all.glb", 2, ASKED)
    read = trimesh.load_scene(tmp_path / "all.glb")
    assert len(read.geometry) == 3
    boxes = []
    for k in range(3):
        node = next(node for node in read.graph.nodes_geometry if node.startswith(str(k + 1)))
        transform, geometry = read.graph[node]
        points = read.geometry[geometry]
        assert isinstance(points, trimesh.PointCloud)
        assert numpy.array_equal(points.vertices.astype(numpy.float32), samples["positions"][k].numpy())
        assert numpy.array_equal(points.colors[:, :3], samples["colours"][k].numpy())
        assert numpy.array_equal(transform[:3, :3], numpy.eye(3))
        boxes.append((points.vertices + transform[:3, 3])[:, [0, 2]])
    for first in range(3):
        for second in range(first):
            gaps = numpy.maximum(boxes[first].min(0) - boxes[second].max(0), boxes[second].min(0) - boxes[first].max(0))
            assert gaps.max() > 0  # they do not overlap


def test_glb_files_are_upright_for_any_axis_of_the_data(tmp_path):
    samples = made(batch=1)
    writer("z").together(samples, tmp_path / "one.glb", 1)
    (points,) = trimesh.load_scene(tmp_path / "one.glb").geometry.values()
    x, y, z = samples["positions"][0].numpy().T
    assert numpy.array_equal(points.vertices.astype(numpy.float32), numpy.stack([x, z, -y], 1))


def test_a_ply_file_has_a_row_of_clouds_or_a_single_cloud(tmp_path):
    samples = made(normals=True)
    writer().together(samples, tmp_path / "all.ply", 2)
    read = trimesh.load(tmp_path / "all.ply", process=False).vertices.reshape(3, 40, 3)
    moved = read - samples["positions"].numpy()
    assert numpy.abs(moved - moved[:, :1]).max() < 1e-5
    assert numpy.abs(moved[:, :, 1:]).max() == 0
    assert all(read[k + 1, :, 0].min() > read[k, :, 0].max() for k in range(2))
    writer().together(samples[:1], tmp_path / "one.ply", 2, ASKED[:1])
    assert numpy.array_equal(trimesh.load(tmp_path / "one.ply").vertices, samples["positions"][0].numpy())


@pytest.mark.parametrize("ending", CloudWriter.streams)
def test_batches_give_the_file_of_all_samples(tmp_path, ending):
    samples = made(normals=True, coloured=True)
    writer().together(samples, tmp_path / f"all{ending}", 2, ASKED)
    batches = [(samples[:2], ASKED[:2]), (samples[2:], ASKED[2:])]
    writer().stream(batches, tmp_path / f"batches{ending}")
    if ending == ".ply":
        assert (tmp_path / "batches.ply").read_bytes() == (tmp_path / "all.ply").read_bytes()
        return
    with numpy.load(tmp_path / "batches.npz") as found, numpy.load(tmp_path / "all.npz") as expected:
        assert found.files == expected.files
        assert all(numpy.array_equal(found[name], expected[name]) for name in expected.files)


def test_captions_must_be_those_of_the_samples(tmp_path):
    with pytest.raises(ValueError, match="there are 2 captions for 3 samples"):
        writer().together(made(), tmp_path / "all.png", 2, ASKED[:2])


# Positions that are not finite


def test_points_that_are_not_finite_are_handled(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "diffcore_pointcloud.output.writer.write_animation", partial(turntable.write_animation, size=32, frames=2)
    )
    samples = made(batch=4)
    samples["positions"][1, :5] = torch.tensor([math.nan, math.inf, 0.0])
    samples["positions"][2] = math.nan
    samples["positions"][3] = 1e30
    for ending in CloudWriter.endings:
        writer().together(samples, tmp_path / f"all{ending}", 2)
        writer().together(samples[2:3], tmp_path / f"one{ending}", 2)
    kept = trimesh.load(tmp_path / "one.ply", process=False).metadata["_ply_raw"]["vertex"]
    assert kept["length"] == 40
    assert len(trimesh.load_scene(tmp_path / "one.glb").geometry) == 0
    assert sorted(len(p.vertices) for p in trimesh.load_scene(tmp_path / "all.glb").geometry.values()) == [35, 40, 40]
    assert "5 points are not finite" in writer().html(samples, 2)
    assert writer().summary(samples[:3]) == [
        writer().summary(samples[:3])[0],
        "45 points of 2 clouds have coordinates that are not finite",
    ]
    assert (painted(unbatched(samples)[2], 32) == 255).all()


def test_a_summary_has_the_mean_box():
    corners = torch.tensor([[[0, 0, 0], [1, 2, 3.0]], [[0, 0, 0], [3, 2, 1.0]]])
    (line,) = writer().summary(TensorDict({"positions": corners}, batch_size=[2]))
    assert line == "2 clouds of 2 points, 2 x 2 x 2 on average (x, y, z, in the data's unit)"


# Pictures


def test_the_nearer_of_two_points_is_visible():
    front, back = view()[2], -view()[2]
    pair = numpy.stack([front, back]).astype(numpy.float32)
    rgb = numpy.array([[255, 0, 0], [0, 0, 255]], numpy.uint8)
    for order in ([0, 1], [1, 0]):
        picture = painted(Points(pair[order], None, rgb[order]), 64).astype(int)
        red, green, blue = picture[31:33, 31:33].mean((0, 1))
        assert red > 150
        assert max(green, blue) < 100
        assert not ((picture[..., 2] > picture[..., 0] + 60).any())  # the blue one is hidden


def test_directions_in_a_picture():
    axis = numpy.array([[0, 1, 0], [0, -1, 0], *(0.9 * view()[:1]), *(-0.9 * view()[:1])], numpy.float32)
    rgb = numpy.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 250, 0]], numpy.uint8)
    picture = painted(Points(axis, None, rgb), 128).astype(int)
    positions = []
    for colour in rgb.astype(int):
        away = (
            numpy.abs(picture - (picture.max(-1, keepdims=True) * colour / 255)).sum(-1)
            + 3 * (picture.min(-1) > 60) * 255
        )
        positions.append(numpy.argwhere(away < 60).mean(0))
    top, bottom, right, left = positions
    assert top[0] < 40 < 88 < bottom[0]
    assert left[1] < 40 < 88 < right[1]
    assert abs(top[1] - 63.5) < 2
    assert abs(left[0] - right[0]) < 2


def test_normals_towards_the_light_are_lighter():
    ring = numpy.stack([numpy.cos(numpy.arange(20)), 0 * numpy.arange(20), numpy.sin(numpy.arange(20))], 1)
    ring = ring.astype(numpy.float32)
    grey = numpy.full((20, 3), 128, numpy.uint8)

    def mean(up):
        normals = numpy.broadcast_to(numpy.float32([0, up, 0.2]) @ view(), (20, 3))
        picture = painted(Points(ring, normals.astype(numpy.float32), grey), 64)
        return picture[picture.max(-1) < 140].mean()

    assert mean(1) > mean(-1) + 20


def test_animations_rotate_the_clouds(tmp_path):
    """Frame k of n shows the clouds rotated by 2 pi k / n about y, so frame 0 of rotated clouds is frame k."""
    halves = made(batch=2, points=150)["positions"] - 3
    both = torch.cat([halves, -halves], 1)  # so that the centre of the box does not move
    shown = unbatched(TensorDict({"positions": both}, batch_size=[2]))
    turntable.write_animation(shown, tmp_path / "all.gif", 2, size=64, frames=6)
    with Image.open(tmp_path / "all.gif") as picture:
        assert picture.n_frames == 6
        assert picture.info["loop"] == 0
        frames = []
        for k in range(6):
            picture.seek(k)
            frames.append(numpy.asarray(picture.convert("RGB")).astype(int))

    def rotated(angle):
        rotation = numpy.array(
            [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
        )
        clouds = [Points((points.positions @ rotation.T).astype(numpy.float32)) for points in shown]
        return numpy.asarray(turntable.sheet(clouds, 2, size=64)).astype(int)

    for k in (0, 1, 5):
        near, far = rotated(2 * math.pi * k / 6), rotated(2 * math.pi * ((k + 2) % 6) / 6)
        assert numpy.abs(frames[k] - near).mean() < 0.35 * numpy.abs(frames[k] - far).mean()
    assert numpy.abs(frames[0] - frames[5]).mean() > 3


def test_a_sheet_has_a_tile_and_a_legend_for_every_sample(tmp_path):
    writer().together(made(batch=5), tmp_path / "all.png", 2, [{"label": "chair"}] * 4 + [{"label": "w" * 200}])
    pixels = numpy.asarray(Image.open(tmp_path / "all.png")).min(-1)
    side = 384
    assert pixels.shape == (3 * (side + turntable.LINE_HEIGHT), 2 * side)
    tiles = pixels.reshape(3, side + turntable.LINE_HEIGHT, 2, side).swapaxes(1, 2).reshape(6, -1, side)
    drawn = [bool((tile[:side] < 200).any()) for tile in tiles]
    assert drawn == [True] * 5 + [False]
    assert [bool((tile[side:] < 200).any()) for tile in tiles] == drawn
    writer().together(made(batch=5), tmp_path / "plain.png", 2)
    assert Image.open(tmp_path / "plain.png").size == (2 * side, 3 * side)


def test_outliers_do_not_change_the_extent_much():
    positions = made(batch=1, points=500)["positions"][0].numpy()
    away = positions.copy()
    away[0] = 1e6
    assert extent(Points(away)).radius < 1.5 * extent(Points(positions)).radius
    painted(Points(away), 64)


def test_colours_go_from_the_bottom_of_the_ramp_to_its_top():
    heights = numpy.stack([numpy.zeros(5), numpy.linspace(-3, 1, 5), numpy.zeros(5)], 1).astype(numpy.float32)
    found = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours(Points(heights))]
    assert tuple(found) == RAMP


def test_upright_rotates_and_does_not_mirror():
    axes = Points(numpy.eye(3, dtype=numpy.float32), numpy.eye(3, dtype=numpy.float32))
    rotated = upright(axes, "z")
    assert numpy.array_equal(rotated.positions[2], [0, 1, 0])
    assert numpy.linalg.det(rotated.positions) == 1
    assert numpy.array_equal(rotated.normals, rotated.positions)
    assert upright(axes, "y") is axes


# The report


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_the_report_has_a_scene_and_views_of_every_sample_and_no_url():
    samples = made(batch=7, points=64)
    asked = [{"label": '<script>alert("1")</script>'}] * 7
    text = page(
        "clouds", [("Samples", writer().html(samples, 4, asked)), ("Trajectory", writer().html(samples, 7, (), True))]
    )
    elements = Elements(text)
    assert len(elements.named("canvas")) == 14
    assert len(elements.named("img")) == 7
    assert len(elements.named("script")) == 1
    assert all(image["src"].startswith("data:image/png;base64,") for image in elements.named("img"))
    assert not re.search(r"https?:", text)
    assert elements.named("canvas")[6]["aria-label"].startswith('7: <script>alert("1")</script>: 64 points')


def test_a_hundred_large_clouds_make_a_page_below_ten_megabytes():
    samples = made(batch=2, points=MAX_POINTS, coloured=True)
    assert 50 * len(writer().html(samples, 2)) < 10_000_000


def test_very_large_clouds_are_subsampled_evenly():
    positions = numpy.stack([numpy.arange(3.0 * MAX_POINTS)] * 3, 1).astype(numpy.float32)
    found = scene(Points(positions), "7")
    assert found.caption == f"7, {MAX_POINTS:,} of {3 * MAX_POINTS:,} points"
    line = found.points @ view()  # back to the data's axes
    assert numpy.diff(line[:, 0]) == pytest.approx(3.0, abs=1.01)
    assert len(scene(Points(positions[:MAX_POINTS])).points) == MAX_POINTS
    assert scene(Points(positions[:MAX_POINTS])).caption == ""


def test_scenes_have_the_view_of_pictures():
    points = Points(numpy.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], numpy.float32))
    found = scene(points).points
    assert numpy.allclose(found[1] - found[0], view()[:, 0], atol=1e-6)
    assert view()[1, 1] > 0.9
    assert view()[0, 0] == pytest.approx(math.cos(AZIMUTH))
