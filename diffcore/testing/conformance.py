"""Run the checks on a plugin, and collect their results."""

import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import diffcore
from diffcore.errors import first_line
from diffcore.names import CheckStatus
from diffcore.plugins.records import Modality
from diffcore.plugins.registry import Provided, Registry, choose, installed
from diffcore.runs.composing import choices
from diffcore.testing.checks import CHECKS, Check, Measurement, NotApplicableError
from diffcore.testing.plugin import PluginUnderTest


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
    modality: str | Modality, denoiser: str | None = None, registry: Registry | None = None
) -> PluginUnderTest:
    """The plugin to check: an installed modality by its name, or a record, together with the parts of `registry`.

    `denoiser` names the denoiser to check; without it, that of the preset `default`. Without `registry`, the installed
    plugins are used. Raises `UserError` if there is no modality or denoiser of that name.
    """
    registry = installed() if registry is None else registry
    if isinstance(modality, str):
        modality = registry.modality(modality)
    else:
        provided = {**registry.modalities, modality.name: Provided(modality, "given", "0")}
        registry = replace(registry, modalities=provided)
    if denoiser is not None:
        choose(choices(modality, registry)["denoiser"], denoiser, "denoiser")
    return PluginUnderTest(registry, modality, denoiser)


def run_checks(plugin: PluginUnderTest) -> Iterator[CheckResult]:
    """Run all checks, and yield the result of each when it is there."""
    for check in CHECKS:
        yield run_check(check, plugin)


def run_check(check: Check, plugin: PluginUnderTest) -> CheckResult:
    """Run one check.

    Whatever the plugin's code raises is a failure of the check. If the plugin cannot be built, all checks except
    `builds` are skipped. The global random state of torch is restored afterwards.
    """
    started = time.perf_counter()
    status: CheckStatus
    reason = ""
    is_first = check is CHECKS[0]
    if not is_first and not _builds(plugin):
        return CheckResult(check.name, check.summary, "skipped", reason="the plugin cannot be built")
    with torch.random.fork_rng(devices=[]):
        try:
            found = check.measure(plugin)
            status = "passed" if found.passed else "failed"
        except NotApplicableError as not_applicable:
            return CheckResult(check.name, check.summary, "skipped", reason=str(not_applicable))
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            measured = f"{type(error).__name__}: {first_line(error)}"
            found, status = Measurement(False, measured, check.summary, _origin(error)), "failed"
    if not is_first and check.name in plugin.contract.expected_failures:
        reason = plugin.contract.expected_failures[check.name]
        status = "unexpected" if status == "passed" else "expected"
    seconds = round(time.perf_counter() - started, 3)
    return CheckResult(check.name, check.summary, status, found.measured, found.expected, found.where, reason, seconds)


def _builds(plugin: PluginUnderTest) -> bool:
    try:
        return CHECKS[0].measure(plugin).passed
    except (Exception, SystemExit):  # the check `builds` reports it
        return False


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
