"""The networks, the files and the metrics of images."""

from itertools import pairwise

import numpy
import pytest
import torch
from PIL import Image
from tensordict import TensorDict

from diffcore.errors import UserError
from diffcore.evaluation.metrics import frechet_distance
from diffcore.nn import builders
from diffcore.nn.blocks import fold, unfold
from diffcore.nn.dit import Attention, DiT
from diffcore.nn.options import DiTOptions, UNetOptions
from diffcore.nn.unet import UNet
from diffcore.states.spaces import Euclidean
from diffcore_image import datasets
from diffcore_image.codec import ImageCodec
from diffcore_image.evaluator import ImageEvaluator
from diffcore_image.options import DigitsOptions, ImageFacts
from diffcore_image.output.captions import fitted
from diffcore_image.output.sheet import sheet
from diffcore_image.output.writer import ImageWriter

NETWORKS = {
    "unet": lambda: UNet(3, 16, (1, 2), 2, 2, attention=True),
    "dit": lambda: DiT(3, (8, 16), 4, 32, 2, 4),
}


@pytest.fixture(params=NETWORKS, ids=str)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def randomised(module):
    """The module with random weights instead of its initial ones, some of which are zero."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module


def test_networks_start_at_zero(network):
    """With a v parameterisation the untrained model then predicts the mean of the data at high noise."""
    out = network(torch.randn(2, 3, 8, 16), torch.randn(2, network.width))
    assert (out == 0).all()


def test_gradients_reach_every_parameter(network):
    randomised(network)
    network(torch.randn(2, 3, 8, 16), torch.randn(2, network.width)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 1e-9 for parameter in network.parameters())


def test_samples_of_a_batch_do_not_mix(network):
    randomised(network).double()
    x, c = torch.randn(4, 3, 8, 16).double(), torch.randn(4, network.width).double()
    together = network(x, c)
    torch.testing.assert_close(network(x[2:3], c[2:3])[0], together[2])
    torch.testing.assert_close(network(x.flip(0), c.flip(0)), together.flip(0))


def test_the_receptive_field_is_the_whole_image(network):
    """Each output pixel depends on each input pixel."""
    randomised(network).double()
    x = torch.randn(1, 3, 8, 16).double().requires_grad_()
    network(x, torch.randn(1, network.width).double())[0, 0, 0, 0].backward()
    assert (x.grad.abs() > 0).all()


def test_fold_is_inverted_by_unfold():
    x = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    assert torch.equal(unfold(fold(x, 4), 4), x)
    assert torch.equal(fold(x, 2)[0, :4, 0, 0], x[0, 0, :2, :2].flatten())


def test_attention_agrees_with_torch():
    """Compared with nn.MultiheadAttention with the same weights, with masked tokens."""
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.inputs.weight,
            "in_proj_bias": ours.inputs.bias,
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    x, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask), expected)


@pytest.mark.parametrize(
    ("build", "options", "shape", "said"),
    [
        (builders.unet, UNetOptions(patch=4), (1, 4, 4), "smaller than the network can take: sides must be at least 8"),
        (builders.unet, UNetOptions(patch=4), (1, 28, 28), "sides must be multiples of 8"),
        (builders.dit, DiTOptions(patch=4), (3, 2, 2), "smaller than the network can take"),
        (builders.dit, DiTOptions(heads=5), (3, 32, 32), "`denoiser.heads` 5 does not divide"),
    ],
)
def test_networks_refuse_images_of_unsuitable_size(build, options, shape, said):
    with pytest.raises(UserError, match=said):
        build(options, Euclidean(shape))


@pytest.mark.parametrize(
    "changed", [{"mean": ()}, {"mean": (0.1, 0.2)}, {"std": (0.0,)}, {"std": (-1.0,)}, {"background": (256, 0, 0)}]
)
def test_facts_that_contradict_each_other_are_refused(changed):
    facts = {"channels": 1, "height": 8, "width": 8, "mean": (0.3,), "std": (0.3,)}
    ImageFacts(**facts)
    with pytest.raises(ValueError, match=r"mean and std need 1|greater than|less than"):
        ImageFacts(**facts | changed)


# Files


def test_single_files_have_the_data_s_size_and_values(tmp_path):
    samples = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    paths = ImageWriter().each(samples, tmp_path, ["a", "b", "c"])
    for path, sample in zip(paths, samples, strict=True):
        assert numpy.array_equal(numpy.asarray(Image.open(path)), sample[0].numpy())


def test_a_sheet_shows_every_sample_at_its_place():
    samples = torch.arange(7, dtype=torch.uint8).reshape(7, 1, 1, 1).expand(7, 3, 64, 64) * 30
    picture = numpy.asarray(sheet(samples, columns=4))
    assert picture.shape == (64 * 2 + 2, 64 * 4 + 6, 3)
    assert [picture[10 + i // 4 * 66, 10 + i % 4 * 66, 0] for i in range(7)] == [30 * i for i in range(7)]
    assert "data:image/png;base64," in ImageWriter().html(samples, 4)


def test_small_samples_are_enlarged_without_smoothing():
    sample = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert numpy.array_equal(numpy.asarray(sheet(sample, 10)), sample[0, 0].numpy().repeat(8, 0).repeat(8, 1))


def test_classes_have_rows_and_captions():
    """Samples that alternate between two classes, in rows of three: two rows of one class, then two of the other."""
    samples = (torch.arange(8, dtype=torch.uint8) * 10 + 60).reshape(8, 1, 1, 1).expand(8, 1, 64, 64)
    picture = numpy.asarray(sheet(samples, 3, [{"label": ("cat", "dog")[i % 2]} for i in range(8)]))
    assert picture.shape == (2 * (18 + 66 + 66) - 2, 3 * 66 - 2)
    tops = [18, 18 + 66, 18 * 2 + 66 * 2, 18 * 2 + 66 * 3]
    shown = [picture[top + 32, 32 + 66 * column].item() for top in tops for column in range(3)]
    assert shown == [60, 80, 100, 120, 255, 255, 70, 90, 110, 130, 255, 255]
    for band in (picture[:18], picture[150:168]):
        assert band.min() < 100
        assert band[:, 60:].min() == 255
    in_order = numpy.asarray(sheet(samples, 4, [{"label": "cat"}] * 4 + [{"label": "dog"}] * 4, in_order=True))
    assert in_order[50, 32::66].tolist() == [60, 70, 80, 90]


def test_samples_of_many_classes_each_have_a_caption():
    samples = torch.zeros(12, 1, 64, 64, dtype=torch.uint8)
    picture = numpy.asarray(sheet(samples, 4, [{"label": f"{i}"} for i in range(12)]))
    assert picture.shape == (3 * 84 - 2, 4 * 66 - 2)
    assert all(
        picture[84 * row : 84 * row + 18, 66 * i : 66 * i + 64].min() < 100 for row in range(3) for i in range(4)
    )


@pytest.mark.parametrize(("n", "side", "columns"), [(50, 600, 10), (1000, 8, 10), (1, 5000, 1), (30, 400, 1)])
def test_sheets_are_bounded(n, side, columns):
    samples = torch.full((1, 1, 1, 1), 77, dtype=torch.uint8).expand(n, 1, side, side)
    picture = sheet(samples, columns)
    assert picture.width <= 4200
    assert picture.height <= 8400
    assert picture.getpixel((2, picture.height - 3)) == 77


def test_captions_in_any_script_are_drawn():
    assert fitted("Katze", 1000)[0] == ("Katze",)
    assert fitted("\U0010ffff", 1000)[0] == (r"\U0010ffff",)  # no font has it
    assert fitted("unbreakable" * 9, 60)[0][0].endswith("…")


def test_captions_are_broken_between_words_and_cut_after_six_lines():
    lines, font = fitted("a small red square left of a big blue circle", 120)
    assert " ".join(lines) == "a small red square left of a big blue circle"
    assert len(lines) > 1
    assert all(font.getlength(line) <= 120 for line in lines)
    assert all(font.getlength(f"{a} {b.split()[0]}") > 120 for a, b in pairwise(lines))
    cut, _ = fitted("word " * 100, 60)
    assert len(cut) == 6
    assert cut[-1].endswith("…")


def test_sentences_are_readable_above_their_samples():
    """Twelve samples of 32 pixels are shown four times as large, each in a frame, below a caption of three lines."""
    samples = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8).expand(12, 3, 32, 32)
    text = "a picture of a small red square to the left of a big circle, number"
    picture = numpy.asarray(sheet(samples, 4, [{"prompt": f"{text} {i}"} for i in range(12)]))[..., 0]
    fewer = numpy.asarray(sheet(samples[:9], 4, [{"prompt": f"{text} {i}"} for i in range(9)]))[..., 0]
    assert (fewer[:, :129] == picture[:, :129]).all()
    lines = len(fitted(f"{text} 0", 126)[0])
    row = 14 * lines + 4 + 128 + 2
    assert picture.shape == (3 * row - 2, 4 * 130 - 2)
    for number in range(12):
        top, left = number // 4 * row, number % 4 * 130
        bands = [picture[top + 2 + 14 * line : top + 16 + 14 * line, left : left + 128] for line in range(lines)]
        assert all(band.min() < 100 for band in bands)
        assert (picture[top + row - 130 : top + row - 2, left : left + 128] == 255).all()
        assert (picture[top + row - 131, left : left + 128] == 204).all()


# Metrics


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    data = datasets.digits(DigitsOptions())
    cache = tmp_path_factory.mktemp("cache")
    return data, ImageEvaluator(ImageCodec(data.facts), data, cache), cache


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


def test_real_images_score_as_real(digits):
    data, evaluator, _ = digits
    found = values(evaluator(data.held_out["pixels"], {"label": data.held_out["label"]}))
    assert found["class_agreement"] == found["class_agreement_real"] > 0.95
    assert found["frechet_ratio"] < 3


def test_noise_wrong_classes_and_missing_variety_worsen_the_metrics(digits):
    data, evaluator, _ = digits
    pixels, labels = data.held_out["pixels"], data.held_out["label"]
    good = values(evaluator(pixels, {"label": labels}))
    noise = torch.randint_like(pixels, 0, 256)
    assert values(evaluator(noise, {"label": labels}))["frechet_distance"] > 20 * good["frechet_distance"]
    assert values(evaluator(pixels, {"label": (labels + 1) % 10}))["class_agreement"] < 0.05
    threes = pixels[labels == 3]
    assert values(evaluator(threes, {"label": labels[labels == 3]}))["frechet_distance"] > 10 * good["frechet_distance"]


def test_the_classifier_is_cached(digits, monkeypatch):
    data, evaluator, cache = digits
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr("diffcore.evaluation.classifier._fit", lambda *a: pytest.fail("trained again"))
    again = ImageEvaluator(ImageCodec(data.facts), data, cache)
    held_out = data.held_out["pixels"], {"label": data.held_out["label"]}
    assert values(again(*held_out)) == pytest.approx(values(evaluator(*held_out)), rel=1e-4)


def test_a_damaged_cache_is_rebuilt(digits, tmp_path):
    data, evaluator, cache = digits
    (name,) = (path.name for path in cache.iterdir())
    (tmp_path / name).write_bytes(b"rubbish")
    again = ImageEvaluator(ImageCodec(data.facts), data, tmp_path)
    held_out = data.held_out["pixels"], {"label": data.held_out["label"]}
    assert values(again(*held_out)) == pytest.approx(values(evaluator(*held_out)), rel=1e-4)


def test_images_without_classes_are_compared_by_components(tmp_path):
    data = datasets.digits(DigitsOptions())
    plain = data.facts.model_copy(update={"classes": ()})
    evaluator = ImageEvaluator(ImageCodec(plain), data, tmp_path)
    found = values(evaluator(data.held_out["pixels"], {}))
    assert found["frechet_ratio"] < 3
    assert "class_agreement" not in found
    # With 64 of 64 components the distance is the one of the pixels themselves.
    pixels = [
        part["pixels"].flatten(1).double() / 255 for part in (data.held_out, torch.cat([data.examples, data.held_out]))
    ]
    assert found["frechet_distance"] == pytest.approx(frechet_distance(*pixels), rel=1e-3)


def test_noise_is_not_a_good_image_of_one_class(tmp_path):
    """Uniform noise had an agreement of 1 and a Frechet distance of 0.003."""
    generator = torch.Generator().manual_seed(0)
    position = torch.rand(120, 1, 1, generator=generator) * 4
    ramp = (torch.arange(8.0)[:, None] + torch.arange(8.0) + position) / 18 * 255
    pixels, labels = ramp.round().to(torch.uint8)[:, None], torch.zeros(120, dtype=torch.int64)
    train, held_out = (datasets.examples(pixels[rows], labels[rows]) for rows in (slice(60), slice(60, None)))
    data = datasets.data(train, held_out, ["ramp"])
    evaluator = ImageEvaluator(ImageCodec(data.facts), data, tmp_path)
    noise = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    found = [
        {metric.name: metric for metric in evaluator(samples, {"label": labels[:60]})}
        for samples in (pixels[60:], noise)
    ]
    assert all("class_agreement" not in metrics for metrics in found)
    assert found[0]["frechet_ratio"].value < 3
    assert found[1]["frechet_ratio"].value > 100
    assert found[1]["frechet_distance"].meaning.endswith("in principal components of pixels, as there is one class")


def test_bins_are_the_states_of_bytes():
    """Each byte of each channel lies in the middle of its bin, and everything else is moved to the nearest byte."""
    facts = ImageFacts(channels=2, height=16, width=16, mean=(0.2, 0.7), std=(0.5, 0.1))
    codec = ImageCodec(facts)
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 2, 16, 16)
    examples = TensorDict({"pixels": pixels}, batch_size=[1])
    state, bins = codec.encode(examples).state, codec.bins
    torch.testing.assert_close(state[0, :, 0, 1] - state[0, :, 0, 0], bins.width[0, :, 0, 0], rtol=1e-4, atol=0)
    torch.testing.assert_close(state[:, :, :1, :1], bins.low)
    torch.testing.assert_close(state[:, :, -1:, -1:], bins.high)
    moved = state + bins.width * (torch.rand_like(state) - 0.5) * 0.98
    torch.testing.assert_close(bins.nearest(moved), state, rtol=0, atol=1e-5)
    beyond = bins.nearest(torch.stack([bins.low[0] - 3, bins.high[0] + 3]))
    torch.testing.assert_close(beyond, torch.cat([bins.low, bins.high]))
