"""Bits per dimension of images, by `Run.bits_per_dimension`."""

import math
from types import SimpleNamespace

import pytest
import torch

import diffcore as dc
from diffcore.api import likelihoods
from diffcore.denoising.denoiser import from_x0
from diffcore.likelihood.bound import variational_bound
from diffcore.plugins.data import Encoded
from diffcore.process.schedules import Uniform
from diffcore.runs import generation
from diffcore_image.codec import ImageCodec
from diffcore_image.options import ImageFacts
from tests.support.quickest import QUICKEST


def with_denoiser(denoiser):
    """A model of grey pictures of 1 x 1 pixels, whose states are -1 for black and 1 for white, with this denoiser."""
    codec = ImageCodec(ImageFacts(channels=1, height=1, width=1, mean=(0.5,), std=(0.5,)))
    task = SimpleNamespace(draws=True, flow=True, name="denoise")
    model = SimpleNamespace(
        denoiser=denoiser, codec=codec, schedule=Uniform(-10, 14), device=torch.device("cpu"), task=task
    )
    return model


def bits(model, states, levels):
    asked = {"label": None, "prompt": None, "conditions": None}
    return likelihoods.bits(model, "run", states, asked, 0, None, levels)


def test_black_or_white_is_one_bit(monkeypatch):
    """The exact denoiser of -1 or 1 is tanh(alpha x / sigma^2); its bound is above one bit, and tends to it."""

    def exact(x, level, conditions=None, mask=None):
        return from_x0((level.alpha * x / level.sigma**2).tanh(), x, level)

    monkeypatch.setattr(likelihoods, "AT_ONCE", 3000)
    state = torch.where(torch.arange(3000) % 2 == 0, -1.0, 1.0)[:, None, None, None]
    found = [bits(with_denoiser(exact), state, n).mean().item() for n in (60, 240)]
    assert 1 < found[1] < 1.06
    assert 3 < (found[0] - 1) / (found[1] - 1) < 5


def test_what_a_model_knows_needs_no_bits_and_the_next_byte_needs_many():
    """p(x0 | x1) has a standard deviation of e^-7, and a byte is 2 / 255 from the next."""

    def black(x, level, conditions=None, mask=None):
        return from_x0(torch.full_like(x, -1.0), x, level)

    model, states = with_denoiser(black), torch.tensor([-1.0, -1.0 + 2 / 255])[:, None, None, None]
    found = bits(model, states, 50)
    prior, beyond = math.exp(-10) / 2, math.erfc(math.exp(7) / 255 / math.sqrt(2)) / 2
    assert found[0].item() == pytest.approx((prior - math.log1p(-beyond)) / math.log(2), rel=1e-3)
    assert found[1] > 20


@pytest.mark.parametrize(("part", "expected"), [(1, 1.385), (1 / 5, 0.018)])
def test_noise_at_the_clean_end_costs_bits_even_where_a_model_is_exact(part, expected):
    """-log2 P(|n| < half a bin) for noise whose standard deviation is this part of a bin."""

    def grey(x, level, conditions=None, mask=None):
        return from_x0(torch.full_like(x, 1 / 255), x, level)

    model = with_denoiser(grey)
    model.schedule = Uniform(-16, -2 * math.log(part * 2 / 255))
    assert bits(model, torch.full((1, 1, 1, 1), 1 / 255), 50).item() == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    return dc.load(trained(tmp_path_factory.mktemp("bits") / "run", *QUICKEST["image"]))


def test_states_are_rounded_and_parts_are_the_whole(run, monkeypatch):
    samples = run.sample(5, steps=3)
    bins = run.model.codec.bins
    expected = run.bits_per_dimension(samples, levels=4)
    assert expected.shape == (5,)
    assert expected.dtype == torch.float64
    moved = bins.nearest(samples.state) + 0.45 * bins.width
    assert torch.equal(run.bits_per_dimension(Encoded(moved, samples.conditions), levels=4), expected)
    asked = {"label": [run.model.codec.facts.classes[k] for k in samples.conditions["label"].tolist()]}
    assert torch.equal(run.bits_per_dimension(moved, conditions=asked, levels=4), expected)
    assert not torch.equal(run.bits_per_dimension(moved, levels=4), expected)
    monkeypatch.setattr(likelihoods, "AT_ONCE", 2)
    torch.testing.assert_close(run.bits_per_dimension(samples, levels=4), expected, rtol=1e-5, atol=0)


def test_files_have_bits(run, tmp_path):
    samples = run.sample(2, label="3", steps=3)
    samples.save(tmp_path / "drawn")
    files = sorted((tmp_path / "drawn").glob("[0-9]*.png"))
    found = run.bits_per_dimension(files, label="3", levels=4)
    torch.testing.assert_close(found, run.bits_per_dimension(samples, levels=4), rtol=1e-5, atol=0)


def test_large_samples_are_judged_in_smaller_parts(run, monkeypatch):
    """As many at once as are drawn at once: here two of 64 numbers each."""
    samples, counts = run.sample(5, steps=2), []

    def counted(denoise, x0, *rest, **options):
        counts.append(len(x0))
        return variational_bound(denoise, x0, *rest, **options)

    monkeypatch.setattr(generation, "MOST_AT_ONCE", 2 * samples.state[0].numel() + 1)
    monkeypatch.setattr(likelihoods, "variational_bound", counted)
    assert run.bits_per_dimension(samples, levels=2).shape == (5,)
    assert counts == [2, 2, 1]


def test_conditions_are_embedded_once_for_all_levels(run):
    calls = []
    embedding = run.model.denoiser.conditioning.embeddings["label"]
    hook = embedding.register_forward_hook(lambda *_: calls.append(1))
    run.bits_per_dimension(run.model.codec.encode(run.data.held_out[:3]), levels=6)
    hook.remove()
    assert len(calls) == 1


def test_states_of_double_precision_have_the_same_bits(run):
    state = run.model.codec.encode(run.data.held_out[:2]).state
    assert torch.equal(run.bits_per_dimension(state.double(), levels=2), run.bits_per_dimension(state, levels=2))


WRONG = {
    "pixels": (lambda run, data, made: data["pixels"], "no batch of encoded states: its numbers are uint8"),
    "examples": (lambda run, data, made: data, "its fields are pixels, label instead of one tensor without a name"),
    "numpy": (lambda run, data, made: made.state.numpy(), "it is of the type ndarray instead of a tensor"),
    "nothing": (lambda run, data, made: None, "it is None instead of a tensor"),
    "one": (lambda run, data, made: made.state[0], r"it has the shape \[1, 8, 8\] instead of \[1, 1, 8, 8\]"),
    "size": (lambda run, data, made: made.state[..., :5], r"the shape \[3, 1, 8, 5\] instead of \[3, 1, 8, 8\]"),
    "empty": (lambda run, data, made: made.state[:0], "it has no samples"),
    "no files": (lambda run, data, made: [], "the paths of files, at least one"),
    "list": (lambda run, data, made: [made.state], "the paths of files, at least one"),
    "no label": (lambda run, data, made: Encoded(made.state, {}), "the condition 'label' is missing"),
    "label": (lambda run, data, made: Encoded(made.state, {"label": torch.tensor([0, 99, 1])}), "has the value 99"),
}


@pytest.mark.parametrize(("made", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_batch_of_encoded_states_is_refused(run, made, words):
    """Pixels, for example, would have a number too, which means nothing."""
    data = run.data.held_out[:3]
    source = made(run, data, run.model.codec.encode(data))
    with pytest.raises(dc.UserError, match=words):
        run.bits_per_dimension(source, levels=2)
    with pytest.raises(dc.UserError, match=words):
        run.log_likelihood(source, steps=1, divergence="hutchinson")


@pytest.mark.parametrize("levels", [0, 2.5, "20", True, None])
def test_levels_are_a_positive_whole_number(run, levels):
    with pytest.raises(dc.UserError, match=f"`levels` {levels!r}: the bound needs a whole number of at least 1"):
        run.bits_per_dimension(run.model.codec.encode(run.data.held_out[:1]), levels=levels)


def test_what_has_no_bits_is_refused():
    model = SimpleNamespace(codec=SimpleNamespace(), task=SimpleNamespace(draws=True, flow=True))
    with pytest.raises(dc.UserError, match="data with discrete values, such as bytes, and the states of run have none"):
        bits(model, torch.zeros(1, 2), 3)


def test_a_mask_of_samples_without_elements_is_refused(run):
    state = run.model.codec.encode(run.data.held_out[:1]).state
    for likelihood in (run.bits_per_dimension, run.log_likelihood):
        with pytest.raises(dc.UserError, match="`mask`: all elements of these states exist, so leave it out"):
            likelihood(state, mask=torch.ones(1, 3, dtype=torch.bool))
