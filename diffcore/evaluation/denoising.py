"""Sections of the report of a denoiser: its error at each noise level, and the metrics over the number of steps."""

from collections.abc import Sequence

import torch

from diffcore.evaluation.evaluate import Evaluation
from diffcore.evaluation.kept import kept_evaluations, points_of
from diffcore.evaluation.report import curves
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.data import Data
from diffcore.runs.coding import encode
from diffcore.runs.model import Model
from diffcore.sampling.loop import levels_of, noised
from diffcore.states.noise import Draws, seed_of
from diffcore.states.spaces import space_of
from diffcore.states.state import combine, fields

EXAMPLES, LEVELS, FARTHEST = 32, 9, 10.0
"""Examples and noise levels of the curve of errors, and its largest log-SNR on either side."""

MOST_CURVES = 3
"""The number of metrics whose curves over the number of steps are shown."""

Series = dict[str, list[tuple[float, float]]]
"""Points by the name of their curve."""


def report(model: Model, data: Data, request: EvaluationRequest) -> list[tuple[str, str]]:
    """The error of x0 over the log-SNR, and the first metrics over the number of steps if there are several numbers."""
    text = (
        "<p>The mean squared error of the estimate of x0, for examples that training has not seen where there are any, "
        "per degree of freedom: near noise it is about the variance of the data, near data it is zero.</p>"
    )
    sections = [("Error by noise level", text + curves(errors(model, data, request), "log-SNR", "error of x0"))]
    if request.run is not None:
        sections += by_steps(kept_evaluations(request.run))
    return sections


@torch.no_grad()
def errors(model: Model, data: Data, request: EvaluationRequest) -> Series:
    """|x0_hat - x0|^2 of each field per degree of freedom, averaged over examples, at levels from noise to data.

    The examples are held-out ones where there are any, and the noise is the same at all levels.
    """
    examples = (data.examples if data.held_out is None else data.held_out)[:EXAMPLES]
    encoded, device, space = encode(model, examples), model.device, model.codec.space
    state, mask = encoded.state.to(device), None if encoded.mask is None else encoded.mask.to(device)
    conditions = {name: value.to(device) for name, value in encoded.conditions.items()}
    draws = Draws.of(seed_of(request.seed, "report", "levels"), range(state.shape[0]), device)
    ends = model.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).clamp(-FARTHEST, FARTHEST)
    log_snrs = torch.linspace(ends[0].item(), ends[1].item(), LEVELS, dtype=torch.float64)
    found: Series = {name: [] for name in fields(state)}
    for log_snr, level in zip(log_snrs.tolist(), levels_of(model.schedule, log_snrs), strict=False):
        x0 = model.denoiser(noised(state, space, draws, level, mask), level, conditions, mask).x0
        difference = space.project(combine((1.0, x0), (-1.0, state)), mask)
        for name, field in fields(difference).items():
            own = space_of(space, name)
            each = own.squared_norm(field, mask) / own.degrees_of_freedom(fields(state)[name], mask).clamp(min=1)
            found[name].append((log_snr, each.double().mean().item()))
    return found


def by_steps(evaluations: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """Curves of the first metrics over the number of steps, if evaluations with several numbers are kept."""
    names = [metric.name for evaluation in evaluations[-1:] for metric in evaluation.metrics]
    series = {name: points_of(evaluations, name) for name in names if name not in ("samples", "samples_per_second")}
    shown = [curves({"": points}, "steps", name) for name, points in series.items() if len(points) > 1]
    return [("Quality against steps", "".join(shown[:MOST_CURVES]))] if shown else []
