"""Surfaces through points: of shapes whose volume and normals are known, and as files that other libraries read."""

import math
from types import SimpleNamespace

import numpy
import pytest
import torch
import trimesh
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore_pointcloud.geometry.poisson import Grid, areas_of, scatter_of, surface
from diffcore_pointcloud.options import WritingOptions
from diffcore_pointcloud.output.meshes import MeshWriter, mesh_of
from diffcore_pointcloud.output.points import Points
from diffcore_pointcloud.output.writer import CloudWriter, writer_of

CENTRE, RADIUS = numpy.array([5.0, -3.0, 2.0]), 20.0
SMALL = WritingOptions(mesh=True, resolution=40)


def sphere(points=2000, seed=0):
    """Points on the sphere of `RADIUS` about `CENTRE`: outward normals, and red above the centre and blue below."""
    normals = numpy.random.default_rng(seed).normal(size=(points, 3))
    normals /= numpy.linalg.norm(normals, axis=1, keepdims=True)
    painted = numpy.where(normals[:, 1:2] > 0, [[255, 0, 0]], [[0, 0, 255]])
    positions = (CENTRE + RADIUS * normals).astype(numpy.float32)
    return Points(positions, normals.astype(numpy.float32), painted.astype(numpy.uint8))


def samples(*clouds, colours=True):
    fields = {"positions": [cloud.positions for cloud in clouds], "normals": [cloud.normals for cloud in clouds]}
    if colours:
        fields["colours"] = [cloud.colours for cloud in clouds]
    stacked = {name: torch.from_numpy(numpy.stack(values)) for name, values in fields.items()}
    return TensorDict(stacked, batch_size=[len(clouds)])


def writer(up="y", options=SMALL, normals=True, points=9000):
    return MeshWriter(
        SimpleNamespace(facts=SimpleNamespace(up=up, normals=normals, parts=(), part_labels=()), points=points), options
    )


@pytest.fixture(scope="module")
def ball():
    return mesh_of(sphere(), 64)


# Geometry


def test_a_sphere_has_its_volume_its_area_and_normals_that_point_outwards(ball):
    assert ball.is_watertight
    assert ball.is_winding_consistent
    assert ball.euler_number == 2
    assert ball.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.005)
    assert ball.area == pytest.approx(4 * math.pi * RADIUS**2, rel=0.01)
    assert ((ball.triangles_center - CENTRE) * ball.face_normals).sum(1).min() > 0
    distances = numpy.linalg.norm(ball.vertices - CENTRE, axis=1)
    assert abs(distances - RADIUS).max() < 0.02 * RADIUS


def test_the_surface_through_points_that_scatter_is_smooth_and_in_one_piece():
    """Without smoothing it has bubbles around single points: 62 pieces here."""
    exact, draws = sphere(), numpy.random.default_rng(1)
    scattered = exact.positions + 0.03 * RADIUS * draws.normal(size=(2000, 1)) * exact.normals
    assert scatter_of(exact.positions, exact.normals) < 1e-3 * RADIUS
    assert scatter_of(scattered, exact.normals) == pytest.approx(0.03 * RADIUS, rel=0.4)
    mesh = trimesh.Trimesh(*surface(scattered, exact.normals, 64), process=False)
    assert mesh.is_watertight
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03)


def test_the_density_of_the_points_does_not_matter():
    """One half of the sphere has eight times as many points as the other."""
    points = sphere(4000)
    lower = points.positions[:, 1] < CENTRE[1]
    kept = ~lower | (numpy.arange(4000) % 8 == 0)
    vertices, faces = surface(points.positions[kept], points.normals[kept], 48)
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.01)


def test_a_thin_plate_beside_a_thick_body_stays_whole():
    """The plate has two cells. Without the screening, its sides cancel each other and its edges are lost."""
    plate = trimesh.creation.box((2, 0.05, 2))
    whole = trimesh.util.concatenate([plate, trimesh.creation.box((1, 1, 1)).apply_translation((0, 1, 0))])
    positions, faces = trimesh.sample.sample_surface(whole, 8000, seed=0)
    found = trimesh.Trimesh(*surface(positions, whole.face_normals[faces], 80))
    assert found.is_watertight
    assert found.volume == pytest.approx(whole.volume, rel=0.02)
    assert abs(found.bounds - whole.bounds).max() < 0.02


def test_values_of_the_grid_are_interpolated_and_spread_by_adjoint_maps():
    """Interpolation is exact for linear functions."""
    generator = numpy.random.default_rng(0)
    points = generator.normal(size=(50, 3))
    grid = Grid.around(points, 20)
    places = numpy.indices(grid.shape).T * grid.step + grid.origin
    assert numpy.allclose(grid.at((places @ [2.0, -1.0, 3.0]).T), points @ [2.0, -1.0, 3.0])
    values, at_points = generator.normal(size=grid.shape), generator.normal(size=50)
    left = (grid.spread(at_points) * values).sum() * grid.step**3
    assert left == pytest.approx((at_points * grid.at(values)).sum(), rel=1e-5)


def test_the_areas_of_points_add_up_to_that_of_the_surface():
    points = sphere(4000).positions
    assert areas_of(points).sum() == pytest.approx(4 * math.pi * RADIUS**2, rel=0.15)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_points_that_span_nothing_have_no_surface(count):
    points = numpy.ones((count, 3))
    assert [len(part) for part in surface(points, points, 32)] == [0, 0]


def test_points_that_are_not_finite_and_outliers_are_left_out_and_counted(caplog):
    points = sphere(1000)
    positions = points.positions.copy()
    positions[0], positions[1] = numpy.nan, 1e4
    found = mesh_of(Points(positions, points.normals), 48)
    assert found.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.01)
    assert "without 2 of 1,000 points" in caplog.text


# Files


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_files_hold_the_mesh_in_the_unit_of_the_data_with_its_colours(tmp_path, kind):
    cloud, path = sphere(), tmp_path / f"a.{kind}"
    expected = mesh_of(cloud, 40)
    writer().together(samples(cloud), path, 4, [{"label": "ball"}])
    read = trimesh.load(path, force="mesh", process=kind == "stl")
    assert read.is_watertight
    assert len(read.faces) == len(expected.faces)
    corners = expected.vertices[expected.faces].reshape(-1, 3)
    assert numpy.allclose(read.vertices[read.faces].reshape(-1, 3), corners, atol=1e-4)
    if kind != "stl":
        above = abs(read.vertices[:, 1] - CENTRE[1]) > 3
        red = read.vertices[:, 1] > CENTRE[1]
        wanted = numpy.where(red[:, None], [255, 0, 0], [0, 0, 255])
        assert numpy.array_equal(read.visual.vertex_colors[above, :3], wanted[above])


def test_several_samples_of_a_file_lie_side_by_side_and_have_names(tmp_path):
    writer().together(samples(sphere(), sphere(seed=1)), tmp_path / "a.glb", 2, [{"label": "ball"}, {"label": "b"}])
    scene = trimesh.load(tmp_path / "a.glb")
    assert sorted(scene.geometry) == ["1 ball", "2 b"]
    places = [numpy.mean(scene.geometry[scene.graph[name][1]].bounds, 0) + scene.graph[name][0][:3, 3]
              for name in scene.graph.nodes_geometry]  # fmt: skip
    assert abs(places[0] - places[1]).max() == pytest.approx(2.4 * RADIUS, rel=0.05)
    writer().together(samples(sphere(), sphere(seed=1)), tmp_path / "a.stl", 2)
    assert trimesh.load(tmp_path / "a.stl").body_count == 2


def test_a_folder_has_a_file_for_each_sample_and_glb_has_its_y_axis_up(tmp_path):
    options = WritingOptions(mesh=True, resolution=32, format="glb")
    (path,) = writer("z", options).each(samples(sphere(), colours=False), tmp_path, ["0000"])
    assert path.name == "0000.glb"
    mesh = trimesh.load(path, force="mesh")
    assert numpy.mean(mesh.bounds, 0) == pytest.approx([CENTRE[0], CENTRE[2], -CENTRE[1]], abs=0.3)
    (path,) = writer("z", options.model_copy(update={"format": "obj"})).each(samples(sphere()), tmp_path, ["0000"])
    assert numpy.mean(trimesh.load(path, force="mesh").bounds, 0) == pytest.approx(CENTRE, abs=0.3)


def test_a_sample_without_a_surface_is_an_empty_file_and_named(tmp_path, caplog):
    flat = Points(numpy.zeros((10, 3), numpy.float32), numpy.ones((10, 3), numpy.float32))
    for kind in ("glb", "obj", "ply", "stl"):
        writer().together(samples(flat, colours=False), tmp_path / f"a.{kind}", 1)
        assert (tmp_path / f"a.{kind}").exists()
    assert "there is no surface" in caplog.text


def test_pictures_show_the_surface(tmp_path):
    from PIL import Image

    writer().together(samples(sphere()), tmp_path / "a.png", 1)
    pixels = numpy.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    above, below = pixels[[len(pixels) // 4, 3 * len(pixels) // 4], len(pixels) // 2]
    assert above[0] > 100 > 50 > above[2]
    assert below[2] > 100 > 50 > below[0]


# Options and commands


def test_meshes_need_normals_and_enough_points(caplog):
    with pytest.raises(UserError, match="preset shapes-normals"):
        writer(normals=False)
    writer(points=512)
    assert "`size` 8192" in caplog.text
    with pytest.raises(ValueError, match="resolution are options of meshes"):
        WritingOptions(resolution=64)
    codec = SimpleNamespace(facts=SimpleNamespace(up="y", normals=True, parts=(), part_labels=()), points=512)
    assert isinstance(writer_of(codec, WritingOptions()), CloudWriter)
