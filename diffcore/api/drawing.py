"""Making a drawing of what a caller requests of a run."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from diffcore.api.asked import Asked, Prompt, all_asked, requested_values
from diffcore.api.opened import OpenedRun
from diffcore.errors import UserError
from diffcore.plugins.text import NAME, require_text
from diffcore.runs.choices import writing_of
from diffcore.runs.drawing import Drawing
from diffcore.runs.fitted_grid import with_fitted_grid
from diffcore.runs.folder import RunFolder
from diffcore.runs.generation import require_conditions, resized, unguided_without_conditions
from diffcore.runs.model import require_draws
from diffcore.runs.sampling_config import SamplingOptions
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.solvers import ddpm
from diffcore.states.noise import seed_number

logger = logging.getLogger(__name__)


def drawing_of(
    run: OpenedRun,
    n: int,
    label: str | None,
    conditions: Asked | None,
    seed: int,
    size: str | int | None,
    constraint: Constraint | None,
    options: SamplingOptions,
    prompt: Prompt | None = None,
    write: Mapping[str, Any] | None = None,
) -> Drawing:
    """What `diffcore.api.run.Run.sample` draws with these arguments. Raises `UserError` for what cannot be drawn."""
    if n < 1:
        raise UserError(f"`n` {n}: draw at least 1 sample")
    seed = seed_number(seed)
    model, config = run.config(options)
    require_draws(model, run.path)
    if size is not None and model.codec.sizes is None:
        if constraint is not None and constraint.codec is None:
            raise UserError("`size` cannot be changed where samples have to agree with a file")
        if kept := next((guide.words for guide in config.guides if guide.least_size), None):
            raise UserError(f"`size` cannot be changed where samples keep elements: {kept}")
        model = resized(model, str(size)) if constraint is None else model
    if constraint is not None and constraint.codec is not None:
        model = replace(model, codec=constraint.codec)
    if constraint is not None and constraint.steers and options.get("solver") is None:
        # Fresh noise in each step corrects what the constraint does to the path.
        config = replace(config, step=ddpm(), solver="ddpm", may_be_fitted=False)
    asked = all_asked(label, conditions, prompt, n)
    by_guides: dict[str, Tensor] = {}
    for guide in config.guides:
        if twice := next((name for name in guide.asks if name in asked), None):
            raise UserError(f"`{twice}` is given, and the guide {guide.name} sets it: give one of them")
        by_guides |= guide.asks
    if NAME in asked:
        require_text(model.codec.conditions, NAME)
    values = requested_values(model, config, asked | by_guides, n, seed, examples=constraint is None)
    if all(options.get(name) is None for name in ("guidance", "classifier", "guides")):
        # The guidance of the run's settings is not an error where no condition is given.
        config = unguided_without_conditions(model, config, values)
    require_conditions(model, config, values)
    if constraint is None:
        config = with_fitted_grid(config, RunFolder(run.path), run.loaded.checkpoint.name)
    elif constraint.draw is None:
        why = ", so that samples agree with a measurement" if constraint.steers else ""
        logger.info(f"drawing with {config.describe()}{why}")
    drawing = Drawing(
        model,
        run.loaded.checkpoint,
        config,
        values,
        n,
        seed,
        asked,
        None if size is None else str(size),
        constraint,
        writing_of(model.modality, write),
    )
    drawing.mask(range(1))
    return drawing
