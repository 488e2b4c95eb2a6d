"""The records of checks: a requirement, and what a check measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What a check measured, and what it requires.

    `passed` is True if the plugin meets the requirement. `measured` and `expected` are phrases for the report.
    `where` is the place in the source to look at, usually a class or function with its file and line.
    """

    passed: bool
    measured: str
    expected: str
    where: str = ""


class NotApplicableError(Exception):
    """Raised by a check that does not apply to the plugin. The message is the reason, which the report shows."""


@dataclass(frozen=True)
class Check:
    """A requirement that plugins must meet.

    `summary` states the requirement in one phrase. `measure(plugin)` takes a `PluginUnderTest`, or the part under test,
    and returns a `Measurement` or raises `NotApplicableError`; whatever else it raises is a failure of the plugin.
    `needs` names the checks that this one depends on: if one of them fails, this one is skipped, so that one cause is
    reported once.
    """

    name: str
    summary: str
    measure: Callable[[Any], Measurement]
    needs: tuple[str, ...] = ()
