import pytest
import torch


@pytest.fixture
def float64():
    """Tensors are of float64 unless said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
