"""Checks of what everything else needs: the parts can be built, and the entry point is quick to import."""

import subprocess
import sys

from diffcore.plugins.records import Component
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import name_list, source_location
from diffcore.testing.plugin import PluginUnderTest


def builds(plugin: PluginUnderTest) -> Measurement:
    """Data, codec and network of the preset `default` can be built, and there is at least one training example.

    All other checks need these parts. Also, each name in `Contract.expected_failures` is that of a check: a misspelt
    name would excuse no failure.
    """
    count = len(plugin.data.examples)
    parameters = sum(p.numel() for p in plugin.model.denoiser.parameters())
    if unknown := _unknown_expected_failures(plugin):
        measured = f"expected failures of unknown checks: {name_list(unknown)}"
        return Measurement(False, measured, "names of checks", "expected_failures of the modality's contract")
    return Measurement(
        count > 0,
        f"{count} examples of {plugin.dataset.name}, {parameters} parameters of {plugin.denoiser.name}",
        "data with at least one example, codec and network of the preset `default`",
        source_location(plugin.backbone) if count else f"the data set {plugin.dataset.name}",
    )


def _unknown_expected_failures(plugin: PluginUnderTest) -> list[str]:
    from diffcore.testing.checks import CHECKS  # not at the top, as it imports this module

    known = {check.name for check in CHECKS}
    return [name for name in plugin.contract.expected_failures if name not in known]


def imports_light(plugin: PluginUnderTest) -> Measurement:
    """The entry-point module imports neither torch nor the libraries that the modality requires.

    Every command imports the entry points of all installed plugins, so a heavy import there slows down all commands.
    The module is imported by a new Python process, where nothing is imported yet.
    """
    module = entry_module(plugin)
    heavy = sorted({"torch", *(name.partition(".")[0] for name in plugin.modality.requires)})
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import {module}; "
        f"print(' '.join(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Measurement(False, f"import {module} fails with: {error}", "a module that can be imported alone", module)
    imported = done.stdout.split()
    return Measurement(
        not imported,
        f"import {module} imports {name_list(imported) or 'nothing heavy'}",
        f"no import of {', '.join(heavy)} before a part is built: import it inside the builders "
        "(diffcore.plugins.records.lazy)",
        f"{module}; `python -X importtime -c 'import {module}'` lists all imports",
    )


def entry_module(plugin: PluginUnderTest, dataset: Component | None = None) -> str:
    """The module whose hook provides the modality, or `dataset` if that is given and not one of the modality's own.

    Raises `NotApplicableError` if there is none.
    """
    name, kind = plugin.modality.name, "modalities"
    if dataset is not None and dataset not in plugin.modality.datasets:
        name, kind = dataset.name, "datasets"
    for installed in plugin.registry.plugins.get_plugins():
        hook = getattr(installed, f"diffcore_{kind}", None)
        provides = hook is not None and any(record.name == name for record in hook())
        if provides and (module := getattr(installed, "__name__", None)):
            return module
    raise NotApplicableError("no entry point provides this modality")
