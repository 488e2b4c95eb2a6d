"""A mixture of two correlated Gaussians of two fields, with everything in closed form, and checks of samples of it."""

import torch

from diffcore.process.schedules import ByField, Cosine
from diffcore.states.spaces import Euclidean, Product
from diffcore.states.state import fields, named
from diffcore.testing.oracles import JointMixture

SPACE = Product({"a": Euclidean((1,)), "b": Euclidean((2,))})
_ROOTS = torch.tensor(
    [
        [[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.3]],
        [[0.4, 0.0, 0.0], [-0.3, 0.5, 0.0], [0.1, -0.2, 0.4]],
    ],
    dtype=torch.float64,
)
JOINT = JointMixture(
    named({"a": torch.tensor([[-1.5], [1.0]]).double(), "b": torch.tensor([[-1.0, 0.5], [1.2, -0.4]]).double()}),
    _ROOTS @ _ROOTS.mT,
    torch.tensor([0.35, 0.65], dtype=torch.float64),
)
COUNT = 1000
SHIFTED = ByField(Cosine(), {"a": 0.0, "b": -3.0})


def normal(generator, count=COUNT):
    return named({"a": torch.randn(count, 1, generator=generator), "b": torch.randn(count, 2, generator=generator)})


def flat(state):
    return torch.cat([state[name].double().flatten(1) for name in state.keys()], 1)


def check_distribution(samples, exact, bias=0.02):
    """Mean, covariance and the weight of each mode, within 4 standard errors and the `bias` of the solver."""
    mean, covariance = exact.moments()
    std, error = covariance.diagonal().sqrt(), 4 / COUNT**0.5 + bias
    assert ((samples.mean(0) - mean).abs() < error * std).all()
    scale = torch.outer(std, std)
    assert ((samples.T.cov() - covariance).abs() < 2.5 * error * scale).all()
    means = torch.cat([value.flatten(1) for value in fields(exact.means).values()], 1)
    direction = means[1] - means[0]
    right = ((samples - means.mean(0)) @ direction > 0).double().mean()
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = 0.0
    for weight, own, each in zip(exact.weights, means, exact.covariances, strict=True):
        height = (own - means.mean(0)) @ direction / (direction @ each @ direction).sqrt()
        expected += (weight * normal.cdf(height)).item()
    assert abs(right.item() - expected) < 4 * 0.5 / COUNT**0.5 + bias / 2
