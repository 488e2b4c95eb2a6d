"""What holds for the presets of every kind of data that is installed."""

import pytest

from diffcore.plugins.registry import installed
from diffcore.runs.composing import compose

PRESETS = [(name, preset) for name, found in installed().modalities.items() for preset in found.record.presets]


@pytest.mark.parametrize(("modality", "preset"), PRESETS)
def test_presets_say_steps(modality, preset):
    """Minutes would train half as long on a machine that is half as fast."""
    train = compose(installed(), modality, preset).train
    assert train.steps is not None
    assert train.minutes is None
