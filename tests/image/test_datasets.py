import pickle
import shutil
import struct

import numpy
import pytest
import torch
from PIL import Image

from diffcore.errors import UserError
from diffcore.states.noise import Draws
from diffcore_image import datasets
from diffcore_image.codec import ImageCodec
from diffcore_image.options import DigitsOptions, FolderOptions, LargeSetOptions, MnistOptions


def folder(root, **options):
    return datasets.folder(FolderOptions(root=str(root), **options))


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    data = datasets.digits(DigitsOptions())
    everything = torch.cat([data.examples["pixels"], data.held_out["pixels"]]).flatten(1)
    original = torch.from_numpy(load_digits().data * 255 / 16).round()
    assert sorted(map(tuple, everything.tolist())) == sorted(map(tuple, original.int().tolist()))
    counts = torch.bincount(data.held_out["label"], minlength=10)
    assert counts.min() >= 33
    assert counts.max() <= 38
    assert data.facts.classes == tuple("0123456789")


def test_moments_are_exact():
    pixels = torch.randint(0, 256, (50, 3, 7, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = datasets.moments(pixels)
    flat = pixels.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(mean, flat.mean(1))
    torch.testing.assert_close(std, flat.std(1, correction=0))


def test_decoding_inverts_encoding_and_states_are_standardised():
    data = datasets.digits(DigitsOptions())
    codec = ImageCodec(data.facts)
    encoded = codec.encode(data.examples)
    assert encoded.state.mean().item() == pytest.approx(0, abs=1e-4)
    assert encoded.state.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.equal(codec.decode(encoded.state), data.examples["pixels"])
    assert torch.equal(codec.decode(encoded.state * 100)[0].unique(), torch.tensor([0, 255], dtype=torch.uint8))


def test_images_are_mirrored_only_in_training():
    data = datasets.digits(DigitsOptions())
    codec = ImageCodec(data.facts.model_copy(update={"flip": True}))
    plain = codec.encode(data.examples).state
    flipped = codec.encode(data.examples, Draws.of(0, range(len(data.examples)))).state
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0.45 < mirrored.double().mean() < 0.55


def write_mnist(raw, n=60, seed=0):
    """Small files in MNIST's format."""
    raw.mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(seed)
    stored = {}
    for part, count in (("train", n), ("t10k", n // 2)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=numpy.uint8)
        labels = generator.integers(0, 10, count, dtype=numpy.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
        stored[part] = images, labels
    return stored


@pytest.mark.parametrize(("load", "name"), [(datasets.mnist, "MNIST"), (datasets.fashion_mnist, "FashionMNIST")])
def test_mnist_s_files_are_read_and_padded(tmp_path, load, name):
    stored = write_mnist(tmp_path / name / "raw")
    data = load(MnistOptions(root=str(tmp_path)))
    images, labels = stored["train"]
    assert torch.equal(data.examples["pixels"][:, 0, 2:30, 2:30], torch.from_numpy(images))
    assert data.examples["pixels"][:, 0, :2].sum() == 0
    assert torch.equal(data.examples["label"], torch.from_numpy(labels).long())
    assert len(data.held_out) == 30
    assert len(load(MnistOptions(root=str(tmp_path), size=28)).examples["pixels"][0, 0]) == 28


@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "raw", "."])
def test_mnist_is_found_where_it_lies(tmp_path, place):
    stored = write_mnist(tmp_path / place)
    data = datasets.mnist(MnistOptions(root=str(tmp_path), size=28))
    assert torch.equal(data.examples["pixels"][:, 0], torch.from_numpy(stored["train"][0]))


def test_clothes_are_not_taken_for_digits(tmp_path):
    """The files of both sets have the same names."""
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    for root in (tmp_path / "FashionMNIST", tmp_path / "FashionMNIST" / "raw"):
        with pytest.raises(UserError, match="MNIST is not in"):
            datasets.mnist(MnistOptions(root=str(root)))
        assert len(datasets.fashion_mnist(MnistOptions(root=str(root))).examples) == 60


def test_packed_files_are_told(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is packed: unpack it"):
        datasets.mnist(MnistOptions(root=str(tmp_path)))


def test_real_mnist(real_data):
    data = datasets.mnist(MnistOptions(root=str(real_data / "mnist")))
    assert (len(data.examples), len(data.held_out)) == (60_000, 10_000)
    # The well-known mean and standard deviation of MNIST, 0.1307 and 0.3081, are those without the border.
    inner = datasets.mnist(MnistOptions(root=str(real_data / "mnist"), size=28)).facts
    assert inner.mean[0] == pytest.approx(0.1307, abs=1e-4)
    assert inner.std[0] == pytest.approx(0.3081, abs=1e-4)


def test_cifar10_s_files_are_read(tmp_path, monkeypatch):
    """torchvision verifies the official checksums, which small files cannot have, so the test replaces that check."""
    from torchvision.datasets import CIFAR10

    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    generator = numpy.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    rows = {name: generator.integers(0, 256, (4, 3072), dtype=numpy.uint8) for name in names}
    for name in names:
        (root / name).write_bytes(pickle.dumps({"data": rows[name], "labels": [0, 1, 2, 9]}))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": ["c"] * 10}))
    with pytest.raises(UserError, match=r"CIFAR10 is not in .*, or its files are damaged"):
        datasets.cifar10(LargeSetOptions(root=str(tmp_path)))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    data = datasets.cifar10(LargeSetOptions(root=str(tmp_path)))
    assert (len(data.examples), len(data.held_out)) == (20, 4)
    assert torch.equal(data.examples["pixels"][0].flatten(), torch.from_numpy(rows["data_batch_1"][0]))
    assert data.facts.classes[9] == "truck"
    assert len(datasets.cifar10(LargeSetOptions(root=str(root))).examples) == 20


def test_a_folder_of_classes(picture_folder):
    data = folder(picture_folder, size=12)
    assert data.facts.classes == ("left", "right")
    assert (data.facts.channels, data.facts.height, data.facts.width) == (3, 12, 12)
    assert (len(data.examples), len(data.held_out)) == (54, 6)
    pixels = data.examples["pixels"].float()
    brighter = pixels[..., :6].mean((1, 2, 3)) > pixels[..., 6:].mean((1, 2, 3))
    assert torch.equal(brighter, data.examples["label"] == 0)


def test_images_of_the_right_size_are_unchanged(tmp_path):
    pixels = numpy.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = folder(tmp_path, size=8)
    assert torch.equal(data.examples["pixels"][0], torch.from_numpy(pixels).permute(2, 0, 1))
    assert data.facts.classes == ()


def test_the_longer_side_is_cropped_around_the_centre(tmp_path):
    pixels = numpy.zeros((8, 24, 3), numpy.uint8)
    pixels[:, 8:16] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (folder(tmp_path, size=8).examples["pixels"] == 200).all()


def test_grey_images_are_detected_and_can_be_requested(tmp_path, picture_folder):
    (tmp_path / "grey").mkdir()
    Image.fromarray(numpy.full((8, 8), 77, numpy.uint8)).save(tmp_path / "grey" / "a.jpg", quality=100)
    grey = folder(tmp_path / "grey", size=8)
    assert grey.examples["pixels"].shape[1] == 1
    assert (grey.examples["pixels"] == 77).all()
    assert folder(tmp_path, size=8, colour="rgb").facts.channels == 3
    assert folder(picture_folder, colour="grey").facts.channels == 1


def test_train_and_test_folders_are_used(tmp_path, picture_folder):
    root = tmp_path / "parted"
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
    for name in ("left", "right"):
        (root / "train" / name).symlink_to(picture_folder / name)
        shutil.copytree(picture_folder / name, root / "test" / name)
    data = folder(root)
    assert (len(data.examples), len(data.held_out)) == (60, 60)


def test_unreadable_images_are_named(picture_folder):
    (picture_folder / "left" / "broken.png").write_bytes(b"not a picture")
    whole = (picture_folder / "right" / "00.png").read_bytes()
    (picture_folder / "right" / "00.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"2 of the 61 images .*left/broken.png .*right/00.png .*damaged: .*; .*`data.skip_unreadable`"
    ):
        folder(picture_folder)
    data = folder(picture_folder, skip_unreadable=True)
    assert len(data.examples) + len(data.held_out) == 59
    assert sorted(name for names in data.ledger.passed_over.values() for name in names) == [
        "left/broken.png",
        "right/00.png",
    ]


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda root: None, "no folder"),
        (lambda root: root.mkdir(), "no images under"),
        (lambda root: (root.mkdir(), (root / "notes.txt").write_text("x")), "no images under"),
        (lambda root: (root.mkdir(), (root / "a.png").write_bytes(b"x")), "none of the 1 images under"),
    ],
    ids=["missing", "empty", "no images", "all unreadable"],
)
def test_a_folder_without_pictures_is_refused_in_a_line(tmp_path, prepare, said):
    prepare(tmp_path / "root")
    with pytest.raises(UserError, match=said) as caught:
        folder(tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "root") in str(caught.value)


def test_messages_of_missing_data_sets_say_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"MNIST needs `data\.root`, the folder"):
        datasets.mnist(MnistOptions())
    with pytest.raises(UserError, match=r"MNIST is not in .*`data.download`"):
        datasets.mnist(MnistOptions(root=str(tmp_path)))

    def offline(*arguments, **keywords):
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(UserError, match="MNIST could not be downloaded into"):
        datasets.mnist(MnistOptions(root=str(tmp_path), download=True))
    with pytest.raises(UserError, match="CIFAR10 could not be downloaded into"):
        datasets.cifar10(LargeSetOptions(root=str(tmp_path), download=True))


def test_pickles_of_earlier_versions_of_torchvision_are_not_read(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (tmp_path / "MNIST" / "processed" / name).write_bytes(b"no pickle")
    assert len(datasets.mnist(MnistOptions(root=str(tmp_path))).examples) == 60


@pytest.mark.parametrize("part", ["train", "t10k"])
@pytest.mark.parametrize(
    ("kind", "header", "value", "said"),
    [
        ("images-idx3", (2051, 2, 60, 60), 7, "images of 60x60 pixels instead of 28x28"),
        ("images-idx3", (2051, 2, 8, 28), 7, "images of 28x8 pixels instead of 28x28"),
        ("labels-idx1", (2049, 60), 200, "labels from 200 to 200 of 10 classes"),
    ],
)
def test_files_of_another_set_in_the_format_of_mnist_are_refused(tmp_path, part, kind, header, value, said):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    numbers = numpy.full(header[1:], value, numpy.uint8).tobytes()
    (raw / f"{part}-{kind}-ubyte").write_bytes(struct.pack(f">{len(header)}I", *header) + numbers)
    with pytest.raises(UserError, match=said):
        datasets.mnist(MnistOptions(root=str(tmp_path)))


def test_damaged_official_files_are_refused_in_a_line(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(UserError, match="MNIST") as caught:
        datasets.mnist(MnistOptions(root=str(tmp_path)))
    assert "\n" not in str(caught.value)
