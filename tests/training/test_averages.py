import pytest
import torch

from diffcore.training import averages as ema


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_the_published_one(width, gamma):
    """Karras et al. 2024, section 3: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert ema.gamma_of(width) == pytest.approx(gamma, abs=0.01)


def test_the_average_has_the_power_function_profile():
    """Weight of step t in the average after T steps is proportional to about t^gamma, with std width * T."""
    total, width = 4000, 0.1
    steps = torch.arange(1, total + 1, dtype=torch.float64)
    first, second = torch.zeros(()).double(), torch.zeros(()).double()
    for t in range(1, total + 1):
        decay = ema.power_decay(t, width)
        average = [first, second]
        ema.update(average, [steps[t - 1], steps[t - 1] ** 2], decay)
        first, second = average
    gamma = ema.gamma_of(width)
    assert first.item() / total == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-3)
    assert (second - first**2).sqrt().item() / total == pytest.approx(width, rel=1e-2)


def test_the_first_update_takes_the_weights():
    average = [torch.full((2,), 5.0)]
    ema.update(average, [torch.ones(2)], ema.power_decay(1, 0.1))
    assert average[0].tolist() == [1, 1]
