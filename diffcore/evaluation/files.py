"""Samples of any program, in files, and their metrics."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import nulls
from diffcore.errors import RAISED_BY_PLUGINS, UserError, told
from diffcore.evaluation.request import MetricFunction
from diffcore.plugins.building import part_of, require_metrics
from diffcore.plugins.data import Codec, Data
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Modality
from diffcore.runs.coding import joined_samples
from diffcore.system.cache import cache_folder
from diffcore.system.progress import counter
from diffcore.system.walk import walk

logger = logging.getLogger(__name__)

_NAMED = 3
"""How many of the files that cannot be read are named."""


def judged(
    modality: Modality, codec: Codec, data: Data, paths: Sequence[Path], metrics: dict[str, MetricFunction]
) -> tuple[int, list[Metric]]:
    """The number of samples in the files, and their metrics: those of the modality and the given ones.

    The samples are compared with the examples of `data`, as the evaluation of a run does, and count as requested
    without any conditions. Raises `UserError` if the modality has no reader or no evaluator, or if no file can be read.
    """
    if modality.reader is None:
        raise UserError(f"the plugin for {modality.name} reads no files, so there is nothing to judge")
    if modality.evaluator is None and not metrics:
        raise UserError(f"the plugin for {modality.name} has no metrics; name some with `metrics`")
    samples = samples_in(part_of(modality, "reader", codec), codec, paths)
    n, functions = len(samples), dict(metrics)
    if modality.evaluator is not None:
        evaluator = part_of(modality, "evaluator", codec, data, cache_folder())
        functions = {**({} if evaluator is None else {f"of {modality.name}": evaluator}), **functions}
    conditions, found = nulls(codec.conditions, n), []
    for name, measure in functions.items():
        try:
            own = measure(samples, conditions)
        except UserError:
            raise
        except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
            raise UserError(f"the metric {name} failed: {told(error)}") from error
        require_metrics(own, name)
        found += own
    return n, found


def samples_in(reader: Any, codec: Codec, paths: Sequence[Path]) -> Any:
    """The samples in files and folders, in the form in which `codec.decode` returns them.

    Of folders, all files with one of the reader's `endings` are read. Files that cannot be read are counted and named.
    A reader without `read_samples` reads one sample of a file by `read`, which the codec then decodes. Raises
    `UserError` if there is no sample.
    """
    files = [file for path in paths for file in _files(path, reader)]
    found, refused = [], []
    with counter("reading", len(files)) as more:
        for file in files:
            try:
                found.append(_read(reader, codec, file))
            except UserError as error:
                refused.append(str(error))
            more(1)
    if not found:
        others = f"; {len(refused) - 1} others cannot be read either" if len(refused) > 1 else ""
        raise UserError(f"no samples: {refused[0] if refused else f'there is no file to read in {paths[0]}'}{others}")
    if refused:
        more_words = f"; and {len(refused) - _NAMED} others" if len(refused) > _NAMED else ""
        listed = "; ".join(refused[:_NAMED])
        logger.warning(f"{len(refused)} of {len(files)} files are not judged: {listed}{more_words}")
    samples = joined_samples(found)
    if not len(samples):
        raise UserError(f"no samples: the files of {', '.join(map(str, paths))} are empty")
    return samples


def _files(path: Path, reader: Any) -> list[Path]:
    if not path.is_dir():
        return [path]
    endings = getattr(reader, "endings", None)
    files = [name for name in walk(path).files if endings is None or name.lower().endswith(tuple(endings))]
    if (path / "recipe.json").is_file():  # samples of a run, with an overview beside them
        files = [name for name in files if len(Path(name).parts) == 1]
    if not files:
        listed = "" if endings is None else f" that ends in {', '.join(endings)}"
        raise UserError(f"{path} has no file{listed}")
    return [path / name for name in files]


def _read(reader: Any, codec: Codec, path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no file {path}")
    if hasattr(reader, "read_samples"):
        return reader.read_samples(path)
    if not hasattr(reader, "read"):
        raise UserError(f"{path}: files of this kind of data cannot be read as whole samples")
    return codec.decode(reader.read(path))
