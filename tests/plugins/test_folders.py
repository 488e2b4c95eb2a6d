"""A user's own folder: its layouts, and what is said of files that cannot be used."""

import pytest
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins.folders import left_out, named, split, tree


@pytest.fixture
def laid(tmp_path):
    """Make the files with these names and read the folder."""

    def lay(*names, endings=(".dot", ".dash")):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        found = tree(str(tmp_path), endings, "own", "dots")

        def told(files):
            return None if files is None else [(str(path.relative_to(tmp_path)), index) for path, index in files]

        return found.classes, told(found.train), told(found.test)

    return lay


def test_folders_are_classes(laid):
    classes, train, test = laid("b/2.dot", "b/1.DASH", "a/deep/3.dot", "b/notes.txt", "c/notes.txt", ".hidden/x.txt")
    assert classes == ("a", "b")
    assert train == [("a/deep/3.dot", 0), ("b/1.DASH", 1), ("b/2.dot", 1)]
    assert test is None


@pytest.mark.parametrize(
    "names", [("train/a/1.dot", "train/b/2.dot", "test/b/3.dot"), ("a/train/1.dot", "b/train/2.dot", "b/test/3.dot")]
)
def test_parts_above_and_below_the_classes_are_the_same(laid, names):
    classes, train, test = laid(*names)
    assert classes == ("a", "b")
    assert ([index for _, index in train], [index for _, index in test]) == ([0, 1], [1])


def test_a_heap_has_no_classes(laid):
    assert laid("1.dot", "a/2.dot") == ((), [("1.dot", 0), ("a/2.dot", 0)], None)


def test_a_class_may_be_called_train(laid):
    assert laid("train/1.dot", "tram/2.dot")[0] == ("train", "tram")


def test_one_part_alone_is_all_there_is(laid):
    assert laid("train/a/1.dot", "train/b/2.dot") == (("a", "b"), [("train/a/1.dot", 0), ("train/b/2.dot", 1)], None)


def test_val_is_kept_back_where_there_is_no_test(laid, tmp_path):
    assert laid("train/a/1.dot", "val/a/2.dot")[2] == [("val/a/2.dot", 0)]
    assert laid("train/a/1.dot", "val/a/2.dot", "test/a/3.dot")[2] == [("test/a/3.dot", 0)]
    (note,) = tree(str(tmp_path), (".dot",), "own", "dots").notes
    assert note == "not used: 1 dots in val folders; those in test folders are held out"


def test_files_outside_of_the_parts_are_refused(laid):
    with pytest.raises(UserError, match=r"1 dots under .* are .* such as .*3.dot"):
        laid("train/a/1.dot", "test/a/2.dot", "a/3.dot")


def test_classes_are_renamed_and_chosen(laid, tmp_path):
    laid("0123/1.dot", "b/2.dot", "c/3.dot")
    found = tree(str(tmp_path), (".dot",), "own", "dots", {"0123": "z"}, chosen=("b", "z"))
    assert (found.classes, [label for _, label in found.train]) == (("b", "z"), [1, 0])
    with pytest.raises(UserError, match="has no class q; it has: b, c, z"):
        tree(str(tmp_path), (".dot",), "own", "dots", {"0123": "z"}, chosen=("q",))


def test_classes_of_which_nothing_is_kept_back_are_told(laid, tmp_path):
    laid("train/a/1.dot", "train/b/2.dot", "test/b/3.dot")
    assert tree(str(tmp_path), (".dot",), "own", "dots").notes == ("classes without a held-out example: a",)


def test_linked_folders_are_followed(laid, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.dot").write_text("x")
    own = tmp_path / "own"
    own.mkdir()
    (own / "a").symlink_to(tmp_path / "elsewhere")
    assert tree(str(own), (".dot",), "own", "dots").classes == ("a",)


def test_hidden_files_are_passed_over(laid):
    assert laid("a/._1.dot", "a/1.dot")[1] == [("a/1.dot", 0)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no dots under .* it is empty; files that end in .dash, .dot are read"),
        (("a/1.txt", "2.txt", "README"), "and there are 2 of .txt, 1 of no ending"),
        (
            ("train/a/1.dot", "test/a/1.dot", "test/z/2.dot"),
            "the test folders have classes that .* lack: z",
        ),
    ],
)
def test_what_cannot_be_read_says_why(laid, names, words):
    with pytest.raises(UserError, match=words):
        laid(*names)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"'own' needs `data.root`, a folder of dots"):
        tree(None, (".dot",), "own", "dots")
    with pytest.raises(UserError, match=r"no folder .*gone"):
        tree(str(tmp_path / "gone"), (".dot",), "own", "dots")


def test_files_that_cannot_be_used_are_named_and_counted():
    faults = [f"{n}.dot" for n in range(12)]
    with pytest.raises(UserError, match=r"12 of the 40 dots under here cannot be used: 0.dot.* and 2 more; mend"):
        left_out(faults, 40, "here", "dots", skip=False)
    (note,) = left_out(faults[:1], 40, "here", "dots", skip=True)
    assert note == "left out: 1 of the 40 dots under here cannot be used: 0.dot"
    assert left_out([], 40, "here", "dots", skip=False) == []
    assert named(range(3), shown=2) == "0, 1 and 1 more"


def test_a_split_takes_its_share_of_every_class():
    label = torch.tensor([0] * 50 + [1] * 20 + [2] * 30)[torch.randperm(100)]
    train, held = split(TensorDict({"label": label, "i": torch.arange(100)}, batch_size=[100]), 0.1)
    assert held["label"].bincount().tolist() == [5, 2, 3]
    assert sorted([*train["i"].tolist(), *held["i"].tolist()]) == list(range(100))
    assert split(train[:5], 0.1)[1] is None


def test_the_only_example_of_a_label_is_not_kept_back():
    label = torch.tensor([0] * 9 + [1] + [2] * 9 + [3])
    train, held = split(TensorDict({"label": label}, batch_size=[20]), 0.5)
    assert held["label"].bincount().tolist() == [4, 0, 5]
    assert train["label"].bincount().tolist() == [5, 1, 4, 1]


def test_the_only_example_of_a_class_is_trained_on():
    label = torch.tensor([0] * 20 + [1])
    train, held = split(TensorDict({"label": label}, batch_size=[21]), 0.5)
    assert (train["label"].tolist().count(1), held["label"].tolist().count(1)) == (1, 0)
