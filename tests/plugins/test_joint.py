"""A modality that is made of two others: its data, codec, network, files and metrics, from training to samples."""

import pytest
import torch
from pydantic import Field
from tensordict import TensorDict

import diffcore as dc
from diffcore import cli
from diffcore.demo.drawing import Sources, draw
from diffcore.demo.limits import Limits
from diffcore.demo.wanted import Wanted
from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.sizes import Sizes
from diffcore.errors import UserError
from diffcore.names import ClassLevel
from diffcore.nn.joint import NumbersTrunk
from diffcore.nn.sets import SetTransformer
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.folders import split, tree, with_places
from diffcore.plugins.joint.samples import of_side
from diffcore.plugins.output import Metric
from diffcore.plugins.records import Component, Modality, Place, Preset, Settings
from diffcore.plugins.registry import Provided, load
from diffcore.runs.joint import given_sides, side_of
from diffcore.states.spaces import Euclidean, Whole
from tests.support.toy import put_in_place


class NumberOptions(Settings):
    root: Place = None
    class_level: ClassLevel = "auto"
    factor: float = 1.0


class Facts(Settings):
    classes: tuple[str, ...]
    factor: float = 1.0


class NetOptions(Settings):
    width: int = Field(16, ge=4)


def _read(ending):
    def read(options):
        found = tree(options.root, {ending}, "folder", "numbers", level=options.class_level)
        files = [path for path, _ in found.train]
        values = torch.tensor([[options.factor * float(path.read_text())] for path in files])
        label = torch.tensor([label for _, label in found.train])
        columns = {"value": values, "label": label}
        examples = with_places(TensorDict(columns, batch_size=[len(files)]), files, options.root)
        examples, held_out = split(examples, 0.2)
        return Data(Facts(classes=found.classes, factor=options.factor), examples, held_out)

    return read


class Codec:
    """A number `[1]`, or a set of three equal ones of which the first one or two exist."""

    def __init__(self, facts, sized=False):
        self.facts, self.sized = facts, sized
        self.space = Euclidean((3, 1) if sized else (1,))
        self.conditions = (ClassCondition("label", facts.classes),)
        self.sizes = Sizes(3, {1: 1, 2: 1}) if sized else None

    def encode(self, examples, draws=None):
        value, label = examples["value"], {"label": examples["label"]}
        if not self.sized:
            return Encoded(value, label)
        mask = torch.arange(3) < 1 + examples["label"][:, None]
        return Encoded(value[:, None] * mask[..., None], label, mask)

    def decode(self, state, mask=None):
        return state.flatten(1)[:, :1] / self.facts.factor


class Reader:
    endings = (".n",)

    def __init__(self, codec):
        self.codec = codec

    def read(self, path):
        return torch.tensor([[float(path.read_text())]])


class Writer:
    endings = (".txt",)

    def __init__(self, codec):
        pass

    def each(self, samples, folder, names, captions=()):
        paths = [folder / f"{name}.txt" for name in names]
        for sample, path in zip(samples, paths, strict=True):
            path.write_text(f"{sample.item():.4f}")
        return paths

    def together(self, samples, path, columns, captions=()):
        path.write_text(self.html(samples, columns))

    def html(self, samples, columns, captions=(), trajectories=False):
        return " ".join(f"{sample.item():.2f}" for sample in samples)


def evaluator(codec, data, cache):
    def metrics(samples, conditions):
        wanted = conditions["label"] * 2.0 - 1
        error = (samples[:, 0] * codec.facts.factor - wanted).abs().mean().item()
        return [
            Metric("class_agreement", (samples[:, 0].sign() == wanted).double().mean().item(), ""),
            Metric("error", error, ""),
        ]

    return metrics


def _modality(name, ending, sized=False):
    return Modality(
        name=name,
        summary=f"numbers of {name}",
        datasets=(Component("folder", "numbers in files", _read(ending), NumberOptions),),
        denoisers=(
            Component(
                "sets",
                "a small transformer",
                lambda options, space, inputs: (
                    SetTransformer(1, options.width, 1, 2, tokens=inputs.tokens)
                    if sized
                    else NumbersTrunk(1, options.width, 1, inputs.tokens)
                ),
                NetOptions,
                accepts=("tokens",),
            ),
        ),
        presets={"default": Preset("short", {"denoiser": {"width": 24}})},
        facts=Facts,
        codec=lambda facts: Codec(facts, sized),
        writer=Writer,
        reader=Reader,
        evaluator=evaluator,
    )


@pytest.fixture(scope="module")
def registry():
    registry = load([])
    for name, sized in {"left": False, "right": False, "sized": True, "more": True}.items():
        registry.modalities[name] = Provided(_modality(name, ".n", sized), f"diffcore-{name}", "1.0")
    return registry


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pairs of a number near -1 or 1 and its double, and files without a partner."""
    root, generator = tmp_path_factory.mktemp("pairs"), torch.Generator().manual_seed(0)
    for number in range(60):
        value = (number % 2) * 2 - 1 + 0.1 * torch.randn((), generator=generator).item()
        for side, factor in (("left", 1.0), ("right", 2.0), ("sized", 1.0), ("more", 1.0)):
            folder = root / side / ("minus", "plus")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03d}.n").write_text(str(factor * value))
    (root / "left" / "plus" / "lonely.n").write_text("1.0")
    return root


@pytest.fixture(scope="module")
def run(registry, root, tmp_path_factory):
    out = tmp_path_factory.mktemp("joint") / "run"
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, registry)
        flags = ["--train.steps", "120", "--train.batch-size", "64", "--train.evaluate", "12", "--sample.steps", "8"]
        flags += ["--train.warmup-steps", "5", "--train.optimizer", "adam", "--train.learning-rate", "4e-3"]
        flags += ["--data.right.factor", "0.5", "--denoiser.right.width", "16"]
        assert cli.main(["train", "--modality", "left+right", "--data.root", str(root), "--out", str(out), *flags]) == 0
        yield dc.load(out)


def test_files_of_one_name_are_pairs_and_others_are_named(run, root):
    data = run.data
    whole = TensorDict.cat([data.examples, data.held_out])
    assert len(whole) == 60
    torch.testing.assert_close(whole["left.value"], whole["right.value"])  # the doubles, times 0.5
    assert torch.equal(whole["left.label"], whole["right.label"])
    assert list(data.ledger.passed_over.values()) == [("left/plus/lonely.n",)]
    assert data.held_out["left.label"].double().mean().item() == 0.5


def test_a_shared_condition_is_one_and_the_state_has_the_fields_of_both(run):
    codec = run.model.codec
    assert [condition.name for condition in codec.conditions] == ["label"]
    assert dict(codec.joint) == {"left": ("left",), "right": ("right",)}
    assert run.settings.denoiser.left.width == 24
    assert run.settings.denoiser.right.width == 16


def test_either_side_is_drawn_given_a_file_of_the_other(run, tmp_path):
    (tmp_path / "a.n").write_text("1.0")
    (tmp_path / "b.n").write_text("-1.0")
    drawn = run.given({"left": tmp_path}, 20)
    left, right = (of_side(drawn.decoded, name)[:, 0] for name in ("left", "right"))
    assert torch.equal(left, torch.tensor([1.0] * 20 + [-1.0] * 20))
    agree = (right.sign() == left.sign()).double().mean().item()
    assert agree > 0.8  # 0.5 for independent sides
    both = run.sample(60)
    left, right = (of_side(both.decoded, name)[:, 0] for name in ("left", "right"))
    assert (left.sign() == right.sign()).double().mean().item() > 0.8


@pytest.mark.parametrize("name", ["left", "right"])
def test_a_side_of_a_sample_is_given_as_well_as_one_of_a_file(run, name):
    first = run.sample(3, seed=1)
    constraint, count = given_sides(run.model, {name: side_of(run.model, name, first.state, first.mask)}, 2)
    drawn = run.sample(count, constraint=constraint, seed=2)
    expected = of_side(first.decoded, name).repeat_interleave(2, 0)
    torch.testing.assert_close(of_side(drawn.decoded, name), expected)


def test_the_page_shows_all_samples_of_a_file_of_several_entries_while_they_are_drawn(run, tmp_path):
    given, shown = tmp_path / "given", []
    given.mkdir()
    for number in range(2):
        (given / f"{number}.n").write_text(f"{number}.0")
    wanted = Wanted(run=0, n=2, action="given", side="left", source={"file": "given"})
    sources = Sources(lambda name: given, lambda result, row: pytest.fail("a file is given"))
    drawn = draw(run, wanted, sources, Limits(), tmp_path, lambda tiles, done: shown.append(len(tiles)))
    assert len(drawn) == 4
    assert {*shown} <= {0, 4}
    assert 4 in shown


def test_samples_are_files_of_each_side_and_pages(run, tmp_path, capsys):
    (tmp_path / "a.n").write_text("1.0")
    out = tmp_path / "out"
    flags = ["--given", f"right={tmp_path / 'a.n'}", "--n", "2", "--out", str(out)]
    assert cli.main(["sample", str(run.path), *flags]) == 0
    assert sorted(path.name for path in out.glob("0*")) == [
        f"000{row}.{side}.txt" for row in range(2) for side in ("left", "right")
    ]
    assert (out / "0001.right.txt").read_text() == "2.0000"
    assert "right" in (out / "overview" / "grid.html").read_text()
    assert cli.main(["sample", str(run.path), *flags]) == 0
    assert "2 of them from an earlier call" in capsys.readouterr().err


def test_the_report_measures_each_side_given_the_other_beside_chance(run):
    metrics = {metric.name: metric.value for metric in run.evaluate(n=12)}
    assert metrics["left_given_class_agreement_chance"] == 0.5
    assert metrics["left_given_class_agreement"] > 0.5
    assert {"left_error", "right_error", "right_given_error"} <= metrics.keys()
    report = run.path / "report.html"
    assert "The side left, drawn given the others" in report.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--given", "left"], "--given left: write it as SIDE=FILE"),
        (["--given", "middle=a.n"], "the sides of this run are left, right"),
        (["--given", "left=a.n", "--given", "right=b.n"], "all sides are given (left, right)"),
        (["--given", "left=a.n", "--inpaint", "b.n"], "two different tasks"),
        (["--given", "left=nothing.n"], "there is no file of left at nothing.n"),
    ],
)
def test_mistakes_are_told_in_a_line(run, flags, message, capsys):
    assert cli.main(["sample", str(run.path), *flags]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("left+left", "names left twice"),
        ("left+missing", "unknown modality 'missing'"),
        ("sized+more", "only one side of a joint state may do so"),
    ],
)
def test_kinds_of_data_that_cannot_be_paired_are_refused(registry, root, monkeypatch, tmp_path, name, message):
    put_in_place(monkeypatch, registry)
    with pytest.raises(UserError, match=message):
        dc.train(name, data={"root": str(root)}, out=tmp_path / "run", train={"steps": 1})


def test_a_side_without_elements_ignores_the_mask_of_the_other(registry, root, monkeypatch, tmp_path):
    put_in_place(monkeypatch, registry)
    run = dc.train(
        "left+sized",
        data={"root": str(root)},
        out=tmp_path / "run",
        train={"steps": 2, "batch_size": 16, "evaluate": 4},
        sample={"steps": 3},
    )
    assert isinstance(run.model.codec.space.parts["left"], Whole)
    drawn = run.sample(6)
    assert drawn.mask.shape == (6, 3)
    assert (drawn.state["sized"][~drawn.mask] == 0).all()
    assert (drawn.state["left"] != 0).all()
