"""Sections of the report of a denoiser."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diffcore.denoising.denoiser import from_x0
from diffcore.evaluation.denoising import EXAMPLES, LEVELS, by_steps, errors
from diffcore.evaluation.evaluate import Evaluation
from diffcore.plugins import registry
from diffcore.plugins.output import Metric
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.state import combine, map_fields


@pytest.fixture(scope="module")
def digits():
    installed = registry.installed()
    network = {"name": "dit", "width": 16, "depth": 1, "heads": 2}
    settings = compose(installed, "image", file={"data": {"name": "digits"}, "denoiser": network})
    data = build_data(settings, installed)
    return build_model(settings, data.facts, installed), data


def errors_of(digits, denoise, seed=0):
    model, data = digits
    (points,) = errors(replace(model, network=denoise), data, SimpleNamespace(seed=seed)).values()
    assert len(points) == LEVELS
    return points


def test_an_estimate_of_zero_has_the_second_moment_of_the_data_as_its_error(digits):
    model, data = digits
    found = errors_of(digits, lambda x, level, *_: from_x0(map_fields(torch.zeros_like, x), x, level))
    expected = model.codec.encode(data.held_out[:EXAMPLES]).state.square().mean().item()
    assert [error for _, error in found] == pytest.approx([expected] * LEVELS, rel=1e-5)


def test_an_estimate_that_keeps_the_noise_has_its_variance_as_its_error(digits):
    """x / alpha - x0 = (sigma / alpha) eps, whose mean square is e^-lambda times that of the noise, which is 1."""
    found = errors_of(digits, lambda x, level, *_: from_x0(combine((1 / level.alpha, x)), x, level))
    in_units = [error * math.exp(log_snr) for log_snr, error in found]
    assert in_units == pytest.approx([in_units[0]] * LEVELS, rel=1e-3)
    assert in_units[0] == pytest.approx(1, abs=4 * math.sqrt(2 / (EXAMPLES * 64)))
    log_snrs = [log_snr for log_snr, _ in found]
    assert log_snrs == sorted(log_snrs)


def test_quality_over_steps():
    def kept(steps, value):
        return Evaluation({"steps": steps}, [Metric("quality", value, ""), Metric("samples", 10, "")])

    assert by_steps([kept(5, 1.0), kept(5, 2.0)]) == []
    assert by_steps([]) == []
    ((title, html),) = by_steps([kept(5, 1.0), kept(20, 0.25), kept(5, 2.0)])
    assert title == "Quality against steps"
    assert html.count("<polyline") == 1
    assert ">2</text>" in html  # the last evaluation of 5 steps, not the first
    assert ">0.25</text>" in html
