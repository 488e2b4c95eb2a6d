"""What the samples of an evaluation are asked to be."""

import pytest
import torch
from tensordict import TensorDict

from diffcore.evaluation.samples import asked_examples


def numbered(first, last):
    return TensorDict({"text": torch.arange(first, last)}, batch_size=[last - first])


@pytest.mark.parametrize(
    ("n", "others", "texts"),
    [
        (3, 6, [0, 1, 2]),
        (4, 6, [0, 1, 2, 3]),
        (7, 6, [0, 1, 2, 3, 10, 12, 14]),
        (10, 6, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]),
        (12, 6, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 10, 11]),
        (6, None, [0, 1, 2, 3, 0, 1]),
    ],
)
def test_texts_are_repeated_only_where_there_are_no_others(n, others, texts):
    others = None if others is None else numbered(10, 10 + others)
    found = [text for part in asked_examples(numbered(0, 4), others, n) for text in part["text"].tolist()]
    assert found == texts
