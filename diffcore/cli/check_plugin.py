"""`diffcore check-plugin NAME`: does a plugin meet the requirements of the core?"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings

if TYPE_CHECKING:
    from diffcore.testing.conformance import CheckResult


class Options(Settings):
    """The options of `diffcore check-plugin`."""

    name: Annotated[str, tyro.conf.Positional]
    """The modality, as `diffcore plugins` lists it."""
    denoiser: str | None = Field(None, description="The denoiser to check; that of the preset default if not given.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the results as JSON."""


MARKS = {"passed": "ok", "failed": "FAILED", "expected": "xfail", "unexpected": "XPASS", "skipped": "-"}
"""The mark of each status at the beginning of a line."""

PHRASES = {
    "passed": "passed",
    "failed": "failed",
    "expected": "failed as declared",
    "unexpected": "passed but declared to fail",
    "skipped": "skipped",
}
"""What each status is called in the last line."""

LONG = 60
"""If the checks take more seconds than this, the last line suggests smaller options."""


def main(arguments: Sequence[str]) -> int:
    """Run the checks and print the results.

    The exit status is 1 if a check fails that is not declared to fail, or if one passes that is declared to fail.
    """
    registry = plugins.installed()
    options = parse(Options, arguments, "diffcore check-plugin", "Check a plugin against the requirements of the core.")
    from diffcore.testing.conformance import plugin_under_test, run_checks

    plugin = plugin_under_test(options.name, options.denoiser, registry)
    results = []
    for result in run_checks(plugin):
        results.append(result)
        if not options.as_json:
            print(as_text(result), flush=True)
    if options.as_json:
        rows = [asdict(result) for result in results]
        print(json.dumps({"modality": options.name, "denoiser": plugin.denoiser_name, "checks": rows}, indent=2))
    else:
        print(_totals(results))
    return 1 if any(result.is_error for result in results) else 0


def as_text(result: "CheckResult") -> str:
    """A result as text: one line, and further lines if the check failed or is declared to fail."""
    line = f"{MARKS[result.status]:7} {result.name:25} {result.seconds:5.1f} s  "
    if result.status in ("passed", "skipped"):
        return line + _shortened(result.measured or result.reason)
    return line + result.summary + "".join(f"\n{'':8}{row}" for row in str(result).splitlines())


def _totals(results: "Sequence[CheckResult]") -> str:
    counts = {status: sum(r.status == status for r in results) for status in PHRASES}
    seconds = sum(result.seconds for result in results)
    totals = ", ".join(f"{count} {PHRASES[status]}" for status, count in counts.items() if count)
    advice = "\nto make this faster, give the data set and the denoiser smaller options in Component.small"
    return f"{totals} in {seconds:.0f} s" + (advice if seconds > LONG else "")


def _shortened(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
