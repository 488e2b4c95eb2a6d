"""Noisy classifiers: what they learn, how they are trained, and how they guide."""

import json
import math

import pytest
import torch
from torch import nn

from diffcore import cli
from diffcore.cli.config import as_toml
from diffcore.cli.flags import run_settings
from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.errors import UserError
from diffcore.evaluation.noisy_classifier import LOG_SNRS
from diffcore.nn.encoder import Encoder
from diffcore.process.gaussian import perturb
from diffcore.process.schedules import Cosine
from diffcore.runs.checkpoints import EMA, MODEL, TRAINING, find_checkpoint, read_tensors
from diffcore.runs.composing import compose
from diffcore.runs.folder import RunFolder, read_log
from diffcore.runs.model import build_data, build_model
from diffcore.runs.sampling_config import sampling_config
from diffcore.sampling.guidance import energy
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import Mixture
from tests.support.toy import DENOISE, put_in_place, toy_registry

REGISTRY = toy_registry()
SHAPE, COLOUR = ClassCondition("shape", ("round", "square")), ClassCondition("colour", ("red", "blue", "green"))


class Net(nn.Module):
    """An MLP on one tensor."""

    def __init__(self, size, outputs, width=48):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(
            nn.Linear(size + width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
        )

    def forward(self, x, conditioning, mask=None):
        self.seen = (x, conditioning)
        return self.net(torch.cat([x, conditioning], 1))


def classifier(size=2, conditions=(SHAPE, COLOUR)):
    torch.manual_seed(0)
    return NoisyClassifier(Net(size, sum(condition.head.outputs for condition in conditions)), conditions)


# Conditions


def test_the_likelihood_of_a_class_is_its_softmax_and_null_says_nothing():
    output = torch.tensor([[0.0, math.log(3), 0.0], [1.0, 2.0, 3.0]])
    found = COLOUR.head.log_likelihood(output, torch.tensor([1, 3]))
    assert found.tolist() == pytest.approx([math.log(3 / 5), 0.0])
    assert COLOUR.given(torch.tensor([0, 2, 3])).tolist() == [True, True, False]


def test_the_best_constant_is_the_shares_and_no_other_constant_is_better():
    values = torch.tensor([0, 0, 0, 1, 3])  # one of them is null, one class does not occur
    constant = COLOUR.head.best_constant(values)
    assert constant.softmax(0).tolist() == pytest.approx([0.75, 0.25, 0.0], abs=1e-6)

    def likelihood(output):
        return COLOUR.head.log_likelihood(output.expand(5, -1), values).sum().item()

    for seed in range(20):
        noise = 0.1 * torch.randn(3, generator=torch.Generator().manual_seed(seed))
        assert likelihood(constant + noise) < likelihood(constant)
    output = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert COLOUR.head.measures(output, torch.tensor([0, 2, 3]))["accuracy"].tolist() == [1, 0]


# The classifier


def test_outputs_are_split_among_conditions_and_likelihoods_add():
    told = classifier()
    x, level = torch.randn(4, 2), Level(0.7, 0.5)
    said = told(x, level)
    assert {name: output.shape for name, output in said.items()} == {"shape": (4, 2), "colour": (4, 3)}
    shape, colour = torch.tensor([0, 1, 2, 1]), torch.tensor([2, 3, 0, 1])
    both = told.log_likelihood(x, level, {"shape": shape, "colour": colour})
    expected = SHAPE.head.log_likelihood(said["shape"], shape) + COLOUR.head.log_likelihood(said["colour"], colour)
    torch.testing.assert_close(both, expected)
    torch.testing.assert_close(
        told.log_likelihood(x, level, {"colour": colour}), COLOUR.head.log_likelihood(said["colour"], colour)
    )
    assert told.log_likelihood(x, level, None).tolist() == [0] * 4


def test_a_predictor_sees_unit_variance_and_log_snr_whatever_the_schedule():
    told = classifier()
    x = torch.randn(2, 2)
    told(0.6 * x, Level(0.6 * 0.6, 0.6 * 0.8))
    scaled, noise = told.backbone.seen
    told(x, Level(0.6, 0.8))
    for found, expected in zip(told.backbone.seen, (scaled, noise), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(scaled, x)


def test_a_predictor_learns_the_posterior_at_every_noise_level():
    """Trained on -log p(c | x_t) over the schedule, it approaches Bayes' rule, and so does what it guides."""
    centres = torch.tensor([[-1.2, 0.3], [1.0, 1.0], [0.6, -1.2]])
    weights = torch.tensor([0.5, 0.25, 0.25])
    oracle = Mixture(centres, 0.4, weights, torch.tensor([0, 1, 2]))
    condition = ClassCondition("label", ("a", "b", "c"))
    told, schedule = classifier(2, (condition,)), Cosine(-6, 6)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(told.parameters(), 4e-3)
    steps, batch = 700, 256

    def data(n):
        label = torch.multinomial(weights, n, replacement=True, generator=generator)
        return label, centres[label] + 0.4 * torch.randn(n, 2, generator=generator)

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        label, x0 = data(batch)
        level = schedule.level(schedule.log_snr(torch.rand(batch, generator=generator)))
        x = perturb(x0, torch.randn(x0.shape, generator=generator), level)
        loss = -told.log_likelihood(x, level, {"label": label}).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def unconditional(x, level, conditions=None, mask=None):
        return oracle(x, level, None, mask)

    guided = energy(unconditional, Euclidean((2,)), told.log_likelihood)
    for log_snr in (-4.0, -2.0, 0.0, 2.0, 4.0):
        level = Level(*(value.item() for value in schedule.level(torch.tensor(log_snr, dtype=torch.float64))))
        label, x0 = data(4000)
        x = perturb(x0, torch.randn(x0.shape, generator=generator), level)
        plain = oracle.log_density(x, level)
        given = [oracle.log_density(x, level, {"label": torch.full((4000,), k)}) for k in range(3)]
        exact = torch.stack([weight.log() + part - plain for weight, part in zip(weights, given, strict=True)], 1).exp()
        with torch.no_grad():
            found = told(x, level)["label"].softmax(1)
        assert (found - exact).abs().mean() < 0.02, log_snr
        assert (exact - weights).abs().mean() > 0.04  # there is something to know at each of these levels
        # Its gradient is most of the difference between the conditional and the unconditional score.
        condition = {"label": label}
        wanted, start = oracle(x, level, condition).eps, oracle(x, level).eps
        missed = (guided(x, level, condition).eps - wanted).square().mean()
        assert missed < 0.1 * (start - wanted).square().mean(), log_snr


def test_the_encoder_prefers_nothing_at_first_and_sees_everything():
    torch.manual_seed(0)
    network = Encoder(2, 3, 8, (1, 2), attention=True).double()
    x, c = torch.randn(2, 2, 7, 9).double(), torch.randn(2, network.width).double()
    assert (network(x, c) == 0).all()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    x.requires_grad_()
    network(x, c)[0, 0].backward()
    assert (x.grad[0].abs() > 0).all()
    assert (x.grad[1] == 0).all()
    network(x, c).square().sum().backward()
    assert all(parameter.grad.abs().max() > 1e-9 for parameter in network.parameters())


# Configuration


def settings(*flags):
    return run_settings(["--modality", "toy", *flags], REGISTRY, "diffcore train")[0]


def test_the_task_decides_which_network_is_chosen(tmp_path):
    plain, told = settings(), settings("--preset", "teller", "--classifier.width", "20")
    assert (plain.task.name, plain.denoiser.name, hasattr(plain, "classifier")) == ("denoise", "mlp", False)
    assert (told.task.name, told.classifier.width, hasattr(told, "denoiser")) == ("classify", 20, False)
    file = tmp_path / "run.toml"
    file.write_text(as_toml(told))
    assert settings("--config", str(file)).model_dump() == told.model_dump()
    assert settings("--task", "classify", "--preset", "timed").data.n == 50
    # A preset's network for another task is left out; a user's is a mistake.
    back = settings("--preset", "teller", "--task", "denoise")
    assert (back.task.name, back.denoiser.width) == ("denoise", 16)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--task", "guess"], "unknown task 'guess'; there are: denoise, distill, classify"),
        (["--classifier", "mlp"], "`classifier` belongs to `task` classify, and the task of this run is denoise"),
        (["--task", "classify", "--denoiser.width", "3"], "--denoiser.width is not an option"),
        (["--task", "classify", "--classifier", "cnn"], "unknown classifier 'cnn'; there are: mlp"),
    ],
)
def test_mistakes_about_the_task_get_a_line(flags, said):
    with pytest.raises(UserError, match=said):
        settings(*flags)


# Runs, through the command line


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The command line with the toy installed, a classifier run and two runs that draw."""
    patch = pytest.MonkeyPatch()
    put_in_place(patch, REGISTRY)
    folder = tmp_path_factory.mktemp("toy")
    train = ["train", "--modality", "toy"]
    assert cli.main([*train, "--preset", "teller", "--out", str(folder / "teller")]) == 0
    draw = ["--train.steps", "600", "--train.learning-rate", "1e-2", "--denoiser.width", "32", "--train.evaluate", "0"]
    draw += ["--train.checkpoint-every", "300", "--train.log-every", "100", "--sample.steps", "20"]
    assert cli.main([*train, "--out", str(folder / "drawer"), *draw]) == 0
    yield folder
    patch.undo()


def refused(capsys, *arguments):
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffcore: ")]
    return line


def test_a_predictor_run_ends_with_figures_beside_chance_and_draws_nothing(toy, capsys):
    run = toy / "teller"
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        "config.json", "data.json", "train_log.jsonl", "checkpoints", "metrics.json", "report.html",
        "evaluations.json", "end.json",
    }  # fmt: skip
    metrics = {row["name"]: row for row in json.loads((run / "metrics.json").read_text())}
    assert set(metrics) == {f"ring_{name}_at_{log_snr:g}" for name in ("nll", "accuracy") for log_snr in LOG_SNRS}
    assert metrics["ring_accuracy_at_6"]["value"] > 0.95
    assert abs(metrics["ring_accuracy_at_-6"]["value"] - 0.5) < 0.15
    assert metrics["ring_nll_at_6"]["value"] < 0.2 < metrics["ring_nll_at_-2"]["value"] < math.log(2) + 0.05
    assert "by chance 0.6931" in metrics["ring_nll_at_6"]["meaning"]
    losses = [row["loss"] for row in read_log(RunFolder(run))]
    assert losses[-1] < 0.9 * losses[0] < math.log(2)
    page = (run / "report.html").read_text()
    for part in ("ring_accuracy_at_0", "negative log-likelihood, nats", "<svg", "[classifier]"):
        assert part in page
    assert "From noise to data" not in page
    said = refused(capsys, "sample", run)
    assert (
        f"has the task classify, which draws no samples; let it guide a model of the same data as --classifier {run}"
        in said
    )
    assert not (run / "samples").exists()


def test_evaluate_repeats_the_figures_whatever_the_batches(toy, capsys):
    capsys.readouterr()
    found = []
    for batch in ("7", "200"):
        assert cli.main(["evaluate", str(toy / "teller"), "--n", "50", "--batch-size", batch, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert "From noise to data" not in (toy / "teller" / "report.html").read_text()


def test_a_resumed_predictor_run_is_an_unbroken_one_bit_for_bit(toy, tmp_path):
    short = tmp_path / "short"
    assert (
        cli.main(["train", "--modality", "toy", "--preset", "teller", "--train.steps", "130", "--out", str(short)]) == 0
    )
    assert cli.main(["resume", str(short), "--train.steps", "300"]) == 0
    whole, grown = (find_checkpoint(RunFolder(path)) for path in (toy / "teller", short))
    for name in (MODEL, EMA, TRAINING):
        first, second = read_tensors(whole, name), read_tensors(grown, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def radii(folder):
    rows = [[float(value) for value in path.read_text().split(",")] for path in sorted(folder.glob("0*.csv"))]
    return torch.tensor(rows).norm(dim=1)


def drawn(toy, tmp_path, *flags, n=64):
    out = tmp_path / f"drawn-{len(list(tmp_path.iterdir()))}"
    arguments = ["sample", toy / "drawer", "--n", n, "--condition", "ring=outer", "--out", out, *flags]
    assert cli.main([str(argument) for argument in arguments]) == 0
    return radii(out)


def test_a_predictor_guides_a_model_that_ignores_what_is_asked(toy, tmp_path):
    """--guidance 0 is the unconditional model: half of its points lie on either ring; guided, most on one."""

    def share(found):
        return (found > 1.5).double().mean().item()

    free = share(drawn(toy, tmp_path, "--guidance", "0"))
    guided = share(
        drawn(toy, tmp_path, "--guidance", "0", "--classifier", str(toy / "teller"), "--classifier-weight", "3")
    )
    assert 0.3 < free < 0.7
    assert guided > free + 0.25


def test_every_kind_of_guidance_has_its_flag(toy, tmp_path):
    base = drawn(toy, tmp_path, "--guidance", "1", n=4)
    for flags in (
        ["--guidance", "3"],
        ["--guidance", "3", "--guidance-rescale", "0.7"],
        ["--guidance", "3", "--guidance-interval", "-2", "4"],
        ["--classifier", str(toy / "teller")],
        ["--weak", "step-00000300"],
        ["--weak", str(toy / "drawer"), "--checkpoint", "step-00000300", "--autoguidance", "3"],
    ):
        found = drawn(toy, tmp_path, *flags, n=4)
        assert (found - base).abs().max() > 1e-3, flags
    outside = drawn(toy, tmp_path, "--guidance", "3", "--guidance-interval", "30", "40", n=4)
    torch.testing.assert_close(outside, base)
    assert (drawn(toy, tmp_path, "--guidance", "3", n=4) - base).abs().max() > 1e-3


def test_mistakes_of_guidance_get_a_line(toy, tmp_path, capsys):
    sample = ("sample", toy / "drawer", "--n", "2", "--out", tmp_path / "none")
    assert "--autoguidance needs --weak, the folder of a run" in refused(capsys, *sample, "--autoguidance", "2")
    assert "--classifier-weight needs --classifier, the folder of a run" in refused(
        capsys, *sample, "--classifier-weight", "2"
    )
    assert "guidance_interval: the first must be smaller" in refused(capsys, *sample, "--guidance-interval", "4", "1")
    assert "guidance_rescale: input should be less than or equal to 1" in refused(
        capsys, *sample, "--guidance-rescale", "2"
    )
    drawer, teller = toy / "drawer", toy / "teller"
    assert (
        f"the run {drawer} has the task denoise, whose network cannot be used as --classifier; "
        "that of a run with --task classify can"
    ) in refused(capsys, *sample, "--classifier", drawer)
    assert f"the run {teller} has the task classify" in refused(capsys, *sample, "--weak", teller)
    assert "has no checkpoint 'step-7'" in refused(capsys, *sample, "--weak", "step-7")
    assert "no run folder" in refused(capsys, *sample, "--classifier", tmp_path / "nowhere")
    assert not (tmp_path / "none").exists()


def test_guidance_without_anything_to_go_by_is_refused():
    from diffcore.denoising.conditions import nulls
    from diffcore.runs.generation import generate

    told = compose(REGISTRY, "toy", file={"sample": {"guidance": 3.0, "steps": 2}})
    model = build_model(told, build_data(told, REGISTRY).facts, REGISTRY)
    config = sampling_config(told.sample, REGISTRY, model)
    needs = r"the guidance classifier-free \(weight 3\) needs conditions, and"
    with pytest.raises(UserError, match=f"{needs} none is given: give `conditions`"):
        generate(model, config, nulls(model.codec.conditions, 2), 2)
    model.codec.conditions = ()
    config = sampling_config(told.sample, REGISTRY, model)
    with pytest.raises(UserError, match=f"{needs} this model was trained without any: leave `guidance` at 1"):
        generate(model, config, {}, 2)


def test_networks_of_other_data_cannot_guide():
    from dataclasses import replace
    from types import SimpleNamespace

    from diffcore.runs.guides import check_helper

    told = compose(REGISTRY, "toy")
    model = build_model(told, build_data(told, REGISTRY).facts, REGISTRY)
    check_helper(model, model, "`weak` x")

    def other(**changes):
        same = {"space": model.codec.space, "conditions": model.codec.conditions}
        return replace(model, codec=SimpleNamespace(**{**same, **changes}))

    for helper, said in (
        (
            replace(model, modality=replace(model.modality, name="smells")),
            "`weak` x is a model of smells, but this is a model of toy",
        ),
        (
            other(space=Euclidean((3,))),
            "`weak` x was trained on data of a different form than this model: states, not place, radius",
        ),
        (
            other(conditions=(ClassCondition("ring", ("a", "b")),)),
            "`weak` x and this model define the condition 'ring' differently",
        ),
    ):
        with pytest.raises(UserError, match=said):
            check_helper(model, helper, "`weak` x")
    check_helper(other(conditions=()), model, "`classifier` x")


def test_a_model_without_conditions_is_guided_to_what_the_predictor_knows():
    from dataclasses import replace
    from types import SimpleNamespace

    from diffcore.denoising.denoiser import Denoiser
    from diffcore.runs.generation import guided
    from diffcore.runs.guides import build_guides
    from diffcore.runs.sampling_config import known_conditions
    from tests.support.toy import ToyBackbone

    told = compose(REGISTRY, "toy", "teller")
    teller = build_model(told, build_data(told, REGISTRY).facts, REGISTRY)
    torch.manual_seed(0)
    for parameter in teller.network.parameters():
        nn.init.normal_(parameter, std=0.3)
    plain = Denoiser(ToyBackbone(16, 0.0), ())
    codec = SimpleNamespace(space=teller.codec.space, conditions=())
    model = replace(teller, network=plain, codec=codec, task=DENOISE)
    guides = build_guides(
        [{"name": "classifier", "run": "teller", "weight": 2.0}], REGISTRY, model, lambda source, use: teller.network
    )
    config = sampling_config(told.sample, REGISTRY, model, guides)
    assert known_conditions(model, config) == teller.codec.conditions
    x = codec.space.empty(3) + 0.5
    level, given = Level(0.7, 0.5), {"ring": torch.tensor([0, 1, 2])}
    with torch.no_grad():
        difference = guided(model, config)(x, level, given).score - plain(x, level).score
    for name in ("place", "radius"):
        assert (difference[name][:2].abs() > 1e-4).all()
        assert difference[name][2].abs().max() < 1e-6  # asked for nothing
        # Two classes: the gradients of log p(a) and log p(b) point against each other.
        assert (difference[name][0] * difference[name][1] <= 0).all()
