"""What codecs prepare of mapped examples is mapped too: the same values as in memory, whatever interrupts it."""

import threading
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

import diffcore as dc
from diffcore.evaluation.held_out import evaluate
from diffcore.evaluation.request import EvaluationRequest
from diffcore.plugins.records import Component
from diffcore.plugins.registry import Provided
from diffcore.runs import prepared_shards
from diffcore.runs.coding import AT_ONCE, prepared, prepared_data, prepared_plainly
from diffcore.runs.composing import compose
from diffcore.runs.first_stage import load_first_stage, use_first_stage
from diffcore.runs.folder import RunFolder, read_log
from diffcore.runs.latents import LatentCodec
from diffcore.runs.model import build_data, build_model
from diffcore.runs.prepared_shards import prepared_in_shards
from diffcore.system import shards
from diffcore.system.mapped import is_mapped, origin_of
from diffcore.system.shards import Form, default_folder, encode
from diffcore.tasks.ahead import Ahead
from tests.support.latent_toy import LATENT, MIRRORED, latent_registry
from tests.support.toy import ToyCodec, ToyData, points, put_in_place

N = 200
QUICK = {"learning_rate": 0.05, "warmup_steps": 5, "ema_width": 0.02, "evaluate": 20, "log_every": 1}


def rows_of(values, name="rows"):
    """The values, mapped from shards in the cache."""
    form = Form(tuple(values.shape[1:]), values.dtype)
    folder = default_folder().parent / "pictures"
    return encode(folder, [name], form, lambda part: ((row, None) for row in values), "rows").rows(
        torch.arange(len(values))
    )


def mapped_points(options):
    data = points(options)
    return replace(data, examples=mapped_examples(data.examples))


def mapped_examples(examples, name="rows"):
    return TensorDict({**dict(examples.items()), "place": rows_of(examples["place"], name)}, [len(examples)])


def with_mapped(modality):
    mapped = Component("mapped", "the same, mapped", mapped_points, ToyData)
    return Provided(replace(modality, datasets=(*modality.datasets, mapped)), "diffcore-latent", "1.0")


REGISTRY = latent_registry()
REGISTRY.modalities |= {each.name: with_mapped(each) for each in (LATENT, MIRRORED)}


@pytest.fixture(scope="module", autouse=True)
def registry():
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, REGISTRY)
        yield


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "SHARD_ROWS", 7)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    place = tmp_path_factory.mktemp("first") / "run"
    return dc.train("mirrored", task="encode", train={**QUICK, "evaluate": 0, "steps": 60}, out=place).path


def in_latents(first, data="rings", **latent):
    values = {"data": {"name": data, "n": N}, "latent": {"run": str(first), "views": 3, **latent}}
    settings = compose(REGISTRY, "mirrored", file=values)
    found = build_data(settings, REGISTRY)
    stage = load_first_stage(settings, REGISTRY)
    model = build_model(settings, found.facts, REGISTRY, first_stage=stage.described)
    use_first_stage(model, stage, settings, found)
    return model, found


def same(one, other):
    return {*one.keys()} == {*other.keys()} and all(torch.equal(one[name], other[name]) for name in one.keys())


def places(folder):
    return sorted(path.name for path in folder.glob("*/*") if path.name[0] != ".")


# Latents


@pytest.mark.parametrize("views", [3, 0])
def test_latents_in_shards_are_those_in_memory(first, views):
    model, data = in_latents(first, "mapped", views=views)
    plain, in_memory = in_latents(first, views=views)
    ready, expected = prepared_data(model, data), prepared_data(plain, in_memory)
    assert same(ready, expected)
    assert is_mapped(ready["latent:"])
    assert not is_mapped(expected["latent:"])
    assert ready["place"].data_ptr() == data.examples["place"].data_ptr()  # passed on, not written again
    assert same(dict(model.codec.state_dict()), dict(plain.codec.state_dict()))  # the statistics too


def test_latents_lie_beside_the_pictures_and_are_computed_once(first, tmp_path, monkeypatch):
    model, data = in_latents(first, "mapped")
    expected = prepared_data(model, data)["latent:"].clone()
    assert len([*(tmp_path / "cache" / "pictures").glob("*/rows.bin")]) == 2
    assert not (tmp_path / "cache" / "prepared").exists()
    seen, own = [], LatentCodec.prepare

    def watched(codec, examples, draws=None):
        seen.append(len(examples))
        return own(codec, examples, draws)

    monkeypatch.setattr(LatentCodec, "prepare", watched)
    assert torch.equal(prepared_data(model, data)["latent:"], expected)
    assert seen == [1]  # for its form


def test_an_interrupted_preparation_continues_to_the_same_values(first, monkeypatch):
    model, data = in_latents(first, "mapped")
    expected = prepared_data(model, data)["latent:"].clone()
    with torch.no_grad():
        model.codec.autoencoder.encoder.weight.mul_(2)  # another encoder, so nothing fits
    seen, own = [], LatentCodec.prepare

    def breaking(codec, examples, draws=None):
        seen.append(len(examples))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return own(codec, examples, draws)

    monkeypatch.setattr(LatentCodec, "prepare", breaking)
    with pytest.raises(KeyboardInterrupt):
        prepared_data(model, data)
    assert seen == [1, AT_ONCE, AT_ONCE, AT_ONCE]
    found = prepared_data(model, data)["latent:"]
    assert seen[4:] == [1, AT_ONCE, N - 3 * AT_ONCE]
    torch.testing.assert_close(found, 2 * expected)
    examples = data.examples.clone()
    monkeypatch.setattr(LatentCodec, "prepare", own)
    in_memory = prepared_data(model, replace(data, examples=examples))
    assert not is_mapped(in_memory["latent:"])
    assert torch.equal(found, in_memory["latent:"])


def losses(run):
    return [row["loss"] for row in read_log(RunFolder(run.path))]


def test_a_run_in_mapped_latents_is_the_run_in_memory_step_by_step_and_resuming_is_exact(first, tmp_path):
    def trained(name, steps, data):
        train = {**QUICK, "evaluate": 0, "steps": steps, "batch_size": 32}
        latent = {"run": str(first), "views": 3}
        return dc.train("mirrored", latent=latent, data={"name": data, "n": N}, train=train, out=tmp_path / name)

    in_memory, mapped = trained("memory", 12, "rings"), trained("mapped", 12, "mapped")
    assert len(losses(mapped)) == 12
    assert losses(mapped) == losses(in_memory)
    half = trained("half", 5, "mapped").resume({"steps": 12})
    assert losses(half) == losses(in_memory)
    assert torch.equal(half.sample(4).state, in_memory.sample(4).state)


def test_the_loss_on_held_out_examples_is_that_in_memory(first):
    found = []
    for name in ("mapped", "rings"):
        model, data = in_latents(first, name)
        settings = compose(REGISTRY, "mirrored", file={"train": {"batch_size": 32}})
        request = EvaluationRequest(n=90, seed=0, settings=settings, config=None)
        found.append(evaluate(model, data, request)[0].value)
        ready = prepared_plainly(model, data)
        assert same(ready, prepared(model.codec, data.examples, model.device))
        assert is_mapped(ready["latent:"]) == (name == "mapped")
    assert found[0] == found[1]


def test_statistics_take_one_part_at_a_time_and_read_latents_alone(first, monkeypatch):
    model, data = in_latents(first, "mapped")
    ready = prepared_data(model, data)
    parts, encoded, own = model.codec.raw_parts(ready, AT_ONCE), [], ToyCodec.encode
    monkeypatch.setattr(ToyCodec, "encode", lambda codec, examples, draws=None: encoded.append(len(examples)))
    for _ in range(2):
        assert [len(state) for state, mask in parts] == [4 * 64, 4 * 64, 4 * 64, 4 * 8]
    assert not encoded
    monkeypatch.setattr(ToyCodec, "encode", own)
    assert [*parts.prepared.keys()] == ["latent:"]
    assert torch.equal(torch.cat([state for state, _ in parts]), ready["latent:"].flatten(0, 1))


# Columns of several forms


def columns(given):
    """Columns of several types and shapes; the place is passed on, and so is the label."""
    place, made = given["place"], dict(given.items())
    made["flags"] = place > 0
    made["half"] = place[:, :1].bfloat16()
    made["double"] = place.double()[:, None, :].expand(-1, 3, -1) * torch.arange(1.0, 4.0)[:, None]
    made["number"] = (place[:, 0] * 100).long()
    return TensorDict(made, [len(given)])


@pytest.fixture
def examples():
    return mapped_examples(points(ToyData(n=N)).examples)


def in_shards(examples, make=columns, identity="columns", at_once=16):
    def prepare(numbers):
        given = examples[numbers.start : numbers.stop]
        return given, make(given)

    return prepared_in_shards(examples, prepare, identity, at_once)


def test_columns_of_all_types_come_back_and_are_read_ahead(examples):
    ready, expected = in_shards(examples), columns(examples)
    assert same(ready, expected)
    assert [ready[name].dtype for name in expected.keys()] == [expected[name].dtype for name in expected.keys()]
    assert {name for name in ready.keys() if is_mapped(ready[name])} == {*expected.keys()} - {"label"}
    numbers = torch.tensor([150, 3, 3, 199, 0])
    ahead = Ahead(ready, lambda step: numbers)
    assert same(ahead.rows(0, numbers), expected[numbers])
    ahead.close()


def test_nothing_is_written_where_all_is_passed_on(examples, tmp_path):
    before = places(tmp_path / "cache" / "pictures")
    ready = in_shards(examples, lambda given: given.select("place"))
    assert [*ready.keys()] == ["place"]
    assert ready["place"].data_ptr() == examples["place"].data_ptr()
    assert places(tmp_path / "cache" / "pictures") == before


def test_the_calling_thread_prepares_without_gradients(first, monkeypatch):
    seen, own = set(), LatentCodec.prepare

    def watched(codec, examples, draws=None):
        seen.add((threading.current_thread(), torch.is_grad_enabled()))
        return own(codec, examples, draws)

    monkeypatch.setattr(LatentCodec, "prepare", watched)
    in_latents(first, "mapped")
    assert seen == {(threading.main_thread(), False)}


def test_mapped_columns_are_known_without_reading_them(examples, monkeypatch):
    read, own = [], prepared_shards.tensors_digest
    monkeypatch.setattr(prepared_shards, "tensors_digest", lambda tensors: (read.extend(tensors), own(tensors))[1])
    in_shards(examples)
    assert read == ["label"]


def test_other_examples_and_other_preparations_are_another_set(examples):
    made = []

    def watched(given):
        made.append(len(given))
        return columns(given)

    other = points(ToyData(n=N, scale=2.0)).examples
    relabelled = examples.copy()
    relabelled["label"] = 1 - examples["label"]
    for each, identity in (
        (examples, "columns"),
        (mapped_examples(other, "other"), "columns"),
        (examples[8:], "columns"),
        (relabelled, "columns"),
        (examples, "others"),
    ):
        made.clear()
        assert same(in_shards(each, watched, identity), columns(each))
        assert sum(made) == 1 + len(each)
        made.clear()
        assert same(in_shards(each, watched, identity), columns(each))
        assert made == [1]


def test_the_identity_of_mapped_rows_follows_their_content(tmp_path):
    values = torch.arange(40.0).view(20, 2)
    one, again = rows_of(values), rows_of(values)
    assert origin_of(one) == origin_of(again)
    assert origin_of(one).identity != origin_of(rows_of(values + 1, "other")).identity
    parts = (one, one[1:], one[:-1], one[:2], one[:2].T, one.view(torch.int32))
    assert len({origin_of(each).identity for each in parts}) == len(parts)
    assert origin_of(values) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda given: {"new": given["place"][:, : 1 + (len(given) > 1)] + 1},
            r"prepares new as \[2\] of .*not as \[1",
        ),
        (
            lambda given: {"new": given["place"].to(torch.float64 if len(given) > 1 else torch.float16)},
            "of torch.float64",
        ),
        (lambda given: {"new" if len(given) > 1 else "old": given["place"] + 1}, r"the columns \['new'\] of some"),
        (
            lambda given: (
                {**dict(given.items()), **({"place": given["place"] + 1} if len(given) > 1 else {})}
                | {"new": given["place"] + 2}
            ),
            "passes on the column place of some examples only",
        ),
    ],
)
def test_examples_that_are_prepared_in_other_forms_are_an_error(examples, make, said):
    with pytest.raises(ValueError, match=said):
        in_shards(examples, lambda given: TensorDict(dict(make(given).items()), [len(given)]))


def test_without_a_folder_that_can_be_written_to_the_cache_is_used(examples, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_shards.os, "access", lambda path, mode: False)
    in_shards(examples)
    assert len([*(tmp_path / "cache" / "shards").glob("*/rows.bin")]) == 1
