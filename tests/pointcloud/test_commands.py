"""The commands as a user types them, on generated shapes and on a folder of the user."""

import json

import numpy
import pytest
import trimesh

import diffcore as dc
from diffcore.cli import main
from diffcore.plugins.building import part_of
from diffcore_pointcloud.plugin import POINTCLOUD
from tests.support.refusals import refused

TINY = ("--denoiser.width", 16, "--denoiser.latents", 4, "--denoiser.latent-width", 16, "--denoiser.rounds", 1)
QUICK = ("--train.steps", 4, "--train.batch-size", 4, "--train.log-every", 2, "--sample.steps", 2)


def train(out, *flags):
    arguments = ("train", "--modality", "pointcloud", "--out", out, *TINY, *QUICK, "--train.evaluate", 0, *flags)
    assert main([str(word) for word in arguments]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = ("--data.shapes", 40, "--data.held-out", 20, "--data.points", 64)
    return train(tmp_path_factory.mktemp("runs") / "shapes", *small)


def points_of(path):
    return numpy.asarray(trimesh.load(path).vertices)


def test_a_run_draws_shapes_of_the_requested_class(run, tmp_path):
    assert main(["sample", str(run), "--n", "2", "--label", "chair", "--out", str(tmp_path / "chairs")]) == 0
    files = sorted(path.name for path in (tmp_path / "chairs").iterdir())
    assert files == ["0000-chair.ply", "0001-chair.ply", "overview", "recipe.json"]
    assert points_of(tmp_path / "chairs" / "0000-chair.ply").shape == (64, 3)


@pytest.mark.parametrize("size", [20, 64, 1000])
def test_samples_may_have_another_number_of_points(run, tmp_path, size):
    """Up to as many points as in training, a smaller cloud of a seed is a part of a larger one."""
    for name, number in (("drawn", size), ("trained", 64)):
        out = tmp_path / f"{name}.npz"
        assert main(["sample", str(run), "--n", "2", "--size", str(number), "--out", str(out)]) == 0
    drawn, trained = (numpy.load(tmp_path / f"{name}.npz")["positions"] for name in ("drawn", "trained"))
    assert drawn.shape == (2, size, 3)
    assert size > 64 or numpy.array_equal(drawn, trained[:, :size])


def test_a_partial_cloud_is_completed_without_a_mask(run, tmp_path):
    part = numpy.random.default_rng(0).uniform(-0.4, 0.4, (20, 3)).astype(numpy.float32)
    trimesh.PointCloud(part).export(tmp_path / "part.ply")
    out = tmp_path / "whole"
    assert main(["sample", str(run), "--inpaint", str(tmp_path / "part.ply"), "--n", "2", "--out", str(out)]) == 0
    for path in out.glob("*.ply"):
        distances = numpy.linalg.norm(part[:, None] - points_of(path)[None], axis=2)
        assert distances.min(1).max() < 1e-5


def test_the_report_shows_scenes_without_a_network(run):
    page = (run / "report.html").read_text()
    assert page.count("data-scene=") >= 5
    assert 'src="http' not in page


@pytest.mark.parametrize("denoiser", ["latent", "transformer"])
def test_a_folder_of_the_user(tmp_path, denoiser, capsys):
    for name, make in (("box", trimesh.creation.box), ("ball", trimesh.creation.icosphere)):
        for index in range(6):
            (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
            make().apply_scale(50 + index).export(tmp_path / "own" / name / f"{index}.stl")
    command = ["train", "--modality", "pointcloud", "--out", tmp_path / "run", "--denoiser", denoiser, *QUICK]
    command += ["--denoiser.width", 16, "--data", "meshes", "--data.root", tmp_path / "own", "--data.points", 32]
    assert main([str(word) for word in (*command, "--train.evaluate", 0)]) == 0
    assert main(["sample", str(tmp_path / "run"), "--n", "4", "--out", str(tmp_path / "all.glb")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--n", "6", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"one_nna_cd", "one_nna_cd_real", "coverage_emd"} <= metrics.keys()


def test_mistakes_get_a_line(tmp_path, capsys, run):
    command = ("train", "--modality", "pointcloud", "--out", tmp_path / "out", "--data", "meshes")
    (tmp_path / "empty").mkdir()
    assert "no meshes under" in refused(capsys, *command, "--data.root", tmp_path / "empty")
    assert "--data.root" in refused(capsys, *command)
    assert not (tmp_path / "out").exists()
    assert "write a whole number" in refused(capsys, "sample", run, "--size", "7..9")
    assert "--mask" in refused(capsys, "sample", run, "--inpaint", tmp_path / "a.ply", "--mask", tmp_path / "b.ply")
    assert "there is no such file" in refused(capsys, "sample", run, "--inpaint", tmp_path / "a.ply")
    assert "sofa" in refused(capsys, "sample", run, "--label", "sofa")


def test_the_points_on_the_way_between_two_clouds_correspond(run, tmp_path):
    """The second cloud is the first one, moved and in another order: each point goes to its own image."""
    points = numpy.random.default_rng(0).uniform(-0.4, 0.4, (64, 3)).astype(numpy.float32)
    for name, cloud in (("a", points), ("b", numpy.random.default_rng(1).permutation(points + 0.01))):
        trimesh.PointCloud(cloud).export(tmp_path / f"{name}.ply")
    reader = part_of(POINTCLOUD, "reader", dc.load(run).model.codec)
    first, second, mask = reader.read_pair(tmp_path / "a.ply", tmp_path / "b.ply")
    assert mask is None
    moved = second - first
    assert (moved - moved.mean((0, 1))).abs().max() < 1e-4
    assert (moved.mean((0, 1)) - 0.01 / reader.codec.facts.scale).abs().max() < 1e-4
    flags = ["--strength", "0", "--n", "1", "--out", str(tmp_path / "same.npz")]
    assert main(["sample", str(run), "--from", str(tmp_path / "a.ply"), *flags]) == 0
    same = numpy.load(tmp_path / "same.npz")["positions"][0]
    assert numpy.linalg.norm(points[:, None] - same[None], axis=2).min(1).max() < 1e-5


def test_the_surface_through_samples_is_written_as_a_mesh(run, tmp_path, capsys):
    small = ("--data.shapes", 5, "--data.held-out", 5, "--data.points", 64, "--data.pool", 64, "--data.normals")
    with_normals = train(tmp_path / "run", *small)
    few = ("sample", str(with_normals), "--n", "2", "--write.resolution", "24", "--mesh")
    assert main([*few, str(tmp_path / "out.glb")]) == 0
    assert len(trimesh.load(tmp_path / "out.glb").geometry) == 2
    assert "--size 8192" in capsys.readouterr().err
    assert main([*few, str(tmp_path / "all"), "--write.format", "stl"]) == 0
    assert len([*(tmp_path / "all").glob("*.stl")]) == 2
    assert "--mesh and --out both" in refused(capsys, *few, tmp_path / "a.glb", "--out", tmp_path / "b")
    assert "preset shapes-normals" in refused(capsys, "sample", run, "--mesh", tmp_path / "a.glb")
