"""Holding a plugin to the rules: the checks one by one, and what came of each."""

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
from diffcore.runs.settings import choices
from diffcore.testing.checks import CHECKS, Check, Finding, NothingToCheckError
from diffcore.testing.subject import Subject


@dataclass(frozen=True)
class Result:
    """What came of a check.

    `expected` in `status`: it fails, as its plugin declares. `unexpected`: it passes, although its plugin declares
    that it fails. `reason` is why it was skipped, or is declared to fail.
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
    def wrong(self) -> bool:
        """Whether the plugin is not as it says."""
        return self.status in ("failed", "unexpected")

    def __str__(self) -> str:
        """Lines for people: what was measured, what was expected, and where to look."""
        if self.status == "skipped":
            return self.reason
        lines = [f"measured: {self.measured}", f"expected: {self.expected}", f"look at:  {self.where}"]
        if self.status == "expected":
            lines.append(f"declared: {self.reason}")
        if self.status == "unexpected":
            lines = [f"passes, but is declared to fail: {self.reason}", "remove it from expected_failures", *lines]
        return "\n".join(lines)


def subject_of(modality: str | Modality, denoiser: str | None = None, registry: Registry | None = None) -> Subject:
    """What is to be checked: an installed modality by its name, or a record with the parts of `registry`.

    Raises `UserError` where there is no modality or denoiser of that name.
    """
    registry = installed() if registry is None else registry
    if isinstance(modality, str):
        modality = registry.modality(modality)
    else:
        given = {**registry.modalities, modality.name: Provided(modality, "given", "0")}
        registry = replace(registry, modalities=given)
    if denoiser is not None:
        choose(choices(modality, registry)["denoiser"], denoiser, "denoiser")
    return Subject(registry, modality, denoiser)


def run_checks(subject: Subject) -> Iterator[Result]:
    """Do all checks in turn."""
    for check in CHECKS:
        yield run_check(check, subject)


def run_check(check: Check, subject: Subject) -> Result:
    """Do one check. Whatever it raises is a failure of the plugin; what cannot be built is not looked at further."""
    started = time.perf_counter()
    status: CheckStatus
    reason = ""
    first = check is CHECKS[0]
    if not first and not _builds(subject):
        return Result(check.name, check.summary, "skipped", reason="the plugin does not build")
    with torch.random.fork_rng(devices=[]):
        try:
            finding = check.look(subject)
            status = "passed" if finding.holds else "failed"
        except NothingToCheckError as nothing:
            return Result(check.name, check.summary, "skipped", reason=str(nothing))
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            said = f"{type(error).__name__}: {first_line(error)}"
            finding, status = Finding(False, said, check.summary, _origin(error)), "failed"
    if not first and check.name in subject.contract.expected_failures:
        reason = subject.contract.expected_failures[check.name]
        status = "unexpected" if status == "passed" else "expected"
    seconds = round(time.perf_counter() - started, 3)
    return Result(check.name, check.summary, status, finding.measured, finding.expected, finding.where, reason, seconds)


def _builds(subject: Subject) -> bool:
    try:
        return CHECKS[0].look(subject).holds
    except (Exception, SystemExit):  # the check itself says what
        return False


_CORE = Path(diffcore.__file__).parent


def _origin(error: BaseException) -> str:
    """File and line that an exception comes from: the last that is neither the core's nor of an installed library."""
    frames = traceback.extract_tb(error.__traceback__)
    core = [frame for frame in frames if Path(frame.filename).is_relative_to(_CORE)]
    own = [
        frame
        for frame in frames
        if frame not in core
        and not Path(frame.filename).is_relative_to(sys.base_prefix)
        and "site-packages" not in frame.filename
    ]
    frame = (own or core or frames)[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
