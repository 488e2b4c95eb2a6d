"""The optimiser Muon: against the singular value decomposition, PyTorch's own Muon, and Adam."""

import pytest
import torch
from torch import nn

from diffcore.errors import UserError
from diffcore.training.muon import Muon, matrices, orthogonal
from diffcore.training.parallel import require_whole


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 8, 5), (1, 4, 4)])
def test_singular_vectors_stay_and_singular_values_are_nearly_one(shape):
    """The singular values of the result are those of the scalar iteration, which are between 0.67 and 1.2."""
    torch.manual_seed(0)
    given = torch.randn(shape, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(given, full_matrices=False)
    s = s / s.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert s.min() > 0.67
    assert s.max() < 1.21
    torch.testing.assert_close(orthogonal(given), u @ (s[:, :, None] * vt), rtol=0, atol=1e-6)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4), nn.LayerNorm(4))


def trained(own, optimizers, steps=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(32, 6, generator=generator)
        own.zero_grad()
        (own(x)[:, 0] - x.sum(1)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return own


def test_it_is_pytorch_s_muon_on_matrices_and_adam_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)  # the type in which PyTorch's Muon computes
    first, second = network(), network()
    trained(first, [Muon(first, 0.01, betas=(0.9, 0.99))])
    matrix = torch.optim.Muon(matrices(second), 0.01, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    others = [parameter for parameter in second.parameters() if parameter.ndim == 1]
    trained(second, [matrix, torch.optim.Adam(others, 0.01, betas=(0.9, 0.99))])
    for name, mine in first.named_parameters():
        torch.testing.assert_close(mine, second.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_a_convolution_is_a_matrix_with_a_row_for_each_output_channel():
    torch.manual_seed(0)
    linear, convolution = nn.Linear(18, 4), nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight.view(4, 2, 3, 3))
        convolution.bias.copy_(linear.bias)
    x = torch.randn(16, 18)
    for own, given in ((linear, x), (convolution, x.view(16, 2, 3, 3))):
        optimizer = Muon(own, 0.1)
        for _ in range(2):
            own.zero_grad()
            own(given).flatten(1).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(convolution.weight.flatten(1), linear.weight)


def test_embeddings_and_positions_are_left_to_adam():
    own = nn.ModuleDict({"table": nn.Embedding(5, 4), "map": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    assert [id(weight) for weight in matrices(own)] == [id(own["map"].weight)]
    own["map"].requires_grad_(False)
    assert matrices(own) == []


def test_the_learning_rate_may_be_a_tensor():
    """A CUDA graph reads it from a tensor; both parts of the optimiser follow it."""
    first, second, rate = network(), network(), torch.tensor(0.5)
    optimizer = Muon(second, rate)
    rate.fill_(0.01)
    trained(first, [Muon(first, 0.01)])
    trained(second, [optimizer])
    for name, value in first.named_parameters():
        torch.testing.assert_close(second.get_parameter(name), value)


def test_shards_of_matrices_are_refused(monkeypatch):
    monkeypatch.setattr("diffcore.training.parallel.world", lambda: 2)
    require_whole("adam", "fsdp")
    require_whole("muon", "ddp")
    with pytest.raises(UserError, match="muon needs whole matrices: use `train"):
        require_whole("muon", "fsdp")
