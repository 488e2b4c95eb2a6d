"""The contracts of parts: what `diffcore check-plugin NAME` checks of a solver, a task and so on.

Each module has the checks of one kind; `CONTRACTS` has them all. They use the same records as those of kinds of data.
"""

from collections.abc import Mapping

from diffcore.testing.checks.check import Check
from diffcore.testing.parts import guidance, logger, metric, schedule, solver, task, text_encoder
from diffcore.testing.parts.part import PartUnderTest, part_under_test

__all__ = ["CONTRACTS", "PartUnderTest", "part_under_test"]

CONTRACTS: Mapping[str, tuple[Check, ...]] = {
    "solver": solver.CHECKS,
    "schedule": schedule.CHECKS,
    "guidance": guidance.CHECKS,
    "metric": metric.CHECKS,
    "logger": logger.CHECKS,
    "task": task.CHECKS,
    "text-encoder": text_encoder.CHECKS,
}
"""The checks of each kind of part, by the name of the kind; the first, which all others need, builds the part."""
