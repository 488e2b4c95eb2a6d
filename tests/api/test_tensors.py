"""A tensor and a network of one's own, against closed forms."""

import pytest
import torch

import diffcore as dc
from diffcore.testing.oracles import gaussian

MEAN, STD = 0.5, 0.3


class Exact(torch.nn.Module):
    """v of N(0, 1) data, which is 0: the denoiser x0_hat = alpha x / (alpha^2 + sigma^2) at data_std 1."""

    def __init__(self):
        super().__init__()
        self.width = 8
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, conditioning):
        return self.scale * x


def test_the_loss_of_the_exact_denoiser_is_the_posterior_variance():
    """Of N(0, 1) data and the weighting v, (1 + SNR) E|x0_hat - x0|^2 = 1 at every level."""
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    loss = dc.denoising_loss(dc.Denoiser(Exact()), x, generator=torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(1.0, rel=0.01)
    wrong = Exact()
    wrong.scale.data += 0.3
    assert dc.denoising_loss(dc.Denoiser(wrong), x, generator=torch.Generator().manual_seed(1)) > 1.05


def test_a_gradient_step_lowers_the_loss_and_a_seed_repeats_it():
    network = Exact()
    network.scale.data += 0.5
    denoiser, x = dc.Denoiser(network), torch.randn(512, 2, generator=torch.Generator().manual_seed(0))

    def loss():
        return dc.denoising_loss(denoiser, x, schedule="linear", generator=torch.Generator().manual_seed(3))

    first = loss()
    assert torch.equal(first, loss())
    first.backward()
    network.scale.data -= 0.1 * network.scale.grad
    assert loss() < first


def test_the_global_generator_is_used_where_none_is_given():
    denoiser, x = dc.Denoiser(Exact()), torch.ones(4, 2)
    torch.manual_seed(0)
    first, second = dc.denoising_loss(denoiser, x), dc.denoising_loss(denoiser, x)
    torch.manual_seed(0)
    assert torch.equal(dc.denoising_loss(denoiser, x), first)
    assert first != second


def test_samples_have_the_moments_of_the_data():
    samples = dc.sample(gaussian(MEAN, STD), n=4000, shape=(2,), steps=12)
    assert samples.mean(0).tolist() == pytest.approx([MEAN] * 2, abs=0.02)
    assert samples.std(0).tolist() == pytest.approx([STD] * 2, rel=0.04)


def test_samples_do_not_depend_on_the_batch():
    whole = dc.sample(gaussian(MEAN, STD), n=7, shape=(3,), steps=4, seed=2)
    pieces = dc.sample(gaussian(MEAN, STD), n=7, shape=(3,), steps=4, seed=2, batch_size=2)
    assert torch.equal(whole, pieces)
    by_space = dc.sample(gaussian(MEAN, STD), n=7, space=dc.spaces.Euclidean((3,)), steps=4, seed=2)
    assert torch.equal(whole, by_space)


def test_samples_agree_with_what_is_known():
    plane = dc.spaces.Euclidean((2,))
    constraint = dc.inpainting(torch.tensor([[0.9, 0.0]]), torch.tensor([[True, False]]), plane)
    samples = dc.sample(gaussian(MEAN, STD), n=2000, space=plane, solver="ddpm", steps=80, constraint=constraint)
    assert (samples[:, 0] == 0.9).all()
    assert samples[:, 1].mean().item() == pytest.approx(MEAN, abs=0.03)  # the coordinates are independent
    assert samples[:, 1].std().item() == pytest.approx(STD, rel=0.06)


def test_likelihoods_are_those_of_the_density():
    x = torch.tensor([[0.5, 0.5], [0.2, 1.0]], dtype=torch.float64)
    expected = torch.distributions.Normal(MEAN, STD).log_prob(x).sum(1)
    assert dc.log_likelihood(gaussian(MEAN, STD), x).tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_conditions_are_values_or_names():
    known = (dc.ClassCondition("side", ("left", "right")),)

    class Sides(torch.nn.Module):
        width = 4

        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x, conditioning):
            return torch.zeros_like(x)

    network = Sides()
    denoiser = dc.Denoiser(network, known)
    seen = []
    denoiser.conditioning.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]["side"].tolist()))
    dc.sample(denoiser, n=2, shape=(1,), steps=1, conditions={"side": "right"})
    dc.sample(denoiser, n=2, shape=(1,), steps=1, conditions={"side": torch.tensor([1, 0])})
    dc.sample(denoiser, n=2, shape=(1,), steps=1, conditions={"side": 0})
    dc.sample(denoiser, n=2, shape=(1,), steps=1)
    assert seen == [[1, 1], [1, 0], [0, 0], [2, 2]]  # 2 is the null value


def test_a_network_that_trains_goes_on_training():
    network = Exact()
    denoiser = dc.Denoiser(network).train()
    dc.sample(denoiser, n=1, shape=(1,), steps=1)
    assert denoiser.training
    assert network.training


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give either `shape` or `space`"),
        ({"shape": (2,), "space": dc.spaces.Euclidean((2,))}, "give either `shape` or `space`"),
        ({"shape": (2,), "solver": "dimm"}, r"unknown solver 'dimm' \(did you mean 'ddim'\?\); there are: adams"),
        ({"shape": (2,), "schedule": {"name": "cosine", "shift": 99}}, r"the schedule cosine: shift: .*\(it is 99\)"),
        ({"shape": (2,), "conditions": {"side": "left"}}, "the denoiser has no condition 'side'"),
        ({"shape": (2,), "steps": 0}, "at least 1 step"),
    ],
)
def test_mistakes_get_a_line(arguments, said):
    with pytest.raises(dc.UserError, match=said):
        dc.sample(gaussian(MEAN, STD), n=2, **arguments)
