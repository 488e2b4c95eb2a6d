"""States of varying size and numbers as conditions, through the whole core and the command line."""

import copy
import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from diffcore import cli
from diffcore.api.run import Run
from diffcore.denoising.conditions import captions_of, nulls
from diffcore.errors import UserError
from diffcore.evaluation.noisy_classifier import LOG_SNRS, evaluate
from diffcore.evaluation.request import EvaluationRequest
from diffcore.likelihood.bound import variational_bound
from diffcore.likelihood.flow import log_likelihood
from diffcore.plugins.registry import Provided
from diffcore.process.schedules import Cosine
from diffcore.runs import tuning
from diffcore.runs.composing import compose
from diffcore.runs.fitted_grid import read_fitted_grids
from diffcore.runs.folder import RunFolder
from diffcore.runs.generation import (
    draw_mask,
    example_conditions,
    generate,
    require_conditions,
    trajectories,
    unguided,
    unguided_without_conditions,
)
from diffcore.runs.loading import load_run
from diffcore.runs.model import build_model
from diffcore.runs.sampling_config import SamplingConfig, sampling_config
from diffcore.sampling import loop
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.inverse.editing import given_fields, inpainting, measured, mmps
from diffcore.sampling.loop import levels_of
from diffcore.sampling.solvers import adams, ddim
from diffcore.sampling.timesteps import grid
from diffcore.states.spaces import Product, ZeroCentred
from diffcore.states.state import map_fields
from diffcore.testing.oracles import largest_difference
from tests.support import refusals
from tests.support.sized_toy import (
    BEADS,
    LARGEST,
    BeadWriter,
    OneOf,
    beads,
    examples_of,
    read_beads,
    sized_registry,
    span,
    weight,
)
from tests.support.toy import put_in_place

REGISTRY = sized_registry()


class KindReader:
    """A file of kinds, one a line: those of the first beads of a sample, which are known."""

    def __init__(self, codec):
        self.codec = codec

    def read_part(self, path):
        kinds = torch.tensor([int(word) for word in path.read_text().split()])
        values, known = self.codec.space.empty(1), torch.zeros(1, LARGEST, 3, dtype=torch.bool)
        values["kind"][0, : len(kinds)] = self.codec.kinds.encode(kinds)
        known[0, : len(kinds)] = True
        return values, TensorDict({"kind": known}, batch_size=[1])


REGISTRY.modalities["read"] = Provided(replace(BEADS, name="read", reader=KindReader), "beads", "1.0")
DATA = beads(BEADS.datasets[0].options())
SHORT = ("--train.steps", "400", "--train.evaluate", "400")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that draws, with guidance in its configuration, and a classifier."""
    patch = pytest.MonkeyPatch()
    put_in_place(patch, REGISTRY)
    folder = tmp_path_factory.mktemp("runs")
    # After so few steps, models of different seeds differ much.
    train = ["train", "--modality", "beads", "--seed", "5"]
    assert cli.main([*train, "--out", str(folder / "beads"), *SHORT, "--sample.guidance", "2"]) == 0
    assert cli.main([*train, "--out", str(folder / "teller"), *SHORT, "--task", "classify"]) == 0
    assert cli.main(["train", "--modality", "read", "--out", str(folder / "read"), "--train.steps", "2"]) == 0
    yield folder
    patch.undo()


@pytest.fixture
def drawn(runs, tmp_path):
    """Samples by the command line."""

    def draw(*flags, n=50, guidance=1):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.txt"
        command = ["sample", runs / "beads", "--n", n, "--out", out, "--guidance", guidance, *flags]
        assert cli.main([str(word) for word in command]) == 0
        return read_beads(out.read_text())

    return draw


@pytest.fixture
def refused(runs, capsys):
    """The one line that a command says."""
    return partial(refusals.refused, capsys)


@pytest.fixture(scope="module")
def model(runs):
    return load_run(runs / "beads", REGISTRY, None, None)[1]


def figures_of(run):
    return {row["name"]: row["value"] for row in json.loads((run / "metrics.json").read_text())}


def off(samples, measure, target):
    """The mean distance from a target, of the samples that have a value."""
    values = [measure(sample) for sample in samples]
    return torch.tensor([abs(value - target) for value in values if not math.isnan(value)]).mean().item()


# Training and metrics


def test_training_ends_with_figures_of_targets_and_their_bounds(runs):
    metrics = figures_of(runs / "beads")
    for name in ("span", "weight"):
        for kind in ("mae_shuffled", "mae_size_only", "mae_conditional", "measured_conditional"):
            assert f"{name}_{kind}" in metrics
        assert metrics[f"{name}_mae_conditional"] < 0.8 * metrics[f"{name}_mae_shuffled"]
        assert f"{name}_mae_guided" in metrics
    assert metrics["weight_mae_conditional"] < 0.8 * metrics["weight_mae_size_only"]
    assert 0.7 < metrics["span_measured_conditional"] < 1  # single beads have none
    assert metrics["weight_measured_conditional"] == 1
    sizes = torch.tensor([len(sample.kinds) for sample in samples_of_data()]).double()
    assert metrics["size"] == pytest.approx(sizes.mean().item(), abs=0.2)


def samples_of_data():
    codec = BEADS.codec(DATA.facts)
    encoded = codec.encode(DATA.examples)
    return codec.decode(encoded.state, encoded.mask)


def test_a_report_shows_samples_also_where_guidance_has_nothing_to_go_by(runs):
    """Numbers are not asked for by themselves, so pictures are drawn without the run's guidance."""
    page = (runs / "beads" / "report.html").read_text()
    assert "50 sets of beads" in page
    assert "needs conditions" not in page
    assert list((runs / "beads" / "samples").glob("step-*.txt"))


def test_the_codec_reads_back_what_it_writes():
    samples = samples_of_data()
    again = examples_of(samples)
    assert torch.equal(again["kinds"], DATA.examples["kinds"])
    torch.testing.assert_close(again["span"], DATA.examples["span"], equal_nan=True)


# Drawing


def test_targets_and_sizes_are_met(drawn):
    small, large = (drawn("--target", f"span={span}", "--size", "3..6") for span in (0.8, 3.0))
    free = drawn("--size", "3..6")
    assert off(small, span, 0.8) < 0.6 * off(free, span, 0.8)
    assert off(large, span, 3.0) < 0.6 * off(free, span, 3.0)
    assert {len(sample.kinds) for sample in small} <= {3, 5, 6}
    assert {len(sample.kinds) for sample in drawn("--size", "4", n=5)} == {4}
    assert {len(sample.kinds) for sample in drawn("--size", "..2", n=20)} == {1, 2}


def test_sizes_follow_what_is_asked_for(drawn):
    """Six beads weigh most: Bayes' rule on sizes, told nothing else."""
    light, heavy = (drawn("--target", f"weight={weight}") for weight in (2, 15))

    def mean(samples):
        return sum(len(sample.kinds) for sample in samples) / len(samples)

    assert mean(light) < 2.5
    assert mean(heavy) > 5
    assert off(heavy, weight, 15) < 0.3 * off(light, weight, 15)
    counts = dict(zip(DATA.facts.sizes, DATA.facts.counts, strict=True))
    expected = sum(size * count for size, count in counts.items()) / sum(counts.values())
    assert mean(drawn(n=300)) == pytest.approx(expected, abs=0.3)


def test_places_are_about_their_mean(drawn):
    for sample in drawn(n=20):
        assert sample.places.mean(0).abs().max() < 1e-4


@pytest.mark.parametrize("flags", [(), ("--target", "span=0.5..2", "--target", "weight=5..", "--size", "2..")])
def test_a_sample_is_the_same_in_every_batch_its_size_too(drawn, flags):
    whole, parts, one = drawn(*flags), drawn(*flags, "--batch-size", 3), drawn(*flags, n=1)
    for a, b in zip([*whole, whole[0]], [*parts, one[0]], strict=True):
        assert torch.equal(a.kinds, b.kinds)
        torch.testing.assert_close(a.places, b.places, atol=1e-3, rtol=0)
    assert len({len(sample.kinds) for sample in whole}) > 1
    assert not all(torch.equal(a.kinds, b.kinds) for a, b in zip(whole, drawn(*flags, "--seed", 1), strict=True))


def test_a_run_s_own_guidance_needs_nothing_to_be_asked_for(runs, drawn, tmp_path):
    out = tmp_path / "own.txt"
    assert cli.main(["sample", str(runs / "beads"), "--n", "5", "--out", str(out)]) == 0
    for own, plain in zip(read_beads(out.read_text()), drawn(n=5), strict=True):
        torch.testing.assert_close(own.places, plain.places)


def test_guidance_goes_where_it_should(drawn):
    plain, guided = (drawn("--target", "weight=15", "--size", "5", guidance=weight) for weight in (1, 2))
    assert any(not torch.equal(a.kinds, b.kinds) for a, b in zip(plain, guided, strict=True))
    away = drawn("--target", "weight=15", "--size", "5", guidance=0)
    assert off(guided, weight, 15) < off(away, weight, 15)


def test_a_predictor_guides_to_numbers(runs, drawn):
    flags = ("--target", "span=2.5", "--size", "5")
    away = drawn(*flags, guidance=0)
    guided = drawn(*flags, "--classifier", runs / "teller", "--steps", 20, guidance=0)
    assert off(guided, span, 2.5) < 0.6 * off(away, span, 2.5)


def test_files_are_told_what_was_asked(runs, tmp_path, monkeypatch):
    seen = []
    plain = BeadWriter.together
    monkeypatch.setattr(
        BeadWriter,
        "together",
        lambda self, s, p, c, captions=(): (seen.append(captions), plain(self, s, p, c, captions)),
    )
    command = ["sample", runs / "beads", "--n", 2, "--target", "span=1.5", "--out", tmp_path / "x"]
    assert cli.main([str(word) for word in command]) == 0
    assert seen == [[{"span": "1.5"}] * 2]
    assert (tmp_path / "x" / "0001-span=1.5.txt").is_file()
    values = {"span": torch.tensor([math.nan, 2.0]), "weight": torch.tensor([3.0, math.nan])}
    assert captions_of(BEADS.codec(DATA.facts).conditions, values, 2) == [{"weight": "3"}, {"span": "2"}]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--size", "7"), "--size 7: the training examples have other sizes: 1, 2, 3, 5, 6"),
        (("--size", "x"), "--size 'x': write a whole number, or a range such as 7..9"),
        (("--size", "4..4.5"), "--size '4..4.5': write a whole number"),
        (("--target", "span=wide"), "span=wide: write a number such as 2.5, or a range such as 40..60"),
        (("--target", "span=1e300"), "span=1e300: write a number such as 2.5"),
        (("--target", "span=1..1e39"), "span=1..1e39: write a number such as 2.5"),
        (("--target", "span"), "--target 'span': write it as key=2.5, or key=40..60"),
        (("--target", "age=3"), "unknown condition 'age'; this model takes: span, weight"),
        (("--target", "span=1", "--condition", "span=2"), "--target span=1: span is given twice"),
        (("--guidance", "2"), "the guidance classifier-free (weight 2) needs conditions, and none is given"),
    ],
)
def test_mistakes_get_a_line_and_leave_no_folder(runs, tmp_path, refused, flags, said):
    out = tmp_path / "none"
    assert said in refused("sample", runs / "beads", "--out", out, *flags)
    assert not out.exists()


def test_numbers_never_met_are_doubted(drawn, capsys):
    drawn("--target", "span=60", n=3)
    assert "span: 3 of 3 requested values lie outside the range of the training examples" in capsys.readouterr().err


def test_what_cannot_be_edited_gets_a_line(runs, tmp_path, refused):
    (tmp_path / "a").write_text("2\n1\n2\n")
    for flags in (("--upscale", tmp_path / "a"), ("--inpaint", tmp_path / "a", "--mask", tmp_path / "a")):
        assert "the plugin for beads cannot read files" in refused("sample", runs / "beads", *flags)
    said = refused("sample", runs / "read", "--inpaint", tmp_path / "a", "--size", "2")
    assert "--size 2: 3 elements are known; ask for at least as many" in said


def test_editing_draws_sizes_in_which_all_that_is_known_exists(runs, tmp_path):
    """Of sizes 1, 2, 3, 5 and 6, three remain."""
    (tmp_path / "a").write_text("2\n1\n2\n")
    out = tmp_path / "out.txt"
    command = ["sample", runs / "read", "--inpaint", tmp_path / "a", "--n", 60, "--out", out, "--steps", 5]
    assert cli.main([str(word) for word in command]) == 0
    samples = read_beads(out.read_text())
    assert {len(sample.kinds) for sample in samples} == {3, 5, 6}
    assert all(sample.kinds[:3].tolist() == [2, 1, 2] for sample in samples)


def test_elements_are_kept_by_guidance(runs, tmp_path, refused):
    """Among other guidance, from Python and by flags: the samples are those of posterior sampling by hand."""
    file, out = tmp_path / "a", tmp_path / "out.txt"
    file.write_text("2\n1\n2\n")
    run = Run(runs / "read", registry=REGISTRY)
    guides = [
        {"name": "classifier-free", "weight": 2.0},
        {"name": "keep-elements", "file": str(file), "noise_std": 0.1},
    ]
    asked = {"conditions": {"weight": 9.0}, "steps": 5, "seed": 2}
    found = run.sample(40, guides=guides, **asked)
    assert {*found.mask.sum(1).tolist()} == {3, 5, 6}  # of sizes 1, 2, 3, 5 and 6
    codec, kinds = run.model.codec, torch.tensor([2, 1, 2])
    values = map_fields(torch.zeros_like, codec.space.empty(1))
    values["kind"][0, :3] = codec.kinds.encode(kinds)

    def first(x0):
        return TensorDict({"kind": x0["kind"] * (torch.arange(LARGEST) < 3)[:, None]}, batch_size=x0.batch_size)

    free = classifier_free(run.model.denoiser, codec.conditions, 2.0)
    denoise = measured(free, first, first(values), codec.space, mmps(0.1))
    levels = levels_of(run.model.schedule, grid("tapered", run.model.schedule, 5))
    by_hand = loop.sample(
        denoise, codec.space, adams(), levels, indices=range(40), seed=2, conditions=found.conditions, mask=found.mask
    )
    assert largest_difference(found.state, by_hand) < 1e-4
    assert largest_difference(found.state, run.sample(40, guides=guides[:1], **asked).state) > 0.1
    flags = ["--guide", "classifier-free", "--guide.weight", "2"]
    keep = ["--guide", "keep-elements", "--guide.file", file, "--guide.noise-std", "0.1"]
    command = ["sample", runs / "read", "--n", 40, "--target", "weight=9", "--steps", 5, "--seed", 2, "--out", out]
    assert cli.main([str(word) for word in (*command, *flags, *keep)]) == 0
    for one, other in zip(read_beads(out.read_text()), codec.decode(found.state, found.mask), strict=True):
        assert torch.equal(one.kinds, other.kinds)
    (kept,) = run.config({"guides": guides[1:]})[1].recipe()["guidance"]
    file.write_text("2\n1\n1\n")
    (other,) = run.config({"guides": guides[1:]})[1].recipe()["guidance"]
    assert len(kept["file"]) == 64
    assert kept["file"] != other["file"]
    said = refused("sample", runs / "read", "--size", "2", *keep)
    assert "--size 2: 3 elements are known; ask for at least as many" in said
    said = refused("sample", runs / "beads", *keep)
    assert "the plugin for beads cannot read a file with a part of a sample" in said


def test_a_mask_without_a_known_element_is_refused(runs):
    model = load_run(runs / "read", REGISTRY, None, None)[1]
    values, known = model.codec.space.empty(1), torch.zeros(1, LARGEST, 3, dtype=torch.bool)
    known[0, 3] = True
    constraint = inpainting(values, TensorDict({"kind": known}, batch_size=[1]), model.codec.space)
    mask = torch.arange(LARGEST) < torch.tensor([[4], [3]])
    with pytest.raises(UserError, match="lacks elements that are known"):
        generate(
            model, SamplingConfig(ddim(), steps=2), example_conditions(model, 2), 2, constraint=constraint, mask=mask
        )


def test_given_fields_decide_the_sizes_of_samples():
    """Without their mask, the sizes would be drawn, and a sample could have an element without a kind."""
    settings = compose(REGISTRY, "beads", over={"levels": {"independent": 0.5}})
    data = beads(settings.data)
    model = build_model(settings, data.facts, REGISTRY)
    encoded = model.codec.encode(data.examples[:3])
    config, conditions = SamplingConfig(ddim(), steps=2), nulls(model.codec.conditions, 3)
    values, space = {"kind": encoded.state["kind"]}, model.codec.space
    drawn = generate(model, config, conditions, 3, constraint=given_fields(values, space, mask=encoded.mask))
    assert torch.equal(drawn.mask, encoded.mask)
    assert torch.equal(drawn.state["kind"], encoded.state["kind"])
    with pytest.raises(UserError, match="give `given_fields` the `mask` of the samples that the values are from"):
        generate(model, config, conditions, 3, constraint=given_fields(values, space))
    assert draw_mask(model, [0], conditions, size="6", constraint=given_fields(values, space)).all()
    with pytest.raises(UserError, match="`size` 6: the values that are given have a size"):
        draw_mask(model, [0], conditions, size="6", constraint=given_fields(values, space, mask=encoded.mask))


def test_the_likelihood_of_states_of_different_sizes_needs_their_mask(runs, tmp_path):
    run = Run(runs / "read", registry=REGISTRY)
    samples = run.sample(2, steps=2)
    expected = run.log_likelihood(samples, steps=2)
    again = run.log_likelihood(samples.state, mask=samples.mask, conditions=samples.conditions, steps=2)
    assert torch.equal(again, expected)
    with pytest.raises(UserError, match="`mask` is missing: the number of elements varies"):
        run.log_likelihood(samples.state, steps=2)
    with pytest.raises(UserError, match="`source`: the plugin for read cannot read files of whole samples"):
        run.log_likelihood(tmp_path / "a")


# Evaluation, tuning, prediction


def test_evaluate_asks_guidance_for_targets_alone(runs, capsys):
    capsys.readouterr()
    found = []
    for batch in ("7", "100"):
        assert cli.main(["evaluate", str(runs / "beads"), "--n", "40", "--json", "--batch-size", batch]) == 0
        found.append(json.loads(capsys.readouterr().out))
    for metrics in found:
        metrics.pop("samples_per_second")
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    meanings = {row["name"]: row["meaning"] for row in json.loads((runs / "beads" / "metrics.json").read_text())}
    assert "without guidance" in meanings["samples"]
    assert meanings["span_mae_guided"].endswith("classifier-free (weight 2)")


def test_tuning_follows_masked_flows(runs, drawn, capsys, monkeypatch):
    flows, plain = [], tuning.fit_grid
    monkeypatch.setattr(tuning, "fit_grid", lambda *both, **rest: (flows.extend(both[:2]), plain(*both, **rest))[1])
    tune = ["tune", str(runs / "beads"), "--steps", "3", "--trajectories", "8", "--iterations", "4"]
    assert cli.main([*tune, "--guidance", "1"]) == 0
    (entry,) = read_fitted_grids(RunFolder(runs / "beads")).values()
    assert entry.error < entry.default_error
    for flow in flows:
        assert flow.mask.sum(1).unique().numel() > 1
        assert all((state["place"][~flow.mask] == 0).all() for state in (flow.start, flow.end))
    capsys.readouterr()
    drawn("--steps", "3", "--guidance", "1", n=2)
    assert "3 steps of adams on a fitted grid" in capsys.readouterr().err
    (runs / "beads" / "fitted_grids.json").unlink()


def test_tuning_asks_for_no_numbers(runs, refused):
    for flags in ((), ("--guidance", "1", "--classifier", runs / "teller")):
        said = refused("tune", runs / "beads", "--steps", "3", *flags)
        assert "tune with --guidance 1 and without --classifier" in said


def test_a_predictor_tells_numbers_of_masked_states(runs):
    metrics = {row["name"]: row for row in json.loads((runs / "teller" / "metrics.json").read_text())}
    names = {
        f"{c}_{kind}_at_{log_snr:g}" for c in ("span", "weight") for kind in ("nll", "mae") for log_snr in LOG_SNRS
    }
    assert set(metrics) == names
    chance = float(metrics["weight_mae_at_6"]["meaning"].rpartition("chance ")[2])
    assert metrics["weight_mae_at_6"]["value"] < 0.15 * chance
    assert metrics["weight_mae_at_-6"]["value"] < 0.8 * chance  # the mask tells the size
    chance = float(metrics["span_mae_at_6"]["meaning"].rpartition("chance ")[2])
    assert metrics["span_mae_at_6"]["value"] < 0.4 * chance
    assert metrics["span_mae_at_-6"]["value"] == pytest.approx(chance, rel=0.15)


def test_a_condition_that_no_example_has_is_left_out_of_a_predictor_s_figures(runs):
    teller = load_run(runs / "teller", REGISTRY, None, None)[1]
    without = replace(DATA, held_out=DATA.held_out.clone())
    without.held_out["span"] = torch.full((200,), math.nan)
    without.examples["span"][:] = DATA.examples["span"]
    request = EvaluationRequest(None, SimpleNamespace(batch_size=250), 20)
    names = {metric.name.partition("_")[0] for metric in evaluate(teller, without, request)}
    assert names == {"weight"}
    # Nor are there numbers that are none where the training examples lack it too.
    lacking = replace(without, examples=without.examples.clone())
    lacking.examples["span"] = torch.full((600,), math.nan)
    lacking = replace(lacking, held_out=DATA.held_out)
    assert all(math.isfinite(metric.value) for metric in evaluate(teller, lacking, request))


def test_a_predictor_s_condition_is_the_same_whatever_data_it_was_met_in(model):
    from diffcore.runs.guides import check_helper

    own = model.codec.conditions
    other = tuple(replace(c, mean=c.mean + 1, std=2 * c.std, quantiles=(0.0, 1.0)) for c in own)
    helper = replace(model, codec=SimpleNamespace(space=model.codec.space, conditions=other))
    check_helper(model, helper, "--classifier x")
    inches = replace(model, codec=SimpleNamespace(space=model.codec.space, conditions=(replace(own[0], unit="in"),)))
    with pytest.raises(UserError, match="define the condition 'span' differently"):
        check_helper(model, inches, "--classifier x")


# Parts


def test_as_asked_takes_guidance_only_where_there_is_something_to_go_by(model):
    config = sampling_config(compose(REGISTRY, "beads", file={"sample": {"guidance": 3.0}}).sample, REGISTRY, model)
    assert unguided_without_conditions(model, config, example_conditions(model, 4)) == unguided(config)
    given = {"span": torch.ones(4), "weight": torch.full((4,), math.nan)}
    assert unguided_without_conditions(model, config, given) is config
    bare = replace(model, codec=SimpleNamespace(space=model.codec.space, conditions=()))
    config = sampling_config(compose(REGISTRY, "beads", file={"sample": {"guidance": 3.0}}).sample, REGISTRY, bare)
    with pytest.raises(UserError, match="was trained without any"):
        require_conditions(bare, unguided_without_conditions(bare, config, {}), {})


def test_masks_are_drawn_once_for_all(model):
    conditions = {**nulls(model.codec.conditions, 30), "weight": torch.linspace(2, 15, 30)}
    whole = draw_mask(model, range(30), conditions, seed=3)
    for i in (0, 17, 29):
        one = {name: value[i : i + 1] for name, value in conditions.items()}
        assert torch.equal(draw_mask(model, [i], one, seed=3)[0], whole[i])
    config = sampling_config(
        compose(REGISTRY, "beads", file={"sample": {"steps": 4, "batch_size": 7}}).sample, REGISTRY, model
    )
    found = generate(model, config, conditions, 30, seed=3)
    assert torch.equal(found.mask, whole)
    for name, value in found.state.items():  # nothing where nothing exists
        assert (value[~whole] == 0).all(), name
    way = trajectories(model, config, {name: value[:3] for name, value in conditions.items()}, 3, 2, seed=3)
    assert torch.equal(way.mask, whole[:3].repeat_interleave(3, 0))
    torch.testing.assert_close(way.state[2::3]["place"], found.state[:3]["place"], atol=1e-4, rtol=0)


def test_a_network_sees_nothing_of_what_does_not_exist(model):
    encoded = BEADS.codec(DATA.facts).encode(DATA.examples[:8])
    level = levels_of(Cosine(), torch.tensor([0.5]))[0]
    noise = encoded.state.apply(torch.ones_like)
    garbage = encoded.state + 3.0 * noise.apply(lambda f: f * ~encoded.mask[..., None])
    with torch.no_grad():
        first, second = (model.denoiser(x, level, None, encoded.mask).x0 for x in (encoded.state, garbage))
    assert largest_difference(*(model.codec.space.project(x0, encoded.mask) for x0 in (first, second))) == 0


def test_likelihood_and_bound_are_those_of_states_without_padding(model):
    """Five beads in a state of six have the density of five beads in a state of five."""
    n = 5
    chosen = DATA.examples[(DATA.examples["kinds"] >= 0).sum(1) == n][:3]
    encoded = model.codec.encode(chosen)
    padded = map_fields(torch.Tensor.double, encoded.state)
    whole = map_fields(lambda f: f[:, :n], padded)
    space = Product({"place": ZeroCentred((n, 2)), "kind": OneOf((n, 3), model.codec.kinds)})
    conditions = {name: value.double() for name, value in encoded.conditions.items()}
    denoise = copy.deepcopy(model.denoiser).double()
    options = {"conditions": conditions, "steps": 6}
    first = log_likelihood(denoise, padded, model.codec.space, Cosine(), mask=encoded.mask, **options)
    second = log_likelihood(denoise, whole, space, Cosine(), **options)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    assert first.isfinite().all()
    # A term of the bound takes a draw of noise, whose first numbers do not depend on the shape.
    levels = levels_of(Cosine(), grid("time", Cosine(), 5))
    found = [
        variational_bound(denoise, x0, s, levels, conditions=conditions, mask=m).terms
        for x0, s, m in ((padded, model.codec.space, encoded.mask), (whole, space, None))
    ]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_a_single_sample_of_a_single_bead(model):
    settings = compose(REGISTRY, "beads", file={"sample": {"steps": 3}})
    fresh = build_model(settings, DATA.facts, REGISTRY)
    config = sampling_config(settings.sample, REGISTRY, fresh)
    nothing = nulls(fresh.codec.conditions, 1)
    found = generate(fresh, config, nothing, 1, mask=draw_mask(fresh, [0], nothing, size="1"))
    assert found.mask.sum() == 1
    assert (found.state["place"] == 0).all()
