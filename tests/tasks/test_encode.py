"""The task `encode`: losses in closed form for a linear autoencoder."""

import math

import pytest
import torch

from diffcore.errors import UserError
from diffcore.evaluation.evaluate import evaluate
from diffcore.evaluation.held_out import encoded_examples
from diffcore.evaluation.request import EvaluationRequest
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.runs.sampling_config import sampling_config
from diffcore.states.global_random import seeded
from diffcore.states.noise import Draws
from diffcore.tasks.batch import draw_examples
from tests.support.latent_toy import latent_registry

REGISTRY = latent_registry()


def built(**task):
    file = {"task": {"name": "encode", **task}, "train": {"batch_size": 200}}
    settings = compose(REGISTRY, "latent", file=file)
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


def rows(model, data):
    state = encoded_examples(model, data, 200).state
    return torch.cat([state["place"], state["radius"]], 1)


def with_principal_components(model, x):
    """The best linear autoencoder is the projection to the principal components (Baldi & Hornik 1989)."""
    axes = torch.linalg.svd(x - x.mean(0))[2][:2]
    network = model.network.autoencoder
    with torch.no_grad():
        network.encoder.weight.copy_(axes)
        network.decoder.weight.copy_(axes.T)
        network.decoder.bias.copy_(x.mean(0) - axes.T @ axes @ x.mean(0))
    return axes


def mean_loss(model, settings, data, seed=0):
    with seeded(seed):
        return model.task.loss(model, draw_examples(model, settings, data, 0), settings).mean()


def test_principal_components_are_where_the_loss_without_noise_is_smallest():
    model, settings, data = built(regularisation="none")
    x = rows(model, data)
    with_principal_components(model, x)
    found = mean_loss(model, settings, data)
    values = torch.linalg.svdvals((x - x.mean(0)).double())
    assert found.item() == pytest.approx(values[2:].square().sum().item() / x.numel(), rel=1e-4)
    gradients = torch.autograd.grad(found, list(model.network.parameters()))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-6


@pytest.mark.parametrize("log_snr", [5.0, 2.0])
def test_noise_of_a_log_snr_adds_its_variance_to_the_loss(log_snr):
    """|D s e|^2 for noise e of variance exp(-log_snr), over the numbers of the state."""
    model, settings, data = built(log_snr=log_snr)
    x = rows(model, data)
    axes = with_principal_components(model, x)
    variance = (x @ axes.T).var(0, correction=0).sum().item()
    plain = torch.linalg.svdvals((x - x.mean(0)).double())[2:].square().sum().item() / len(x)
    expected = (plain + variance * math.exp(-log_snr)) / 3
    found = torch.stack([mean_loss(model, settings, data, seed) for seed in range(100)]).mean().item()
    assert found == pytest.approx(expected, rel=0.01)  # of 20,000 draws


def test_the_noise_of_each_channel_follows_its_own_standard_deviation():
    model, *_ = built()
    latent = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 30.0])
    noise = model.network.noisy(latent, None, Draws.of(0, range(5000))) - latent
    log_snr = 2 * (latent.std(0) / noise.std(0)).log()
    torch.testing.assert_close(log_snr, torch.tensor([5.0, 5.0]), atol=0.06, rtol=0)


def test_the_divergence_is_that_of_two_normal_distributions():
    model, settings, data = built(regularisation="kl", kl_weight=0.5)
    stage = model.network
    with torch.no_grad():
        stage.log_variance["field_"].copy_(torch.tensor([-1.0, 0.5]))
    latent = torch.tensor([[0.3, -2.0], [0.0, 1.0]])
    own = torch.distributions.Normal(latent, torch.tensor([-0.5, 0.25]).exp())
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(stage.divergence(latent, None), expected)
    noise = stage.noisy(torch.zeros(5000, 2), None, Draws.of(0, range(5000)))
    torch.testing.assert_close(noise.std(0).log(), torch.tensor([-0.5, 0.25]), atol=0.03, rtol=0)
    batch = draw_examples(model, settings, data, 0)
    parts = model.task.losses_by_field(model, batch, settings)
    z = stage.autoencoder.encode(batch.x0)
    assert parts["divergence"] == pytest.approx(0.5 * stage.divergence(z, None).mean().item() / 3, rel=1e-5)


def test_transformed_examples_cost_nothing_where_the_decoder_is_equivariant():
    """A linear decoder without a bias decodes -z to -x."""
    model, settings, data = built(regularisation="none", equivariance=0.5)
    batch = draw_examples(model, settings, data, 0)
    plain, *_ = built(regularisation="none")
    plain.network.load_state_dict(model.network.state_dict())
    network = model.network.autoencoder
    with torch.no_grad():
        network.decoder.bias.zero_()
        plain.network.load_state_dict(model.network.state_dict())
    losses = [m.task.loss(m, batch, s) for m, s in ((model, settings), (plain, built(regularisation="none")[1]))]
    torch.testing.assert_close(losses[0], losses[1])
    with torch.no_grad():
        network.decoder.bias.fill_(1.0)
    biased = model.task.loss(model, batch, settings)
    z = network.encode(batch.x0)
    expected = (network.decoder(-z) + torch.cat([batch.x0["place"], batch.x0["radius"]], 1)).square().mean(1)
    torch.testing.assert_close(biased[:100], expected[:100])


def test_metrics_are_those_of_the_reconstructions():
    model, settings, data = built(regularisation="none")
    x = rows(model, data)
    with_principal_components(model, x)
    model.network.eval().requires_grad_(False)
    request = EvaluationRequest(settings, sampling_config(settings.sample, REGISTRY, model), 200)
    found = {metric.name: metric for metric in evaluate(model, data, request)}
    assert found["latent_std_error"].value == pytest.approx(0, abs=1e-5)  # all examples are training examples
    assert found["compression"].value == pytest.approx(1.5)
    decoded = model.network.autoencoder.decode(
        model.network.autoencoder.encode(encoded_examples(model, data, 200).state)
    )
    distance = (decoded["place"] - x[:, :2]).norm(dim=1).mean().item()
    assert found["distance"].value == pytest.approx(distance, rel=1e-4)
    assert found["distance"].meaning == "of points, of 200 training examples"
    shown = next(iter(model.task.pictures(model, data, request))).samples
    assert shown.shape == (400, 2)
    originals = encoded_examples(model, data, 200).state["place"]
    torch.testing.assert_close(shown.unflatten(0, (20, 2, 10))[:, 0].flatten(0, 1), originals)


def test_transforms_that_a_network_does_not_have_are_refused(monkeypatch):
    from tests.support.latent_toy import Linear

    monkeypatch.delattr(Linear, "transforms")
    with pytest.raises(UserError, match=r"`task.equivariance`: the autoencoder linear has no transforms"):
        built(equivariance=0.5)
