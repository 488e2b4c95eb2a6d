"""A check of what is written to config.json and read from TOML."""

import json
import tomllib
from typing import Any

import tomli_w

from diffcore.errors import UserError
from diffcore.plugins.records import Settings
from diffcore.runs.composing import compose
from diffcore.runs.settings import RunSettings, validate
from diffcore.testing.checks.check import Measurement
from diffcore.testing.checks.common import combined, source_location
from diffcore.testing.plugin import PluginUnderTest

_UNCHANGED = "settings and facts are unchanged"


def configuration_round_trip(plugin: PluginUnderTest) -> Measurement:
    """The settings of every preset and the facts of the data are unchanged after they are written and read again.

    A run keeps its settings and facts in config.json, and users write settings in TOML. A value that is lost there
    would give a model that cannot be loaded, or another model than the one that was asked for.
    """
    measurements = []
    for preset in plugin.modality.presets:
        place = f"the preset {preset!r}"
        try:
            settings = compose(plugin.registry, plugin.modality.name, preset, origin=place)
        except UserError as error:
            return Measurement(False, str(error), "values that the options accept", place)
        measurements.append(_settings_round_trip(plugin, settings, place))
    measurements.append(_settings_round_trip(plugin, plugin.settings, "the `small` options of the parts"))
    return combined(*measurements, _facts_round_trip(plugin))


def _settings_round_trip(plugin: PluginUnderTest, settings: RunSettings, place: str) -> Measurement:
    as_json = json.dumps(settings.model_dump(mode="json"))
    as_toml = tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))
    expected = "the same settings after they are written and read, as JSON and as TOML"
    for values in (json.loads(as_json), tomllib.loads(as_toml)):
        try:
            again = compose(plugin.registry, plugin.modality.name, file=values, origin=place)
        except UserError as error:
            return Measurement(False, str(error), expected, place)
        if _values(again) != _values(settings):
            return Measurement(False, _changes(settings, again), expected, place)
    return Measurement(True, _UNCHANGED, expected, place)


def _facts_round_trip(plugin: PluginUnderTest) -> Measurement:
    facts = plugin.data.facts
    again = validate(plugin.modality.facts, json.loads(json.dumps(facts.model_dump(mode="json"))), "facts")
    return Measurement(
        _values(again) == _values(facts),
        _changes(facts, again),
        "the same facts after they are written and read, as JSON",
        source_location(plugin.modality.facts),
    )


def _values(settings: Settings) -> dict[str, Any]:
    """All values, nested. Two models are not compared themselves, as each `compose` makes new classes of models."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: _values(value) if isinstance(value, Settings) else value for name, value in values.items()}


def _changes(before: Settings, after: Settings) -> str:
    """The values that differ, as a phrase for the report."""
    old, new = _values(before), _values(after)
    changed = [f"{name} = {value!r} becomes {new.get(name)!r}" for name, value in old.items() if value != new.get(name)]
    return "; ".join(changed) or _UNCHANGED
