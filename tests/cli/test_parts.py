"""Files that hold a part of a sample, and say by themselves which: `diffcore sample RUN --inpaint FILE`."""

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from diffcore import cli
from diffcore.errors import UserError
from tests.support.refusals import refused
from tests.support.toy import TOY, put_in_place, toy_registry


class PartReader:
    """Files of a line `0.5,?`: the two coordinates of a place, of which some are not known."""

    def __init__(self, codec):
        self.scale = codec.scale

    def read_part(self, path):
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        words = path.read_text().split(",")
        known = torch.tensor([[word != "?" for word in words]])
        place = torch.tensor([[0.0 if word == "?" else float(word) / self.scale for word in words]])
        state = TensorDict({"place": place, "radius": torch.zeros(1, 1)}, batch_size=[1])
        return state, TensorDict({"place": known, "radius": torch.zeros(1, 1, dtype=torch.bool)}, batch_size=[1])


class MaskReader:
    """Whole files of a line `0.5,0.75`, and masks of a line `0,1`."""

    def __init__(self, codec):
        self.scale = codec.scale

    def read(self, path):
        place = torch.tensor([[float(word) / self.scale for word in path.read_text().split(",")]])
        return TensorDict({"place": place, "radius": torch.zeros(1, 1)}, batch_size=[1])

    def read_missing(self, path):
        white = torch.tensor([[word == "1" for word in path.read_text().split(",")]])
        return TensorDict({"place": white, "radius": torch.ones(1, 1, dtype=torch.bool)}, batch_size=[1])


def registry_with(reader):
    registry = toy_registry()
    registry.modalities["toy"] = replace(registry.modalities["toy"], record=replace(TOY, reader=reader))
    return registry


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, registry_with(PartReader))
        assert cli.main(["train", "--modality", "toy", "--out", str(out)]) == 0
    return out


def drawn(path):
    return torch.tensor([[float(word) for word in line.split(",")] for line in path.read_text().splitlines()])


@pytest.mark.parametrize("method", ["mmps", "dps", "repaint"])
def test_what_a_file_holds_is_kept_and_the_rest_is_drawn(run, tmp_path, monkeypatch, method):
    put_in_place(monkeypatch, registry_with(PartReader))
    (tmp_path / "part.csv").write_text("?,0.75")
    out = tmp_path / "out.csv"
    flags = ["--inpaint", tmp_path / "part.csv", "--method", method, "--resamplings", 2, "--n", 3, "--steps", 4]
    assert cli.main([str(word) for word in ["sample", run, *flags, "--out", out]]) == 0
    places = drawn(out)
    assert torch.equal(places[:, 1], torch.full((3,), 0.75))
    assert len(set(places[:, 0].tolist())) == 3


def test_a_mask_is_still_asked_of_readers_that_know_masks(run, tmp_path, monkeypatch, capsys):
    put_in_place(monkeypatch, registry_with(MaskReader))
    (tmp_path / "whole.csv").write_text("0.25,0.75")
    (tmp_path / "mask.csv").write_text("0,1")
    assert "--inpaint needs --mask, a file" in refused(capsys, "sample", run, "--inpaint", tmp_path / "whole.csv")
    out = tmp_path / "out.csv"
    flags = ["--inpaint", tmp_path / "whole.csv", "--mask", tmp_path / "mask.csv", "--n", 3, "--steps", 4]
    assert cli.main([str(word) for word in ["sample", run, *flags, "--out", out]]) == 0
    places = drawn(out)
    assert torch.equal(places[:, 0], torch.full((3,), 0.25))
    assert len(set(places[:, 1].tolist())) == 3


def test_flags_that_a_reader_has_no_use_for_are_refused(run, tmp_path, monkeypatch, capsys):
    put_in_place(monkeypatch, registry_with(PartReader))
    (tmp_path / "part.csv").write_text("?,0.75")
    part = tmp_path / "part.csv"
    assert "--mask is not supported for toy" in refused(capsys, "sample", run, "--inpaint", part, "--mask", part)
    assert "--upscale: the plugin for toy cannot read smaller files" in refused(
        capsys, "sample", run, "--upscale", part
    )
    assert "there is no such file" in refused(capsys, "sample", run, "--inpaint", tmp_path / "none.csv")
    part.write_text("?,?")
    assert "no entry is known" in refused(capsys, "sample", run, "--inpaint", part)


def test_variations_of_a_file_and_samples_between_two(run, tmp_path, monkeypatch):
    put_in_place(monkeypatch, registry_with(MaskReader))
    for name, text in (("a", "0.25,0.75"), ("b", "-0.5,1.25"), ("mask", "0,1")):
        (tmp_path / f"{name}.csv").write_text(text)

    def places(*flags):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}.csv"
        command = ["sample", run, "--steps", 4, "--out", out, *flags]
        assert cli.main([str(word) for word in command]) == 0
        return drawn(out)

    a, b = (torch.tensor([float(word) for word in (tmp_path / f"{n}.csv").read_text().split(",")]) for n in "ab")
    from_a = ["--from", tmp_path / "a.csv", "--n", 4, "--condition", "ring=inner"]
    assert torch.equal(places(*from_a, "--strength", 0), a.expand(4, 2))
    near, far = (places(*from_a, "--strength", strength) for strength in (0.05, 0.8))
    assert 0 < (near - a).abs().max() < 0.5 * (far - a).abs().max()
    free = places("--n", 4, "--condition", "ring=inner")
    assert torch.equal(places(*from_a, "--strength", 1), free)
    masked = places(*from_a, "--strength", 0.5, "--mask", tmp_path / "mask.csv")
    assert torch.equal(masked[:, 0], a[:1].expand(4))
    assert len(set(masked[:, 1].tolist())) == 4
    by_field = places(*from_a, "--strength", "radius=0.5")
    assert torch.equal(by_field, a.expand(4, 2))
    way = places("--between", tmp_path / "a.csv", tmp_path / "b.csv", "--n", 3)
    assert torch.equal(way[[0, 2]], torch.stack([a, b]))
    assert not torch.equal(way[1], a)


def test_variations_that_cannot_be_made_are_refused(run, tmp_path, monkeypatch, capsys):
    put_in_place(monkeypatch, registry_with(MaskReader))
    (tmp_path / "a.csv").write_text("0.25,0.75")
    (tmp_path / "black.csv").write_text("0,0")
    monkeypatch.setattr(MaskReader, "read_missing", lambda self, path: known_nowhere(path), raising=True)
    a = tmp_path / "a.csv"
    for flags, said in (
        (["--strength", 0.5], "--strength belongs to --from FILE, which is missing"),
        (["--from", a, "--strength", 1.5], "--strength 1.5: give a number from 0, which changes nothing, to 1"),
        (["--from", a, "--strength", "much"], "--strength much: write a number from 0 to 1, or FIELD=NUMBER"),
        (["--from", a, "--strength", "colour=0.5"], "'colour' is no field of these states; there are: place, radius"),
        (["--from", a, "--mask", tmp_path / "black.csv"], "nothing is left to be changed"),
        (["--from", a, "--between", a, a], "--from and --between are two different tasks; give one"),
        (["--between", a, a, "--n", 1], "--n 1: samples between two need both ends"),
        (["--mask", a], "--mask belongs to --inpaint FILE or --from FILE, which are missing"),
    ):
        assert said in refused(capsys, "sample", run, *flags)
    put_in_place(monkeypatch, registry_with(PartReader))
    assert "--from: the plugin for toy cannot read files of whole" in refused(capsys, "sample", run, "--from", a)


def known_nowhere(path):
    white = torch.zeros(1, 2, dtype=torch.bool)
    return TensorDict({"place": white, "radius": white[:, :1]}, batch_size=[1])
