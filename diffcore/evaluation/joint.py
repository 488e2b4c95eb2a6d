"""How well the sides of joint states are drawn given the others."""

import functools
from collections.abc import Iterator
from typing import Any

import torch

from diffcore.denoising.conditions import nulls
from diffcore.errors import RAISED_BY_PLUGINS, UserError, told
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.building import require_metrics
from diffcore.plugins.data import Data, Encoded, sides_of, spread_rows
from diffcore.plugins.output import Metric, Picture
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.coding import decode, encode
from diffcore.runs.generation import generate_together, unguided
from diffcore.runs.joint import others_given
from diffcore.runs.kept_draws import draws_of
from diffcore.runs.model import Model
from diffcore.states.state import concatenate, fields
from diffcore.system.distributed import by_leader, from_leader
from diffcore.system.progress import counter

SHOWN = 5
"""The number of examples whose sides are shown."""
DRAWS = 3
"""How often a side of each of them is drawn."""


def side_metrics(model: Model, data: Data, request: EvaluationRequest, evaluator: Any) -> list[Metric]:
    """The metrics of each side, drawn given the other sides of held-out examples, by `Evaluator.of_side`.

    No conditions are given. There are as many samples as `request.n`, or as held-out examples where these are fewer;
    training examples take their place where there are none. With several processes, only the leader gets metrics.
    """
    measure = getattr(evaluator, "of_side", None)
    if not from_leader(lambda: measure is not None):
        return []
    examples = _examples(model, data, request.n)
    found: list[Metric] = []

    @functools.cache
    def real() -> Any:
        return decode(model, examples.state, examples.mask)

    with counter("sampling sides", examples.state.shape[0] * len(sides_of(model.codec))) as after_batch:
        for side in sides_of(model.codec):
            drawn = _drawn(model, request, side, examples, after_batch)

            def measured(drawn: Encoded | None = drawn, side: str = side) -> list[Metric]:
                assert measure is not None
                assert drawn is not None
                metrics: list[Metric] = measure(side, decode(model, drawn.state, drawn.mask), real())
                require_metrics(metrics, f"of the side {side}")
                return metrics

            try:
                found += by_leader(measured) or ()
            except UserError:
                raise
            except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
                request.complain(f"the side {side} could not be measured: {told(error)}")
    return found


def side_pictures(model: Model, data: Data, request: EvaluationRequest) -> Iterator[Picture]:
    """A picture of each side: in each row a held-out example, and samples of the side given the rest of it."""
    examples = _examples(model, data, SHOWN)
    count = examples.state.shape[0]
    rows = torch.arange(count).repeat_interleave(DRAWS)
    repeated = Encoded(examples.state[rows], {}, None if examples.mask is None else examples.mask[rows])
    order = torch.cat(
        [torch.arange(count)[:, None], count + torch.arange(count * DRAWS).view(count, DRAWS)], 1
    ).flatten()
    for side in sides_of(model.codec):
        drawn = _drawn(model, request, side, repeated, lambda done: None)
        if drawn is None:
            return
        states = concatenate([examples.state.cpu(), drawn.state])
        masks = None if examples.mask is None else torch.cat([examples.mask.cpu(), drawn.mask])  # type: ignore[list-item]
        yield Picture(
            f"The side {side}, drawn given the others: in each row a real example, and {DRAWS} samples",
            decode(model, states[order], None if masks is None else masks[order]),
            columns=DRAWS + 1,
        )


def _examples(model: Model, data: Data, n: int) -> Encoded:
    """At most `n` of the held-out examples, encoded."""
    examples = data.examples if data.held_out is None else data.held_out
    return encode(model, examples[spread_rows(examples, n)])


def _drawn(model: Model, request: EvaluationRequest, side: str, examples: Encoded, after_batch: Any) -> Encoded | None:
    """A sample of the side for each of the examples, given their other sides."""
    count = examples.state.shape[0]
    constraint = others_given(model, side, examples.state, examples.mask)
    conditions = nulls(model.codec.conditions, count, "cpu")
    config = unguided(request.config)
    given = f"{side} given {tensors_digest(fields(examples.state))}"
    kept = draws_of(request.drawn, model, config, conditions, request.seed, given)
    return generate_together(model, config, conditions, count, request.seed, after_batch, constraint, kept=kept)
