"""A user's own folder: its layouts, and what is said of files that cannot be used."""

import os

import pytest
import torch
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.plugins import folders
from diffcore.plugins.folders import Tree, split, tree, uneven, without_empty
from diffcore.plugins.ledger import Account, named, shown
from diffcore.system.walk import Listing


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
    passed_over = tree(str(tmp_path), (".dot",), "own", "dots").passed_over
    assert passed_over == {"in val folders, as those in test folders are held out": ("val/a/2.dot",)}


def test_files_outside_of_the_parts_are_refused(laid):
    with pytest.raises(UserError, match=r"1 dots under .* are .* such as .*3.dot"):
        laid("train/a/1.dot", "test/a/2.dot", "a/3.dot")


def test_classes_are_renamed_and_chosen(laid, tmp_path):
    laid("0123/1.dot", "b/2.dot", "c/3.dot")
    found = tree(str(tmp_path), (".dot",), "own", "dots", {"0123": "z"}, chosen=("b", "z"))
    assert (found.classes, [label for _, label in found.train]) == (("b", "z"), [1, 0])
    with pytest.raises(UserError, match="has no class q; it has: b, c, z"):
        tree(str(tmp_path), (".dot",), "own", "dots", {"0123": "z"}, chosen=("q",))


def test_classes_of_which_nothing_is_kept_back_are_told():
    train, held = (TensorDict({"label": torch.tensor(rows)}, batch_size=[len(rows)]) for rows in ([0, 0, 1], [1, 1]))
    assert uneven(("a", "b"), train, held) == [
        "classes with only one training example: b",
        "classes without a held-out example: a",
    ]
    assert uneven(("a",), held * 0, None) == []


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


def test_files_that_cannot_be_used_are_named_and_counted(tmp_path):
    account = Account("dots", str(tmp_path), 40)
    for number in range(12):
        account.refuse(tmp_path / f"{number:02d}.dot", "cut" if number % 2 else "not a dot")
    account.change("12.dot", "made round")
    with pytest.raises(
        UserError, match=r"12 of the 40 dots under .* cannot be used: 00.dot \(not a dot\), .* and 2 more; fix"
    ):
        account.ledger(skip=False)
    ledger = account.ledger(skip=True, size="1 pixel")
    assert ledger.passed_over["cut"] == ("01.dot", "03.dot", "05.dot", "07.dot", "09.dot", "11.dot")
    assert len(ledger.passed_over["not a dot"]) == 6
    assert (ledger.changed, ledger.about) == ({"made round": ("12.dot",)}, {"size": "1 pixel"})
    assert Account("dots").ledger(skip=False).passed_over == {}
    assert named(range(3), 2) == "0, 1 and 1 more"


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


def test_strays_and_unread_files_are_named(laid, tmp_path):
    classes, train, _ = laid(
        "cat/1.dot", "cat/2.dot", "dog/3.dot", "dog/3.txt", "preview.dot", "README.dot", "cat/read me.txt", "LICENSE"
    )
    assert (classes, len(train)) == (("cat", "dog"), 3)
    assert tree(str(tmp_path), (".dot",), "own", "dots").passed_over == {
        "outside of the class folders": ("preview.dot",),
        "files that end in .txt, which are not read": ("cat/read me.txt", "dog/3.txt"),
        "readmes and licences": ("LICENSE", "README.dot"),
    }


def test_a_class_that_would_vanish_is_named(laid, tmp_path):
    laid("cat/1.dot", "dog/2.dot", *(f"bird/{number}.m4a" for number in range(19)), "bird/x.txt")
    found = tree(str(tmp_path), (".dot",), "own", "dots", hints={".m4a": "convert them to .dot"})
    assert found.classes == ("cat", "dog")
    assert found.notes == (
        "folders that are no classes, because no file in them is read: bird (19 of .m4a, 1 of .txt)",
    )
    reason = "files that end in .m4a, which are not read (convert them to .dot)"
    assert len(found.passed_over[reason]) == 19


def test_the_level_of_the_classes_can_be_chosen(laid, tmp_path):
    laid("A/kick/1.dot", "A/snare/2.dot", "B/kick/3.dot", "B/snare/4.dot")
    for level, classes in (
        ("auto", ("kick", "snare")),
        ("first", ("A", "B")),
        ("last", ("kick", "snare")),
        ("none", ()),
    ):
        assert tree(str(tmp_path), (".dot",), "own", "dots", level=level).classes == classes
    (tmp_path / "heap").mkdir()
    (tmp_path / "heap" / "1.dot").write_text("x")
    with pytest.raises(UserError, match=r"`data.class_level` last needs class folders, and all dots lie directly in"):
        tree(str(tmp_path / "heap"), (".dot",), "own", "dots", level="last")


def test_links_within_a_folder_add_no_example(laid, tmp_path):
    laid("a/1.dot", "a/2.dot", "b/3.dot")
    (tmp_path / "a" / "l").symlink_to(".")
    (tmp_path / "b" / "l").symlink_to("..")
    (tmp_path / "c").symlink_to("a")
    found = tree(str(tmp_path), (".dot",), "own", "dots")
    assert (found.classes, len(found.train)) == (("a", "b"), 3)
    assert found.passed_over == {"links to what is found elsewhere in the folder": ("a/l", "b/l", "c")}


def test_names_that_are_not_utf_8_are_shown(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"1\xff.dot")).write_text("x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.dot").write_text("x")
    (tmp_path / "b" / os.fsdecode(b"\xfe.txt")).write_text("x")
    found = tree(str(tmp_path), (".dot",), "own", "dots")
    assert found.classes == ("b", r"caf\xe9")
    assert found.train[1][0].read_text() == "x"
    assert found.passed_over["files that end in .txt, which are not read"] == (r"b/\xfe.txt",)
    account = found.account()
    account.change(found.train[1][0], "made round")
    assert account.ledger(skip=False).changed == {"made round": (r"caf\xe9/1\xff.dot",)}


def test_names_are_composed():
    """The two ways to write an umlaut are one name, as the file systems of macOS store the longer one."""
    assert shown("Tu\u0308r") == "T\u00fcr"
    assert shown("a\nb") == r"a\nb"


def test_folders_that_cannot_be_opened_stop_training_or_are_named(tmp_path):
    found = Tree(
        ("a",), ((tmp_path / "1.dot", 0),), None, (), "dots", str(tmp_path), "", {}, {"b": "Permission denied"}
    )
    with pytest.raises(
        UserError, match=r"1 of the 1 dots under .* b/ \(the folder cannot be opened: Permission denied\)"
    ):
        found.account().ledger(skip=False)
    passed_over = found.account().ledger(skip=True).passed_over
    assert passed_over == {"the folder cannot be opened: Permission denied": ("b/",)}


def test_classes_of_which_no_file_can_be_used_are_removed():
    train, held = (TensorDict({"label": torch.tensor(rows)}, batch_size=[len(rows)]) for rows in ([0, 3, 3], [1, 3, 0]))
    account = Account("dots")
    classes, kept, rest = without_empty(("a", "b", "c", "d"), train, held, account)
    assert classes == ("a", "d")
    assert (kept["label"].tolist(), rest["label"].tolist()) == ([0, 1, 1], [1, 0])
    assert account.ledger(skip=False).passed_over == {"classes without a file that can be used": ("b", "c")}
    assert train["label"].tolist() == [0, 3, 3]
    assert without_empty((), train, None, account) == ((), train, None)


class Counted(str):
    """A path that counts how often it is looked up."""

    __slots__ = ()
    hashed = 0

    def __hash__(self):
        Counted.hashed += 1
        return super().__hash__()


def test_the_work_grows_with_the_number_of_files_and_not_with_its_square(tmp_path, monkeypatch):
    names = [f"{number}{ending}" for number in range(300) for ending in (".dot", ".txt", ".log")]
    listing = Listing(tuple(map(Counted, names)), {}, {})
    monkeypatch.setattr(folders, "walk", lambda root: listing)
    found = folders.tree(str(tmp_path), (".dot",), "own", "dots", captioned=True)
    assert len(found.train) == len(found.captions) == 300
    assert Counted.hashed < 20 * len(names)
