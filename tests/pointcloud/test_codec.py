import pytest
import torch
from tensordict import TensorDict

from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Product
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data.datasets import moments, shapes
from diffcore_pointcloud.options import CloudFacts, ShapesOptions


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def example(positions, **others):
    label = torch.zeros(len(positions), dtype=torch.int64)
    return TensorDict({"positions": positions, "label": label, **others}, batch_size=[len(positions)])


def facts(**values):
    return CloudFacts(**{"points": 64, "centre": (0.0, 0.0, 0.0), "scale": 1.0, **values})


@pytest.fixture(scope="module")
def coloured():
    return shapes(ShapesOptions(shapes=40, held_out=2, points=256, pool=256, normals=True, colours=True))


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_states_have_zero_mean_and_unit_variance_and_decode_in_any_unit(unit):
    positions = (torch.randn(50, 64, 3, generator=seeded(), dtype=torch.float64) * 3 + torch.tensor([5, -2, 1])) * unit
    centre, scale = moments(positions)
    examples = example(positions.float())
    codec = CloudCodec(facts(centre=tuple(centre.tolist()), scale=scale))
    assert codec.space == Euclidean((64, 3))
    state = codec.encode(examples).state
    assert state.double().mean((0, 1)).abs().max() < 1e-6
    assert state.double().square().mean().item() == pytest.approx(1, abs=1e-6)
    # The rounding error of the state is half a unit in the last place of |x - centre|.
    torch.testing.assert_close(codec.decode(state)["positions"], examples["positions"], rtol=1e-6, atol=1e-6 * unit)


def test_float16_positions_are_restored_exactly(coloured):
    """Positions in float16 have 11 bits, which encoding and decoding keep."""
    codec = CloudCodec(coloured.facts)
    back = codec.decode(codec.encode(coloured.examples).state)
    assert torch.equal(back["positions"].half(), coloured.examples["positions"])
    assert back["positions"].dtype == torch.float32


def test_normals_and_colours_are_separate_fields(coloured):
    codec = CloudCodec(coloured.facts)
    each = Euclidean((256, 3))
    assert codec.space == Product({"positions": each, "normals": each, "colours": each})
    state = codec.encode(coloured.examples).state
    for name in ("positions", "colours"):
        assert state[name].double().mean().abs() < 1e-5
        assert state[name].double().square().mean().item() == pytest.approx(1, abs=1e-5)
    # Unit vectors times sqrt(3): the mean square of a coordinate is 1 for any shapes. float16 has 3 digits.
    assert state["normals"].double().square().mean().item() == pytest.approx(1, abs=1e-3)
    back = codec.decode(state)
    assert torch.equal(back["colours"], coloured.examples["colours"])
    torch.testing.assert_close(back["normals"].norm(dim=2), torch.ones(40, 256))
    assert (back["normals"] * coloured.examples["normals"].float()).sum(2).min() > 0.999
    far = codec.decode(state * 100)["colours"]
    expected = torch.where(state["colours"] > 0, 255, 0)
    assert (far == expected)[state["colours"].abs() > 0.1].all()


def test_training_draws_random_points_of_the_pool_with_equal_probability():
    pool = torch.arange(200.0)[None, :, None].expand(300, 200, 3)
    codec = CloudCodec(facts(points=50))
    assert torch.equal(codec.encode(example(pool)).state, pool[:, :50])
    drawn = codec.encode(example(pool), Draws.of(0, range(300))).state
    assert torch.equal(drawn, codec.encode(example(pool), Draws.of(0, range(300))).state)
    assert not torch.equal(drawn, codec.encode(example(pool), Draws.of(1, range(300))).state)
    rows = drawn[..., 0].long()
    assert all(len(row.unique()) == 50 for row in rows)
    # Each of 200 points is drawn with probability 1/4: 75 +- 7.5 times in 300 clouds.
    counts = torch.bincount(rows.flatten(), minlength=200).double()
    assert ((counts - 75).square().mean() / 56.25).item() == pytest.approx(1, abs=0.3)


def test_repeated_points_at_the_end_of_a_pool_are_not_drawn():
    pool = torch.arange(20.0)[None, :, None].repeat(2, 1, 3)
    codec = CloudCodec(facts(points=8))
    drawn = codec.encode(example(pool, count=torch.tensor([8, 12])), Draws.of(0, range(2))).state[..., 0]
    assert sorted(drawn[0].tolist()) == list(range(8))
    assert drawn[1].max() < 12


@pytest.mark.parametrize(("up", "axis"), [("y", 1), ("z", 2)])
def test_rotations_preserve_heights_and_distances_and_rotate_normals(up, axis):
    positions = torch.randn(1, 64, 3, generator=seeded()).expand(500, -1, -1)
    normals = torch.nn.functional.normalize(positions, dim=2)
    codec = CloudCodec(facts(rotate=True, up=up, normals=True))
    still = codec.encode(example(positions, normals=normals)).state
    state = codec.encode(example(positions, normals=normals), Draws.of(0, range(500))).state
    order = codec._draw(example(positions), Draws.of(0, range(500)))[..., None].expand(-1, -1, 3)
    expected, original = state["positions"], still["positions"].gather(1, order)
    torch.testing.assert_close(expected[..., axis], original[..., axis])
    torch.testing.assert_close(torch.cdist(expected, expected), torch.cdist(original, original), atol=2e-3, rtol=0)
    flat = [index for index in range(3) if index != axis]
    rotated, before = (torch.view_as_complex(x[:, 0, flat].contiguous()) for x in (expected, original))
    angles = (rotated / before).angle()
    # The mean direction of n uniform angles has a length of about 1 / sqrt(n).
    assert torch.polar(torch.ones(500), angles).mean().abs() < 3 / 500**0.5
    directions = torch.nn.functional.normalize(expected, dim=2)
    torch.testing.assert_close(state["normals"] / 3**0.5, directions, atol=1e-5, rtol=0)


def test_half_of_the_clouds_are_mirrored():
    positions = torch.randn(1, 64, 3, generator=seeded()).expand(400, -1, -1)
    codec = CloudCodec(facts(mirror=True))
    assert torch.equal(codec.encode(example(positions)).state, positions)
    state = codec.encode(example(positions), Draws.of(0, range(400))).state
    order = codec._draw(example(positions), Draws.of(0, range(400)))[..., None].expand(-1, -1, 3)
    original = positions.gather(1, order)
    same = (state == original).all(2).all(1)
    flipped = (state == original * torch.tensor([-1.0, 1.0, 1.0])).all(2).all(1)
    assert (same ^ flipped).all()
    assert 0.42 < flipped.double().mean() < 0.58


def test_codecs_of_another_size(caplog):
    """Fewer points are the first of a state of as many points as in training; more points are in the state."""
    facts = CloudFacts(points=8, centre=(1, 2, 3), scale=2, normals=True)
    codec = CloudCodec(facts)
    state = TensorDict({name: torch.randn(2, 8, 3) for name in codec.fields}, batch_size=[2])
    whole = codec.decode(state)
    with caplog.at_level("INFO"):
        smaller = codec.resized("5")
    assert smaller.space.empty(1)["positions"].shape == (1, 8, 3)
    assert not caplog.text
    for name, values in smaller.decode(state).items():
        assert torch.equal(values, whole[name][:, :5])
    for name, values in codec.resized("8").decode(state).items():
        assert torch.equal(values, whole[name])
    with caplog.at_level("INFO"):
        larger = codec.resized("20")
    assert larger.space.empty(1)["normals"].shape == (1, 20, 3)
    assert "the first 8 points decide on the shape, and the other 12 are drawn on its surface" in caplog.text
