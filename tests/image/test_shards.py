"""Pictures in shards, in tars of WebDataset and in Parquet files are the same data as pictures in memory."""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import shutil
import sys
import tarfile

import numpy
import pytest
import torch
from PIL import Image

import diffcore
from diffcore.errors import UserError
from diffcore.plugins.data import few_of_mapped
from diffcore.runs.folder import RunFolder, read_log
from diffcore.system import shards
from diffcore.system.mapped import is_mapped
from diffcore.training import state
from diffcore_image.datasets import folder
from diffcore_image.options import FolderOptions, ParquetOptions, WebDatasetOptions
from diffcore_image.reading import squares
from diffcore_image.reading.archives import webdataset
from diffcore_image.reading.tables import parquet
from tests.benchmarks import larger_than_memory

SIZE = 12


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 7)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first.keys())


def require_same(first, second):
    assert first.facts == second.facts
    assert first.ledger == second.ledger
    assert (first.notes, first.texts) == (second.notes, second.texts)
    assert same(first.examples, second.examples)
    assert (first.held_out is None) == (second.held_out is None)
    assert first.held_out is None or same(first.held_out, second.held_out)


def both(root, place, **options):
    """The data of a folder in memory, and from shards."""
    options = {"root": str(root), "size": SIZE, **options}
    return folder(FolderOptions(**options)), folder(FolderOptions(**options, shards=str(place)))


# Folders


@pytest.mark.parametrize("options", [{}, {"colour": "grey"}, {"held_out": 0.3}])
def test_shards_hold_what_memory_holds(picture_folder, tmp_path, options):
    in_memory, mapped = both(picture_folder, tmp_path / "shards", **options)
    require_same(in_memory, mapped)
    assert is_mapped(mapped.examples["pixels"])
    assert is_mapped(mapped.held_out["pixels"])
    assert not is_mapped(in_memory.examples["pixels"])
    require_same(in_memory, both(picture_folder, tmp_path / "shards", **options)[1])  # from the finished file


def test_damaged_files_captions_and_test_folders(picture_folder, tmp_path):
    root = tmp_path / "parts"
    shutil.copytree(picture_folder, root / "train")
    shutil.copytree(picture_folder / "left", root / "test" / "left")
    for name in ("train/left/00.png", "train/right/11.png", "test/left/05.png"):
        (root / name).write_bytes(b"no picture")
    (root / "train" / "left" / "01.txt").write_text("the left half\n")
    require_same(*both(root, tmp_path / "shards", skip_unreadable=True))
    for place in (None, str(tmp_path / "shards")):
        with pytest.raises(UserError, match=r"3 of the 90 images .*left/05.png.*left/00.png.*right/11.png"):
            folder(FolderOptions(root=str(root), size=SIZE, shards=place))


def test_a_file_that_is_repaired_is_read_again(picture_folder, tmp_path):
    bad = picture_folder / "left" / "03.png"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"left/03\.png \(empty\)"):
        both(picture_folder, tmp_path / "shards")[1]
    bad.write_bytes(good)
    require_same(*both(picture_folder, tmp_path / "shards"))


def test_sets_that_do_not_fit_go_to_the_cache(picture_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(squares, "memory", lambda: 2 * 60 * 3 * SIZE**2 - 1)
    found = folder(FolderOptions(root=str(picture_folder), size=SIZE))
    assert is_mapped(found.examples["pixels"])
    assert [path.name for path in (tmp_path / "cache" / "shards").glob("*/rows.bin")] == ["rows.bin"]
    monkeypatch.setattr(squares, "memory", lambda: 2 * 60 * 3 * SIZE**2)
    assert not is_mapped(folder(FolderOptions(root=str(picture_folder), size=SIZE)).examples["pixels"])


def test_metrics_use_a_bounded_part_of_mapped_data(picture_folder, tmp_path):
    in_memory, mapped = both(picture_folder, tmp_path / "shards")
    row = sum(value[:1].numel() * value.element_size() for value in mapped.examples.values())
    few = few_of_mapped(mapped.examples, 6 * row)
    assert torch.equal(few["pixels"], in_memory.examples["pixels"][[0, 9, 18, 27, 36, 45]])
    assert few_of_mapped(mapped.examples, 54 * row) is mapped.examples
    assert few_of_mapped(in_memory.examples, 6 * row) is in_memory.examples


def test_shards_need_a_folder(picture_folder):
    with pytest.raises(UserError, match=r"`data.shards` s3://bucket is an address"):
        folder(FolderOptions(root=str(picture_folder), shards="s3://bucket"))


def losses(run):
    return [row["loss"] for row in read_log(RunFolder(run.path))]


def trained(out, root, steps, **options):
    return diffcore.train(
        "image",
        data={"name": "folder", "root": str(root), "size": SIZE, "flip": True, **options},
        denoiser={"name": "unet", "width": 8, "multipliers": (1,), "patch": 4, "blocks": 1},
        train={"steps": steps, "batch_size": 8, "log_every": 1, "evaluate": 0, "sample_every": 1000},
        device="cpu",
        out=str(out),
    )


def test_a_run_on_shards_is_the_run_in_memory_step_by_step_and_resuming_is_exact(picture_folder, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(state.logger, "info", told.append)
    in_memory = trained(tmp_path / "memory", picture_folder, 8)
    assert not told
    place = {"shards": str(tmp_path / "shards")}
    whole = trained(tmp_path / "whole", picture_folder, 8, **place)
    (line,) = told
    assert line.startswith("batches are read ahead at")
    assert len(losses(whole)) == 8
    assert losses(whole) == losses(in_memory)
    half = trained(tmp_path / "half", picture_folder, 3, **place)
    assert losses(half.resume({"steps": 8})) == losses(in_memory)


# Tars and tables


def content_of(number, size=SIZE):
    """A picture of its own for each number, in the format PNG."""
    pixels = numpy.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=numpy.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue(), torch.from_numpy(pixels).permute(2, 0, 1)


def write_tar(path, numbers, **more):
    """Records of these numbers: a picture, a class and two captions; `more` replaces members of the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for place, number in enumerate(numbers):
            members = {"png": content_of(number)[0], "cls": b"%d" % (number % 11), "txt": b"one\nnumber %d\n" % number}
            for ending, content in (members | (more if place == 0 else {})).items():
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


def tars(tmp_path, root, **options):
    return webdataset(WebDatasetOptions(root=str(root), size=SIZE, shards=str(tmp_path / "shards"), **options))


def require_pictures(data, train, held_out):
    """The examples are these pictures in this order, with their classes and captions."""
    for part, numbers in ((data.examples, train), (data.held_out, held_out)):
        assert torch.equal(part["pixels"], torch.stack([content_of(number)[1] for number in numbers]))
        assert [data.facts.classes[label] for label in part["label"]] == [str(number % 11) for number in numbers]
        if "captions" in part.keys():
            said = [[data.texts[place] for place in row if place >= 0] for row in part["captions"]]
            assert said == [["one", f"number {number}"] for number in numbers]


def test_tars_with_a_test_part(tmp_path):
    for shard in range(3):
        write_tar(tmp_path / "tars" / f"train-{shard:03d}.tar", range(10 * shard, 10 * shard + 10))
    write_tar(tmp_path / "tars" / "test-000.tar", range(30, 35))
    write_tar(tmp_path / "tars" / "val-000.tar", range(40, 42))
    data = tars(tmp_path, tmp_path / "tars")
    require_pictures(data, range(30), range(30, 35))
    assert data.facts.classes == tuple(map(str, range(11)))  # in the order of numbers
    assert data.ledger.passed_over == {"named val, as those named test are held out": ("val-000.tar",)}
    assert is_mapped(data.examples["pixels"])


@pytest.mark.parametrize(
    "pattern", ["{}/train-{{000..001}}.tar", "{}/train-00*.tar", "file://{}/train-{{000..001}}.tar"]
)
def test_patterns_and_addresses_of_tars(tmp_path, pattern):
    for shard in range(2):
        write_tar(tmp_path / "tars" / f"train-{shard:03d}.tar", range(5 * shard, 5 * shard + 5))
    write_tar(tmp_path / "tars" / "other.tar", range(30, 35))
    data = tars(tmp_path, pattern.format(tmp_path / "tars"))
    assert len(data.examples) == 10


def test_tars_at_an_address_of_fsspec(tmp_path):
    import fsspec

    write_tar(tmp_path / "a.tar", range(8))
    with fsspec.open("memory://bucket/deep/train-0.tar", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    data = tars(tmp_path, "memory://bucket")
    assert len(data.examples) == 8
    with pytest.raises(UserError, match="memory://nowhere cannot be read"):
        tars(tmp_path, "memory://nowhere")
    with pytest.raises(UserError, match="strange://a cannot be read"):
        tars(tmp_path, "strange://a")


def test_json_gives_classes_and_captions(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        for number in range(4):
            said = json.dumps({"label": ["cat", "dog"][number % 2], "caption": f"number {number}"}).encode()
            for ending, content in (("jpg", content_of(number)[0]), ("json", said)):
                member = tarfile.TarInfo(f"x/{number}.{ending}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    data = tars(tmp_path, path)
    assert data.facts.classes == ("cat", "dog")
    assert data.texts == tuple(f"number {number}" for number in range(4))


def test_damaged_records_and_tars_are_named(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", range(10), png=b"no picture")
    write_tar(tmp_path / "tars" / "b.tar", range(10, 20))
    write_tar(tmp_path / "tars" / "c.tar", range(20, 30))
    whole = (tmp_path / "tars" / "b.tar").read_bytes()
    (tmp_path / "tars" / "b.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "tars" / "c.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(
        UserError, match=r"3 of the \d+ images .*a\.tar:0000 \(not an image.*b\.tar \(damaged: .*cut off.*c\.tar"
    ):
        tars(tmp_path, tmp_path / "tars")
    data = tars(tmp_path, tmp_path / "tars", skip_unreadable=True)
    assert 9 < len(data.examples) + (0 if data.held_out is None else len(data.held_out)) < 19
    assert {name for names in data.ledger.passed_over.values() for name in names} == {"a.tar:0000", "b.tar", "c.tar"}


def write_table(path, numbers, bare=False, names=()):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    contents = [content_of(number)[0] for number in numbers]
    table = pyarrow.table(
        {
            "image": contents if bare else [{"bytes": content, "path": None} for content in contents],
            "label": [number % 11 for number in numbers],
            "text": [["one", f"number {number}"] for number in numbers],
        }
    )
    if names:
        described = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
    files.write_table(table, path, row_group_size=4)


def tables(tmp_path, root, **options):
    return parquet(ParquetOptions(root=str(root), size=SIZE, shards=str(tmp_path / "shards"), **options))


@pytest.mark.parametrize("bare", [False, True])
def test_tables_hold_what_was_written(tmp_path, bare):
    write_table(tmp_path / "data" / "train-00000-of-00002.parquet", range(15), bare)
    write_table(tmp_path / "data" / "train-00001-of-00002.parquet", range(15, 22), bare)
    write_table(tmp_path / "data" / "validation-00000-of-00001.parquet", range(30, 33), bare)
    require_pictures(tables(tmp_path, tmp_path / "data"), range(22), range(30, 33))


def test_names_of_classes_of_hugging_face(tmp_path):
    names = [f"kind {number}" for number in range(11)]
    write_table(tmp_path / "a.parquet", range(22), names=names)
    assert tables(tmp_path, tmp_path / "a.parquet").facts.classes == tuple(names)


def test_damaged_tables_and_wrong_columns_are_told(tmp_path):
    write_table(tmp_path / "a.parquet", range(22))
    with pytest.raises(UserError, match=r"no column 'kind' \(`data.label`\); it has: image, label, text"):
        tables(tmp_path, tmp_path / "a.parquet", label="kind")
    with pytest.raises(UserError, match=r"none of the 22 images .*row 1 .*without a picture"):
        tables(tmp_path, tmp_path / "a.parquet", image="text")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read \(.*magic bytes"):
        tables(tmp_path, tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    with pytest.raises(UserError, match=r"a\.parquet:row"):
        tables(tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("webdataset", "webdataset", "webdataset"), ("parquet", "pyarrow", "parquet")]
)
def test_missing_packages_are_told_in_a_line(tmp_path, monkeypatch, name, module, extra):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == module else found(wanted))
    with pytest.raises(UserError, match=rf"{name}.* needs modules .*: {module}; .*pip install diffcore\[{extra}\]"):
        diffcore.train("image", data={"name": name, "root": str(tmp_path)}, out=str(tmp_path / "out"))


# Memory


def in_a_fork(options, place, said):
    with said.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
        larger_than_memory.child(options, place)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_a_set_that_does_not_fit_into_the_memory_allowed(tmp_path):
    """160 MB of pixels with 48 MB more of private memory, in a forked process with a limit; in memory it fails.

    The benchmark does the same with ten times the memory that is allowed.
    """
    options = larger_than_memory.options(
        ["--allowed", "16", "--steps", "3", "--size", "256", "--batch", "1", "--flat", "--slack", "3"]
    )
    said = tmp_path / "said"
    process = multiprocessing.get_context("fork").Process(target=in_a_fork, args=(options, tmp_path, said))
    process.start()
    process.join(120)
    assert process.exitcode == 0, said.read_text()
    found = json.loads(said.read_text())
    assert "can't allocate memory" in found["in memory"]
    assert found["MB mapped"] >= 10 * (found["MB allowed"] - 1)
    assert found["training"]["examples"] > 700
