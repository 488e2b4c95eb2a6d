"""Text as a condition: words, their numbers, and the transformer that makes tokens of them."""

import logging

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.denoising import word_network
from diffcore.denoising.conditions import captions_of, drop, nulls, parsed, parsed_each
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.embedded_once import embedded, embedded_once
from diffcore.denoising.text import TextCondition
from diffcore.denoising.word_network import WordNetwork
from diffcore.denoising.words import Words, vocabulary, words_of
from diffcore.errors import UserError
from diffcore.nn.unet import UNet
from diffcore.sampling.guidance import classifier_free, composed_values
from diffcore.states.level import Level

WORDS = Words(("a", "big", "blue", "circle", "left", "on", "red", "square", "the"), length=6, channels=16)
TEXT = TextCondition("prompt", WORDS, ("a red circle", "the blue square on the left"))
LEVEL = Level(0.6, 0.8)


def refused(call):
    """The message of the error that `call` raises."""
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def denoiser():
    torch.manual_seed(0)
    network = Denoiser(UNet(1, width=8, patch=1, tokens=WORDS.channels), (TEXT,))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def ids(*texts):
    return torch.cat([TEXT.parse(text, [0], 0) if text else TEXT.null(1) for text in texts])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red circle, left of a BLUE square.", "a red circle left of a blue square"),
        ("don't  stop\tnow", "don't stop now"),
        ("the dog\u2019s bone; 'quoted'", "the dog's bone quoted"),
        ("red-orange 3 x 4", "red orange 3 x 4"),
        ("cafe\u0301 CAF\u00c9", "caf\u00e9 caf\u00e9"),
        ("\uff32\uff25\uff24", "red"),
        ("\u7ea2\u8272 circle", "\u7ea2 \u8272 circle"),
        ("C+\U0001f600", "c + \U0001f600"),
        ("...!?  ", ""),
    ],
)
def test_words_of_a_text(text, words):
    assert " ".join(words_of(text)) == words
    assert words_of(words) == words.split()


def test_the_vocabulary_has_the_most_frequent_words():
    texts = ["a red cat", "a red dog", "a blue cat"]
    assert vocabulary(texts, 100) == ("a", "blue", "cat", "dog", "red")
    assert vocabulary(texts, 3) == ("a", "cat", "red")


def test_ids_and_captions():
    assert ids("the RED circle!").tolist() == [[9, 7, 4, 0, 0, 0]]
    values = {"prompt": ids("the RED circle!", "", "a big square")}
    assert TEXT.given(values["prompt"]).tolist() == [True, False, True]
    assert captions_of((TEXT,), values) == [{"prompt": "the red circle"}, {}, {"prompt": "a big square"}]
    assert captions_of((TEXT,), {"prompt": TEXT.examples(3)})[2] == {"prompt": "a red circle"}
    assert drop((TEXT,), values, 1.0, torch.zeros(3, 1))["prompt"].equal(TEXT.null(3))


def test_unknown_words_are_named_with_the_nearest():
    told = refused(lambda: TEXT.parse("a sqare", [0], 0))
    assert told == "the prompt 'a sqare': the model does not know the word 'sqare'; the nearest words are 'square'"
    told = refused(lambda: TEXT.parse("xyzzy plugh", [0], 0))
    assert "'xyzzy' (nor 'plugh'); it knows a, big, blue" in told
    assert len(refused(lambda: TEXT.parse("x" * 100_000 + " " + "y" * 100_000, [0], 0))) < 400


def test_texts_without_words_are_refused():
    for text in ("", "  ", "?!"):
        assert f"the prompt {text!r} has no words" in refused(lambda text=text: TEXT.parse(text, [0], 0))


def test_long_texts_are_cut_and_each_is_told_once(caplog):
    long = "a red circle on the left on the left"
    with caplog.at_level(logging.WARNING):
        value = parsed(TEXT, long, range(2))
    assert value.equal(ids("a red circle on the left").expand(2, -1))
    assert caplog.text.count("the prompt 'a red circle on the left on the left' is too long") == 1
    assert "its first 6 of 9 parts are used, which are 'a red circle on the left'" in caplog.text
    caplog.clear()
    texts = [f"{long} {'blue ' * number}" for number in range(7)] * 2
    assert parsed_each(TEXT, [*texts, "blue"]).equal(ids(*texts, "blue"))
    assert [record.getMessage()[:40] for record in caplog.records][3:] == ["of 4 other texts, too, only a part is us"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([2, 10, 0, 0, 0, 0], "has the id 10; its texts have ids from 1 to 9, and 0 after them"),
        ([2, -1, 0, 0, 0, 0], "has the id -1"),
        ([2, 0, 3, 0, 0, 0], "has an id after a 0, which ends a text"),
    ],
)
def test_ids_of_another_model_are_refused(row, told):
    values = {"prompt": torch.tensor([row, [1, 2, 3, 4, 5, 9]])}
    with pytest.raises(UserError, match=told):
        dc.sample(denoiser().float(), n=2, shape=(1, 4, 4), steps=1, conditions=values)


def test_encoders_with_other_words_are_different():
    again = TextCondition("prompt", Words(WORDS.vocabulary, 6, 16), ())
    assert (again.encoder, hash(again.encoder), again.encoder.digest) == (WORDS, hash(WORDS), WORDS.digest)
    assert again == TEXT
    assert Words(("a", "b"), 6, 16) != Words(("a", "c"), 6, 16)
    assert Words(("a", "b"), 6, 16).digest != Words(("ab",), 6, 16).digest


def reference(network, row):
    """The transformer on one text without padding, in the modules of PyTorch."""
    row = row[row > 0]
    h = torch.cat([network.first[None], network.table.weight[row] + network.positions[: len(row)]])[None]
    for block in network.blocks:
        attention = nn.MultiheadAttention(h.shape[-1], block.heads, batch_first=True, dtype=h.dtype)
        attention.in_proj_weight, attention.in_proj_bias = block.qkv.weight, block.qkv.bias
        attention.out_proj = block.output
        normed = block.norms[0](h)
        h = h + attention(normed, normed, normed, need_weights=False)[0]
        h = h + block.mlp(block.norms[1](h))
    h = network.norm(h)[0]
    return network.vector(h[0]), h[1:]


@pytest.mark.parametrize("training", [False, True])
def test_the_network_of_words_is_a_transformer_that_padding_does_not_change(training):
    torch.manual_seed(0)
    network = WordNetwork(9, 6, 16, 2, 4, 10).double().train(training)
    batch = ids("the red circle", "", "a big blue square on the")
    vector, tokens, _ = network(batch)
    for row, v, t, mask in zip(batch, vector, tokens.values, tokens.mask, strict=True):
        expected_vector, expected_tokens = reference(network, row)
        assert torch.allclose(v, expected_vector, atol=1e-12)
        assert torch.allclose(t[mask], expected_tokens, atol=1e-12)
        assert int(mask.sum()) == int((row > 0).sum())
    longer, _, _ = network(nn.functional.pad(batch, (0, 0)))
    assert torch.allclose(longer, vector, atol=1e-12)


def test_words_are_computed_alike_on_a_gpu_where_all_places_are(monkeypatch):
    torch.manual_seed(0)
    network, batch = WordNetwork(9, 6, 16, 2, 4, 10).double(), ids("the red circle", "", "a big blue square on the")
    packed = network(batch)
    everywhere = word_network._Places
    monkeypatch.setattr(word_network, "_Places", lambda exists, packed: everywhere(exists, False))
    padded = network(batch)
    assert padded.tokens.mask.equal(packed.tokens.mask)
    assert torch.allclose(padded.vector, packed.vector, atol=1e-12)
    assert torch.allclose(
        padded.tokens.values[padded.tokens.mask], packed.tokens.values[packed.tokens.mask], atol=1e-12
    )


@pytest.mark.parametrize("guided", [False, True])
def test_each_distinct_text_is_encoded_once_while_samples_are_drawn(monkeypatch, guided):
    """Whatever the number of samples and steps; with guidance, the empty text is another one."""
    encoded = []
    original = WordNetwork.forward
    monkeypatch.setattr(WordNetwork, "forward", lambda self, ids: encoded.append(len(ids)) or original(self, ids))
    network = denoiser().float()
    draw = classifier_free(network, (TEXT,), 3.0) if guided else network
    texts = ids("a red circle", "a big square", "a red circle").repeat(2, 1)
    for batch in (6, 2):
        dc.sample(draw, n=6, shape=(1, 4, 4), steps=5, conditions={"prompt": texts}, batch_size=batch)
    assert encoded == [distinct + guided for distinct in (2, 2, 1, 2)]


def test_embeddings_are_kept_for_the_drawing_of_a_batch_only():
    embed, value = WordNetwork(9, 6, 16, 2, 4, 10).eval(), ids("a red circle", "the left", "a red circle")
    with embedded_once():
        before = embedded(embed, value)
        assert embedded(embed, value) is before
        assert embedded(embed, value.clone()) is not before
        assert not before.vector.requires_grad
        assert embedded(embed.train(), value) is not before
    with torch.no_grad():
        embed.eval().first.neg_()
        after = embedded(embed, value)
    assert after.vector.allclose(embed(value).vector)
    assert before.vector[0].equal(before.vector[2])
    assert not before.vector.allclose(after.vector)


def test_each_sample_of_a_denoiser_may_have_its_own_text():
    network = denoiser().float()

    def drawn(n, prompt):
        return dc.sample(network, n=n, shape=(1, 4, 4), steps=2, conditions={"prompt": prompt})

    texts = ["a red circle", "the left", "a red circle"]
    assert drawn(3, texts).equal(drawn(3, ids(*texts)))
    assert drawn(2, "the left").equal(drawn(2, ids("the left", "the left")))
    assert "for 3 samples; give one value for each" in refused(lambda: drawn(3, texts[:2]))


def test_words_are_trained_with_the_denoiser():
    network = denoiser().train()
    x = torch.randn(3, 1, 4, 4).double()
    network(x, LEVEL, {"prompt": ids("a red circle", "", "the left")}).x0.sum().backward()
    embed = network.conditioning.embeddings["prompt"]
    used = embed.table.weight.grad.abs().sum(1) > 0
    assert used.nonzero()[:, 0].tolist() == sorted(
        set(ids("a red circle", "the left")[ids("a red circle", "the left") > 0].tolist())
    )


def test_guidance_away_from_a_text():
    """D_n + w (D_c - D_n) with predictions that are computed one by one."""
    network, x = denoiser(), torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    values, against = {"prompt": ids("a red circle", "")}, {"prompt": ids("the blue square")}
    guided = classifier_free(network, (TEXT,), 3.0, against)(x, LEVEL, values).output
    positive = network(x, LEVEL, values).output
    negative = network(x, LEVEL, {"prompt": against["prompt"].expand(2, -1)}).output
    assert torch.allclose(guided, negative + 3.0 * (positive - negative), atol=1e-10)


def test_several_texts_with_weights():
    """D_0 + sum of w_i (D_i - D_0), one by one; the values of samples do not count."""
    network, x = denoiser(), torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    texts, weights = [ids("a red circle"), ids("on the left")], [1.5, -0.25]
    own = {"prompt": ids("a big square", "")}
    found = composed_values(network, TEXT, texts, weights)(x, LEVEL, own).output
    each = [network(x, LEVEL, {"prompt": text.expand(2, -1)}).output for text in texts]
    none = network(x, LEVEL, nulls((TEXT,), 2)).output
    assert torch.allclose(found, none + 1.5 * (each[0] - none) - 0.25 * (each[1] - none), atol=1e-10)
