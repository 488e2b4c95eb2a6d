from dataclasses import replace

import pytest

from diffcore.promises import Promises
from diffcore.registry import load
from diffcore.testing.checks import CHECKS
from diffcore.testing.conformance import run_checks, subject_of
from tests.core.conforming import BROKEN, beads
from tests.core.toy import TOY

BARE = load([])


def results_of(record, denoiser=None):
    return {result.name: result for result in run_checks(subject_of(record, denoiser, BARE))}


def named(results, *statuses):
    return {name for name, result in results.items() if result.status in statuses}


def test_a_sound_plugin_passes_everything():
    results = results_of(beads())
    assert named(results, "passed") == {check.name for check in CHECKS} - {"imports_light"}
    assert results["imports_light"].reason == "no entry point offers this modality"
    assert sum(result.seconds for result in results.values()) < 30


def test_what_is_not_promised_is_skipped_and_said_so():
    spread = Promises(spread={"radius": 0.5})
    results = results_of(replace(TOY, promises=lambda codec: spread))
    nothing = {"decode_restores", "encoding_invariances", "symmetries"}
    assert named(results, "skipped") == nothing | {"imports_light", "padding_changes_nothing"}
    assert not named(results, "failed")
    assert all("nothing promised" in results[name].reason for name in nothing)


@pytest.mark.parametrize("wrong", BROKEN)
def test_each_fault_fails_exactly_its_check(wrong):
    check, record, words = BROKEN[wrong]
    results = results_of(record)
    assert named(results, "failed", "expected", "unexpected") == {check}, "\n".join(map(str, results.values()))
    found = results[check]
    assert words in found.measured
    assert found.expected
    assert found.where
