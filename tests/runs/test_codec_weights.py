"""A codec that is a module: its weights travel with the run; it works in parts, on the device, without gradients."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffcore as dc
from diffcore import cli
from diffcore.errors import UserError
from diffcore.runs.coding import AT_ONCE, decode, encode, prepared_data
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.states.noise import generator_for
from diffcore.system import distributed
from diffcore.tasks import batch as batches
from diffcore.tasks.batch import draw_batch
from tests.support.learned_codec import CALLS, turned_registry
from tests.support.toy import put_in_place

REGISTRY = turned_registry()


@pytest.fixture(autouse=True)
def turned(monkeypatch, tmp_path):
    put_in_place(monkeypatch, REGISTRY)
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "cache"))
    CALLS.clear()


def trained(path, **values):
    train = {"steps": 20, "evaluate": 20, "log_every": 10, **values}
    return dc.train("turned", out=path, seed=3, train=train)


def built(seed=3):
    settings = compose(REGISTRY, "turned", file={"seed": seed})
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), data


def test_a_run_trains_samples_and_evaluates_with_its_own_weights_of_the_codec(tmp_path):
    run = trained(tmp_path / "run")
    kept = load_file(tmp_path / "run" / "codec.safetensors")["turn"]
    model, _ = built()
    assert torch.equal(kept, model.codec.turn)
    assert not torch.equal(kept, built(seed=4)[0].codec.turn)
    samples = run.sample(5, conditions={"ring": "outer"}, seed=1)
    assert torch.equal(samples.decoded, samples.state @ kept)
    assert not any(recorded for _, _, recorded in CALLS)
    assert "radius_error" in {metric.name for metric in run.evaluate(n=20)}


def test_the_weights_of_the_run_are_used_not_those_that_a_new_codec_has(tmp_path):
    trained(tmp_path / "run")
    path = tmp_path / "run" / "codec.safetensors"
    mirrored = load_file(path)["turn"].flip(0).contiguous()
    save_file({"turn": mirrored}, path)
    with pytest.raises(UserError, match=r"codec\.safetensors does not hold the weights that the run was trained with"):
        dc.load(tmp_path / "run").sample(1)
    from diffcore.runs.checkpoints import tensors_digest

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config.pop("sha256")
    config["codec"] = tensors_digest({"turn": mirrored})
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    samples = dc.load(tmp_path / "run").sample(3)
    assert torch.equal(samples.decoded, samples.state @ mirrored)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"codec\.safetensors is missing: .* restore the file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), r"contains no readable tensors .* restore the file"),
        (lambda path: path.write_bytes(b"\x00" * 100), r"contains no readable tensors .* restore the file"),
    ],
)
def test_lost_and_damaged_weights_are_refused_by_every_command(tmp_path, capsys, damage, message):
    trained(tmp_path / "run")
    damage(tmp_path / "run" / "codec.safetensors")
    with pytest.raises(UserError, match=message):
        dc.load(tmp_path / "run").sample(1)
    assert cli.main(["resume", str(tmp_path / "run"), "--train.steps", "30"]) == 2
    assert cli.main(["evaluate", str(tmp_path / "run"), "--n", "10"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_whose_plugin_has_no_weights_any_more_is_refused(tmp_path):
    trained(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["codec"], config["sha256"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="another version of its plugin: the codec of its modality has weights now"):
        dc.load(tmp_path / "run").sample(1)


def test_a_resumed_run_is_an_unbroken_one(tmp_path):
    trained(tmp_path / "whole", steps=20)
    trained(tmp_path / "broken", steps=10)
    assert cli.main(["resume", str(tmp_path / "broken"), "--train.steps", "20"]) == 0
    first, second = (dc.load(tmp_path / name).sample(4, seed=2).state for name in ("whole", "broken"))
    assert torch.equal(first, second)


def test_examples_are_prepared_once_and_kept():
    model, data = built()
    expected = data.examples["place"] @ model.codec.turn.T
    for _ in range(2):
        torch.testing.assert_close(prepared_data(model, data)["turned"], expected)
    sizes = [count for call, count, _ in CALLS if call == "prepare"]
    assert sum(sizes) == len(data.examples)
    assert max(sizes) <= AT_ONCE
    prepared_data(built(seed=4)[0], data)  # other weights, so nothing kept fits
    assert sum(count for call, count, _ in CALLS if call == "prepare") == 2 * len(data.examples)


def test_damaged_entries_are_prepared_again(tmp_path):
    model, data = built()
    expected = prepared_data(model, data)["turned"]
    (entry,) = (tmp_path / "cache" / "prepared").iterdir()
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert torch.equal(prepared_data(model, data)["turned"], expected)


def test_coding_in_parts_is_coding_at_once():
    model, data = built()
    encoded = encode(model, data.examples)
    assert torch.equal(encoded.conditions["ring"], data.examples["label"])
    torch.testing.assert_close(decode(model, encoded.state), data.examples["place"])
    state = torch.randn(3 * AT_ONCE + 1, 2, generator=generator_for(0))
    torch.testing.assert_close(decode(model, state), state @ model.codec.turn)
    assert decode(model, state[:0]).shape == (0, 2)


def test_a_classifier_of_another_first_stage_does_not_guide(tmp_path):
    run = trained(tmp_path / "run", evaluate=0)
    short = {"steps": 5, "evaluate": 0}
    dc.train("turned", task="classify", out=tmp_path / "same", seed=3, train=short)
    dc.train("turned", task="classify", out=tmp_path / "other", seed=4, train=short)
    run.sample(2, conditions={"ring": "inner"}, classifier=tmp_path / "same")
    with pytest.raises(UserError, match="was trained with other weights of the codec than this model"):
        run.sample(2, conditions={"ring": "inner"}, classifier=tmp_path / "other")


def test_each_of_two_processes_encodes_its_half_of_the_batch(monkeypatch):
    settings = compose(REGISTRY, "turned", file={"train": {"batch_size": 32}})
    model, data = built()
    ready = replace(data, examples=prepared_data(model, data))
    whole = draw_batch(model, settings, ready, 4)
    CALLS.clear()
    for module in (distributed, batches):
        monkeypatch.setattr(module, "world", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(draw_batch(model, settings, ready, 4))
    assert [count for call, count, _ in CALLS if call == "encode"] == [16, 16]
    assert torch.equal(torch.cat([share.noisy for share in shares]), whole.noisy)
