"""The contracts of solvers, schedules, guidance, metrics and loggers: sound parts pass, and each fault is found."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffcore import cli
from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component
from diffcore.plugins.registry import Provided, load
from diffcore.process.schedules import Cosine
from diffcore.sampling.solvers import ddim
from diffcore.states.state import combine, map_fields
from diffcore.testing import PartTests
from diffcore.testing.conformance import run_contract
from diffcore.testing.oracles import largest_difference
from diffcore.testing.parts import CONTRACTS, PartUnderTest, part_under_test
from diffcore.testing.parts.guidance import _decorated
from tests.support.conforming import beads
from tests.support.sized_toy import read_beads
from tests.support.toy import put_in_place

REGISTRY = load([])
REGISTRY.modalities["beads"] = Provided(beads(), "diffcore-beads", "1.0")


def results_of(kind, build):
    component = build if isinstance(build, Component) else Component("mine", "", build)
    return {result.name: result for result in run_contract(PartUnderTest(kind, component, REGISTRY))}


NOT_APPLICABLE = (
    "the solver draws noise",
    "the task has neither `pictures` nor `report`",
    "the embedding has no `keep_texts`, so all of it is computed in each step",
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("schedule", name) for name in REGISTRY.schedules),
        *(("solver", name) for name in REGISTRY.solvers if name != "langevin"),  # as long as all others together
        ("logger", "tensorboard"),
        ("task", "denoise"),
        ("task", "classify"),
        ("text-encoder", "words"),
    ],
)
def test_the_parts_of_the_core_pass(kind, name):
    for result in run_contract(part_under_test(kind, name, REGISTRY)):
        assert result.status == "passed" or result.reason in NOT_APPLICABLE, result


def clipped(options, codec):
    def decorate(denoise):
        def guided(x, level, conditions=None, mask=None):
            return from_x0(map_fields(lambda f: f.clamp(-2, 2), denoise(x, level, conditions, mask).x0), x, level)

        return guided

    return decorate


def count(options, codec, data):
    return lambda samples, conditions: [Metric("count", float(len(samples)), "how many")]


class Notes:
    def __init__(self, folder):
        self.folder = folder

    def row(self, row):
        (self.folder / "notes.txt").write_text(str(row))

    def picture(self, step, path):
        assert path.exists()

    def metrics(self, step, metrics):
        assert metrics

    def close(self):
        pass


def notes(options, folder, settings):
    return Notes(folder)


@pytest.mark.parametrize(("kind", "build"), [("guidance", clipped), ("metric", count), ("logger", notes)])
def test_sound_parts_pass(kind, build):
    assert {result.status for result in results_of(kind, build).values()} == {"passed"}


# Broken in one way each


def schedule(**changed):
    """A schedule like `Cosine` with other functions."""
    sound = Cosine()
    functions = {"log_snr": sound.log_snr, "time": sound.time, "level": sound.level}
    return lambda options: SimpleNamespace(**{**functions, **{n: f(sound) for n, f in changed.items()}})


def solver(change):
    """DDIM whose result is changed by `change(result, x, move)`."""
    sound = ddim()
    return lambda options: lambda evaluate, x, move: change(sound(evaluate, x, move), x, move)


def remembering(options):
    """A multistep method that keeps its history in itself."""
    sound, last = ddim(), []

    def step(evaluate, x, move):
        result = sound(evaluate, x, move)
        if last and last[-1].shape[0] == x.shape[0] and isinstance(x, torch.Tensor):
            result = result + 0.01 * last[-1]
        last.append(x)
        return result

    return step


def in_place(options):
    sound = ddim()

    def step(evaluate, x, move):
        result = sound(evaluate, x, move)
        for name, value in x.items() if not isinstance(x, torch.Tensor) else (("", x),):
            del name
            value.mul_(2)
        return result

    return step


def guide(change):
    """Guidance whose prediction is that of `change(denoise, x, level, conditions, mask)`."""

    def build(options, codec):
        return lambda denoise: lambda x, level, conditions=None, mask=None: change(denoise, x, level, conditions, mask)

    return build


def of_x0(change):
    return guide(lambda d, x, level, c, mask: from_x0(change(d(x, level, c, mask).x0), x, level))


calls = []


def metric(found):
    return lambda options, codec, data: lambda samples, conditions: found()


def logger(**changed):
    return lambda options, folder, settings: replace_methods(Notes(folder), changed)


def replace_methods(part, changed):
    for name, function in changed.items():
        setattr(part, name, function)
    return part


def only_once(options, folder, settings):
    (folder / "log").mkdir()
    return Notes(folder)


def growing():
    calls.append(1)
    return [Metric("count", float(len(calls)), "how often")]


@dataclass(frozen=True)
class Fault:
    kind: str
    check: str
    build: object
    measured: str


FAULTS = {
    "a schedule that rises": Fault(
        "schedule", "decreases", schedule(log_snr=lambda s: lambda t: s.log_snr(1 - t)), "log_snr(0.001) ="
    ),
    "a schedule that stands still": Fault(
        "schedule", "decreases", schedule(log_snr=lambda s: lambda t: s.log_snr(t.clamp(max=0.5))), "log_snr(0.501) ="
    ),
    "a schedule that is infinite between its ends": Fault(
        "schedule", "decreases", schedule(log_snr=lambda s: lambda t: -(2 * t).log1p() / (t < 0.5)), "log_snr(0.5) is"
    ),
    "a wrong inverse": Fault("schedule", "inverse", schedule(time=lambda s: lambda v: 0.99 * s.time(v)), "differs"),
    "an inverse of nothing": Fault(
        "schedule", "inverse", schedule(time=lambda s: lambda v: s.time(v) * torch.nan), "differs from it by inf"
    ),
    "scales of another log-SNR": Fault(
        "schedule", "scales", schedule(level=lambda s: lambda v: s.level(v / 2)), "whose"
    ),
    "a schedule of single precision": Fault(
        "schedule", "keeps_form", schedule(log_snr=lambda s: lambda t: s.log_snr(t).float()), "torch.float32"
    ),
    "a schedule of vectors": Fault(
        "schedule", "keeps_form", schedule(time=lambda s: lambda v: s.time(v).reshape(-1)), "of shape [] is [1]"
    ),
    "a schedule that is not returned": Fault("schedule", "builds", lambda options: None, "`return` forgotten?"),
    "a solver that is not returned": Fault("solver", "builds", lambda options: None, "`return` forgotten?"),
    "a step that returns nothing": Fault("solver", "keeps_form", solver(lambda r, x, move: None), "it is None"),
    "a step that changes its state": Fault("solver", "keeps_form", in_place, "the state is changed in place"),
    "a step that leaves the space": Fault(
        "solver", "keeps_form", solver(lambda r, x, move: map_fields(lambda f: f + 0.1, r)), "projection to the space"
    ),
    "a step that is not finite at pure noise": Fault(
        "solver",
        "keeps_form",
        solver(lambda r, x, move: r if move.now.alpha else r * torch.nan),
        "non-finite in step 1",
    ),
    "a solver that remembers": Fault("solver", "no_memory", remembering, "drawing again changes samples"),
    "a solver of order zero": Fault(
        "solver",
        "order",
        solver(lambda r, x, move: combine((1.0, r), (0.05 * (abs(move.next.log_snr) < 2.5), x))),
        "order ",
    ),
    "a solver whose samples are too wide": Fault(
        "solver", "distribution", solver(lambda r, x, move: 1.3 * r if move.next.sigma == 0 else r), "deviation 0.51"
    ),
    "guidance that is not returned": Fault("guidance", "builds", lambda options, codec: None, "`return` forgotten?"),
    "a decorator that returns nothing": Fault(
        "guidance", "builds", lambda options, codec: lambda denoise: None, "must return a denoiser when it is called"
    ),
    "guidance that returns nothing": Fault("guidance", "keeps_form", guide(lambda *a: None), "returns a NoneType"),
    "guidance that needs conditions": Fault(
        "guidance", "keeps_form", guide(lambda d, x, level, c, mask: c["span"] and d(x, level, c, mask)), ""
    ),
    "guidance that is infinite": Fault(
        "guidance", "keeps_form", of_x0(lambda x0: map_fields(lambda f: f / 0, x0)), "nan or infinite"
    ),
    "guidance that looks at neighbours": Fault(
        "guidance",
        "batch_changes_nothing",
        of_x0(lambda x0: map_fields(lambda f: f - f.mean(0, keepdim=True), x0)),
        "a batch of one",
    ),
    "guidance that is random": Fault(
        "guidance", "repeats", of_x0(lambda x0: map_fields(lambda f: f * (1 + next(NUMBERS)), x0)), "the second"
    ),
    "a metric that is not returned": Fault("metric", "builds", lambda *a: None, "`return` forgotten?"),
    "a metric that returns nothing": Fault("metric", "measures", metric(lambda: None), "but returned None"),
    "a metric that is no metric": Fault("metric", "measures", metric(lambda: [3.0]), "a list with a float in it"),
    "a metric without a meaning": Fault(
        "metric", "measures", metric(lambda: [Metric("a", 1.0, "")]), "a has no meaning in words"
    ),
    "a metric that counts calls": Fault("metric", "repeats", metric(growing), "count: "),
    "a logger that is not returned": Fault("logger", "builds", lambda *a: None, "`return` forgotten?"),
    "a logger that changes rows": Fault("logger", "listens", logger(row=lambda row: row.clear()), "the row is {}"),
    "a logger that raises at nan": Fault(
        "logger", "listens", logger(metrics=lambda step, found: [int(m.value) for m in found]), "ValueError"
    ),
    "a logger that wants a new folder": Fault("logger", "goes_on", only_once, "FileExistsError"),
}
NUMBERS = iter(0.001 * n for n in range(10_000))


@pytest.mark.parametrize("wrong", FAULTS)
def test_each_fault_fails_its_check_and_what_depends_is_skipped(wrong):
    fault = FAULTS[wrong]
    results = results_of(fault.kind, fault.build)
    failed = {name: result for name, result in results.items() if result.is_error}
    also = {"a solver that remembers": {"order", "distribution"}, "a solver of order zero": {"distribution"}}
    if wrong == "guidance that is random":
        also[wrong] = {"batch_changes_nothing"}
    assert {fault.check} <= {*failed} <= {fault.check} | also.get(wrong, set()), "\n".join(map(str, results.values()))
    assert fault.measured in failed[fault.check].measured
    needing = {check.name for check in CONTRACTS[fault.kind] if fault.check in check.needs}
    assert {results[name].reason for name in needing} <= {f"it depends on {fault.check}, which failed"}


def test_the_command_finds_parts_of_every_kind(monkeypatch, capsys):
    registry = load([])
    registry.modalities["beads"] = Provided(beads(), "diffcore-beads", "1.0")
    registry.guidance["clip"] = Provided(Component("clip", "", clipped), "diffcore-clip", "1")
    registry.metrics["clip"] = Provided(Component("clip", "", count), "diffcore-clip", "1")
    registry.loggers["forgot"] = Provided(Component("forgot", "", lambda *a: None), "diffcore-clip", "1")
    registry.metrics["far"] = Provided(Component("far", "", count, modalities=frozenset({"smells"})), "d", "1")
    put_in_place(monkeypatch, registry)
    assert cli.main(["check-plugin", "cosine"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("5 passed in ")
    assert cli.main(["check-plugin", "clip", "--kind", "metric"]) == 0
    assert cli.main(["check-plugin", "clip", "--kind", "guidance", "--for", "beads"]) == 0
    capsys.readouterr()
    assert cli.main(["check-plugin", "forgot"]) == 1
    assert "`return` forgotten?" in capsys.readouterr().out
    for arguments, message in (
        (["clip"], "'clip' is a guidance and a metric: choose one with --kind"),
        (
            ["cosine", "--denoiser", "net"],
            "--denoiser belongs to a kind of data or a data set, and cosine is a schedule",
        ),
        (["far"], "the metric 'far' is tried with smells, which is not installed"),
        (["drawn", "--for", "smells"], "unknown modality 'smells'"),
        (["ddmi", "--kind", "solver"], "unknown solver 'ddmi'"),
    ):
        assert cli.main(["check-plugin", *arguments]) == 2
        assert message in capsys.readouterr().err


class PartReader:
    """Reads the files of `BeadWriter`: all kinds are known."""

    def __init__(self, codec):
        self.codec = codec

    def read_part(self, path):
        (sample,) = read_beads(path.read_text())
        values, known = (map_fields(torch.zeros_like, self.codec.space.empty(1)) for _ in range(2))
        values["kind"][0, : len(sample.kinds)] = self.codec.kinds.encode(sample.kinds)
        known["kind"][0, : len(sample.kinds)] = 1
        return values, map_fields(lambda flag: flag.bool(), known)


READING = load([])
READING.modalities["beads"] = Provided(replace(beads(), reader=PartReader), "diffcore-beads", "1.0")


@pytest.mark.parametrize("name", ["composed", "auto", "classifier", "keep-elements"])
def test_guidances_with_required_options_are_tried(name):
    part = part_under_test("guidance", name, READING)
    assert {result.status for result in run_contract(part)} == {"passed"}
    guided, plain = (
        map_fields(lambda field: field.detach(), denoise(*batch(part)).x0)
        for denoise in (_decorated(part), part.modality.randomised_denoiser)
    )
    assert largest_difference(guided, plain) > 1e-3  # it does something


def batch(part):
    noisy = part.modality.noisy_batch()
    return noisy.x, noisy.level, noisy.conditions, noisy.mask


def test_files_of_a_trial_are_deleted_with_it():
    part = part_under_test("guidance", "keep-elements", READING)
    file = Path(part.options.file)
    assert file.is_file()
    del part
    gc.collect()
    assert not file.parent.exists()


@pytest.mark.parametrize(
    ("name", "why"), [("keep-elements", "cannot read a file with a part"), ("prompts", "its data have no captions")]
)
def test_why_a_guidance_cannot_be_tried_is_said(name, why):
    with pytest.raises(UserError, match=f"the guidance '{name}' cannot be tried with beads: .*{why}"):
        part_under_test("guidance", name, REGISTRY)


class TestHeun(PartTests):
    """Collected by pytest like a class of a plugin's author."""

    kind = "solver"
    name = "heun"
