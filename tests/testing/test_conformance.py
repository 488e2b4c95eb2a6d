import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tensordict import TensorDict

from diffcore import cli
from diffcore.plugins.contract import Contract
from diffcore.plugins.registry import Provided, load
from diffcore.plugins.symmetries import flip, permutation, reflection, rotation, translation
from diffcore.testing import ModalityTests
from diffcore.testing.checks import CHECKS
from diffcore.testing.checks.data import built, digests, new_process
from diffcore.testing.conformance import plugin_under_test, run_check, run_checks
from tests.plugins.test_registry import Plugin
from tests.support import conforming, sized_toy
from tests.support.conforming import (
    CONTRACT,
    DECODING,
    FAULTS,
    FAULTY_FUNCTIONS,
    FUNCTION,
    SLOW,
    UNUSED,
    NeverDecodes,
    beads,
    data,
)
from tests.support.toy import TOY

BARE = load([])
BY_NAME = {check.name: check for check in CHECKS}


def results_of(modality, names=BY_NAME):
    """The results of the checks with these names, by name."""
    plugin = plugin_under_test(modality, registry=BARE)
    return {name: run_check(BY_NAME[name], plugin) for name in names}


def with_status(results, *statuses):
    return {name for name, result in results.items() if result.status in statuses}


def test_a_sound_plugin_passes_all_checks():
    results = {result.name: result for result in run_checks(plugin_under_test(beads(), registry=BARE))}
    assert list(results) == list(BY_NAME)
    assert with_status(results, "passed") == set(BY_NAME) - {"imports_light", "reader_reads", "token_padding"}
    assert results["imports_light"].reason == "no entry point provides this modality"
    assert results["reader_reads"].reason == "the modality has no reader"


def test_a_reader_of_what_the_writer_writes_passes():
    results = results_of(conforming.read_by(conforming.encoded_beads), ["reader_reads"])
    assert results["reader_reads"].measured == "the sample is read from .txt by read"


def test_one_cause_is_reported_once():
    """What depends on a failed check is skipped, and says on which."""
    results = results_of(FAULTS["a number of an example is nan"].modality)
    assert with_status(results, "failed") == {"data_sound"}
    skipped = {name: results[name].reason for name in with_status(results, "skipped") - {"imports_light"}}
    assert {*skipped.values()} == {"it depends on data_sound, which failed"}
    independent = {"builds", "imports_light", "configuration_round_trip", "data_repeat", "held_out_differs"}
    assert {*skipped} == set(BY_NAME) - independent - {"data_sound"}


def test_a_check_that_is_needed_runs_once(monkeypatch):
    measured = []
    check = replace(
        BY_NAME["data_sound"], measure=lambda plugin: measured.append(1) or BY_NAME["data_sound"].measure(plugin)
    )
    checks = [check if each is BY_NAME["data_sound"] else each for each in CHECKS]
    plugin = plugin_under_test(beads(), registry=BARE)
    for name in ("facts_match", "decode_restores", "data_sound"):
        assert run_check(BY_NAME[name] if name != "data_sound" else check, plugin, checks).status == "passed"
    assert measured == [1]


def test_a_network_that_takes_too_much_memory_is_not_used_further(monkeypatch):
    monkeypatch.setattr("diffcore.testing.checks.memory.memory", lambda: 300 * 2**10)
    results = results_of(beads(), ["network_memory", "network_runs", "overfits_one_batch"])
    assert with_status(results, "failed") == {"network_memory"}
    assert re.fullmatch(r"training takes 4\d\d KiB: \S+ KiB for each of 64 .*", results["network_memory"].measured)
    assert results["network_memory"].expected == "at most the 300 KiB of this machine"
    assert results["overfits_one_batch"].reason == "it depends on network_memory, which failed"
    monkeypatch.setattr("diffcore.testing.checks.memory.memory", lambda: 12 * 2**10)
    (only,) = results_of(beads(), ["network_memory"]).values()
    assert only.measured.startswith("training takes more than ")


def test_global_random_generators_are_not_changed_by_building_data_again():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert not with_status(results_of(beads(), ["data_repeat"]), "failed")
    assert torch.equal(before, torch.get_rng_state())


BY_HASH = """
import torch
from dataclasses import replace
from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import API_VERSION

def unordered(options):
    from tests.support import sized_toy
    made = sized_toy.beads(options)
    order = sorted(range(len(made.examples)), key=lambda row: hash(f"example {row}"))
    return replace(made, examples=made.examples[order])

@hookimpl
def diffcore_modalities():
    from tests.support.conforming import beads, data

    return (beads(datasets=(data(unordered),)),)
"""


@pytest.mark.parametrize("prepared", [True, False])
def test_an_order_that_differs_between_processes_is_found(prepared, tmp_path, monkeypatch):
    """Such as that of a set of names: Python gives hashes another seed in each process.

    Those that tests prepare find it like those of users.
    """
    if not prepared:
        monkeypatch.setattr("diffcore.testing.checks.data.new_process", new_process)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ordered_by_hash.py").write_text(BY_HASH)
    registry = load([Plugin("by_hash", importlib.import_module("ordered_by_hash"))])
    result = run_check(BY_NAME["data_repeat"], plugin_under_test("beads", None, registry))
    assert (result.status, result.measured) == ("failed", "examples differ in a new process")


def test_an_element_on_its_own_exists_although_its_centred_noise_is_zero():
    def single(options):
        made = sized_toy.beads(options)
        return replace(made, examples=made.examples[(made.examples["kinds"] >= 0).sum(1) == 1])

    assert passes("padding_changes_nothing", beads(datasets=(data(single),)))


def test_checks_without_an_entry_in_the_contract_are_skipped_with_a_reason():
    declared = {"decode_restores": "not compared here"}
    results = results_of(replace(TOY, contract=lambda c: Contract(std={"radius": 0.5}, expected_failures=declared)))
    reasons = {
        "imports_light": "no entry point provides this modality",
        "held_out_differs": "nothing is held out",
        "encoding_invariances": "the contract has no transforms in `moved`",
        "padding_changes_nothing": "all elements exist: the codec returns no mask",
        "symmetries": "the denoiser mlp declares no symmetries",
        "token_padding": "no condition yields tokens",
        "reader_reads": "the modality has no reader",
    }
    assert {name: results[name].reason for name in with_status(results, "skipped")} == reasons
    assert not with_status(results, "failed")
    assert with_status(results, "expected") == {"decode_restores"}


@pytest.mark.parametrize("wrong", FAULTS)
def test_each_fault_fails_exactly_its_check(wrong):
    fault = FAULTS[wrong]
    names = [name for name in BY_NAME if name not in SLOW or name in fault.slow_checks]
    results = results_of(fault.modality, names)
    assert with_status(results, "failed", "expected", "unexpected") == {fault.check}, "\n".join(
        map(str, results.values())
    )
    failed = results[fault.check]
    assert fault.measured in failed.measured
    assert failed.expected
    assert failed.where


def passes(name, modality):
    return BY_NAME[name].measure(plugin_under_test(modality, registry=BARE)).passed


def test_slow_checks_do_not_use_what_is_faulty():
    assert all(passes(name, UNUSED) for name in SLOW)
    never_decodes = beads(codec=NeverDecodes)
    assert all(passes(name, never_decodes) for name in SLOW if name not in DECODING)
    with pytest.raises(AssertionError, match="this part is used"):
        passes("seeds_decide", never_decodes)


def test_faulty_functions_pass_the_slow_checks_that_compare():
    assert all(passes(name, FAULTY_FUNCTIONS) for name in SLOW if name not in FUNCTION)


def test_a_failure_is_reported_in_three_lines():
    results = results_of(FAULTS["a parameter is not used"].modality, ["gradients_reach_all"])
    measured, expected, place = str(results["gradients_reach_all"]).splitlines()
    assert measured == "measured: no gradient at 2 of 22 parameters: backbone.spare.weight, backbone.spare.bias"
    assert expected.startswith("expected: a nonzero gradient at every parameter")
    assert place.startswith("look at:  tests.support.conforming.Spare (")
    lines = Path(conforming.__file__).read_text().splitlines()
    assert place.endswith(f"conforming.py:{lines.index('class Spare(toy.Network):') + 1})")


def test_an_exception_of_a_plugin_is_reported_with_its_place():
    class Raising(type(TOY.writer(None))):
        def html(self, *arguments, **keywords):
            raise KeyError("colour")

    failed = results_of(replace(TOY, writer=Raising), ["samples_decode"])["samples_decode"]
    assert failed.status == "failed"
    assert failed.measured == "KeyError: 'colour'"
    assert failed.where.endswith("in html")
    assert "test_conformance.py:" in failed.where


def test_declared_failures_are_expected_and_must_fail():
    declared = {"symmetries": "orders are learned", "gradients_reach_all": "none"}
    contract = replace(CONTRACT, expected_failures=declared)
    modality = replace(FAULTS["the order is seen"].modality, contract=lambda codec: contract)
    results = results_of(modality, [name for name in BY_NAME if name not in SLOW])
    assert not with_status(results, "failed")
    assert with_status(results, "expected") == {"symmetries"}
    assert not results["symmetries"].is_error
    assert "declared: orders are learned" in str(results["symmetries"])
    assert with_status(results, "unexpected") == {"gradients_reach_all"}
    assert results["gradients_reach_all"].is_error
    assert "it passes, but expected_failures declares that it fails (none)" in str(results["gradients_reach_all"])


# Entry points

ENTRY_POINT = """
from diffcore.plugins.records import API_VERSION
from diffcore.plugins.hookspecs import hookimpl
{imports}

@hookimpl
def diffcore_modalities():
    from tests.support.conforming import beads

    return (beads(requires=("torch", "safetensors")),)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Makes a registry with a plugin in a module of its own, which begins with the given imports.

    The check imports that module in a new process, which finds an empty module in place of torch: it looks at the names
    of imported modules only, and torch takes seconds.
    """
    (tmp_path / "torch.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def registry(imports=""):
        name = f"beads_plugin_{len(imports)}"
        (tmp_path / f"{name}.py").write_text(ENTRY_POINT.format(imports=imports))
        return load([Plugin(name, importlib.import_module(name))])

    return registry


@pytest.mark.parametrize(
    ("imports", "status", "measured"),
    [
        ("", "passed", "imports nothing heavy"),
        ("import torch", "failed", "imports torch"),
        ("from safetensors import numpy", "failed", "imports safetensors"),
    ],
)
def test_entry_points_import_light(plugin, imports, status, measured):
    result = run_check(BY_NAME["imports_light"], plugin_under_test("beads", None, plugin(imports)))
    assert (result.status, measured in result.measured) == (status, True), result
    assert "torch" in result.expected
    assert "beads_plugin" in result.where


def test_an_entry_point_that_cannot_be_imported_alone_fails(plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "absent", ModuleType("absent"))  # in this process only
    result = run_check(BY_NAME["imports_light"], plugin_under_test("beads", None, plugin("import absent")))
    assert result.status == "failed"
    assert result.measured.endswith("fails with: ModuleNotFoundError: No module named 'absent'")
    assert result.expected == "a module that can be imported alone"


# The command


def built_here(module, modality, component, options):
    """What the new process would find, where torch is a stand-in."""
    return digests(built(importlib.import_module(module), modality, component.name, options.model_dump()))


def test_the_command_prints_all_results_and_its_exit_status_is_right(plugin, monkeypatch, capsys):
    monkeypatch.setattr("diffcore.plugins.registry.installed", plugin)
    monkeypatch.setattr("diffcore.testing.checks.data._built_elsewhere", lambda *context: built_here(*context))
    assert cli.main(["check-plugin", "beads"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed[:-1]] == list(BY_NAME)
    assert printed[-1].startswith(f"{len(CHECKS) - 2} passed, 2 skipped in ")

    quick = tuple(check for check in CHECKS if check.name not in SLOW)
    faulty = load([])
    faulty.modalities["beads"] = Provided(FAULTS["a file is empty"].modality, "diffcore-beads", "1.0")
    monkeypatch.setattr("diffcore.testing.conformance.CHECKS", quick)
    monkeypatch.setattr("diffcore.plugins.registry.installed", lambda: faulty)
    assert cli.main(["check-plugin", "beads", "--json"]) == 1
    listing = json.loads(capsys.readouterr().out)
    assert (listing["modality"], listing["denoiser"]) == ("beads", "net")
    assert [row["name"] for row in listing["checks"]] == [check.name for check in quick]
    (failed,) = (row for row in listing["checks"] if row["status"] == "failed")
    assert failed["name"] == "samples_decode"
    assert "missing or empty" in failed["measured"]


def test_a_mistake_of_the_user_is_reported_in_one_line(plugin, monkeypatch, capsys):
    monkeypatch.setattr("diffcore.plugins.registry.installed", plugin)
    for arguments, message in (
        (["smells"], "unknown modality 'smells'; installed: beads"),
        (["beads", "--denoiser", "nought"], "unknown denoiser 'nought'; there are: net"),
        (["beads", "--jsno"], "jsno"),
        ([], "diffcore check-plugin --help"),
    ):
        assert cli.main(["check-plugin", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


# The class of tests


def outcome_of(tests, check):
    """The outcome that pytest would report for the test of a check, and its message."""
    try:
        getattr(tests(), f"test_{check}")(None)
    except (pytest.skip.Exception, pytest.xfail.Exception, pytest.fail.Exception) as outcome:
        return type(outcome).__name__, str(outcome)
    return "Passed", ""


def test_the_class_reports_what_the_command_reports():
    record = FAULTS["the order is seen"].modality
    expected = replace(CONTRACT, expected_failures={"symmetries": "orders are learned"})
    unexpected = replace(CONTRACT, expected_failures={"noise_in_space": "none"})

    class Wrong(ModalityTests):
        modality = record

    class Declared(ModalityTests):
        modality = replace(record, contract=lambda codec: expected)

    class Undue(ModalityTests):
        modality = replace(record, contract=lambda codec: unexpected)

    assert outcome_of(Wrong, "noise_in_space") == ("Passed", "")
    assert outcome_of(Wrong, "imports_light") == ("Skipped", "no entry point provides this modality")
    kind, message = outcome_of(Wrong, "symmetries")
    assert kind == "Failed"
    assert all(words in message for words in ("measured: permutation", "expected: at most", "look at:  tests.support"))
    kind, message = outcome_of(Declared, "symmetries")
    assert (kind, "orders are learned" in message) == ("XFailed", True)
    kind, message = outcome_of(Undue, "noise_in_space")
    assert (kind, "expected_failures declares that it fails (none)" in message) == ("Failed", True)


def test_a_check_cannot_be_overridden_or_deleted_without_a_reason():
    assert {name for name in vars(ModalityTests) if name.startswith("test_")} == {f"test_{name}" for name in BY_NAME}
    for replacement in (lambda self: None, None, pytest.mark.xfail(lambda self: None)):
        with pytest.raises(TypeError, match=r"Mine.test_symmetries replaces a check"):
            type("Mine", (ModalityTests,), {"modality": "beads", "test_symmetries": replacement})

    class Mixed:
        def test_symmetries(self):
            pass

    with pytest.raises(TypeError, match=r"Mine.test_symmetries replaces a check"):
        type("Mine", (Mixed, ModalityTests), {"modality": "beads"})

    class Excused(ModalityTests):
        @pytest.mark.xfail(reason="the network is not equivariant yet")
        def test_symmetries(self):
            assert False  # noqa: B011, PT015

        def test_of_its_own(self):
            pass


class TestByFixture(ModalityTests):
    """Collected by pytest like a class of a plugin's author; the modality comes from a fixture."""

    @pytest.fixture
    def modality(self):
        return beads()


WITHOUT_PYTEST = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in ("diffcore", "pytest", "_pytest")]:
    del sys.modules[name]
sys.modules["pytest"] = None
from diffcore.testing import ModalityTests
print(ModalityTests.__name__)
"""


def test_the_class_needs_no_pytest_to_be_imported(processes):
    """All modules of diffcore are imported again while pytest cannot be imported, in a process of its own.

    In this one, operations of PyTorch that they define would be defined anew and be lost with them.
    """
    done = processes(WITHOUT_PYTEST, [])
    assert (done.returncode, done.stdout) == (0, "ModalityTests\n"), done.stderr


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
