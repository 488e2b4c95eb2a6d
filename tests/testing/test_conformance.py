import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from diffcore import cli
from diffcore.plugins.contract import Contract
from diffcore.plugins.registry import Provided, load
from diffcore.plugins.symmetries import flip, permutation, reflection, rotation, translation
from diffcore.testing import ModalityTests
from diffcore.testing.checks import CHECKS
from diffcore.testing.conformance import run_check, run_checks, subject_of
from tests.plugins.test_registry import Plugin
from tests.support import sized_toy
from tests.support.conforming import BROKEN, PROMISES, Spare, beads, data
from tests.support.toy import TOY

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


def test_a_lone_element_exists_although_no_noise_moves_its_centre():
    def lone(options):
        made = sized_toy.beads(options)
        return replace(made, examples=made.examples[(made.examples["kinds"] >= 0).sum(1) == 1])

    padding = next(check for check in CHECKS if check.name == "padding_changes_nothing")
    subject = subject_of(beads(datasets=(data(lone),)), registry=BARE)
    assert run_check(padding, subject).status == "passed"


def test_what_is_not_promised_is_skipped_and_said_so():
    spread = Contract(std={"radius": 0.5})
    results = results_of(replace(TOY, contract=lambda codec: spread))
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


def test_a_fault_is_told_in_three_lines():
    check, record, _ = BROKEN["a parameter is not used"]
    told = str(results_of(record)[check]).splitlines()
    assert told[0] == "measured: no gradient at 2 of 22 parameters: backbone.spare.weight, backbone.spare.bias"
    assert told[1].startswith("expected: a gradient that is not zero at every parameter")
    assert told[2].startswith("look at:  tests.support.conforming.Spare (")
    assert told[2].endswith(f"conforming.py:{Spare.__init__.__code__.co_firstlineno - 1})")


def test_what_a_plugin_raises_is_told_with_its_place():
    class Stumbling(type(TOY.writer(None))):
        def html(self, *arguments, **keywords):
            raise KeyError("colour")

    found = results_of(replace(TOY, writer=Stumbling))["samples_decode"]
    assert found.measured == "KeyError: 'colour'"
    assert found.where.endswith("in html")
    assert "test_conformance.py:" in found.where


def test_declared_failures_are_expected_and_must_fail():
    _, record, _ = BROKEN["the order is seen"]
    contract = replace(PROMISES, expected_failures={"symmetries": "orders are learned", "gradients_reach_all": "none"})
    results = results_of(replace(record, contract=lambda codec: contract))
    assert named(results, "failed") == set()
    assert named(results, "expected") == {"symmetries"}
    assert not results["symmetries"].wrong
    assert "declared: orders are learned" in str(results["symmetries"])
    assert named(results, "unexpected") == {"gradients_reach_all"}
    assert results["gradients_reach_all"].wrong
    assert "passes, but is declared to fail: none" in str(results["gradients_reach_all"])


# Entry points

OFFERS = """
from diffcore.plugins.records import API_VERSION
from diffcore.plugins.hookspecs import hookimpl
{heavy}

@hookimpl
def diffcore_modalities():
    from tests.support.conforming import beads

    return (beads(requires=("torch", "safetensors")),)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A registry with a plugin in a module of its own, which imports what it is asked to."""

    def made(heavy=""):
        name = f"beads_plugin_{len(heavy)}"
        (tmp_path / f"{name}.py").write_text(OFFERS.format(heavy=heavy))
        monkeypatch.syspath_prepend(tmp_path)
        return load([Plugin(name, importlib.import_module(name))])

    return made


@pytest.mark.parametrize(
    ("heavy", "status", "measured"),
    [
        ("", "passed", "imports nothing heavy"),
        ("import torch", "failed", "imports torch"),
        ("from safetensors import numpy", "failed", "imports safetensors"),
    ],
)
def test_entry_points_import_light(plugin, heavy, status, measured):
    (check,) = (check for check in CHECKS if check.name == "imports_light")
    found = run_check(check, subject_of("beads", None, plugin(heavy)))
    assert (found.status, measured in found.measured) == (status, True), found
    assert "torch" in found.expected
    assert "beads_plugin" in found.where


# The command


def test_the_command_tells_and_its_status_says(plugin, monkeypatch, capsys):
    monkeypatch.setattr("diffcore.plugins.registry.installed", plugin)
    assert cli.main(["check-plugin", "beads"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed[:-1]] == [check.name for check in CHECKS]
    assert printed[-1].startswith(f"{len(CHECKS)} passed in ")

    broken = load([])
    broken.modalities["beads"] = Provided(BROKEN["a file is empty"][1], "diffcore-beads", "1.0")
    monkeypatch.setattr("diffcore.plugins.registry.installed", lambda: broken)
    assert cli.main(["check-plugin", "beads", "--json"]) == 1
    listing = json.loads(capsys.readouterr().out)
    assert (listing["modality"], listing["denoiser"]) == ("beads", "net")
    (failed,) = (row for row in listing["checks"] if row["status"] == "failed")
    assert failed["name"] == "samples_decode"
    assert "missing or empty" in failed["measured"]


def test_mistakes_of_the_user_get_a_line(plugin, monkeypatch, capsys):
    monkeypatch.setattr("diffcore.plugins.registry.installed", plugin)
    for arguments, said in (
        (["smells"], "unknown modality 'smells'; installed: beads"),
        (["beads", "--denoiser", "nought"], "unknown denoiser 'nought'; there are: net"),
        (["beads", "--jsno"], "jsno"),
        ([], "diffcore check-plugin --help"),
    ):
        assert cli.main(["check-plugin", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


# The class of tests


def outcome_of(tests, check):
    """What pytest would say of the test of a check."""
    try:
        getattr(tests(), f"test_{check}")(None)
    except (pytest.skip.Exception, pytest.xfail.Exception, pytest.fail.Exception) as outcome:
        return type(outcome).__name__, str(outcome)
    return "Passed", ""


def test_the_class_says_what_the_command_says():
    _, record, _ = BROKEN["the order is seen"]
    expected = replace(PROMISES, expected_failures={"symmetries": "orders are learned"})
    unexpected = replace(PROMISES, expected_failures={"noise_in_space": "none"})

    class Wrong(ModalityTests):
        modality = record

    class Declared(ModalityTests):
        modality = replace(record, contract=lambda codec: expected)

    class Undue(ModalityTests):
        modality = replace(record, contract=lambda codec: unexpected)

    assert outcome_of(Wrong, "noise_in_space") == ("Passed", "")
    assert outcome_of(Wrong, "imports_light") == ("Skipped", "no entry point offers this modality")
    kind, said = outcome_of(Wrong, "symmetries")
    assert kind == "Failed"
    assert all(word in said for word in ("measured: permutation", "expected: at most", "look at:  tests.support"))
    kind, said = outcome_of(Declared, "symmetries")
    assert (kind, "orders are learned" in said) == ("XFailed", True)
    kind, said = outcome_of(Undue, "noise_in_space")
    assert (kind, "is declared to fail: none" in said) == ("Failed", True)


def test_a_check_cannot_be_overridden_or_deleted_without_a_reason():
    assert {name for name in vars(ModalityTests) if name.startswith("test_")} == {f"test_{c.name}" for c in CHECKS}
    for instead in (lambda self: None, None, pytest.mark.xfail(lambda self: None)):
        with pytest.raises(TypeError, match=r"Mine.test_symmetries replaces a check"):
            type("Mine", (ModalityTests,), {"modality": "beads", "test_symmetries": instead})

    class Mixed:
        def test_symmetries(self):
            pass

    with pytest.raises(TypeError, match=r"Mine.test_symmetries replaces a check"):
        type("Mine", (Mixed, ModalityTests), {"modality": "beads"})

    class Excused(ModalityTests):
        @pytest.mark.xfail(reason="turns are not followed yet")
        def test_symmetries(self):
            assert False  # noqa: B011, PT015

        def test_of_its_own(self):
            pass


class TestByFixture(ModalityTests):
    """Collected as an author's class is, with a modality that a fixture gives."""

    @pytest.fixture
    def modality(self):
        return beads()


def test_the_class_needs_no_pytest_to_be_imported():
    code = "import sys; sys.modules['pytest'] = None; from diffcore.testing import ModalityTests"
    subprocess.run([sys.executable, "-c", code], check=True)


# Ready-made transforms


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(5, 4, 4, 2, generator=generator)
    fields = {"place": torch.randn(5, 4, 3, generator=generator), "pair": pair, "kind": torch.randn(5, 4, 2)}
    mask = torch.arange(4) < torch.tensor([4, 3, 2, 1, 4])[:, None]
    return TensorDict(fields, batch_size=[5]), mask, generator


def test_a_permutation_moves_elements_pairs_and_masks_alike(sets):
    state, mask, generator = sets
    state["number"] = torch.arange(4.0).expand(5, 4)[..., None]
    transform = permutation("pair")(state, mask, generator)
    moved, order = transform.state(state), None
    order = moved["number"][..., 0].long()
    assert (order != torch.arange(4)).any()
    for b in range(5):
        assert torch.equal(moved["place"][b], state["place"][b, order[b]])
        assert torch.equal(moved["pair"][b], state["pair"][b][order[b]][:, order[b]])
        assert torch.equal(transform.mask(mask)[b], mask[b, order[b]])


@pytest.mark.parametrize(("act", "determinant"), [(rotation, 1.0), (reflection, -1.0)])
def test_turns_keep_lengths_and_handedness(sets, act, determinant):
    state, mask, generator = sets
    turned = act("place")(state, mask, generator).state(state)
    torch.testing.assert_close(turned["place"].norm(dim=-1), state["place"].norm(dim=-1))
    volume = torch.linalg.det(turned["place"][:, :3]) / torch.linalg.det(state["place"][:, :3])
    torch.testing.assert_close(volume, torch.full((5,), determinant), rtol=1e-4, atol=0)
    assert torch.equal(turned["kind"], state["kind"])
    assert len(torch.unique((turned["place"][:, 0] @ state["place"][0, 0]).round(decimals=4))) == 5  # each its own


def test_shifts_and_flips(sets):
    state, mask, generator = sets
    shift = translation("place", scale=2.0)(state, mask, generator).state(state)["place"] - state["place"]
    torch.testing.assert_close(shift, shift[:, :1].expand(-1, 4, -1))
    assert shift.std() > 1
    grid = torch.randn(2, 3, 4, 5)
    assert torch.equal(flip(-1)(grid, None, generator).state(grid), grid.flip(3))
    transform = flip(1, "kind")(state, mask, generator)
    assert torch.equal(transform.state(state)["kind"], state["kind"].flip(1))
    assert torch.equal(transform.state(state)["place"], state["place"])
