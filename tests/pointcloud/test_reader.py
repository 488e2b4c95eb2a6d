"""Files of points and of meshes as states, complete and partial."""

from types import SimpleNamespace

import numpy
import pytest
import torch
import trimesh
from tensordict import TensorDict

from diffcore.denoising.denoiser import Prediction
from diffcore.errors import UserError
from diffcore.process.schedules import Cosine
from diffcore.runs.measurements import inpainting_of
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import ddpm
from diffcore.sampling.timesteps import karras
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.data.reader import CloudReader
from diffcore_pointcloud.options import CloudFacts
from diffcore_pointcloud.output.writer import CloudWriter

N = 64


def reader(points=N, **facts):
    return CloudReader(CloudCodec(CloudFacts(points=points, centre=(1.0, 2.0, 3.0), scale=2.0, **facts)))


def positions(points, seed=0):
    return (numpy.random.default_rng(seed).normal(size=(points, 3)) * 2 + [1, 2, 3]).astype(numpy.float32)


def units(points, seed=1):
    found = numpy.random.default_rng(seed).normal(size=(points, 3))
    return (found / numpy.linalg.norm(found, axis=1, keepdims=True)).astype(numpy.float32)


def write(path, values, **fields):
    match path.suffix:
        case ".ply":
            samples = {"positions": values, **fields}
            samples = {name: torch.from_numpy(value)[None] for name, value in samples.items()}
            codec = CloudCodec(CloudFacts(points=len(values), centre=(0, 0, 0), scale=1))
            CloudWriter(codec).together(TensorDict(samples, batch_size=[1]), path, 1)
        case ".xyz" | ".txt":
            numpy.savetxt(path, values, fmt="%.9g")
        case ".npy":
            numpy.save(path, values)
        case ".npz":
            numpy.savez(path, positions=values, **fields)
    return path


def ordered(values):
    values = numpy.asarray(values)
    return values[numpy.lexsort(values.T)]


@pytest.mark.parametrize("ending", [".ply", ".xyz", ".txt", ".npy", ".npz"])
def test_states_decode_to_the_points_of_the_file(tmp_path, ending):
    values = positions(N)
    state = reader().read(write(tmp_path / f"cloud{ending}", values))
    assert state.shape == (1, N, 3)
    decoded = reader().codec.decode(state)["positions"][0].numpy()
    assert numpy.allclose(ordered(decoded), ordered(values), atol=1e-5)
    assert numpy.allclose(ordered(state[0]), ordered((values - [1, 2, 3]) / 2), atol=1e-5)


def test_larger_files_give_the_same_random_points_each_time(tmp_path):
    values = positions(10 * N)
    path = write(tmp_path / "cloud.ply", values)
    first, again = reader().read(path), reader().read(path)
    assert torch.equal(first, again)
    decoded = reader().codec.decode(first)["positions"][0].numpy()
    differences = numpy.abs(decoded[:, None] - values[None]).max(-1)
    assert differences.min(1).max() < 1e-5
    assert len(set(differences.argmin(1).tolist())) == N  # different points of the file
    assert differences.argmin(1).max() > 5 * N  # from all over it


@pytest.mark.parametrize("ending", [".obj", ".off", ".stl", ".glb", ".ply"])
def test_meshes_are_sampled_on_their_surface(tmp_path, ending):
    path = tmp_path / f"box{ending}"
    trimesh.creation.box((2, 4, 6), trimesh.transformations.translation_matrix((1, 2, 3))).export(path)
    state = reader(2000).read(path)
    decoded = reader(2000).codec.decode(state)["positions"][0].numpy() - [1, 2, 3]
    faces = numpy.isclose(numpy.abs(decoded), [1, 2, 3], atol=1e-4)
    assert faces.any(1).all()
    shares = faces.mean(0)
    assert shares == pytest.approx(numpy.array([24, 12, 8]) / 44, abs=0.05)  # by area


def test_normals_and_colours_are_read_where_the_model_has_them(tmp_path):
    codec = reader(normals=True, colours=True).codec
    values, normals = positions(N), units(N)
    colours = numpy.random.default_rng(2).integers(0, 256, (N, 3), dtype=numpy.uint8)
    path = write(tmp_path / "cloud.ply", values, normals=normals, colours=colours)
    decoded = codec.decode(CloudReader(codec).read(path))
    order, wanted = (numpy.lexsort(found.T) for found in (decoded["positions"][0].numpy(), values))
    assert numpy.allclose(decoded["normals"][0].numpy()[order], normals[wanted], atol=1e-5)
    assert numpy.array_equal(decoded["colours"][0].numpy()[order], colours[wanted])
    with pytest.raises(UserError, match="has no normals and no colours, which clouds of this model have"):
        CloudReader(codec).read(write(tmp_path / "plain.ply", values))


# Parts


def test_the_points_of_a_part_are_known(tmp_path, caplog):
    values = positions(20)
    state, known = reader().read_part(write(tmp_path / "part.xyz", values))
    assert known.dtype == torch.bool
    assert state.shape == known.shape == (1, N, 3)
    assert known[0, :20].all()
    assert not known[0, 20:].any()
    assert (state[0, 20:] == 0).all()
    decoded = reader().codec.decode(state)["positions"][0, :20].numpy()
    assert numpy.allclose(ordered(decoded), ordered(values), atol=1e-5)
    assert caplog.text == ""


@pytest.mark.parametrize(("count", "used"), [(1, 1), (47, 47), (48, 48), (49, 32), (64, 32), (5000, 32)])
def test_at_least_a_quarter_of_the_points_is_generated(tmp_path, caplog, count, used):
    values = positions(count)
    state, known = reader().read_part(write(tmp_path / "part.npy", values))
    assert int(known[0, :, 0].sum()) == used
    decoded = reader().codec.decode(state)["positions"][0, :used].numpy()
    assert numpy.abs(decoded[:, None] - values[None]).max(-1).min(1).max() < 1e-5
    message = caplog.text
    if used < count:
        assert f"32 of {count:,} points are used as known points, and 32 are generated; " in message
        assert "all points of a file are used if it has at most 48" in message
    else:
        assert not message


@pytest.mark.parametrize("ending", [".ply", ".txt", ".npz"])
@pytest.mark.parametrize("count", [20, N])
def test_the_known_points_of_a_part_keep_the_order_of_the_file(tmp_path, ending, count):
    """All of 20 points, or half of those of a larger file, in each of which later rows come later."""
    values, normals = positions(count), units(count)
    given = {} if ending == ".txt" else {"normals": normals}
    reads = reader(normals=bool(given))
    found = reads.codec.decode(reads.read_part(write(tmp_path / f"part{ending}", values, **given))[0])
    used = min(count, N // 2)
    rows = [abs(values - point).max(1).argmin() for point in found["positions"][0, :used].numpy()]
    assert rows == sorted(set(rows))
    assert len(rows) == used
    assert count > used or rows == [*range(count)]
    assert numpy.allclose(found["positions"][0, :used], values[rows], atol=1e-5)
    if given:
        assert numpy.allclose(found["normals"][0, :used], normals[rows], atol=1e-5)


def test_a_part_without_a_place_is_decoded_in_its_own_frame(tmp_path):
    part = positions(20) * 1000 + [5e4, 0, -3e4]
    edit = reader().read_unplaced(write(tmp_path / "part.npy", part))
    shape, numbers = edit.unplaced.size[0, :20].double(), torch.tensor([0.5, -1.5, 4.0], dtype=torch.float64)
    assert edit.known[0].all(1).tolist() == [True] * 20 + [False] * (N - 20)
    assert shape.square().mean().item() == pytest.approx(1, rel=1e-5)
    others = torch.randn(N - 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in (0.3, -0.7):
        state = torch.cat([size * shape + numbers, others])[None].float()
        found = edit.codec.decode(state)["positions"][0].double()
        assert torch.equal(found[:20].float(), torch.from_numpy(part).float())
        scale = numpy.sqrt(numpy.square(part - part.mean(0)).mean()) / size
        expected = (others - numbers).numpy() * scale + part.mean(0)
        assert numpy.abs(found[20:].numpy() - expected).max() < 0.2
        assert edit.settled(state, None, [0])[1] == [size > 0]


def test_an_encoded_part_cannot_be_unplaced(tmp_path):
    model = SimpleNamespace(network=None, modality=None, codec=reader().codec)
    state = torch.zeros(1, N, 3)
    with pytest.raises(UserError, match="`unplaced` needs a file with a part that has a place and a size"):
        inpainting_of(model, state, unplaced=True)


def test_points_at_one_place_have_no_size(tmp_path):
    with pytest.raises(UserError, match="all points lie at one place"):
        reader().read_unplaced(write(tmp_path / "part.npy", numpy.ones((5, 3))))


def test_a_part_of_a_mesh_is_half_the_points(tmp_path):
    path = tmp_path / "ball.obj"
    trimesh.creation.icosphere(2).apply_translation((1, 2, 3)).export(path)
    state, known = reader().read_part(path)
    assert int(known[0, :, 0].sum()) == N // 2
    radii = (2 * state[0, : N // 2]).norm(dim=-1)
    assert radii.min() > 0.95
    assert radii.max() < 1.001


def test_missing_fields_of_a_part_are_not_known(tmp_path):
    codec = reader(normals=True, colours=True).codec
    path = write(tmp_path / "part.npz", positions(20), normals=units(20))
    state, known = CloudReader(codec).read_part(path)
    assert {name: int(mask.sum()) for name, mask in known.items()} == {"positions": 60, "normals": 60, "colours": 0}
    assert codec.decode(state)["normals"][0, :20].norm(dim=-1).numpy() == pytest.approx(1, abs=1e-5)
    assert (state["colours"] == 0).all()


@pytest.mark.parametrize("method", ["mmps", "dps", "repaint"])
@pytest.mark.parametrize("normals", [False, True])
def test_inpainting_preserves_known_points_exactly(tmp_path, method, normals):
    """The denoiser of standard normal data: x0_hat = alpha x at alpha^2 + sigma^2 = 1."""
    cloud_reader = reader(normals=normals)
    values = positions(20)
    state, known = cloud_reader.read_part(
        write(tmp_path / "part.ply", values, **({"normals": units(20)} if normals else {}))
    )

    def denoise(x, level, conditions=None, mask=None):
        return Prediction(x, level, x * level.alpha, "x0", None)

    space = cloud_reader.codec.space
    guide = inpainting(state, known, space, method, resamplings=2)
    steered, step = guide(denoise, ddpm(), range(3))
    drawn = sample(steered, space, step, levels_of(Cosine(), karras(Cosine(), 5)), indices=range(3))
    decoded = cloud_reader.codec.decode(drawn)
    for cloud in decoded["positions"].numpy():
        assert numpy.allclose(ordered(cloud[:20]), ordered(values), atol=1e-5)
    assert torch.equal(decoded["positions"][0, :20], decoded["positions"][1, :20])
    free = (decoded["positions"][0, 20:] - decoded["positions"][1, 20:]).abs()
    assert free.amax(-1).min() > 1e-3


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.ply", None, "there is no such file"),
        (
            "cloud.step",
            "x",
            "files of point clouds must end in .asc, .csv, .glb, .npy, .npz, .obj, .off, .pcd, .ply, .pts, ",
        ),
        ("text.ply", "no", "text.ply cannot be used: not a PLY file"),
        ("text.glb", "no", "text.glb cannot be used: not a GLB file"),
        ("text.npy", "no", "text.npy"),
        ("text.obj", "no", "no faces"),
        ("words.xyz", "a b c", "not rows of numbers"),
        ("empty.xyz", "", "no points"),
        ("flat.xyz", "1 2\n3 4", "expected [points, 3] or more columns"),
        ("nan.xyz", "1 2 3\n1 2 nan", "coordinates that are not finite numbers"),
        ("few.xyz", "1 2 3\n1 2 4", "has 2 points, but clouds of this model have 64"),
    ],
)
def test_bad_files_are_refused_in_a_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        reader().read(tmp_path / name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    if "few" not in name:
        with pytest.raises(UserError):
            reader().read_part(tmp_path / name)


def test_points_of_another_unit_are_refused(tmp_path):
    path = write(tmp_path / "millimetres.ply", 1000 * positions(20))
    with pytest.raises(
        UserError, match=r"standard deviations away from the centre of the data, \(1, 2, 3\), with a standard dev"
    ):
        reader().read_part(path)
    state, known = reader(1).read_part(write(tmp_path / "one.xyz", positions(1)))
    with pytest.raises(UserError, match="nothing to fill in"):
        inpainting(state, known, reader(1).codec.space)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(UserError, match=r"folder\.ply cannot be used: Is a directory"):
        reader().read(tmp_path / "folder.ply")


def test_all_clouds_of_a_file_are_samples(tmp_path):
    """To be judged: in the unit of the data, and as many points as the model's."""
    values = numpy.stack([positions(N, seed) for seed in (1, 2)])
    numpy.savez(tmp_path / "two.npz", positions=values)
    found = reader().read_samples(tmp_path / "two.npz")["positions"]
    assert found.shape == (2, N, 3)
    for cloud, given in zip(found, values, strict=True):
        numpy.testing.assert_allclose(ordered(cloud), ordered(given), rtol=1e-6)
    with pytest.raises(UserError, match=r"has 64 points, but clouds of this model have 65: judge clouds"):
        reader(65).read_samples(tmp_path / "two.npz")
