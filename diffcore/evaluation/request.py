"""What is asked of a task when it is evaluated, or shows what it has learned."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcore.denoising.conditions import Conditions
from diffcore.errors import UserError
from diffcore.plugins.output import Metric
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.settings import RunSettings
from diffcore.system.cache import cache_folder

MetricFunction = Callable[[Any, Conditions], list[Metric]]
"""A function of samples and their requested conditions that returns metrics."""


class NothingToEvaluateError(UserError):
    """There are no metrics for a kind of data."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What `evaluate`, `pictures` and `report` of a task receive beside the model and the data.

    * `settings`: the settings of the run.
    * `config`: how samples are drawn; `config.batch_size` examples fit through the network at once.
    * `n`: the number of samples or examples to evaluate, or to show.
    * `seed`: decides which samples or examples these are.
    * `together`: whether all processes work on this; otherwise the leader is alone and must not wait for others.
    * `cache`: a folder for what is worth keeping.
    * `extra_metrics`: metrics of samples that the user has named, in addition to those of the modality.
    * `run`: the folder of the run; None for a model that is in none.
    * `drawn`: a folder in which what is drawn is kept until the evaluation has ended; None if nothing is kept.
    * `complain`: called with a warning if a metric or a picture cannot be computed.
    """

    settings: RunSettings
    config: SamplingConfig
    n: int
    seed: int = 0
    together: bool = True
    cache: Path = field(default_factory=cache_folder)
    extra_metrics: Mapping[str, MetricFunction] = field(default_factory=dict)
    run: Path | None = None
    drawn: Path | None = None
    complain: Callable[[str], None] = field(default_factory=lambda: logging.getLogger(__name__).warning)


PICTURED = 50
"""The number of samples, or of examples, that a picture shows."""
