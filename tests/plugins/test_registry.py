from dataclasses import replace
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest

from diffcore.errors import UserError
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import API_VERSION, Component, Modality, NoOptions, Preset
from diffcore.plugins.registry import choose, installed, load

GOOD = Modality(
    name="numbers",
    summary="one number each",
    datasets=(Component("digits", "ten of them", lambda options: None),),
    denoisers=(Component("sum", "adds", lambda options, space: None),),
    presets={"default": Preset("all there is")},
    facts=NoOptions,
    codec=lambda facts: None,
    writer=lambda codec: None,
)


def module(**content):
    """What an entry point names: a module with hooks."""
    made = ModuleType("plugin")
    vars(made).update(API_VERSION=API_VERSION, **content)
    return made


def offering(*records):
    @hookimpl
    def diffcore_modalities():
        return records

    return module(diffcore_modalities=diffcore_modalities)


class Plugin(EntryPoint):
    """An entry point whose plugin is given, or raises when loaded."""

    def __new__(cls, name, result):
        point = super().__new__(cls)
        EntryPoint.__init__(point, name, f"{name}.module", "diffcore.plugins")
        vars(point)["result"] = result
        return point

    def __init__(self, name, result):
        pass

    def load(self):
        result = vars(self)["result"]
        if isinstance(result, Exception):
            raise result
        return result

    @property
    def dist(self):
        return SimpleNamespace(name=f"dist-{self.name}", version="1.2")


def of_version(version):
    plugin = offering(GOOD)
    plugin.API_VERSION = version
    return plugin


def misspelt():
    @hookimpl
    def diffcore_modalitys():
        return ()

    return module(diffcore_modalitys=diffcore_modalitys)


def raising():
    @hookimpl
    def diffcore_modalities():
        raise RuntimeError("no luck")

    return module(diffcore_modalities=diffcore_modalities)


def unmarked(name):
    """A module whose hook lacks @hookimpl."""
    return module(**{name: lambda: (GOOD,)})


def with_part(**changed):
    return offering(replace(GOOD, datasets=(replace(GOOD.datasets[0], **changed),)))


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (ImportError("No module named 'gone'"), "No module named 'gone'"),
        (misspelt(), "diffcore_modalitys"),
        (raising(), "no luck"),
        (of_version(API_VERSION + 1), f"made for version {API_VERSION + 1} of the plugin API"),
        (of_version(None), "does not say for which version"),
        (offering(replace(GOOD, requires=("surely_not_installed",))), "not installed: surely_not_installed"),
        (offering(replace(GOOD, requires=("surely_not_installed.part",))), "not installed: surely_not_installed.part"),
        (offering(replace(GOOD, datasets=())), "needs a data set"),
        (offering("a string"), "expected a Modality record, got str"),
        (SimpleNamespace(API_VERSION=API_VERSION), "unhashable type"),
        (of_version(str(API_VERSION)), f"API_VERSION is '{API_VERSION}', a str: write API_VERSION = {API_VERSION}"),
        (unmarked("diffcore_modalities"), "diffcore_modalities is not marked with @hookimpl, so it offers nothing"),
        (unmarked("diffcore_modality"), "diffcore_modality is not marked with @hookimpl"),
        (offering(replace(GOOD, name="two words")), "the name 'two words' must be of letters"),
        (offering(replace(GOOD, name="--flag")), "the name '--flag' must be of letters"),
        (offering(replace(GOOD, name="")), "the name '' must be of letters"),
        (with_part(name="my data"), "datasets: the name 'my data' must be of letters"),
        (with_part(options=dict), "datasets: `options` of 'digits' is not a subclass of"),
        (with_part(build=None), "datasets: `build` of 'digits' is a NoneType, not a function"),
        (with_part(small={"n": 3}), "datasets: `small` of 'digits' has 'n', which is no option"),
        (offering(replace(GOOD, datasets=GOOD.datasets * 2)), "datasets: the name 'digits' is offered twice"),
        (offering(replace(GOOD, denoisers=("sum",))), "expected Component records in denoisers, got str"),
        (offering(replace(GOOD, presets={**GOOD.presets, "a b": Preset("")})), "presets: the name 'a b' must be"),
        (offering(replace(GOOD, requires="torch")), "`requires` of 'numbers' is a string: write a tuple of names"),
        (with_part(modalities="image"), "datasets: `modalities` of 'digits' is a string: write a tuple of names, ('im"),
    ],
    ids=[
        "import error",
        "misspelt hook",
        "hook raises",
        "other version",
        "no version",
        "missing dependency",
        "missing parent",
        "no data",
        "no record",
        "no module",
        "version as a string",
        "forgotten mark",
        "forgotten mark of a misspelt hook",
        "name with a space",
        "name like a flag",
        "no name",
        "part with a space",
        "options of another type",
        "no builder",
        "small options that do not exist",
        "part twice",
        "no component",
        "preset with a space",
        "a string for names",
        "a string for names of a part",
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_stops_nobody(plugin, reason):
    registry = load([Plugin("bad", plugin), Plugin("good", offering(GOOD))])
    assert registry.modality("numbers") is GOOD
    assert "dpmpp-2m" in registry.solvers
    (failure,) = registry.failures
    assert failure.distribution == "dist-bad"
    assert reason in failure.reason


def test_a_taken_name_names_who_has_it():
    registry = load([Plugin("first", offering(GOOD)), Plugin("second", offering(GOOD))])
    assert registry.modalities["numbers"].distribution == "dist-first"
    (failure,) = registry.failures
    assert failure.distribution == "dist-second"
    assert "taken by dist-first" in failure.reason


def test_which_of_two_parts_of_a_name_is_used_does_not_depend_on_the_search_path():
    plugins = [Plugin("first", offering(GOOD)), Plugin("second", offering(replace(GOOD, summary="others")))]
    for order in (plugins, plugins[::-1]):
        registry = load(order)
        assert registry.modalities["numbers"].distribution == "dist-first"
        (failure,) = registry.failures
        assert failure.reason == (
            "the name 'numbers' is taken by dist-first, which comes first in the order of names of distributions; "
            "DIFFCORE_PLUGINS chooses which plugins are loaded"
        )


def test_a_name_that_a_plugin_offers_twice_is_said_so():
    (failure,) = load([Plugin("first", offering(GOOD, GOOD))]).failures
    assert failure.reason == "the name 'numbers' is offered twice by dist-first"


def test_an_unknown_modality_says_what_there_is_what_failed_and_what_could_be():
    registry = load([Plugin("good", offering(GOOD)), Plugin("bad", ImportError("it is gone"))])
    with pytest.raises(UserError) as caught:
        registry.modality("smells")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("unknown modality 'smells'", "installed: numbers", "failed: bad (ImportError: it is gone)"):
        assert part in message
    assert "could be installed: pip install 'diffcore[image]'" in message


def test_a_component_that_lacks_a_module_says_how_to_get_it():
    lacking = Component("x", "needs much", lambda options: None, requires=("surely_not_installed",))
    with pytest.raises(UserError, match="not installed: surely_not_installed"):
        choose([lacking], "x", "denoiser")
    with pytest.raises(UserError, match="unknown denoiser 'y'; there are: x"):
        choose([lacking], "y", "denoiser")


def test_the_installed_plugins_are_found_through_the_entry_point_group():
    registry = installed()
    assert registry.modalities["image"].distribution == "diffcore-image"
    assert not registry.failures
