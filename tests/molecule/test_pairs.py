"""The numbering of the pairs of atoms."""

import pytest
import torch

from diffcore_molecule.networks.pair_features import Pairs


@pytest.mark.parametrize("n", [1, 2, 3, 9, 30])
def test_pairs_are_those_of_the_upper_triangle_row_by_row(n):
    pairs, expected = Pairs(n, torch.device("cpu")), torch.triu_indices(n, n, 1)
    assert torch.equal(torch.stack([pairs.first, pairs.second]), expected)
    values = torch.randn(2, expected.shape[1], 3, generator=torch.Generator().manual_seed(0))
    dense = pairs.dense(values)
    assert torch.equal(dense, dense.transpose(1, 2))
    assert torch.equal(dense[:, expected[0], expected[1]], values)
    assert not dense.diagonal(dim1=1, dim2=2).any()
