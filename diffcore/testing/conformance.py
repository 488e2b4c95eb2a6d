"""Run the checks on a plugin, and collect their results."""

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import diffcore
from diffcore.errors import RAISED_BY_PLUGINS, UserError, first_line
from diffcore.names import CheckStatus
from diffcore.plugins.records import Modality
from diffcore.plugins.registry import Provided, Registry, choose, installed
from diffcore.runs.composing import choices
from diffcore.testing.checks import CHECKS, Check, Measurement, NotApplicableError
from diffcore.testing.parts import CONTRACTS, PartUnderTest
from diffcore.testing.plugin import PluginUnderTest

ALL = CHECKS
"""The checks of kinds of data."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    `name` and `summary` are those of the check. `status` is one of

    * `passed` and `failed`: the plugin meets the requirement, or does not;
    * `expected`: it fails, as `Contract.expected_failures` declares;
    * `unexpected`: it passes, although `Contract.expected_failures` declares that it fails;
    * `skipped`: the check does not apply.

    `measured`, `expected` and `where` are those of the `Measurement`. `reason` is why the check was skipped or is
    declared to fail. `seconds` is how long it took.
    """

    name: str
    summary: str
    status: CheckStatus
    measured: str = ""
    expected: str = ""
    where: str = ""
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_error(self) -> bool:
        """Whether the plugin, or what its contract declares, has to be corrected."""
        return self.status in ("failed", "unexpected")

    def __str__(self) -> str:
        """What was measured, what was expected and where to look, each on a line; the reason if it was skipped."""
        if self.status == "skipped":
            return self.reason
        lines = [f"measured: {self.measured}", f"expected: {self.expected}", f"look at:  {self.where}"]
        if self.status == "expected":
            return "\n".join([*lines, f"declared: {self.reason}"])
        if self.status == "unexpected":
            advice = f"it passes, but expected_failures declares that it fails ({self.reason}): remove it from there"
            return "\n".join([advice, *lines])
        return "\n".join(lines)


def plugin_under_test(
    modality: str | Modality,
    denoiser: str | None = None,
    registry: Registry | None = None,
    dataset: str | None = None,
) -> PluginUnderTest:
    """The plugin to check: an installed modality by its name, or a record, together with the parts of `registry`.

    `denoiser` and `dataset` name the denoiser and the data set to check; without them, those of the preset `default`.
    Without `registry`, the installed plugins are used. Raises `UserError` if there are none of these names.
    """
    registry = installed() if registry is None else registry
    if isinstance(modality, str):
        modality = registry.modality(modality)
    else:
        provided = {**registry.modalities, modality.name: Provided(modality, "given", "0")}
        registry = replace(registry, modalities=provided)
    if denoiser is not None:
        choose(choices(modality, registry)["denoiser"], denoiser, "denoiser")
    if dataset is not None:
        choose(choices(modality, registry)["data"], dataset, "data set")
    return PluginUnderTest(registry, modality, denoiser, dataset)


def run_checks(plugin: PluginUnderTest) -> Iterator[CheckResult]:
    """Run all checks, and yield the result of each when it is there."""
    for check in CHECKS:
        yield run_check(check, plugin)


def run_contract(part: PartUnderTest) -> Iterator[CheckResult]:
    """Run the checks of a solver, schedule, guidance, metric, logger or task, and yield the result of each."""
    for check in CONTRACTS[part.kind]:
        yield run_check(check, part, CONTRACTS[part.kind])


def run_check(check: Check, plugin: Any, checks: Sequence[Check] = ALL) -> CheckResult:
    """Run one check of `checks`, after those that it needs; each runs once for a plugin, which keeps the results.

    If one of those fails, the check is skipped and says which one failed. Whatever the plugin's code raises is a
    failure of the check. The global random state of torch is restored afterwards.
    """
    if check.name not in plugin.results:
        plugin.results[check.name] = _run(check, plugin, checks)
    result: CheckResult = plugin.results[check.name]
    return result


def _run(check: Check, plugin: Any, checks: Sequence[Check]) -> CheckResult:
    if cause := _failed_need(check, plugin, checks):
        return CheckResult(check.name, check.summary, "skipped", reason=f"it depends on {cause}, which failed")
    started = time.perf_counter()
    status: CheckStatus
    reason = ""
    with torch.random.fork_rng(devices=[]):
        try:
            found = check.measure(plugin)
            status = "passed" if found.passed else "failed"
        except NotApplicableError as not_applicable:
            return CheckResult(check.name, check.summary, "skipped", reason=str(not_applicable))
        except RAISED_BY_PLUGINS as error:  # a plugin may raise anything
            message = first_line(error)
            measured = message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"
            found, status = Measurement(False, measured, check.summary, _origin(error)), "failed"
    if check is not ALL[0] and check.name in (declared := _declared(plugin)):
        reason = declared[check.name]
        status = "unexpected" if status == "passed" else "expected"
    seconds = round(time.perf_counter() - started, 3)
    return CheckResult(check.name, check.summary, status, found.measured, found.expected, found.where, reason, seconds)


def _failed_need(check: Check, plugin: Any, checks: Sequence[Check]) -> str:
    """The check that failed and that `check` depends on, directly or through others; empty if none did."""
    for need in (each for each in checks if each.name in check.needs):
        if run_check(need, plugin, checks).status == "failed":
            return need.name
        if cause := _failed_need(need, plugin, checks):
            return cause
    return ""


def _declared(plugin: Any) -> Mapping[str, str]:
    """The failures that the contract declares; none if there is no contract or it cannot be made."""
    try:
        declared: Mapping[str, str] = plugin.contract.expected_failures
        return declared
    except RAISED_BY_PLUGINS:  # the check `builds` reports it
        return {}


_CORE = Path(diffcore.__file__).parent


def _origin(error: BaseException) -> str:
    """File and line of the last call in the traceback that is neither in diffcore nor in an installed library."""
    frames = traceback.extract_tb(error.__traceback__)
    core = [frame for frame in frames if Path(frame.filename).is_relative_to(_CORE)]
    plugin = [
        frame
        for frame in frames
        if frame not in core
        and not Path(frame.filename).is_relative_to(sys.base_prefix)
        and "site-packages" not in frame.filename
    ]
    frame = (plugin or core or frames)[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
