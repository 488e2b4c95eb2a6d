import math

import pytest
import torch
from scipy import stats

from diffcore_pointcloud.data import shapes
from diffcore_pointcloud.data.shapes import loft, mirrored, normals_of, points_on, surface

CLASSES = sorted(shapes._CLASSES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def closed(axis, levels, halves, sides=4):
    """A loft about the axis through the origin, closed at both ends."""
    centres = torch.zeros(1, len(levels) + 2, 3)
    centres[0, :, axis] = torch.tensor([levels[0], *levels, levels[-1]])
    extents = torch.tensor([(0.0, 0.0), *halves, (0.0, 0.0)])[None]
    return loft(centres, extents, axis, sides)


def area(triangles):
    a, b, c = triangles.double().unbind(-2)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1).sum(-1) / 2


def volume(triangles):
    """The volume of a closed surface by the divergence theorem; positive if normals point outward."""
    a, b, c = triangles.double().unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum((-1, -2)) / 6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lofts_have_the_area_and_volume_of_their_solids(axis):
    box = closed(axis, [-1.0, 2.0], [(0.5, 2.0)] * 2)
    assert area(box).item() == pytest.approx(2 * (3 * 1 + 3 * 4 + 1 * 4), rel=1e-6)
    assert volume(box).item() == pytest.approx(12, rel=1e-6)
    assert volume(mirrored(box, axis)).item() == pytest.approx(12, rel=1e-6)
    sides = 200
    cone = closed(axis, [0.0, 2.0], [(1.0, 1.0), (0.5, 0.5)], sides)
    slant = math.hypot(2, 0.5)
    assert area(cone).item() == pytest.approx(math.pi * (1.5 * slant + 1 + 0.25), rel=1e-3)
    assert volume(cone).item() == pytest.approx(math.pi * 2 / 3 * (1 + 0.5 + 0.25), rel=1e-3)


def test_points_are_uniform_by_area_over_the_faces_of_a_box():
    box = closed(1, [-0.5, 0.5], [(1.0, 2.0)] * 2)  # 4 x 1 x 2
    points, _ = points_on(box, 60_000, seeded())
    sizes = torch.tensor([2.0, 0.5, 1.0])
    distance = (points[0].abs() - sizes).abs()
    assert distance.min(1).values.max() < 1e-6
    face = distance.argmin(1) * 2 + (points[0].gather(1, distance.argmin(1)[:, None])[:, 0] > 0)
    counts = torch.bincount(face, minlength=6).double()
    areas = torch.tensor([2.0, 2, 8, 8, 4, 4], dtype=torch.float64)
    assert stats.chisquare(counts.numpy(), (areas / areas.sum() * 60_000).numpy()).pvalue > 1e-3
    # And they are uniform within the upper face: 8 x 4 cells of equal size.
    top = points[0][face == 3][:, [0, 2]]
    cells = ((top[:, 0] + 2) * 2).long().clamp(0, 7) * 4 + ((top[:, 1] + 1) * 2).long().clamp(0, 3)
    assert stats.chisquare(torch.bincount(cells, minlength=32).numpy()).pvalue > 1e-3


def test_points_are_uniform_within_a_triangle():
    corner = torch.tensor([[[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]]])
    points = points_on(corner, 200_000, seeded())[0][0].double()
    # Moments of the uniform distribution on the triangle: 1/3, 1/18, -1/36.
    torch.testing.assert_close(points[:, :2].mean(0), torch.full((2,), 1 / 3, dtype=torch.float64), atol=2e-3, rtol=0)
    expected = torch.tensor([[1 / 18, -1 / 36], [-1 / 36, 1 / 18]], dtype=torch.float64)
    torch.testing.assert_close(points[:, :2].T.cov(), expected, atol=5e-4, rtol=0)


def test_faces_without_area_are_never_drawn():
    triangles = torch.rand(3, 10, 3, 3, generator=seeded())
    triangles[:, [0, 4, 9]] = triangles[:, [0, 4, 9], :1]
    _, faces = points_on(triangles, 5000, seeded())
    assert sorted(faces.unique().tolist()) == [1, 2, 3, 5, 6, 7, 8]


def test_points_of_a_ball_have_its_radius_and_outward_normals():
    angles = [math.pi * index / 24 for index in range(25)]
    centres = torch.tensor([[[0.0, -math.cos(a), 0] for a in angles]])
    halves = torch.tensor([[[math.sin(a)] * 2 for a in angles]])
    ball = loft(centres, halves, 1, 48)
    points, faces = points_on(ball, 20_000, seeded())
    radius = points[0].norm(dim=1)
    # Facets are chords of 7.5 degrees in both directions.
    assert radius.max() < 1 + 1e-5
    assert radius.min() > math.cos(math.radians(3.75)) ** 2 - 1e-5
    assert ((points[0] * normals_of(ball[0][faces[0]])).sum(1) > 0.99).all()
    # Archimedes: heights are uniform.
    assert stats.kstest(points[0][:, 1].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_fill_the_cube_and_every_point_is_on_its_triangle(name):
    shape = surface(name, 60, seeded())
    assert torch.isfinite(shape.triangles).all()
    corners = shape.triangles.flatten(1, 2)
    low, high = corners.amin(1), corners.amax(1)
    torch.testing.assert_close(low + high, torch.zeros(60, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((high - low).amax(1), torch.full((60,), 2.0))
    points, faces = points_on(shape.triangles, 300, seeded())
    normals = normals_of(shape.triangles)[torch.arange(60)[:, None], faces]
    torch.testing.assert_close(normals.norm(dim=2), torch.ones(60, 300))
    origin = shape.triangles[torch.arange(60)[:, None], faces, 0]
    assert ((points - origin) * normals).sum(2).abs().max() < 1e-5
    assert shape.colours.shape == (*shape.triangles.shape[:2], 3)
    assert shape.colours.min() >= 0
    assert shape.colours.max() <= 1
    assert torch.equal(surface(name, 60, seeded()).triangles, shape.triangles)
    assert not torch.allclose(shape.triangles[0], shape.triangles[1])


@pytest.mark.parametrize("name", ["aeroplane", "chair", "lamp", "solid", "table"])
def test_shapes_are_symmetric(name):
    """The first moment of the surface in x and its mixed second moments with x are zero.

    Over a triangle of area A the integral of f g, both linear, is A / 12 (sum f_i g_i + sum f_i sum g_i).
    """
    triangles = surface(name, 100, seeded()).triangles.double()
    a, b, c = triangles.unbind(2)
    sizes = torch.linalg.cross(b - a, c - a).norm(dim=2, keepdim=True)
    moment = (sizes * triangles.mean(2)).sum(1)[:, 0] / sizes.sum((1, 2))
    x, others = triangles[..., :1], triangles[..., 1:]
    mixed = (sizes * ((x * others).sum(2) + x.sum(2) * others.sum(2)) / 12).sum(1) / sizes.sum(1)
    assert moment.abs().max() < 1e-5
    assert mixed.abs().max() < 1e-5


def test_normals_of_convex_solids_point_outward():
    shape = surface("solid", 100, seeded())
    points, faces = points_on(shape.triangles, 200, seeded())
    outward = (points * normals_of(shape.triangles)[torch.arange(100)[:, None], faces]).sum(2) > -1e-5
    whole = outward.all(1)
    assert 0.7 < whole.double().mean() < 0.95  # all except the tori, which are 18 %


def test_chairs_have_their_backs_at_the_rear():
    shape = surface("chair", 100, seeded())
    points, _ = points_on(shape.triangles, 2000, seeded())
    top = points[..., 1] > points[..., 1].amax(1, keepdim=True) - 0.3
    behind = (points[..., 2] * top).sum(1) / top.sum(1)
    assert (behind < 0).all()


def test_every_kind_of_back_leg_and_solid_occurs():
    """Every part is present in some shapes and absent in others."""
    for name in CLASSES:
        triangles = surface(name, 150, seeded()).triangles
        a, b, c = triangles.unbind(2)
        present = torch.linalg.cross(b - a, c - a).norm(dim=2) > 1e-9
        # Half of the triangles at closed ends, between a section and a point, have no area in any shape.
        ever_present = present.any(0).double()
        assert ever_present.mean() > 0.5, name
        assert len(present.unique(dim=0)) >= 3, name  # an aeroplane has 0, 2 or 4 engines
