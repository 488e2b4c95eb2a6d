import pytest
import torch

from tests.core.toy import put_in_place, toy_registry


@pytest.fixture
def float64():
    """Tensors are of float64 unless said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def toy():
    """Every command sees the toy alone."""
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, toy_registry())
        yield
