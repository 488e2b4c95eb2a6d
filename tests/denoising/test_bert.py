"""BERT, its parts of words, and the hidden states that are kept for texts, with a tiny random network."""

import copy

import pytest
import torch
from torch import nn

from diffcore.denoising.bert import Bert, bert_of
from diffcore.denoising.frozen_text import FrozenText
from diffcore.denoising.wordpiece import bert_words, joined_pieces, pieces
from tests.support.minilm import VOCABULARY, tensors

INDEX = {piece: number for number, piece in enumerate(VOCABULARY)}
IDS = torch.tensor([[5, 6, 7, 0], [0, 0, 0, 0], [8, 0, 0, 0]])


def frozen():
    return FrozenText(bert_of(tensors(), heads=2), INDEX["[CLS]"], INDEX["[SEP]"])


def test_bert_is_the_transformer_encoder_of_pytorch():
    """With the weights of the file, by the names of Hugging Face, in the modules of PyTorch."""
    network, named = bert_of(tensors(), heads=2, epsilon=1e-12).double(), {k: v.double() for k, v in tensors().items()}
    layers = []
    for number in range(2):
        own = {k.split(f"layer.{number}.")[1]: v for k, v in named.items() if f"layer.{number}." in k}
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", 1e-12, batch_first=True, dtype=torch.float64)
        attention = "attention.self.{}.{}"
        layer.load_state_dict(
            {
                **{
                    f"self_attn.in_proj_{kind}": torch.cat(
                        [own[attention.format(part, kind)] for part in ("query", "key", "value")]
                    )
                    for kind in ("weight", "bias")
                },
                **{
                    f"{ours}.{kind}": own[f"{theirs}.{kind}"]
                    for ours, theirs in (
                        ("self_attn.out_proj", "attention.output.dense"),
                        ("norm1", "attention.output.LayerNorm"),
                        ("linear1", "intermediate.dense"),
                        ("linear2", "output.dense"),
                        ("norm2", "output.LayerNorm"),
                    )
                    for kind in ("weight", "bias")
                },
            }
        )
        layers.append(layer.eval())
    ids, exists = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3]]), torch.tensor([[True] * 3 + [False], [True] * 4])
    embedded = named["embeddings.word_embeddings.weight"][ids] + named["embeddings.position_embeddings.weight"][:4]
    h = nn.functional.layer_norm(
        embedded + named["embeddings.token_type_embeddings.weight"][0],
        (8,),
        named["embeddings.LayerNorm.weight"],
        named["embeddings.LayerNorm.bias"],
        1e-12,
    )
    for layer in layers:
        h = layer(h, src_key_padding_mask=~exists)
    torch.testing.assert_close(network(ids, exists)[exists], h[exists], rtol=0, atol=1e-12)


@pytest.mark.parametrize("harm", ["missing", "shape", "unknown", "heads"])
def test_weights_that_do_not_fit_are_refused(harm):
    changed = tensors()
    if harm == "missing":
        del changed["encoder.layer.1.output.dense.bias"]
    elif harm == "shape":
        changed["embeddings.LayerNorm.bias"] = torch.zeros(9)
    elif harm == "unknown":
        changed["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"layers|norm|extra|heads"):
        bert_of(changed, heads=3 if harm == "heads" else 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [  # as `BertNormalizer` and `BertPreTokenizer` of tokenizers 0.23 split them
        ("A small RED circle, left.", "a small red circle , left ."),
        ("The Café's naïve résumé!", "the cafe ' s naive resume !"),
        ("red_1 [SEP] $5", "red _ 1 [ sep ] $ 5"),
        ("红色circle", "红 色 circle"),
        ("tab\tnew\nline\x00 zero\u200dwidth\ufffd", "tab new line zerowidth"),
        ("ßtraße İstanbul ΑΣΣ", "ßtraße istanbul ασσ"),
        ("Ünïcödé ＲＥＤ 한국어", "unicode ｒｅｄ " + "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165"),
        (" \n", ""),
    ],
)
def test_words_of_bert(text, words):
    assert bert_words(text) == words.split()


def test_pieces_are_the_longest_that_fit():
    def of(word):
        return [VOCABULARY[number] for number in pieces(word, INDEX)]

    assert of("circles") == ["circle", "##s"]
    assert of("redred") == ["red", "##r", "##e", "##d"]
    assert of("xred") == of("r" * 101) == []
    assert joined_pieces([*of("circles"), *of("red")]) == "circles red"


def test_hidden_states_do_not_depend_on_other_texts_or_padding():
    network = frozen()
    together = network.hidden(nn.functional.pad(IDS, (0, 3)))
    assert together.mask.equal(IDS[:, :3] > 0)
    for row, pieces_, mean in zip(IDS, together.pieces, together.mean, strict=True):
        text = row[row > 0]
        with torch.no_grad():
            whole = torch.cat([torch.tensor([2]), text, torch.tensor([3])])[None]
            states = bert_of(tensors(), heads=2)(whole, torch.ones_like(whole).bool())[0]
        torch.testing.assert_close(pieces_[: len(text)], states[1:-1], rtol=0, atol=2e-3)
        torch.testing.assert_close(mean, states.mean(0), rtol=0, atol=2e-3)


def test_each_distinct_text_is_computed_once_and_looked_up(monkeypatch):
    computed = []
    original = Bert.forward
    monkeypatch.setattr(
        Bert, "forward", lambda self, ids, exists: computed.append(len(ids)) or original(self, ids, exists)
    )
    network = frozen()
    network.keep(IDS[[0, 2, 0, 2]].to(torch.int16)[:, None])
    assert computed == [3]  # two texts, and the empty one
    assert copy.deepcopy(network) is network
    looked_up = network.kept(IDS[[2, 1, 0, 2]])
    assert computed == [3]
    direct = network.hidden(IDS[[2, 1, 0, 2]])
    assert looked_up.mask.equal(direct.mask)
    torch.testing.assert_close(looked_up.mean, direct.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(looked_up.pieces[direct.mask], direct.pieces[direct.mask], rtol=0, atol=1e-3)
    unknown = network.kept(torch.tensor([[5, 6, 0, 0], [8, 0, 0, 0]]))
    assert unknown.mean[0].isnan().all()
    assert unknown.mean[1].equal(looked_up.mean[0])


def test_where_texts_are_not_cut_the_results_are_the_same(monkeypatch):
    """As on a GPU, where the length of the longest text would have to be waited for."""
    network, wide = frozen(), nn.functional.pad(IDS, (0, 5))
    network.keep(wide)
    short, looked_up = network.hidden(wide), network.kept(wide)
    monkeypatch.setattr("diffcore.denoising.frozen_text.cut_to_longest", lambda ids: ids)
    for before, now in ((short, network.hidden(wide)), (looked_up, network.kept(wide))):
        assert now.mask[:, :3].equal(before.mask)
        assert not now.mask[:, 3:].any()
        torch.testing.assert_close(now.pieces[now.mask], before.pieces[before.mask], rtol=0, atol=1e-3)
        torch.testing.assert_close(now.mean, before.mean, rtol=0, atol=1e-3)


def test_hidden_states_that_are_too_large_are_not_kept(monkeypatch, caplog):
    monkeypatch.setattr("diffcore.denoising.frozen_text.MOST_BYTES", 10)
    network = frozen()
    network.keep(IDS)
    assert "the hidden states of 3 texts would take" in caplog.text
    assert network.kept(IDS).mean.equal(network.hidden(IDS).mean)
