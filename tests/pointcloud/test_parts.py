"""Joint states of shapes and the parts of their points: data, codec, files, networks and metrics."""

import json

import numpy
import pytest
import torch
import trimesh
from tensordict import TensorDict

from diffcore.cli import main
from diffcore.errors import UserError
from diffcore.states.categories import CategoricalField
from diffcore.states.noise import Draws
from diffcore_pointcloud.autoencoder import autoencoder
from diffcore_pointcloud.codec import PARTS_STD, CloudCodec
from diffcore_pointcloud.data.datasets import clouds, meshes, shapes
from diffcore_pointcloud.data.reader import CloudReader
from diffcore_pointcloud.evaluation.sides import Sides, mean_iou
from diffcore_pointcloud.networks import latent
from diffcore_pointcloud.options import AutoencoderOptions, CloudFacts, FileOptions, LatentOptions, ShapesOptions
from diffcore_pointcloud.output.points import PALETTE, Points, colours
from diffcore_pointcloud.output.writer import CloudWriter
from tests.pointcloud.test_commands import train

CLASSES = ("aeroplane", "chair", "lamp", "solid", "stool", "table")


def facts(points=4, labels=(3, 12), fractions=(0.25, 0.75), **more):
    names = tuple(f"part {label}" for label in labels)
    parts = {"parts": names, "part_labels": labels, "part_fractions": fractions}
    return CloudFacts(points=points, centre=(1.0, 2.0, 3.0), scale=2.0, **parts, **more)


@pytest.fixture(scope="module")
def made():
    options = ShapesOptions(shapes=120, held_out=2, points=256, pool=512, joint="parts", colours=True, classes=CLASSES)
    return shapes(options)


def heights(data, kind, part):
    """The heights of the points of a part, one tensor for each shape of a class that has it."""
    rows = data.examples["label"] == CLASSES.index(kind)
    of_part = data.examples["parts"][rows] == data.facts.parts.index(part)
    high = data.examples["positions"][rows][..., 1].float()
    return [points[own] for points, own in zip(high, of_part, strict=True) if own.any()]


def test_generated_points_have_the_label_of_the_part_that_they_are_of(made):
    assert set(made.facts.parts) >= {"seat", "back", "arm", "leg", "top", "shade", "wing", "engine", "solid"}
    assert made.facts.part_labels == tuple(range(len(made.facts.parts)))
    for kind, under, over in (("chair", "seat", "back"), ("lamp", "foot", "shade"), ("table", "leg", "top")):
        for low, high in zip(heights(made, kind, under), heights(made, kind, over), strict=True):
            assert low.mean() < high.mean()
            assert high.max() >= low.max()
    assert all(part.min() == pytest.approx(-1, abs=0.7) for part in heights(made, "stool", "leg"))
    # A wing and the stabiliser are painted alike, the fuselage and its engines otherwise; a lamp has one shade.
    for kind, part in (("aeroplane", "fuselage"), ("aeroplane", "wing"), ("lamp", "shade"), ("table", "leg")):
        for row in (made.examples["label"] == CLASSES.index(kind)).nonzero()[:, 0]:
            own = made.examples["parts"][row] == made.facts.parts.index(part)
            assert len(made.examples["colours"][row][own].unique(dim=0)) == 1
    counts = torch.bincount(made.examples["parts"].flatten().long(), minlength=len(made.facts.parts))
    assert made.facts.part_fractions == pytest.approx((counts / counts.sum()).tolist())


def test_labels_stay_with_their_points_and_are_restored(made):
    codec = CloudCodec(made.facts)
    assert codec.joint == {"shape": ("positions", "colours"), "parts": ("parts",)}
    examples = made.examples[:30].clone()
    examples["positions"][..., 0] = examples["parts"] / 8  # exact in float16
    encoded = codec.encode(examples, Draws.of(1, range(30)))
    back = codec.decode(encoded.state)
    torch.testing.assert_close(back["parts"].float() / 8, back["positions"][..., 0], atol=1e-5, rtol=0)
    every = codec.encode(made.examples).state["parts"].double()
    assert every.mean((0, 1)).abs().max() < 0.1 * PARTS_STD  # 256 of the 512 points
    assert every.square().mean().item() == pytest.approx(PARTS_STD**2, rel=0.02)


def test_the_network_has_logits_for_labels_and_treats_points_alike():
    space = CloudCodec(facts()).space
    assert isinstance(space.parts["parts"], CategoricalField)
    network = latent(LatentOptions(width=8, latents=2, latent_width=8), space)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    assert network.views["parts"] == space.parts["parts"].categories
    x = TensorDict({"positions": torch.randn(2, 4, 3), "parts": torch.randn(2, 4, 2)}, batch_size=[2])
    order, level = torch.tensor([2, 0, 3, 1]), torch.randn(2, network.width)
    moved = network(x.apply(lambda value: value[:, order], batch_size=[2]), level)
    for name, value in network(x, level).items():
        assert value.shape == x[name].shape
        torch.testing.assert_close(value[:, order], moved[name])


LABELLED = numpy.array([[0, 0, 0, 12], [1, 2, 4, 3], [2, 1, 1, 12], [3, 3, 3, 12], [5, 4, 2, 3.0]])


def written(path, rows=LABELLED):
    """The rows of x, y, z and label in a file of the format of its ending, written without this package."""
    lines = [" ".join(f"{value:g}" for value in row) for row in rows]
    match path.suffix:
        case ".ply":
            properties = ["property float x", "property float y", "property float z", "property int label"]
            head = ["ply", "format ascii 1.0", f"element vertex {len(rows)}", *properties, "end_header"]
        case ".pcd":
            head = ["VERSION .7", "FIELDS x y z label", "SIZE 4 4 4 4", "TYPE F F F U", "COUNT 1 1 1 1"]
            head += [f"WIDTH {len(rows)}", "HEIGHT 1", f"POINTS {len(rows)}", "DATA ascii"]
        case ".npz":
            numpy.savez(path, points=rows[None, :, :3], label=rows[None, :, 3].astype(int), labels=numpy.array([7]))
            return path
        case _:
            head = ["x y z label"]
    path.write_text("\n".join([*head, *lines, ""]))
    return path


@pytest.mark.parametrize("ending", [".ply", ".pcd", ".npz", ".txt"])
def test_labels_in_files_of_others_become_parts(tmp_path, ending):
    for number in range(2):
        (tmp_path / "all").mkdir(exist_ok=True)
        written(tmp_path / "all" / f"{number}{ending}")
    data = clouds(FileOptions(root=tmp_path / "all", points=5, joint="parts", held_out=0.5))
    assert (data.facts.parts, data.facts.part_labels) == (("3", "12"), (3, 12))
    assert data.facts.part_fractions == pytest.approx((0.4, 0.6))
    codec = CloudCodec(data.facts)
    drawn = codec.decode(codec.encode(data.examples).state)
    rows = torch.cat([drawn["positions"][0], drawn["parts"][0, :, None].float()], 1).numpy()
    assert numpy.array_equal(rows[rows[:, 0].argsort()].round(4), LABELLED)


def test_a_file_gives_either_side(tmp_path):
    codec = CloudCodec(facts(points=4))
    reader = CloudReader(codec)
    path = written(tmp_path / "a.ply")
    parts, shape = reader.read_side("parts", path).values, reader.read_side("shape", path).values
    assert (parts["parts"].shape, shape["positions"].shape) == ((1, 4, 2), (1, 4, 3))
    sample = codec.decode(TensorDict({**shape, **parts}, batch_size=[1]))
    rows = torch.cat([sample["positions"][0], sample["parts"][0, :, None].float()], 1)
    assert all(any(numpy.allclose(row, known) for known in LABELLED) for row in rows.numpy())
    few = reader.read_side("parts", written(tmp_path / "few.ply", LABELLED[:2])).values  # two points of each label
    assert codec.decode(TensorDict({**shape, **few}, batch_size=[1]))["parts"].sort().values.tolist() == [
        [3, 3, 12, 12]
    ]
    box = tmp_path / "box.stl"
    trimesh.creation.box().apply_translation([1, 2, 3]).export(box)
    assert reader.read_side("shape", box).values["positions"].shape == (1, 4, 3)
    strange = LABELLED.copy()
    strange[1, 3] = 5
    for name, file, message in (
        ("parts", box, "no labels of points"),
        ("parts", written(tmp_path / "strange.ply", strange), "strange.ply: a point with the label 5"),
        ("shape", written(tmp_path / "some.ply", LABELLED[:3]), "has 3 points"),
    ):
        with pytest.raises(UserError, match=message):
            reader.read_side(name, file)


def test_files_of_samples_have_labels_that_others_read(tmp_path):
    codec = CloudCodec(facts(points=3))
    labels = torch.tensor([[12, 3, 12], [3, 3, 12]])
    samples = TensorDict({"positions": torch.randn(2, 3, 3), "parts": labels}, batch_size=[2])
    writer = CloudWriter(codec)
    for path, own in zip(writer.each(samples, tmp_path, ["a", "b"]), labels.tolist(), strict=True):
        vertices = trimesh.load(path, process=False).metadata["_ply_raw"]["vertex"]["data"]
        assert vertices["label"].tolist() == own
        assert b"comment label 12: part 12\n" in path.read_bytes()
    writer.together(samples, tmp_path / "all.npz", 2)
    assert numpy.load(tmp_path / "all.npz")["label"].tolist() == labels.tolist()
    assert "part 3 50%, part 12 50%" in writer.summary(samples)[1]
    rgb = colours(Points(numpy.zeros((2, 3)), colours=numpy.zeros((2, 3), numpy.uint8), parts=numpy.array([0, 17])))
    assert [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb.tolist()] == [PALETTE[0], PALETTE[1]]


def test_metrics_of_parts_by_hand():
    true, found = torch.tensor([[3, 3, 12, 12]]), torch.tensor([[3, 12, 12, 12]])
    assert mean_iou(found, true) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_iou(torch.tensor([[5, 5, 5, 5]]), true) == 0
    # Two training shapes; each real one is close to one of them, in another order.
    trained = torch.tensor(
        [[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], [[0.0, 5, 0], [0, 6, 0], [0, 7, 0], [0, 8, 0]]]
    )
    labels = torch.tensor([[3, 3, 12, 12], [12, 12, 12, 3]])
    order = torch.tensor([3, 1, 0, 2])
    real = TensorDict({"positions": trained[:, order] + 0.1, "parts": labels[:, order]}, batch_size=[2])
    sides = Sides(facts(), trained, labels, classify=lambda positions: (positions[:, 0, 1] > 4).long())
    of_parts = {metric.name: metric.value for metric in sides.of_parts(torch.full((2, 4), 12), real)}
    assert of_parts["parts_accuracy"] == of_parts["parts_accuracy_commonest"] == pytest.approx(5 / 8)
    assert of_parts["parts_accuracy_nearest"] == of_parts["parts_iou_nearest"] == 1
    assert of_parts["parts_iou"] == pytest.approx((2 / 4 + 3 / 4) / 4)
    drawn = real["positions"] + torch.tensor([0.0, 0.0, 0.2])
    of_shape = {metric.name: metric.value for metric in sides.of_shape(drawn, real)}
    assert of_shape["shape_chamfer"] == pytest.approx(2 * 0.2**2, rel=1e-3)
    assert of_shape["shape_chamfer_shuffled"] > 20
    assert (of_shape["shape_labels"], of_shape["shape_class"], of_shape["shape_class_shuffled"]) == (1, 1, 0)


def test_what_parts_cannot_be_used_with_is_refused(tmp_path):
    trimesh.creation.box().export(tmp_path / "box.stl")
    for run, message in (
        (lambda: meshes(FileOptions(root=tmp_path, joint="parts")), "meshes have no labels of points"),
        (lambda: autoencoder(AutoencoderOptions(), CloudCodec(facts())), "no labels of points"),
        (lambda: clouds(FileOptions(root=unlabelled(tmp_path), points=5, joint="parts")), "no labels of points"),
    ):
        with pytest.raises(UserError, match=message):
            run()
    with pytest.raises(ValueError, match="cannot be used with"):
        ShapesOptions(joint="parts", upscale=2)


def unlabelled(folder):
    (folder / "none").mkdir()
    numpy.savetxt(folder / "none" / "a.xyz", LABELLED[:, :3])
    return folder / "none"


def test_either_side_is_drawn_given_the_other_by_commands(tmp_path, capsys):
    small = ["--data.shapes", 20, "--data.classes", "chair", "--data.held-out", 5, "--data.points", 32]
    run = train(tmp_path / "run", *small, "--data.joint", "parts")
    assert main(["sample", str(run), "--n", "2", "--out", str(tmp_path / "both.npz")]) == 0
    both = numpy.load(tmp_path / "both.npz")
    for side, array in (("shape", "positions"), ("parts", "label")):
        out = tmp_path / f"{side}.npz"
        given = f"{side}={tmp_path / 'both.npz'}"
        assert main(["sample", str(run), "--given", given, "--n", "2", "--out", str(out)]) == 0
        drawn = numpy.load(out)[array]
        for row in range(4):  # two of each entry, whose points are in random order
            kept, entry = drawn[row], both[array][row // 2]
            assert numpy.allclose(numpy.sort(kept, 0), numpy.sort(entry, 0), atol=1e-5)
    assert main(["sample", str(run), "--n", "2", "--size", "50", "--out", str(tmp_path / "more.npz")]) == 0
    assert numpy.load(tmp_path / "more.npz")["label"].shape == (2, 50)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--n", "5", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"parts_accuracy", "parts_iou_nearest", "shape_labels", "shape_chamfer_shuffled"} <= metrics.keys()
