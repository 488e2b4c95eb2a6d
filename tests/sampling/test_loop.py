import torch

from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.denoiser import Denoiser, from_x0
from diffcore.nn.dit import DiT
from diffcore.process.schedules import Cosine
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import ddim, ddpm
from diffcore.sampling.timesteps import karras
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean

LABEL = ClassCondition("label", ("a", "b", "c"))


def small_denoiser():
    torch.manual_seed(0)
    denoiser = Denoiser(DiT(1, (8, 8), 4, 32, 2, 2), (LABEL,))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


def test_a_sample_is_the_same_in_every_batch():
    denoiser, space, schedule = small_denoiser(), Euclidean((1, 8, 8)), Cosine()
    levels = levels_of(schedule, karras(schedule, 6))

    def draw(indices):
        conditions = {"label": torch.tensor(list(indices)) % 3}
        return sample(denoiser, space, ddpm(), levels, indices=indices, seed=3, conditions=conditions)

    many, one = draw(range(12, 44)), draw([17])
    torch.testing.assert_close(many[5], one[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(many[5], many[6], atol=0.1)


def by_label(x, level, conditions=None, mask=None):
    """A denoiser whose x0 is the label itself, and -1 where none is given."""
    label = conditions["label"].to(x.dtype)
    return from_x0(torch.where(label == 3, -torch.ones_like(label), label)[:, None].expand_as(x), x, level)


def test_classifier_free_guidance_is_its_formula():
    x, level = torch.randn(4, 5), Level(0.6, 0.8)
    given = {"label": torch.tensor([0, 1, 2, 0])}
    for weight in (0.0, 0.5, 1.0, 3.0):
        found = classifier_free(by_label, (LABEL,), weight)(x, level, given)
        expected = -1 + weight * (given["label"].float()[:, None] + 1)
        torch.testing.assert_close(found.x0, expected.expand_as(x))
        # Both views still describe the same x, and eps is extrapolated as x0 is.
        torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.eps, x)


def test_guidance_runs_both_passes_as_one_batch_and_one_where_one_is_enough():
    sizes = []

    def counting(x, level, conditions=None, mask=None):
        sizes.append(len(x))
        return by_label(x, level, conditions, mask)

    x, given = torch.randn(4, 5), {"label": torch.zeros(4, dtype=torch.long)}
    for weight in (0.0, 1.0, 2.0):
        classifier_free(counting, (LABEL,), weight)(x, Level(0.6, 0.8), given)
    assert sizes == [4, 4, 8]


def test_guidance_nests():
    inner = classifier_free(by_label, (LABEL,), 2.0)
    x, given = torch.randn(4, 5), {"label": torch.tensor([0, 1, 2, 0])}
    found = classifier_free(inner, (LABEL,), 3.0)(x, Level(0.6, 0.8), given)
    # The inner unconditional pass is the null label guided towards itself.
    expected = -1 + 3 * 2 * (given["label"].float()[:, None] + 1)
    torch.testing.assert_close(found.x0, expected.expand_as(x))


def test_conditions_reach_every_step():
    schedule = Cosine()
    levels = levels_of(schedule, karras(schedule, 4))
    conditions = {"label": torch.tensor([2, 0])}
    x = sample(by_label, Euclidean((5,)), ddim(), levels, indices=range(2), conditions=conditions)
    torch.testing.assert_close(x, torch.tensor([[2.0], [0.0]]).expand(2, 5))
