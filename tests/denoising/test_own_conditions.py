"""Conditions of a plugin's own: sentences that yield tokens, and pictures that lie below the state."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import diffcore as dc
from diffcore import cli
from diffcore.api.drawing import drawing_of
from diffcore.denoising.conditions import Condition, captions_of, drop, nulls, parse_conditions
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.embedding import Conditioning
from diffcore.denoising.inputs import Embedded, Tokens
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.nn.dit import DiT
from diffcore.nn.unet import UNet
from diffcore.runs.composing import compose
from diffcore.runs.model import build_model
from diffcore.sampling.guidance import classifier_free, composed
from diffcore.states.level import Level
from tests.support.refusals import refused
from tests.support.told_toy import (
    WORDS,
    Coarse,
    Plain,
    Sentence,
    ToldFacts,
    enlarged,
    mean_of,
    told_registry,
)
from tests.support.toy import put_in_place

SENTENCE, COARSE, LABEL = Sentence("words", WORDS), Coarse("coarse", 2, 4), dc.ClassCondition("label", ("a", "b"))
ALL = (SENTENCE, COARSE, LABEL)
LEVEL = Level(0.6, 0.8)


def awake(network, seed=0):
    """In float64, and nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.double().eval()


def denoiser(conditions=ALL, kind="dit"):
    torch.manual_seed(0)
    inputs = {"tokens": 8, "like_state": 2 if COARSE in conditions else 0}
    if kind == "unet":
        return awake(Denoiser(UNet(1, width=8, patch=1, **inputs), conditions))
    return awake(Denoiser(DiT(1, (4, 4), patch=2, width=8, depth=2, heads=2, **inputs), conditions))


def batch(n=3):
    """States, and values of which the last sample has none."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 4, 4, generator=generator).double()
    coarse = torch.randn(n, 1, 2, 2, generator=generator)
    values = {
        "words": torch.tensor([SENTENCE.ids("north west"), SENTENCE.ids("south"), SENTENCE.ids("")]),
        "coarse": coarse.where(torch.tensor([True, True, False])[:, None, None, None], math.nan),
        "label": torch.tensor([1, 0, 2]),
    }
    return x, values


def rows(values, chosen):
    return {name: value[chosen] for name, value in values.items()}


# Values


def test_what_is_dropped_is_dropped_as_a_whole_and_the_rest_is_kept():
    _, values = batch()
    many = {name: value[:2].repeat(500, *[1] * (value.ndim - 1)) for name, value in values.items()}
    u = torch.rand(1000, len(ALL), generator=torch.Generator().manual_seed(0))
    kept = drop(ALL, many, 0.3, u)
    for condition in ALL:
        value, null = kept[condition.name], condition.null(1000)
        same = [
            torch.isclose(value.double(), other.double(), equal_nan=True).reshape(1000, -1).all(1)
            for other in (many[condition.name], null)
        ]
        assert (same[0] ^ same[1]).all()
        assert torch.equal(same[1], u[:, ALL.index(condition)] < 0.3)
        assert torch.equal(condition.given(value), same[0])
    assert all(torch.equal(drop(ALL, many, 0.0, u)[c.name], many[c.name]) for c in ALL)
    assert not any(c.given(drop(ALL, many, 1.0, u)[c.name]).any() for c in ALL)


def test_no_conditions_are_null_values_and_captions_leave_them_out():
    model, (x, values) = denoiser(), batch()
    nothing = model(x, LEVEL, nulls(ALL, 3)).output
    assert torch.equal(model(x, LEVEL).output, nothing)
    told = model(x, LEVEL, values).output
    torch.testing.assert_close(told[2], nothing[2], rtol=0, atol=1e-12)
    assert (told - nothing)[:2].abs().flatten(1).amax(1).min() > 1e-3
    found = captions_of(ALL, values, 3)
    assert found == [
        {"words": "north west", "coarse": "given", "label": "b"},
        {"words": "south", "coarse": "given", "label": "a"},
        {},
    ]


def test_values_stay_on_their_device(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with FakeTensorMode():
        elsewhere = torch.device("cuda", 0)
        values = {name: value.to(elsewhere) for name, value in nulls(ALL, 3).items()}
        kept = drop(ALL, values, 0.5, torch.rand(3, len(ALL)))
        with elsewhere:
            told = Conditioning(ALL, 8)
        vector, tokens, like_state = told(torch.zeros(3, device=elsewhere), kept)
        found = [*kept.values(), vector, *tokens, like_state]
    assert {value.device for value in found} == {elsewhere}


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_how_far_a_sentence_is_padded_changes_nothing(kind):
    (x, values), model = batch(), denoiser(kind=kind)
    longer = denoiser((replace(SENTENCE, length=7), COARSE, LABEL), kind=kind)
    longer.load_state_dict(model.state_dict())
    padded = {**values, "words": nn.functional.pad(values["words"], (0, 4))}
    torch.testing.assert_close(longer(x, LEVEL, padded).output, model(x, LEVEL, values).output, rtol=0, atol=1e-12)
    before = model(x, LEVEL, values).output
    with torch.no_grad():  # the word of padding, whatever it is
        model.conditioning.embeddings["words"].table.weight[0] = math.nan
    assert torch.equal(model(x, LEVEL, values).output, before)


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_a_batch_changes_nothing_for_a_sample(kind):
    (x, values), model = batch(), denoiser(kind=kind)
    whole = model(x, LEVEL, values).output
    for row in range(3):
        alone = model(x[row : row + 1], LEVEL, rows(values, [row])).output
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-12)


def test_tokens_of_several_conditions_follow_each_other():
    """Those with fewer channels are filled up with zeros; values of tokens that do not exist are zero."""
    other = replace(SENTENCE, name="more", channels=5, length=2)
    told = Conditioning((SENTENCE, LABEL, other), 8)
    ids = torch.tensor([[1, 2, 0], [0, 0, 0]])
    _, tokens, like_state = told(torch.zeros(2), {"words": ids, "label": torch.zeros(2).long(), "more": ids[:, :2]})
    assert like_state is None
    assert tokens.values.shape == (2, 1 + 3 + 2, 8)
    assert tokens.mask.int().tolist() == [[1, 1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0]]
    assert torch.equal(tokens.values[:, 0], told.first_token.expand(2, -1))
    assert torch.equal(tokens.values[0, 1:3], told.embeddings["words"].table.weight[1:3])
    assert torch.equal(tokens.values[0, 4:, :5], told.embeddings["more"].table.weight[1:3])
    assert not tokens.values[0, 4:, 5:].any()
    assert not tokens.values[~tokens.mask].any()


# Guidance


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_guidance_mixes_two_predictions_that_are_made_one_by_one(kind):
    (x, values), model = batch(), denoiser(kind=kind)
    guided = classifier_free(model, ALL, 3.0)(x, LEVEL, values).output
    without, told = model(x, LEVEL).output, model(x, LEVEL, values).output
    torch.testing.assert_close(guided, without + 3 * (told - without), rtol=0, atol=1e-11)
    torch.testing.assert_close(guided[2], without[2], rtol=0, atol=1e-12)
    each = composed(model, ALL, {"words": 2.0, "coarse": 0.5})(x, LEVEL, values).output
    alone = [model(x, LEVEL, {**nulls(ALL, 3), name: values[name]}).output for name in ("words", "coarse")]
    expected = without + 2 * (alone[0] - without) + 0.5 * (alone[1] - without)
    torch.testing.assert_close(each, expected, rtol=0, atol=1e-11)


# Precision


def test_a_network_with_tokens_compiles_as_a_whole_and_rounds_in_bfloat16():
    (x, values), model = batch(), denoiser().float()
    x = x.float()
    exact = model(x, LEVEL, values).output
    coarse = compute_in(model, "bfloat16")(x, LEVEL, values).output
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().max() < 0.05 * exact.abs().max()
    compute_in(model, "float32").backbone = torch.compile(model.backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(model(x, LEVEL, values).output, exact)


# Refusals


class Wrong(Sentence):
    """A sentence whose embedding is another one."""

    def __init__(self, embedding):
        super().__init__("words", WORDS)
        object.__setattr__(self, "_own", embedding)

    def embedding(self, width):
        return self._own


class Returning(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, value):
        return self.result


TOKENS = Tokens(torch.zeros(3, 4, 8), torch.ones(3, 4).bool())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "the embedding of the condition 'words' returned NoneType; it must return a tensor"),
        (
            torch.zeros(3, 8),
            "returned no tokens and nothing like the state, and `inputs` of the condition says 8 chann",
        ),
        (Embedded(tokens=Tokens(torch.zeros(3, 4, 6), TOKENS.mask)), "returned 6 channels of tokens, and `inputs`"),
        (Embedded(tokens=Tokens(TOKENS.values, torch.ones(3, 4))), "a mask float32 [3, 4]; they must be [3, L, 8]"),
        (Embedded(tokens=Tokens(TOKENS.values[:1], TOKENS.mask[:1])), "returned tokens [1, 4, 8] with a mask bool [1"),
        (Embedded(torch.zeros(1, 8), TOKENS), "returned a vector [1, 8]; it must be [3, 8]"),
    ],
)
def test_an_embedding_that_returns_something_else_is_named(result, message):
    told = Conditioning((Wrong(Returning(result)),), 8)
    with pytest.raises(UserError) as error:
        told(torch.zeros(3), {"words": SENTENCE.null(3)})
    assert message in str(error.value)


def test_networks_that_take_a_vector_only_are_refused():
    with pytest.raises(UserError, match="the condition 'words' yields `tokens`, which the network Plain does not acc"):
        Denoiser(Plain(16), (LABEL, SENTENCE))
    with pytest.raises(UserError, match="the condition 'coarse' yields `like_state`, which the network DiT does not"):
        Denoiser(DiT(1, (4, 4), tokens=8), (COARSE,))
    Denoiser(Plain(16), (LABEL,))


def test_a_run_names_the_networks_that_can():
    registry = told_registry()
    settings = compose(registry, "told", "plain")
    with pytest.raises(UserError) as error:
        build_model(settings, ToldFacts(told=("words",)), registry)
    assert str(error.value) == (
        "the condition 'words' yields `tokens`, which the denoiser 'plain' does not accept; use `denoiser` dit or unet"
    )
    assert build_model(settings, ToldFacts(told=("label",)), registry).denoiser.backbone.width == 16


def test_a_condition_without_a_head_is_not_classified():
    registry = told_registry()
    settings = compose(registry, "told", "teller")
    model = build_model(settings, ToldFacts(told=("words", "label")), registry)
    assert [condition.name for condition in model.classifier.conditions] == ["label"]
    with pytest.raises(UserError, match="a classifier can predict none of the conditions of these data: words, coarse"):
        build_model(settings, ToldFacts(told=("words", "coarse")), registry)
    with pytest.raises(UserError, match="a classifier cannot predict the condition 'words', which has no `head`"):
        NoisyClassifier(Plain(16), (LABEL, SENTENCE))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"words": torch.zeros(4).long()}, "the condition 'words' has the shape [4] for 3 samples; give one value for"),
        (
            {"words": torch.zeros(2, 3).long()},
            "the condition 'words' has the shape [2, 3] for 3 samples; give one valu",
        ),
        ({"words": torch.zeros(3, 3)}, "the condition 'words' has numbers of the type torch.float32; give whole num"),
        ({"words": "norht"}, "words: the model does not know 'norht'; it knows north, east, south, west"),
    ],
)
def test_values_of_another_shape_or_type_are_refused(values, message):
    with pytest.raises(UserError) as error:
        dc.sample(denoiser().float(), n=3, shape=(1, 4, 4), steps=2, conditions=values)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "north"])
def test_a_condition_without_text_needs_a_tensor(text):
    class Silent(Coarse):
        parse = Condition.parse

    with pytest.raises(UserError, match="values of the condition 'coarse' cannot be written as text: give a tensor"):
        Silent("coarse", 2, 4).parse(text, range(2), 0)


@pytest.mark.parametrize("text", ["1 0 0", "a b c d"])
def test_text_that_a_condition_cannot_read_is_told_of_in_a_line(text):
    """A condition of a plugin need not catch what `float` and `reshape` raise."""
    with pytest.raises(UserError, match=f"^coarse: '{text}' cannot be read: "):
        parse_conditions([Coarse("coarse", 2, 4)], {"coarse": text}, range(2))


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained):
    """A model of sentences, trained from the command line."""
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, told_registry())
        path = tmp_path_factory.mktemp("told") / "run"
        yield dc.load(trained(path, "--modality", "told"))


def blocks(samples):
    return samples[:, 0].reshape(-1, 2, 2, 2, 2).mean((2, 4)).flatten(1)


def expected(text):
    return blocks(mean_of(torch.tensor([SENTENCE.ids(text)])))[0]


@pytest.mark.parametrize("text", [*WORDS, "north west", "east south"])
def test_the_words_decide_the_mean(run, text):
    found = blocks(run.sample(100, conditions={"words": text}).decoded)
    torch.testing.assert_close(found.mean(0), expected(text), rtol=0, atol=0.35)  # words move blocks by 1.5


def test_each_sample_gets_its_own_sentence_and_guidance_follows_it_more(run):
    texts = [*WORDS, "north west", ""] * 10
    samples = run.sample(60, conditions={"words": texts})
    assert [caption.get("words", "") for caption in samples.captions] == texts
    wanted = torch.stack([expected(text) for text in texts])
    given = torch.tensor([bool(text) for text in texts])
    error = (blocks(samples.decoded) - wanted).abs()[given].mean()
    assert error < 0.35
    tensors = run.sample(60, conditions={"words": samples.conditions["words"]})
    assert torch.equal(tensors.state, samples.state)
    away = run.sample(60, conditions={"words": texts}, guidance=0.0)
    assert (blocks(away.decoded) - wanted).abs()[given].mean() > 1.5 * error


def test_the_command_line_takes_the_sentence(run, tmp_path, capsys):
    flags = ["--n", "3", "--condition", "words=north west", "--guidance", "2", "--seed", "5"]
    assert cli.main(["sample", str(run.path), "--out", str(tmp_path / "out"), *flags]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.csv"))
    assert names == [f"{i:04d}-words=north_west.csv" for i in range(3)]
    drawn = run.sample(3, conditions={"words": "north west"}, guidance=2.0, seed=5).decoded
    text = (tmp_path / "out" / names[2]).read_text()
    assert [float(v) for v in text.split(",")] == pytest.approx(drawn[2].flatten().tolist(), abs=1e-4)
    line = refused(capsys, "sample", run.path, "--out", tmp_path / "no", "--condition", "words=up")
    assert line == "diffcore: words: the model does not know 'up'; it knows north, east, south, west"


def test_a_recipe_has_a_digest_of_values_with_axes(run):
    def recipe(ids):
        return drawing_of(run, 2, None, {"words": torch.tensor(ids)}, 0, None, None, {}).recipe["conditions"]["words"]

    first = recipe([[1, 0, 0], [2, 4, 0]])
    assert first["shape"] == [2, 3]
    assert recipe([[1, 0, 0], [2, 4, 0]]) == first != recipe([[1, 0, 0], [2, 3, 0]])


def test_a_low_resolution_picture_decides_the_mean():
    torch.manual_seed(0)
    network = UNet(1, width=16, patch=1, multipliers=(1,), like_state=2)
    model = dc.Denoiser(network, (COARSE,))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        x = enlarged(torch.randn(64, 1, 2, 2, generator=generator))
        x = x + 0.3 * torch.randn(x.shape, generator=generator)
        coarse = nn.functional.avg_pool2d(x, 2)
        optimiser.zero_grad()
        dc.denoising_loss(model, x, conditions={"coarse": coarse}, generator=generator).backward()
        optimiser.step()
    wanted = torch.tensor([[[-1.0, 0.5], [1.5, 0.0]]])
    samples = dc.sample(model, n=200, shape=(1, 4, 4), steps=8, conditions={"coarse": wanted})
    torch.testing.assert_close(samples.mean(0), enlarged(wanted[None])[0], rtol=0, atol=0.2)
    text = dc.sample(model, n=200, shape=(1, 4, 4), steps=8, conditions={"coarse": "-1 0.5 1.5 0"})
    assert torch.equal(text, samples)
    without = dc.sample(model, n=200, shape=(1, 4, 4), steps=8)
    assert (without.mean(0) - enlarged(wanted[None])[0]).abs().amax() > 0.6
