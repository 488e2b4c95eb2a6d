"""Networks of sets in float64: their symmetry, what they do not see, what they cost."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffcore.nn.sets import LatentSet, OctaveFeatures, SetTransformer

NETWORKS = [
    pytest.param(lambda: LatentSet(5, width=8, latents=3, latent_width=12, rounds=2, heads=2), id="latent"),
    pytest.param(lambda: SetTransformer(5, width=8, depth=2, heads=2), id="transformer"),
]


def awake(network, scale=0.3):
    """The network in float64, with nothing zero any more."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=scale)
    return network.double()


def batch(network, n=7):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randn(2, network.width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("make", NETWORKS)
def test_it_says_nothing_at_first(make):
    network = make().double()
    assert not network(*batch(network)).any()


@pytest.mark.parametrize("make", NETWORKS)
def test_a_permutation_of_elements_permutes_the_output(make):
    network = awake(make())
    x, conditioning = batch(network)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    said = network(x, conditioning)
    torch.testing.assert_close(network(x[:, order], conditioning), said[:, order], rtol=0, atol=1e-12)
    assert (said[:, order] - said).abs().max() > 0.1  # elements are told apart


@pytest.mark.parametrize("make", NETWORKS)
def test_elements_see_each_other(make):
    network = awake(make())
    x, conditioning = batch(network)
    other = x.clone()
    other[:, 0] += 1
    assert (network(other, conditioning) - network(x, conditioning))[:, 1:].abs().amax(2).min() > 1e-4


@pytest.mark.parametrize("make", NETWORKS)
def test_absent_elements_are_as_if_they_were_not_there(make):
    network = awake(make())
    x, conditioning = batch(network)
    mask = torch.arange(7) < torch.tensor([[4], [6]])
    padded = network(x.masked_fill(~mask[..., None], 100.0), conditioning, mask)
    for sample, size in enumerate((4, 6)):
        alone = network(x[sample : sample + 1, :size], conditioning[sample : sample + 1])
        torch.testing.assert_close(padded[sample, :size], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", NETWORKS)
def test_the_conditioning_matters_and_samples_do_not_mix(make):
    network = awake(make())
    x, conditioning = batch(network)
    said = network(x, conditioning)
    other = network(x, conditioning + torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(other[0], said[0], rtol=0, atol=1e-12)
    assert (other[1] - said[1]).abs().max() > 0.1


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_reach_all_parameters(make, masked):
    network = awake(make())
    x, conditioning = batch(network)
    mask = torch.arange(7) < torch.tensor([[4], [6]]) if masked else None
    network(x, conditioning, mask)[:, :4].square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


def test_each_element_of_latent_sets_twice_is_the_same_set():
    # Attention is a mean, so what is said of an element does not depend on how many there are.
    network = awake(LatentSet(5, width=8, latents=3, latent_width=12, rounds=2, heads=2))
    x, conditioning = batch(network)
    twice = network(torch.cat([x, x], 1), conditioning)
    torch.testing.assert_close(twice[:, :7], network(x, conditioning), rtol=0, atol=1e-12)


def flops(network, n):
    # The counter does not know the CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, n, 3, device="meta"), torch.zeros(1, network.width, device="meta"))
    return counter.get_total_flops()


def test_latents_make_the_cost_linear():
    with torch.device("meta"):  # operations are counted without computing them
        latent, transformer = LatentSet(3, rounds=3), SetTransformer(3)
    first, second, third = (flops(latent, n) for n in (1024, 2048, 3072))
    assert third - second == second - first > 0  # what is beside the line is the latents' own work
    # width 64, 32 latents, 3 rounds; multiply-adds of a point count twice: embedding and output, keys and values,
    # scores and means of both attentions, query and output of the second, MLP.
    point = 2 * (27 * 64 + 64 * 3) + 3 * 2 * (2 * 64**2 + 4 * 32 * 64 + 2 * 64**2 + 4 * 64**2)
    assert second - first == 1024 * point
    squares = [flops(transformer, n) for n in (1024, 2048, 3072)]
    assert squares[2] - 2 * squares[1] + squares[0] == 6 * 2 * 2 * 128 * 2 * 1024**2  # 6 blocks, scores and means


def test_octaves_are_waves_of_every_entry():
    features = OctaveFeatures(2, 10, octaves=2).double()
    with torch.no_grad():
        features.linear.weight.copy_(torch.eye(10))
        features.linear.bias.zero_()
    x = torch.tensor([[[0.3, -1.1]]], dtype=torch.float64)
    expected = torch.cat([x, x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos()], -1)
    torch.testing.assert_close(features(x), expected, rtol=0, atol=1e-15)
