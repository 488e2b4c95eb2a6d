import math
import sys

import numpy
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import chisquare, kstest

from diffcore.errors import UserError
from diffcore_pointcloud.geometry.kernels import BACKENDS, Camera, backend


@pytest.fixture(params=BACKENDS)
def geometry(request):
    try:
        return backend(request.param)
    except UserError as error:
        pytest.skip(str(error))


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Surfaces.

FAN = torch.tensor([[0.0, 0, 0], [4, 0, 0], [4, 1, 0], [0, 3, 0], [0, 0, 6], [-1, 0, 0]])
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4], [5, 0, 0], [0, 4, 5]])
AREAS = numpy.array([2.0, 6, 9, 0, 3])


def test_points_are_uniform_over_the_surface(geometry):
    n = 20_000
    points, face = geometry.surface_points(FAN, FACES, n, torch.Generator().manual_seed(0))
    counts = numpy.bincount(face.numpy(), minlength=5)
    assert counts[3] == 0
    used = AREAS > 0
    assert chisquare(counts[used], n * AREAS[used] / AREAS.sum()).pvalue > 1e-3
    # In barycentric coordinates (a, b, c) of a uniform point, a is 1 - sqrt(u), so (1 - a)^2 is uniform; so for b, c.
    corners = FAN[FACES[face]].double()
    edges = torch.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], 2)
    b, c = torch.linalg.lstsq(edges, (points.double() - corners[:, 0])[..., None]).solution[..., 0].unbind(1)
    on_the_face = edges @ torch.stack([b, c], 1)[..., None]
    torch.testing.assert_close(on_the_face[..., 0] + corners[:, 0], points.double(), atol=1e-6, rtol=0)
    for coordinate in (1 - b - c, b, c):
        assert kstest((1 - coordinate).square().numpy(), "uniform").pvalue > 1e-3


def test_a_seed_gives_the_same_points_and_does_not_change_other_generators(geometry):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(1)
    first = geometry.surface_points(FAN, FACES, 50, generator)
    second = geometry.surface_points(FAN, FACES, 50, generator)
    again = geometry.surface_points(FAN, FACES, 50, torch.Generator().manual_seed(1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("broken", [FAN * 0, FAN * math.nan, FAN[:, :1].expand(-1, 3)], ids=["zero", "nan", "a line"])
def test_faces_without_area_are_refused(geometry, broken):
    with pytest.raises(ValueError, match="no area"):
        geometry.surface_points(broken, FACES, 5, torch.Generator())


# Neighbours.


@pytest.mark.parametrize("sizes", [(40, 50), (3000, 2000)], ids=["few", "many"])
@pytest.mark.parametrize("k", [1, 4])
def test_nearest_is_that_of_a_tree(geometry, sizes, k):
    queries, points = normal(2, sizes[0], 3), normal(2, sizes[1], 3, seed=1)
    squared, indices = geometry.nearest(queries, points, k)
    for b in range(2):
        distance, index = cKDTree(points[b].double().numpy()).query(queries[b].double().numpy(), k=range(1, k + 1))
        assert (indices[b].numpy() == index).mean() > 0.999  # float32 may swap points at nearly equal distances
        numpy.testing.assert_allclose(squared[b].sqrt(), distance, rtol=1e-4, atol=1e-6)


def test_the_plain_methods_to_find_neighbours_agree(monkeypatch):
    """All at once, in a tree, and in blocks."""
    from diffcore_pointcloud.geometry import plain as geometry_plain

    queries, points = normal(3, 30, 3, dtype=torch.float64), normal(3, 20, 3, seed=1, dtype=torch.float64)
    expected = backend("plain").nearest(queries, points, 3)[1]
    for limit in (700, 100):  # one cloud at a time; a tree
        monkeypatch.setattr(geometry_plain, "_MAX_PAIRS", limit)
        assert torch.equal(backend("plain").nearest(queries, points, 3)[1], expected)


def test_small_distances_are_exact_far_from_the_origin(geometry):
    points = torch.tensor([[1000.0, 2000, 3000], [1000, 2000, 3001]])
    squared, index = geometry.nearest(points + torch.tensor([0, 0.25, 0]), points)
    assert squared.tolist() == [[0.0625], [0.0625]]
    assert index.tolist() == [[0], [1]]


def test_chamfer_by_hand(geometry):
    """From a: 0 and 4, mean 2. From b: 0, 1 and 9 (from (3, 0, 0) to the origin or (0, 2, 0): 9), mean 10 / 3."""
    a = torch.tensor([[0.0, 0, 0], [0, 2, 0]])
    b = torch.tensor([[0.0, 0, 0], [0, 0, 1], [3, 0, 0]])
    assert geometry.chamfer(a[None], b[None]).item() == pytest.approx(2 + 10 / 3)
    assert geometry.chamfer(a[None], a[None]).item() == 0


def test_chamfer_against_pytorch3d_s_own():
    loss = pytest.importorskip("pytorch3d.loss", exc_type=ImportError)
    a, b = normal(4, 60, 3), normal(4, 70, 3, seed=1)
    expected = loss.chamfer_distance(a, b, batch_reduction=None)[0]
    torch.testing.assert_close(backend("plain").chamfer(a, b), expected)


def test_gradients_of_chamfer_go_through_the_nearest(geometry):
    a, b = normal(2, 5, 3, dtype=torch.float64), normal(2, 6, 3, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(geometry.chamfer, (a.requires_grad_(), b.requires_grad_()))


def naive_farthest(points, count):
    chosen = [0]
    while len(chosen) < count:
        distances = [min(math.dist(p, points[c]) for c in chosen) for p in points]
        chosen.append(distances.index(max(distances)))
    return chosen


def test_farthest_is_that_of_a_loop(geometry):
    points = normal(3, 40, 3)
    chosen = geometry.farthest(points, 15)
    assert chosen.tolist() == [naive_farthest(cloud.tolist(), 15) for cloud in points]
    assert geometry.farthest(points[0], 40).sort().values.tolist() == list(range(40))


def test_invalid_counts_are_refused(geometry):
    with pytest.raises(ValueError, match="k must be from 1 to the number of points, 4; got 5"):
        geometry.nearest(normal(2, 3), normal(4, 3), 5)
    with pytest.raises(ValueError, match="count must be from 1 to the number of points, 4; got 5"):
        geometry.farthest(normal(4, 3), 5)


# Pictures.

FRONT = Camera(torch.eye(3), torch.zeros(3), 1.0)


def naive_render(points, camera, height, width, radius):
    """Tests every point for each pixel."""
    index = torch.full((height, width), -1)
    depth = torch.full((height, width), math.inf, dtype=torch.float64)
    scale = min(height, width) / (2 * camera.extent)
    for i, point in enumerate(points.double()):
        x, y, z = (camera.rotation.double() @ (point - camera.centre.double())).tolist()
        if camera.distance is None:
            far, larger = -z, scale
        else:
            far, larger = camera.distance - z, scale * camera.distance / (camera.distance - z)
            if far <= 0:
                continue
        for row in range(height):
            for column in range(width):
                right, down = column + 0.5 - width / 2 - x * larger, row + 0.5 - height / 2 + y * larger
                if math.hypot(right, down) < radius * larger and far < depth[row, column]:
                    index[row, column], depth[row, column] = i, far
    return index, depth


@pytest.mark.parametrize("distance", [None, 3.0], ids=["orthographic", "perspective"])
@pytest.mark.parametrize("size", [(12, 12), (10, 17), (17, 10)], ids=str)
def test_pictures_are_those_of_a_loop(geometry, distance, size):
    rotation = torch.linalg.qr(normal(3, 3)).Q
    camera = Camera(rotation, torch.tensor([0.1, -0.2, 0.3]), 1.5, distance)
    points = normal(60, 3)
    found = geometry.render(points, camera, *size, 0.25)
    index, depth = naive_render(points, camera, *size, 0.25)
    assert (found.index == index).float().mean() > 0.99  # float32 may differ at the edge of a disc
    same = found.index == index
    torch.testing.assert_close(found.depth[same].double(), depth[same], rtol=1e-5, atol=1e-6)
    assert 0.2 < (index >= 0).float().mean() < 1


def test_pixels_show_the_nearest_disc(geometry):
    """Pixels are 0.5 wide. Point 0 is left and up, far; point 1 covers a pixel of it and is nearer to the viewer."""
    points = torch.tensor([[-0.75, 0.75, -1.0], [-0.25, 0.75, 1.0], [0.75, -0.75, 0.0], [math.nan, 0, 0]])
    found = geometry.render(points, FRONT, 4, 4, 0.55)
    assert found.index.tolist() == [[1, 1, 1, -1], [0, 1, -1, -1], [-1, -1, -1, 2], [-1, -1, 2, 2]]
    assert found.depth[0, 0] == -1
    assert found.depth[1, 0] == 1
    assert found.depth[3, 0] == math.inf
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], dtype=torch.uint8)
    picture = found.coloured(colours, torch.tensor([1, 2, 3]))
    assert picture[1, 0].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == [0, 255, 0]
    assert picture[0, 3].tolist() == [1, 2, 3]
    assert picture.dtype == torch.uint8


def test_a_picture_without_points_is_empty(geometry):
    behind = Camera(torch.eye(3), torch.zeros(3), 1.0, 2.0)
    for points in (torch.full((3, 3), math.nan), torch.tensor([[0.0, 0, 5]]), torch.zeros(0, 3)):
        found = geometry.render(points, behind, 3, 4, 0.1)
        assert (found.index == -1).all()
        assert found.index.shape == (3, 4)
    outside = geometry.render(torch.tensor([[1e30, 0, 0], [50.0, 0, 0]]), FRONT, 3, 4, 0.1)
    assert (outside.index == -1).all()


# The choice of a backend.


def test_both_backends_give_the_same_results():
    plain = backend("plain")
    try:
        other = backend("pytorch3d")
    except UserError as error:
        pytest.skip(str(error))
    a, b = normal(3, 200, 3), normal(3, 300, 3, seed=1)
    for found, expected in zip(plain.nearest(a, b, 5), other.nearest(a, b, 5), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(plain.farthest(a, 50), other.farthest(a, 50))
    torch.testing.assert_close(plain.chamfer(a, b), other.chamfer(a, b))
    for camera in (FRONT, Camera(torch.linalg.qr(normal(3, 3)).Q, torch.ones(3), 2.0, 4.0)):
        found, expected = (geometry.render(a[0], camera, 60, 90, 0.1) for geometry in (plain, other))
        differ = found.index != expected.index
        assert differ.float().mean() < 1e-3
        assert torch.equal(found.depth[~differ], expected.depth[~differ])
    n = 20_000
    points = [geometry.surface_points(FAN, FACES, n, torch.Generator().manual_seed(2)) for geometry in (plain, other)]
    fractions = [numpy.bincount(face.numpy(), minlength=5) / n for _, face in points]
    assert numpy.abs(fractions[0] - fractions[1]).max() < 0.02
    for axis in range(3):
        assert kstest(points[0][0][:, axis].numpy(), points[1][0][:, axis].numpy()).pvalue > 1e-3


def test_a_backend_can_be_chosen(monkeypatch):
    monkeypatch.setenv("DIFFCORE_GEOMETRY", "plain")
    assert backend().name == "plain"
    monkeypatch.setenv("DIFFCORE_GEOMETRY", "kaolin")
    with pytest.raises(UserError, match="DIFFCORE_GEOMETRY: unknown geometry backend 'kaolin'; backends are pytorch"):
        backend()
    assert backend("plain").name == "plain"


def test_without_pytorch3d_the_plain_backend_is_used(monkeypatch):
    from diffcore_pointcloud.geometry import kernels as geometry

    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    monkeypatch.setitem(sys.modules, "pytorch3d.ops", None)
    monkeypatch.delitem(sys.modules, "diffcore_pointcloud.geometry.pytorch3d", raising=False)
    monkeypatch.setattr(geometry, "_loaded", geometry._loaded.__wrapped__)
    monkeypatch.delenv("DIFFCORE_GEOMETRY", raising=False)
    assert backend().name == "plain"
    monkeypatch.setenv("DIFFCORE_GEOMETRY", "pytorch3d")
    with pytest.raises(UserError, match="DIFFCORE_GEOMETRY: the geometry backend 'pytorch3d' cannot be imported; inst"):
        backend()
