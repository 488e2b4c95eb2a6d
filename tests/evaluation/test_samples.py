"""What the samples of an evaluation are asked to be, and how they are shown."""

import pytest
import torch
from tensordict import TensorDict

from diffcore.evaluation.request import EvaluationRequest
from diffcore.evaluation.samples import asked_examples, pictures
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.runs.sampling_config import sampling_config
from tests.support.toy import toy_registry


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


@pytest.mark.parametrize("n", [1, 3, 7])
def test_trajectories_of_any_number_of_samples_end_in_the_samples(n):
    """At most five are shown, each as nine moments and the sample."""
    registry = toy_registry()
    settings = compose(registry, "toy", file={"sample": {"steps": 3}})
    data = build_data(settings, registry)
    model = build_model(settings, data.facts, registry)
    request = EvaluationRequest(settings, sampling_config(settings.sample, registry, model), n, together=False)
    samples, trajectories = pictures(model, data, request)
    assert len(samples.samples) == n
    assert trajectories.columns == 10
    torch.testing.assert_close(trajectories.samples[9::10], samples.samples[:5])
