"""Samples that are kept, ranked or put into tables by their values."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffcore.api.opened import OpenedRun
from diffcore.errors import UserError
from diffcore.plugins.data import Data
from diffcore.runs.drawing import Drawing
from diffcore.runs.keeping import Wish, selected
from diffcore.runs.particles import require_factor
from diffcore.runs.scores import DataOf, Scoring
from diffcore.runs.tables import ENDINGS, TableWriter, columns_of, require_parquet
from diffcore.system.progress import counter

logger = logging.getLogger(__name__)


def chosen(
    run: OpenedRun,
    drawing: Drawing,
    wish: Wish,
    functions: Mapping[str, Callable[..., Any]],
    columns: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    folder: Path | None = None,
) -> Drawing:
    """The drawing with a writer of tables, and with the samples that the wish asks for, which are drawn here.

    What is drawn is kept in `folder` until the caller deletes it, if one is given.

    Raises `UserError` for names of values that do not exist, and for `columns` where no table is written.
    """
    require_factor(drawing.config)
    if wish.tries < 1:
        raise UserError(f"`tries` {wish.tries}: draw each sample at least once")
    is_table = out is not None and Path(out).suffix.lower() in ENDINGS
    if columns is not None and not is_table:
        raise UserError(f"`columns` is for tables: give an `out` that ends in {', '.join(ENDINGS)}")
    scoring = Scoring(drawing.model, data_for_scores(run), functions)
    if drawing.model.modality.scorer is not None or functions:
        names = columns_of(scoring, columns)
        if is_table:
            require_parquet(Path(out or ""))
            scoring.require(names)
        drawing = replace(drawing, tabled=lambda writer, asked: TableWriter(writer, scoring, names, asked))
    checked = drawing.constraint is not None and drawing.constraint.settled is not None
    if not wish.keep and not wish.rank and not checked:
        return drawing
    with counter("keeping" if wish.keep or checked else "sampling", drawing.n) as after_batch:
        return selected(drawing, scoring, wish, after_batch, folder)


def data_for_scores(run: OpenedRun) -> DataOf:
    """The data of the run; None, with a warning, if they cannot be read."""
    found: list[Data | None] = []

    def data() -> Data | None:
        if not found:
            try:
                found.append(run.data)
            except UserError as error:
                logger.warning(f"values that need the training data are left empty: {error}")
                found.append(None)
        return found[0]

    return data
