"""Which folders are classes: one test for each documented layout."""

import pytest

from diffcore.plugins.layouts import guess


def placed(*paths, level="auto"):
    """The part and the class of each path, and whether there are classes."""
    files = [tuple(path.split("/")[:-1]) for path in paths]
    layout = guess(files, level)
    return [layout.place(folders) for folders in files]


def classes(*paths, level="auto"):
    return [None if place is None else place[1] for place in placed(*paths, level=level)]


def many(folder, count=10):
    return [f"{folder}/{number}.x" for number in range(count)]


def test_folders_are_classes():
    assert classes("cat/1", "cat/deep/2", "dog/3") == ["cat", "cat", "dog"]


@pytest.mark.parametrize("stray", ["preview.png", "README.png"])
def test_a_stray_file_changes_no_class(stray):
    assert classes("cat/1", "cat/2", "dog/3", stray) == ["cat", "cat", "dog", None]
    assert classes(*many("cat"), *many("dog"), stray, "b") == ["cat"] * 10 + ["dog"] * 10 + [None] * 2


def test_many_files_beside_folders_are_a_heap():
    assert classes(*many("cat"), *many("dog"), *(f"{n}.png" for n in range(5))) == [""] * 25
    assert classes("1", "a/2") == ["", ""]


def test_a_heap_has_no_classes():
    assert classes("1", "2") == ["", ""]


def test_folders_around_everything_are_passed_through():
    assert classes("PetImages/Cat/1", "PetImages/Dog/2") == ["Cat", "Dog"]
    assert classes("a/b/c/Cat/1", "a/b/c/Cat/2", "a/b/c/Dog/2", "readme.png") == ["Cat", "Cat", "Dog", None]
    assert placed("data/train/Cat/1", "data/train/Dog/2", "data/test/Dog/3") == [
        ("train", "Cat"),
        ("train", "Dog"),
        ("test", "Dog"),
    ]


def test_one_class_is_not_passed_through():
    assert classes("cat/1", "cat/2") == ["cat", "cat"]
    assert classes("cat/old/1", "cat/old/2") == ["cat", "cat"]


def test_the_folder_of_the_parts_may_contain_one_around_the_classes():
    assert classes("train/images/cat/1", "train/images/dog/2", "test/images/dog/3") == ["cat", "dog", "dog"]


@pytest.mark.parametrize("paths", [("train/a/1", "train/b/2", "val/b/3"), ("a/train/1", "b/train/2", "b/valid/3")])
def test_parts_stand_above_or_below_the_classes(paths):
    assert placed(*paths) == [("train", "a"), ("train", "b"), ("val", "b")]


def test_one_part_alone_is_everything():
    assert placed("train/a/1", "train/b/2") == [("", "a"), ("", "b")]
    assert placed("train/1", "train/2") == [("", ""), ("", "")]
    assert classes("train/1", "tram/2") == ["train", "tram"]


def test_kits_have_their_classes_one_level_down():
    kits = [f"Kit{kit}/{name}/{number}" for kit in "ABC" for name in ("Kick", "Snare") for number in range(3)]
    assert classes(*kits) == [path.split("/")[1] for path in kits]
    assert classes(*kits, "cover.png") == [path.split("/")[1] for path in kits] + [None]
    assert classes(*(f"My kits/{path}" for path in kits)) == [path.split("/")[1] for path in kits]
    assert classes(*kits, level="first") == [path.split("/")[0] for path in kits]
    assert classes("A/Kick/1", "A/Snare/1", "B/Kick/1", "B/Snare/1") == ["Kick", "Snare"] * 2
    uneven = [*kits, *many("KitB/Cowbell", 4), *many("KitC/Clap", 4)]
    assert set(classes(*uneven)) == {"Kick", "Snare", "Cowbell", "Clap"}


def test_names_that_repeat_by_chance_are_not_classes():
    assert classes("cat/img/1", "cat/img/2", "dog/img/1") == ["cat", "cat", "dog"]
    assert classes(*many("cat"), *many("dog"), "cat/old/1", "dog/old/2", "cat/new/1", "dog/new/1") == (
        ["cat"] * 10 + ["dog"] * 10 + ["cat", "dog"] * 2
    )
    numbered = [f"{name}/m{number}/models/model.obj" for name in ("03001627", "04379243") for number in range(3)]
    assert classes(*numbered) == ["03001627"] * 3 + ["04379243"] * 3


def test_examples_with_a_folder_each_have_no_classes():
    assert classes(*(f"{number:03d}/model.obj" for number in range(5))) == [""] * 5
    assert classes("a1/models/model.obj", "b2/models/model.obj") == ["", ""]
    assert classes(*(f"chair/{number:03d}/model.obj" for number in range(5))) == ["chair"] * 5


def test_the_level_can_be_given():
    paths = ("x/cat/1", "x/dog/2", "x/dog/old/3", "x/4")
    assert classes(*paths, level="last") == ["cat", "dog", "old", None]
    assert classes("cat/1", "dog/2", level="none") == ["", ""]
    assert classes("cat/1", "2", "3", "4", level="first") == ["cat", None, None, None]
    assert placed("train/cat/1", "test/cat/2", level="none") == [("train", ""), ("test", "")]


def test_the_reason_names_the_folders():
    assert guess([("a", "Cat"), ("a", "Dog")]).reason == "classes are the folders in a"
    assert guess([("Cat",), ("Dog",)]).reason == "classes are the outermost folders"
    assert guess([(), ()]).reason == "no classes, as all files lie in one folder"
    kits = [(kit, name) for kit in "ABCD" for name in ("Kick", "Snare") for _ in range(2)]
    assert guess(kits).reason == (
        "classes are the folders in A, B, C, …, as their names repeat; `data.class_level` first takes the outermost "
        "folders"
    )
