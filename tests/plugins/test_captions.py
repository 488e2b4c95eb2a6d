"""Captions of a folder of files, and the ids that a codec makes of them."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image
from pydantic import Field
from tensordict import TensorDict

import diffcore as dc
from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.denoising.text import TextCondition, TextEncoder
from diffcore.denoising.words import Words
from diffcore.errors import UserError
from diffcore.plugins import registry
from diffcore.plugins.builtin.text_encoders import WordsOptions, diffcore_text_encoders
from diffcore.plugins.captions import read_captions
from diffcore.plugins.data import Data
from diffcore.plugins.folders import tree
from diffcore.plugins.ledger import Account
from diffcore.plugins.records import Component, Settings
from diffcore.plugins.registry import Provided
from diffcore.plugins.text import indexed, text_conditions, text_values, with_text
from diffcore.plugins.text_facts import TextFacts
from diffcore.states.noise import Draws

ENCODER, *_ = diffcore_text_encoders()


def refused(call):
    """The message of the error that `call` raises."""
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


@pytest.fixture
def laid(tmp_path):
    """Lay files under a folder; then the captions by name of the file, and the account."""

    def lay(files, endings=(".dot",), **contents):
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        for name, content in contents.items():
            place = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = tree(str(tmp_path), endings, "own", "dots", captioned=True)
        account = found.account()
        captions = found.texts(account)
        by_file = {path.relative_to(tmp_path).as_posix(): texts for path, texts in captions.by_file.items()}
        return by_file, account.ledger(skip=True)

    return lay


FORMS = {
    "metadata_DOT_jsonl": '{"file_name": "1.dot", "text": "a red cat"}\n{"file_name": "2.dot", "text": ["b", "c"]}\n',
    "metadata_DOT_csv": 'file_name,text,extra\n1.dot,a red cat,9\n2.dot,"b",\n2.dot,c,\n',
    "captions_DOT_tsv": "1.dot\ta red cat\n2.dot\tb\tc\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_captions(laid, form):
    found, ledger = laid(["1.dot", "2.dot", "3.dot"], **{form: FORMS[form]})
    assert found == {"1.dot": ("a red cat",), "2.dot": ("b", "c")}
    assert ledger.noted == {"without a caption": ("3.dot",)}
    assert not ledger.passed_over


def test_tags_come_from_json_and_the_kind_is_the_last_one(tmp_path):
    rows = [
        r'{"file_name": "1.dot", "text": "lobster", "tags": ["sea\u0007food", "claws"], "subcategory": "sea-animal"}',
        '{"file_name": "2.dot", "text": "ghost", "category": "faces", "tags": null}',
        '{"file_name": "3.dot", "text": "pin"}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    files = [tmp_path / f"{number}.dot" for number in (1, 2, 3)]
    captions = read_captions([tmp_path / "metadata.jsonl"], files, Account("dots"))
    assert captions.tags == {files[0]: ("sea food", "claws", "sea animal"), files[1]: ("faces",)}
    assert captions.texts == ("lobster", "ghost", "pin")


def test_texts_beside_files(laid):
    found, ledger = laid(
        ["a/1.dot", "a/2.dot", "b/3.dot"],
        a__1_DOT_txt="one line\n\n another  line \n",
        a__2_DOT_txt=" \n",
        b__other_DOT_txt="belongs to nothing",
    )
    assert found == {"a/1.dot": ("one line", "another line")}
    assert ledger.noted == {"empty files of captions": ("a/2.txt",), "without a caption": ("a/2.dot", "b/3.dot")}
    assert ledger.passed_over == {"files that end in .txt, which are not read": ("b/other.txt",)}


def test_tables_in_class_folders_name_their_own_files(laid):
    found, _ = laid(
        ["cat/1.dot", "dog/1.dot"], cat__captions_DOT_tsv="1.dot\ta cat\n", dog__captions_DOT_tsv="1.dot\ta dog\n"
    )
    assert found == {"cat/1.dot": ("a cat",), "dog/1.dot": ("a dog",)}


def test_several_sources_and_repeated_captions(laid):
    found, ledger = laid(["1.dot"], captions_DOT_tsv="1.dot\tone\n1.dot\ttwo\n", **{"1_DOT_txt": "two\nthree"})
    assert found == {"1.dot": ("one", "two", "three")}
    assert ledger.noted == {"with the same caption several times, which is used once": ("1.dot",)}


def test_what_is_wrong_with_captions_is_counted(laid):
    found, ledger = laid(
        ["1.dot", "2.dot", "3.dot"],
        **{
            "captions_DOT_tsv": "1.dot\ta\x1b[31m red\x00 cat\n2.dot\t \n9.dot\tnot here\n../../etc/passwd\tno\n",
            "3_DOT_txt": b"caf\xe9",
        },
    )
    assert found == {"1.dot": ("a [31m red cat",)}
    assert ledger.changed == {"without control characters that its caption had": ("1.dot",)}
    assert ledger.noted == {
        "with an empty caption in captions.tsv": ("2.dot",),
        "without a caption": ("2.dot", "3.dot"),
    }
    assert len(ledger.passed_over["named in captions.tsv, but not there or not read"]) == 2
    assert ledger.passed_over["captions that cannot be read: this is not UTF-8"] == ("3.txt",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata_DOT_jsonl",
            '{"file_name": "1.dot", "text": "a"}\n{"text": "b"}',
            'line 2: write an object with "file_name" and "text"',
        ),
        ("metadata_DOT_jsonl", "\n[1, 2", "line 2: this is not JSON"),
        ("metadata_DOT_jsonl", '{"file_name": "1.dot", "text": 3}', "a text or a list of texts"),
        ("metadata_DOT_csv", "text,file_name\na cat\n", "line 2: this row has no file_name"),
        ("metadata_DOT_csv", 'file_name,text\n1.dot,a\n1.dot,"b\n1.dot,c\n', "line 3: a quotation mark is not closed"),
        ("metadata_DOT_csv", 'file_name,text\n1.dot,"a" b\n', "line 2: a quotation mark within a text must be written"),
        ("metadata_DOT_csv", "file_name;text\n1.dot;a cat\n", "separate file_name, text and other columns by commas"),
        ("metadata_DOT_csv", "id\ttext\tfile_name\n1\ta cat\t1.dot\n", "separate file_name, text and other columns"),
        ("captions_DOT_tsv", "1.dot a cat\n", "line 1: write the name of a file, a tab, and its caption"),
        ("captions_DOT_tsv", "1\ta cat\n", "names none of the dots in its folder: its first name is '1'"),
        ("captions_DOT_tsv", "", "names none of the dots in its folder;"),
        ("captions_DOT_tsv", b"1.dot\ta\n2.dot\tcaf\xe9\n", "line 2: this is not UTF-8; save the file as UTF-8"),
    ],
)
def test_tables_that_are_not_valid(laid, name, content, message):
    assert message in refused(lambda: laid(["1.dot"], **{name: content}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata_DOT_jsonl", '{"file_name": "1.dot", "text": null}\n{"file_name": "2.dot"}'),
        ("metadata_DOT_csv", "file_name,text\n1.dot,\n2.dot\n"),
    ],
)
def test_rows_without_a_text_are_empty_captions(laid, name, content):
    """Hugging Face writes null where an example has no text."""
    found, ledger = laid(["1.dot", "2.dot"], **{name: content})
    assert not found
    assert ledger.noted == {f"with an empty caption in {name.replace('_DOT_', '.')}": ("1.dot", "2.dot")}


def test_names_may_be_written_by_another_system_or_with_spaces_around(laid):
    found, _ = laid(["a/1.dot", "2.dot"], captions_DOT_tsv="a\\1.dot\tone\n 2.dot \ttwo\n")
    assert found == {"a/1.dot": ("one",), "2.dot": ("two",)}
    found, _ = laid(["1.dot"], metadata_DOT_csv="text, file_name\none, 1.dot\n")
    assert found["1.dot"] == ("one",)


def test_tables_of_files_that_are_there_but_not_used(laid):
    """Data sets of Hugging Face have a table in each part, and of two held-out parts one is used."""
    found, ledger = laid(
        ["train/1.dot", "train/2.dot", "validation/3.dot", "test/4.dot"],
        train__captions_DOT_tsv="1.dot\ta\n2.dot\tb\n",
        validation__captions_DOT_tsv="3.dot\tc\n",
        test__captions_DOT_tsv="4.dot\td\n",
    )
    assert found == {"train/1.dot": ("a",), "train/2.dot": ("b",), "test/4.dot": ("d",)}
    assert ledger.passed_over == {"in val folders, as those in test folders are held out": ("validation/3.dot",)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata_DOT_csv", "object_id,class\n1,chair\n"),
        ("metadata_DOT_csv", "file_name,context\n1.dot,b\n"),
        ("metadata_DOT_jsonl", '{"file_name": "1.dot", "label": 3}'),
    ],
)
def test_other_tables_of_these_names_are_passed_over(laid, name, content):
    found, ledger = laid(["1.dot"], **{name: content})
    assert not found
    assert ledger.passed_over == {"without file_name and text, so without captions": (name.replace("_DOT_", "."),)}


def test_text_files_can_be_the_data_themselves(laid):
    found, ledger = laid(["1.dot", "1.txt"], endings=(".dot", ".txt"))
    assert not found
    assert not ledger.passed_over


# From captions to ids


class Facts(Settings):
    text: TextFacts | None = None


class Without(Settings):
    n: int = Field(3)


CAPTIONS = [["a red cat", "cat"], [], ["A blue dog!"], ["?"]]


def data(captions, held_out=(), facts=None):
    texts, numbers = indexed([*captions, *held_out])
    parts = [numbers[: len(captions)], numbers[len(captions) :]]
    train, held = (TensorDict({"captions": part}, batch_size=[len(part)]) for part in parts)
    return Data(facts or Facts(), train, held if held_out else None, texts=texts)


def test_texts_become_ids_of_the_words_of_the_training_examples():
    made = with_text(data(CAPTIONS, [["a green dog", "cat"]]), ENCODER, WordsOptions(length=5))
    assert made.facts.text.learned == {"vocabulary": ["a", "blue", "cat", "dog", "red"], "length": 5}
    assert made.examples["text"].tolist()[0] == [[1, 5, 3, 0, 0], [3, 0, 0, 0, 0]]
    assert made.examples["text"][1].any().item() is False
    assert made.held_out["text"].tolist() == [[[1, 4, 0, 0, 0], [3, 0, 0, 0, 0]]]
    assert set(made.examples.keys()) == {"text"}
    assert made.notes == ("captions without a word that the model knows, which are not used: 1 ('?')",)
    assert made.ledger.about["captions"] == "4 different texts for training, none for 1 of 4 examples"
    cut = with_text(data(CAPTIONS), ENCODER, WordsOptions(length=2))
    assert cut.notes[1] == "captions of which only the first 2 parts are used: 2 ('a red cat', 'A blue dog!')"
    (condition,) = text_conditions(made.facts.text)
    assert condition == TextCondition("prompt", Words(("a", "blue", "cat", "dog", "red"), 5), condition.samples)
    assert condition.samples == ("a red cat", "cat", "A blue dog!", "?")


def test_the_examples_that_samples_are_asked_for_get_ids_too():
    whole = data(CAPTIONS, [["a green dog"]])
    made = with_text(replace(whole, asked=whole.examples[torch.tensor([2, 0])]), ENCODER, WordsOptions(length=5))
    assert made.asked["text"].equal(made.examples["text"][torch.tensor([2, 0])])


def test_one_of_several_captions_is_drawn_for_each_example():
    """Each with the same probability, and the same for an example in every batch."""
    made = with_text(data([["a", "b", "c"], ["d"], []]), ENCODER, WordsOptions())
    conditions = text_conditions(made.facts.text)
    rows = made.examples[torch.arange(3).repeat_interleave(3000)]
    drawn = text_values(conditions, rows, Draws.of(5, range(9000)))["prompt"][:, 0]
    counts = torch.bincount(drawn[:3000], minlength=5)
    assert counts.tolist()[0] == counts.tolist()[4] == 0
    assert float((counts[1:4] - 1000).square().sum() / 1000) < 13.8  # chi-squared with 2 degrees, p = 0.001
    assert drawn[3000:6000].eq(4).all()
    assert not drawn[6000:].any()
    part = text_values(conditions, rows[2000:2100], Draws.of(5, range(2000, 2100)))["prompt"][:, 0]
    assert part.equal(drawn[2000:2100])
    assert text_values(conditions, rows)["prompt"][:3000, 0].eq(1).all()


def test_data_without_texts_are_unchanged():
    plain = Data(Without(), TensorDict({"x": torch.zeros(2)}, batch_size=[2]))
    assert with_text(plain, ENCODER, WordsOptions()) is plain
    assert text_conditions(None) == ()
    assert text_values((), plain.examples) == {}


def test_data_whose_facts_have_no_field_for_texts_are_refused():
    assert "have no field `text`" in refused(
        lambda: with_text(data(CAPTIONS, facts=Without()), ENCODER, WordsOptions())
    )


def test_captions_without_words_are_refused():
    assert "have no words" in refused(lambda: with_text(data([["?"], ["!"]]), ENCODER, WordsOptions()))
    assert "no training example has a caption" in refused(
        lambda: with_text(data([[], []], [["a"]]), ENCODER, WordsOptions())
    )


def test_another_vocabulary_than_that_of_the_run_is_refused():
    facts = with_text(data(CAPTIONS), ENCODER, WordsOptions()).facts.text
    other = facts.model_copy(update={"learned": {"vocabulary": ["a"], "length": 5}})
    assert "is not the one that this run was trained with" in refused(lambda: text_conditions(other))
    assert "unknown text encoder 'clip'" in refused(
        lambda: text_conditions(facts.model_copy(update={"encoder": "clip"}))
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_of_every_system_are_read(laid, end):
    """With a byte order mark; other characters at which Python splits lines do not end a line."""
    table = f"\ufeff1.dot\ta red\u2028\x0b cat{end}{end}2.dot\ta\x85dog"
    found, _ = laid(
        ["1.dot", "2.dot"], captions_DOT_tsv=table.encode(), **{"2_DOT_txt": f"\ufeffone{end}two{end}".encode()}
    )
    assert found == {"1.dot": ("a red cat",), "2.dot": ("a dog", "one", "two")}


def test_jsonl_of_hugging_face_has_unicode(laid):
    line = json.dumps({"file_name": "1.dot", "text": "caf\u00e9 \u732b"})
    found, _ = laid(["1.dot"], metadata_DOT_jsonl=line)
    assert found == {"1.dot": ("caf\u00e9 \u732b",)}


@pytest.mark.parametrize(
    "harm",
    [
        {"options": {"channels": -1}},
        {"options": {"colour": "red"}},
        {"learned": {}},
        {"learned": {"vocabulary": 3, "length": 5}},
        {"learned": {"vocabulary": ["a"], "length": 10**9}},
    ],
)
def test_a_damaged_record_of_an_encoder_is_refused(harm):
    facts = with_text(data(CAPTIONS), ENCODER, WordsOptions()).facts.text
    assert "of its text encoder 'words' is damaged" in refused(lambda: text_conditions(facts.model_copy(update=harm)))


# An encoder of a plugin


@dataclass(frozen=True)
class Letters(TextEncoder):
    """The letters of a text, each with a vector that is not trained."""

    letters: str
    length: int = 12
    channels: int = 4

    @property
    def largest(self):
        return len(self.letters)

    @property
    def digest(self):
        return self.letters

    @property
    def learned(self):
        return {"letters": self.letters}

    def ids(self, text):
        return [self.letters.index(letter) + 1 for letter in text if letter in self.letters]

    def text(self, ids):
        return "".join(self.letters[number - 1] for number in ids if number)

    def embedding(self, width):
        return LetterNetwork(len(self.letters) + 1, self.channels)


class LetterNetwork(torch.nn.Module):
    def __init__(self, count, channels):
        super().__init__()
        self.register_buffer("table", torch.arange(count * channels).reshape(count, channels) / count)

    def forward(self, ids):
        return Embedded(tokens=Tokens(self.table[ids], ids > 0))


def letters(options, texts, learned):
    return Letters("".join(sorted({*"".join(texts)} - {" "})) if learned is None else learned["letters"])


def test_a_plugin_brings_an_encoder(tmp_path, monkeypatch):
    """`--text letters` trains, samples, and needs the plugin again."""
    component = Component("letters", "letters without training", letters)
    installed = registry.installed()
    known = {**installed.text_encoders, "letters": Provided(component, "a plugin", "1")}
    for number, colour in enumerate(("red", "blue", "red", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(colour)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "installed", lambda: replace(installed, text_encoders=known))
        run = dc.train(
            "image",
            data={"name": "folder", "root": str(tmp_path), "size": 4},
            denoiser={"width": 8, "patch": 1},
            text="letters",
            train={"steps": 1, "batch_size": 2, "evaluate": 0},
            sample={"steps": 1},
            out=tmp_path / "run",
        )
        assert dc.load(run.path).sample(2, prompt="ber de").captions == [{"prompt": "berde"}] * 2
        assert (run.model.codec.facts.text.encoder, run.settings.text.name) == ("letters", "letters")
        plain = {"name": "digits"}
        assert "these data have no captions" in refused(
            lambda: dc.train("image", data=plain, text="letters", train={"steps": 1}, out=tmp_path / "none")
        )
    assert "letters" in refused(lambda: dc.load(run.path))
