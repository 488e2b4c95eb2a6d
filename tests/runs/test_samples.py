"""Names of the files of samples."""

from diffcore.denoising.conditions import ClassCondition, ScalarCondition
from diffcore.runs.samples import file_names

NUMBER = ScalarCondition("logD7.4", 0.0, 1.0, (0.0, 1.0))


def test_files_name_a_number_with_its_condition_and_a_class_by_itself():
    known = (NUMBER, ClassCondition("label", ("cat",)))
    assert file_names(range(2), [{"label": "cat", "logD7.4": "-2.5"}, {}], known) == ["0000-cat-logD7.4=-2.5", "0001"]


def test_files_of_any_names_can_be_written_and_told_apart(tmp_path):
    words = ["猫", "犬", "x" * 250, "猫" * 250, "a/b\\c:d\n", "..", "", "\udc80"]
    names = file_names(range(len(words)), [{"label": word} for word in words])
    assert names[:2] == ["0000-猫", "0001-犬"]
    assert names[4] == "0004-a_b_c_d_"
    known = tuple(ScalarCondition(word, 0.0, 1.0, (0.0, 1.0)) for word in words)
    captions = [dict.fromkeys(words, "1234.5"), *({word: "1234.5"} for word in words)]
    many = file_names(range(len(captions)), captions, known)
    assert all("=1234.5" in name for name in many)
    for name in names + many:
        (tmp_path / f".{name}.{2**22}.part.sdf").write_text("")
    assert len(list(tmp_path.iterdir())) == len(names + many)


def test_files_of_classes_that_look_alike_are_told_apart():
    classes = ("living room", "living_room", "living/room", "Kick", "kick", "x" * 250, "x" * 251, "猫", "犬", "\udc80")
    names = file_names(range(len(classes)), [{"label": name} for name in classes], (ClassCondition("label", classes),))
    words = [name.split("-", 1)[1] for name in names]
    assert len({word.casefold() for word in words}) == len(classes)
    assert [words[index] for index in (1, 4, 7, 8)] == ["living_room", "kick", "猫", "犬"]
    assert words[0].startswith("living_room~")
    assert max(len(word.encode()) for word in words) <= 60
