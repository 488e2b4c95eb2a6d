"""Models that are given a cloud of a few points and draw more, alone and after a model of a few points."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy
import pytest
import torch
from tensordict import TensorDict

import diffcore as dc
from diffcore import cli
from diffcore.api.stages import require_enlarges
from diffcore.denoising.conditions.coarse_condition import CoarseSet, enlarging_condition
from diffcore.denoising.inputs import Inputs
from diffcore.errors import UserError
from diffcore.states.noise import Draws, generator_for
from diffcore.states.spaces import Euclidean
from diffcore.testing.plugin import randomised
from diffcore_pointcloud.codec import CloudCodec
from diffcore_pointcloud.networks import latent, transformer
from diffcore_pointcloud.options import CloudFacts, LatentOptions, TransformerOptions
from tests.support import refusals

COARSE = CoarseSet("coarse", (2, 3), 0.4, 5, octaves=2)
DATA = {"name": "shapes", "pool": 64, "shapes": 60, "held_out": 10}


def test_the_embedding_has_the_given_elements_their_waves_the_noise_and_zeros_beside_the_others():
    given = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    embed = COARSE.embedding(16)
    found = embed(torch.cat([COARSE.values(given, 0.25), COARSE.null(1)])).like_state
    assert found.shape == (2, 5, COARSE.inputs.like_state) == (2, 5, 17)
    expected = [w(given * 2**j) for j in range(2) for w in (torch.sin, torch.cos)]
    rest = torch.tensor([0.25, 1.0]).expand(1, 2, 2)
    torch.testing.assert_close(found[:1, :2], torch.cat([*expected, given, rest], -1))
    assert not found[0, 2:].any()
    assert not found[1].any()
    assert COARSE.given(torch.cat([COARSE.values(given), COARSE.null(1)])).tolist() == [True, False]
    with pytest.raises(UserError, match="negative standard deviation"):
        COARSE.require(COARSE.values(given, -1.0))


def test_a_codec_gives_the_first_points_of_the_encoded_cloud_with_noise_in_training():
    facts = CloudFacts(points=6, centre=(1, 2, 3), scale=2.0, normals=True, rotate=True, upscale=3, upscale_noise=0.5)
    codec, generator = CloudCodec(facts), generator_for(0)
    pool = {name: torch.randn(400, 9, 3, generator=generator) for name in ("positions", "normals")}
    encoded = codec.encode(TensorDict(pool, batch_size=[400]), Draws.of(0, range(400)))
    noisy = encoded.conditions["coarse"]
    std = noisy[..., -1:]
    eps = (noisy[..., :-1] - torch.cat([encoded.state["positions"], encoded.state["normals"]], -1)[:, :2]) / std
    assert std[:, 0].min() >= 0
    assert std[:, 0].max() <= 0.5
    assert eps.std().item() == pytest.approx(1, abs=0.03)
    plain = codec.encode(TensorDict(pool, batch_size=[400])).conditions["coarse"]
    torch.testing.assert_close(plain[..., :3], (pool["positions"][:, :2] - torch.tensor([1.0, 2, 3])) / 2)
    torch.testing.assert_close(plain[..., 3:6], pool["normals"][:, :2] * 3**0.5)
    assert not plain[..., 6].any()


@torch.no_grad()
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (latent, LatentOptions(width=16, latents=4, latent_width=16)),
        (transformer, TransformerOptions(width=16, depth=2)),
    ],
    ids=["latent", "transformer"],
)
def test_networks_are_equivariant_together_with_what_lies_beside_the_points(build, options):
    torch.manual_seed(0)
    network = randomised(build(options, Euclidean((6, 3)), Inputs(like_state=2)))
    x, beside, conditioning = torch.randn(2, 6, 3), torch.randn(2, 6, 2), torch.randn(2, network.width)
    output = network(x, conditioning, like_state=beside)
    order = torch.randperm(6)
    torch.testing.assert_close(network(x[:, order], conditioning, like_state=beside[:, order]), output[:, order])
    assert (network(x, conditioning, like_state=-beside) - output).abs().max() > 0.01
    more = network(torch.cat([x, x[:, :2]], 1), conditioning, like_state=beside)  # two more points than in training
    torch.testing.assert_close(more[:, :6], output)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, few_pictures):
    """The folders of a run of clouds of 8 points and of one that makes 32 of them, both after one step."""
    folder = tmp_path_factory.mktemp("stages")
    common = {
        "denoiser": {"width": 16, "latents": 4, "latent_width": 16},
        "train": {"steps": 1, "batch_size": 4, "evaluate": 0},
        "sample": {"steps": 2},
    }
    for name, data in (("small", {"points": 8}), ("large", {"points": 32, "upscale": 4})):
        dc.train("pointcloud", data={**DATA, **data}, **common, out=folder / name)
    return folder


def test_a_model_of_few_points_and_one_that_draws_more_draw_together(runs, tmp_path):
    """Both models draw in units of their own, so positions are compared in those of the data."""
    out = tmp_path / "both.npz"
    then = ("--then", runs / "large", "--n", "3", "--steps", "2", "--out", out)
    assert cli.main(["sample", *map(str, (runs / "small", *then))]) == 0
    large, small = dc.load(runs / "large"), dc.load(runs / "small").sample(3, steps=2)
    conditions = large.conditions_of(small)
    assert sorted(conditions) == ["coarse", "label"]
    facts = large.model.codec.facts
    positions = conditions["coarse"][..., :3] * facts.scale + torch.tensor(facts.centre)
    torch.testing.assert_close(positions, small.decoded["positions"], rtol=0, atol=1e-5)
    expected = large.sample(3, conditions=conditions).decoded["positions"]
    found = torch.from_numpy(numpy.load(out)["positions"]).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert large.sample(1, conditions=conditions_of_one(conditions), size=40).decoded["positions"].shape == (1, 40, 3)


def conditions_of_one(conditions):
    return {name: value[:1] for name, value in conditions.items()}


def test_points_of_a_file_are_taken(runs, tmp_path):
    model = dc.load(runs / "large").model
    points = numpy.random.default_rng(0).normal(size=(20, 3)).astype(numpy.float32) * model.codec.facts.scale
    numpy.savetxt(tmp_path / "cloud.xyz", points)
    found = enlarging_condition(model.codec.conditions).parse(str(tmp_path / "cloud.xyz"), range(2), 0)
    assert found.shape == (2, 8, 4)
    drawn = found[1, :, :3] * model.codec.facts.scale + torch.tensor(model.codec.facts.centre)
    assert (torch.cdist(drawn, torch.from_numpy(points)).amin(1) < 1e-4).all()
    assert not found[..., 3].any()


def test_what_cannot_be_enlarged_is_refused(runs, tmp_path, capsys):
    refused = partial(refusals.refused, capsys)
    few = tmp_path / "few.xyz"
    numpy.savetxt(few, numpy.eye(3))
    sample = ("sample", runs / "large", "--n", 1)
    assert "few.xyz has 3 points, but the clouds that this model enlarges have 8" in refused(
        *sample, "--condition", f"coarse={few}"
    )
    assert "none.xyz: there is no such file" in refused(*sample, "--condition", f"coarse={tmp_path / 'none.xyz'}")
    assert "large: the model enlarges clouds of 8 points, not 32 points" in refused(*sample, "--then", runs / "large")
    small = ("sample", runs / "small", "--n", 1, "--then")
    assert "not 5 points" in refused(*small, runs / "large", "--size", 5)
    run = dc.load(runs / "large")
    other = replace(run.model, modality=replace(run.model.modality, name="picture"))
    with pytest.raises(UserError, match="large is a run of pointcloud, and cannot enlarge picture"):
        require_enlarges(run, other)
    codec = SimpleNamespace(conditions=())
    plain = SimpleNamespace(path="plain", model=replace(run.model, codec=codec), settings=SimpleNamespace(data=None))
    with pytest.raises(UserError, match=r"plain does not enlarge samples: its data set has no option `data\.upscale`"):
        require_enlarges(plain, run.model)
    said = refused("train", "--modality", "pointcloud", "--data.upscale", 3)
    assert "--data.upscale 3: it must be a whole number from 2 on that divides the number of points" in said
