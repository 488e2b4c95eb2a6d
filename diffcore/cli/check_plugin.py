"""`diffcore check-plugin NAME`: whether a kind of data keeps the rules that the core relies on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings
from diffcore.testing.conformance import Result, run_checks, subject_of


class Options(Settings):
    name: Annotated[str, tyro.conf.Positional]
    """The modality, as `diffcore plugins` lists it."""
    denoiser: str | None = Field(None, description="The denoiser to check; the modality's first if not given.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the results as JSON."""


MARKS = {"passed": "ok", "failed": "FAILED", "expected": "fails", "unexpected": "PASSES", "skipped": "-"}
"""What each status is called in the listing."""


LONG = 60
"""Seconds that all checks should take at most."""


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 where a check fails that is not declared to, or passes although it is."""
    registry = plugins.installed()
    options = parse(Options, arguments, "diffcore check-plugin", "Hold a plugin to the rules, in under a minute.")
    subject = subject_of(options.name, options.denoiser, registry)
    results = []
    for result in run_checks(subject):
        results.append(result)
        if not options.as_json:
            print(as_text(result), flush=True)
    wrong = sum(result.wrong for result in results)
    if options.as_json:
        rows = [asdict(result) for result in results]
        print(json.dumps({"modality": options.name, "denoiser": subject.network, "checks": rows}, indent=2))
    else:
        counts = {status: sum(r.status == status for r in results) for status in MARKS}
        seconds = sum(result.seconds for result in results)
        print(", ".join(f"{count} {status}" for status, count in counts.items() if count) + f" in {seconds:.0f} s")
        if seconds > LONG:
            print("to be quicker, give data set and denoiser smaller options in Component.small")
    return 1 if wrong else 0


def as_text(result: Result) -> str:
    """A result for people: a line, and more where there is something to mend."""
    line = f"{MARKS[result.status]:7} {result.name:25} {result.seconds:5.1f} s  "
    if result.status in ("passed", "skipped"):
        return line + _shortened(result.measured or result.reason)
    return line + result.summary + "".join(f"\n{'':8}{row}" for row in str(result).splitlines())


def _shortened(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
