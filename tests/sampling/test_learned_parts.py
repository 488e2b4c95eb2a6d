"""Samples of which a part is known, by denoisers that know p(others | known)."""

import pytest
import torch

import diffcore as dc
from diffcore.denoising.along import conditions_alone
from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.denoiser import from_x0
from diffcore.denoising.known import known_in
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.inverse.editing import inpainting
from diffcore.states.spaces import Euclidean, ZeroCentred

PRECISION = torch.tensor([[2.0, -0.8, 0.3], [-0.8, 1.5, -0.6], [0.3, -0.6, 1.0]])


def conditional(x, level, conditions=None, mask=None):
    """E[x0 | x] of Gaussian data with the precision matrix, where known entries are x0 themselves.

    Given the known entries, the others have the precision P_uu and the mean -P_uu^-1 P_uk x0_k.
    """
    known, results = known_in(conditions), []
    assert known is not None, "the denoiser is told"
    for row, flag in zip(x, known, strict=True):
        ratio = level.alpha / level.sigma**2
        precision, given = PRECISION[~flag][:, ~flag], row[flag]
        shift = -PRECISION[~flag][:, flag] @ given
        x0 = row.clone()
        whole = precision + level.alpha * ratio * torch.eye(len(precision))
        x0[~flag] = torch.linalg.solve(whole, shift + ratio * row[~flag])
        results.append(x0)
    return from_x0(torch.stack(results), x, level)


@pytest.mark.parametrize("solver", ["adams", "edm"])
def test_an_exact_denoiser_draws_the_conditional_distribution(solver):
    values, known = torch.tensor([[0.0, 1.2, 0.0]]), torch.tensor([[False, True, False]])
    drawn = dc.sample(
        conditional,
        800,
        space=Euclidean((3,)),
        steps=25,
        solver=solver,
        constraint=inpainting(values, known, Euclidean((3,)), "learned"),
    )
    assert (drawn[:, 1] == values[0, 1]).all()
    others = [0, 2]
    covariance = torch.linalg.inv(PRECISION[others][:, others])
    mean = covariance @ -PRECISION[others][:, 1] * values[0, 1]
    tolerance = 4 * (covariance.diagonal() / 800).sqrt().max().item()
    torch.testing.assert_close(drawn[:, others].mean(0), mean, atol=tolerance + 0.02, rtol=0)
    torch.testing.assert_close(drawn[:, others].T.cov(), covariance, atol=0.17, rtol=0)


def test_what_is_known_differs_by_sample_and_passes_through_guidance():
    """Guidance evaluates rows with and without conditions in one batch: each row is told its own known entries."""
    label = ClassCondition("label", ("a", "b"))
    told = []

    def watched(x, level, conditions=None, mask=None):
        told.append((known_in(conditions), conditions_alone(conditions)))
        return conditional(x, level, conditions, mask)

    values = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, -2.0]])
    known = torch.tensor([[True, False, False], [False, True, True]])
    drawn = dc.sample(
        classifier_free(watched, (label,), 2.0),
        2,
        space=Euclidean((3,)),
        steps=3,
        conditions={"label": torch.tensor([0, 1])},
        constraint=inpainting(values, known, Euclidean((3,)), "learned"),
    )
    assert torch.equal(drawn[known], values[known])
    for flags, conditions in told:
        assert torch.equal(flags, known.repeat(2, 1))
        assert set(conditions) == {"label"}


def test_a_set_is_drawn_around_known_elements_wherever_its_centre_is():
    """Three independent points up to translation: the third lies about the mean of the two known with variance 1.5."""
    space = ZeroCentred((3, 1))

    def third(x, level, conditions=None, mask=None):
        x0 = x.clone()
        x0[:, 2] = level.alpha * 1.5 / (1.5 * level.alpha**2 + level.sigma**2) * x[:, 2]
        return from_x0(x0, x, level)

    values = torch.tensor([[[5.0], [2.0], [0.0]]])
    known = torch.tensor([[[True], [True], [False]]])
    drawn = dc.sample(third, 1500, space=space, steps=20, constraint=inpainting(values, known, space, "learned"))
    assert drawn.mean(1).abs().max() < 1e-5
    torch.testing.assert_close(drawn[:, 0] - drawn[:, 1], torch.full((1500, 1), 3.0))
    offset = drawn[:, 2] - drawn[:, :2].mean(1)
    assert offset.mean().item() == pytest.approx(0, abs=0.1)
    assert offset.var().item() == pytest.approx(1.5, rel=0.12)


def test_a_network_that_has_not_learned_it_says_so():
    class Network(torch.nn.Module):
        width = 4

        def forward(self, x, conditioning, mask=None):
            return x

    constraint = inpainting(torch.zeros(1, 3), torch.tensor([[True, False, False]]), Euclidean((3,)), "learned")
    with pytest.raises(dc.UserError, match=r"has not learned states of which a part is known: train it with `levels"):
        dc.sample(dc.Denoiser(Network()), 1, (3,), constraint=constraint, steps=2)
