"""`diffcore check-plugin NAME`: does a plugin meet the requirements of the core?"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from diffcore.cli.flags import parse
from diffcore.errors import UserError
from diffcore.names import CheckedKind
from diffcore.plugins import registry as plugins
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import CONTRACTED, Registry

if TYPE_CHECKING:
    from diffcore.testing.conformance import CheckResult
    from diffcore.testing.plugin import PluginUnderTest

logger = logging.getLogger(__name__)


class Options(Settings):
    """The options of `diffcore check-plugin`."""

    name: Annotated[str, tyro.conf.Positional]
    """The modality or other part, as `diffcore plugins` lists it."""
    kind: CheckedKind | None = Field(None, description="What NAME is, where parts of several kinds have this name.")
    serves: Annotated[str | None, tyro.conf.arg(name="for")] = Field(
        None, description="The kind of data with which a data set, network, guidance or metric is tried."
    )
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
    from diffcore.testing.conformance import run_checks, run_contract
    from diffcore.testing.parts import part_under_test

    kind = options.kind or _kind_of(options.name, registry)
    if options.denoiser is not None and kind not in ("modality", "dataset"):
        raise UserError(f"`denoiser` belongs to a kind of data or a data set, and {options.name} is a {kind}")
    _warn_of_clashes(options.name, registry)
    if kind in CONTRACTED:
        running = run_contract(part_under_test(kind, options.name, registry, options.serves))
        about = {kind: options.name}
    else:
        plugin = _kind_of_data(kind, options, registry)
        running, about = run_checks(plugin), {"modality": plugin.modality.name, "denoiser": plugin.denoiser_name}
    results = []
    for result in running:
        results.append(result)
        if not options.as_json:
            print(as_text(result), flush=True)
    if options.as_json:
        rows = [asdict(result) for result in results]
        print(json.dumps({**about, "checks": rows}, indent=2))
    else:
        print(_totals(results))
    return 1 if any(result.is_error for result in results) else 0


def _kind_of(name: str, registry: Registry) -> str:
    """The kind of the part that is called so. Raises `UserError` if there is none, or if there are several."""
    if name in registry.modalities:
        return "modality"
    kinds = [kind for kind, offered in CONTRACTED.items() if name in getattr(registry, offered)]
    kinds += [
        kind
        for kind, parts in (("dataset", "datasets"), ("denoiser", "denoisers"))
        if name in getattr(registry, parts) or _owners(name, parts, registry)
    ]
    if len(kinds) > 1:
        raise UserError(f"{name!r} is a {' and a '.join(kinds)}: choose one with `kind`")
    if not kinds:
        registry.modality(name)  # raises, and says what there is
    return kinds[0]


def _owners(name: str, parts: str, registry: Registry) -> list[str]:
    """The kinds of data that have a part of this name themselves."""
    return [
        modality
        for modality, provided in registry.modalities.items()
        if name in [component.name for component in getattr(provided.record, parts)]
    ]


def _kind_of_data(kind: str, options: Options, registry: Registry) -> "PluginUnderTest":
    """The kind of data to check: itself, or that of a data set or network, with this part in place of the default."""
    from diffcore.testing.conformance import plugin_under_test

    if kind == "modality":
        return plugin_under_test(options.name, options.denoiser, registry)
    parts = f"{kind}s"
    owners = _owners(options.name, parts, registry)
    if options.name in (offered := getattr(registry, parts)):
        owners += [name for name in registry.modalities if offered[options.name].record.serves(name)]
    if options.serves is not None:
        registry.modality(options.serves)
        owners = [options.serves] if options.serves in owners else []
    if not owners:
        wanted = options.serves or "any kind of data that is installed"
        raise UserError(f"the {kind} {options.name!r} is not for {wanted}")
    dataset, denoiser = (options.name, options.denoiser) if kind == "dataset" else (None, options.name)
    return plugin_under_test(owners[0], denoiser, registry, dataset)


def _warn_of_clashes(name: str, registry: Registry) -> None:
    """Log what else has this name and is not used."""
    for failure in registry.failures:
        if failure.plugin.endswith(f": {name}"):
            logger.warning(f"another part of the name {name!r}, from {failure.distribution}: {failure.reason}")


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
