"""Runs made of given weights."""

import pytest
import torch

import diffcore
from diffcore.errors import UserError
from diffcore.interop.weights import drawing_run, run_of_weights
from diffcore.plugins import registry as plugins

SETTINGS = {"denoiser": {"name": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 2}, "data": {"name": "digits"}}
FACTS = {"channels": 1, "height": 8, "width": 8, "mean": (0.5,), "std": (0.25,)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a small network, with other values than any seed draws."""
    from diffcore.runs.composing import compose
    from diffcore.runs.model import build_model

    registry = plugins.installed()
    facts = registry.modality("image").facts(**FACTS)
    state = build_model(compose(registry, "image", file=SETTINGS), facts, registry).network.state_dict()
    return {name: torch.full_like(tensor, 0.01) for name, tensor in state.items()}


def made(out, weights, **settings):
    return run_of_weights(out, "image", SETTINGS | settings, FACTS, weights, plugins.installed(), "there")


def test_the_run_has_the_weights_and_draws(tmp_path, weights):
    path = made(tmp_path / "run", weights)
    found = drawing_run(path, plugins.installed()).model.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert diffcore.load(path).sample(2, steps=2).decoded.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, w: w.pop(name), "is missing"),
        (lambda name, w: w.update(other=torch.zeros(1)), "'other' is not in it"),
        (lambda name, w: w.update({name: torch.zeros(3, 5, 7)}), r"\[3, 5, 7\]"),
        (lambda name, w: w.update({name: torch.full_like(w[name], torch.inf)}), "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, change, message):
    changed = dict(weights)
    change(next(iter(weights)), changed)
    with pytest.raises(UserError, match=message):
        made(tmp_path / "run", changed)
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_exist_are_refused(tmp_path, weights):
    with pytest.raises(UserError, match="strange"):
        made(tmp_path / "run", weights, strange=1)
