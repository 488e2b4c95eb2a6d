"""The list of guidance of a run: from flags, from Python and from the short options, against mixes made by hand."""

import json
from dataclasses import replace

import pytest
import torch

import diffcore as dc
from diffcore import cli
from diffcore.api.run import Run
from diffcore.denoising.denoiser import from_v, from_x0
from diffcore.errors import UserError
from diffcore.plugins.guidance import Guidance, GuidanceContext, guided_by
from diffcore.plugins.records import Component, Settings
from diffcore.plugins.registry import Provided
from diffcore.runs.fitted_grid import read_fitted_grids
from diffcore.runs.folder import RunFolder
from diffcore.runs.guides import build_guides
from diffcore.sampling.guidance import energy
from diffcore.sampling.inverse.drawing import draw
from diffcore.sampling.inverse.editing import Constraint
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.particles import Factor, Particles
from diffcore.sampling.solvers import adams, ddpm
from diffcore.sampling.timesteps import grid
from diffcore.states.level import Level
from diffcore.states.state import combine, fields, map_fields, named
from diffcore.testing.oracles import largest_difference
from tests.support.refusals import refused
from tests.support.toy import put_in_place, toy_registry

STEPS, N, SEED = 5, 8, 3
REGISTRY = toy_registry()


class Pull(Settings):
    run: str


def pull(options, context: GuidanceContext):
    """A stranger's guidance that uses what the core's may use: the space, another run, the plain denoiser."""
    other = context.load(options.run, "weak")
    assert [condition.name for condition in context.conditions] == ["ring"]

    def decorate(denoise, plain):
        def guided(x, level, conditions=None, mask=None):
            v = [d(x, level, conditions, mask).v for d in (denoise, plain, other)]
            return from_v(combine((1.5, v[0]), (-1.0, v[1]), (0.5, v[2])), x, level)

        return guided

    return Guidance(decorate, context.codec.conditions)


REGISTRY.guidance["pull"] = Provided(Component("pull", "", pull, Pull), "dist-stranger", "1")


@pytest.fixture(scope="module", autouse=True)
def toy_alone():
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, REGISTRY)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guides")
    train = {"steps": 30, "learning_rate": 1e-2, "evaluate": 0, "checkpoint_every": 15}
    dc.train("toy", out=folder / "run", train=train)
    dc.train("toy", out=folder / "teller", task="classify", train=train)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return dc.load(folder / "run")


# Guidance by hand


class ByHand:
    """The parts that mixes are made of, from the networks alone; denoisers return v."""

    def __init__(self, folder):
        self.plain = self.v(dc.load(folder / "run").model.denoiser)
        self.weak = self.v(dc.load(folder / "run", checkpoint="step-00000015").model.denoiser)
        self.teller = dc.load(folder / "teller").model.classifier

    def v(self, network):
        return lambda x, level, conditions: network(x, level, conditions).v

    def free(self, weight, inner=None):
        inner = inner or self.plain

        def mixed(x, level, conditions):
            without = inner(x, level, {"ring": torch.full_like(conditions["ring"], 2)})
            return combine((1 - weight, without), (weight, inner(x, level, conditions)))

        return mixed

    def against(self, weight, value):
        def mixed(x, level, conditions):
            other = self.plain(x, level, {"ring": torch.full_like(conditions["ring"], value)})
            return combine((1 - weight, other), (weight, self.plain(x, level, conditions)))

        return mixed

    def auto(self, weight, inner=None):
        inner = inner or self.plain
        return lambda *at: combine((weight, inner(*at)), (1 - weight, self.weak(*at)))

    def classifier(self, weight, inner=None):
        inner = inner or self.plain

        def moved(x, level, conditions):
            leaf = map_fields(lambda f: f.detach().requires_grad_(), x)
            with torch.enable_grad():
                logits = self.teller(leaf, level)["ring"].log_softmax(1)
                value = logits.gather(1, conditions["ring"][:, None]).sum()
                gradient = torch.autograd.grad(value, list(fields(leaf).values()))
            slope = -weight * level.sigma * level.total / level.alpha  # d v / d eps = t / alpha
            return combine(
                (1.0, inner(x, level, conditions)), (slope, named(dict(zip(fields(x), gradient, strict=True))))
            )

        return moved

    def interval(self, low, high, inner, plain=None):
        return lambda x, level, c: (inner if low <= level.log_snr <= high else plain or self.plain)(x, level, c)

    def rescaled(self, factor, inner):
        def scaled(*at):
            wanted, found = self.plain(*at), inner(*at)
            ratio = (wanted["place"].std(1) / found["place"].std(1))[:, None]
            place = factor * ratio * found["place"] + (1 - factor) * found["place"]
            return named({"place": place, "radius": found["radius"]})  # one number has no deviation

        return scaled


@pytest.fixture(scope="module")
def hand(folder):
    return ByHand(folder)


def record(name, **options):
    return {"name": name, **options}


FREE, AUTO = record("classifier-free", weight=3.0), record("auto", weak="step-00000015", weight=1.8)
NONE = record("classifier-free", weight=0.0)
TELLER = record("classifier", run="TELLER", weight=2.0)
INTERVAL, RESCALE = record("interval", low=-2.0, high=4.0), record("rescale", factor=0.6)

LISTS = {
    "classifier-free": ([FREE], lambda h: h.free(3.0)),
    "without conditions": ([NONE], lambda h: h.free(0.0)),
    "against a condition": (
        [record("classifier-free", weight=3.0, against={"ring": "inner"})],
        lambda h: h.against(3.0, 0),
    ),
    "composed": ([record("composed", weights={"ring": 2.5})], lambda h: h.free(2.5)),
    "auto": ([AUTO], lambda h: h.auto(1.8)),
    "classifier": ([TELLER], lambda h: h.classifier(2.0)),
    "interval": ([FREE, INTERVAL], lambda h: h.interval(-2, 4, h.free(3.0))),
    "one side": ([FREE, record("interval", low=0.5)], lambda h: h.interval(0.5, 200, h.free(3.0))),
    "rescale": ([FREE, RESCALE], lambda h: h.rescaled(0.6, h.free(3.0))),
    "rescaled in an interval": ([FREE, RESCALE, INTERVAL], lambda h: h.interval(-2, 4, h.rescaled(0.6, h.free(3.0)))),
    "the weaker one in the interval alone": (
        [AUTO, INTERVAL, FREE],
        lambda h: h.free(3.0, h.interval(-2, 4, h.auto(1.8))),
    ),
    "two intervals": (
        [FREE, INTERVAL, TELLER, record("interval", high=1.0)],
        lambda h: h.interval(-200, 1, h.classifier(2.0, h.interval(-2, 4, h.free(3.0)))),
    ),
    "a classifier of the model without conditions": (
        [NONE, TELLER, INTERVAL],
        lambda h: h.interval(-2, 4, h.classifier(2.0, h.free(0.0)), h.free(0.0)),
    ),
    "a stranger's": (
        [FREE, record("pull", run="step-00000015")],
        lambda h: lambda *at: combine((1.5, h.free(3.0)(*at)), (-1.0, h.plain(*at)), (0.5, h.weak(*at))),
    ),
}
"""Lists of guidance, and the same by hand."""

SHORT = {
    "guidance": ({"guidance": 3.0}, [FREE]),
    "all": (
        {
            "guidance": 3.0, "guidance_interval": (-2.0, 4.0), "guidance_rescale": 0.6, "classifier": "TELLER",
            "classifier_weight": 2.0, "weak": "step-00000015", "autoguidance": 1.8,
        },
        [AUTO, FREE, TELLER, RESCALE, INTERVAL],
    ),
    "between": (
        {"guidance": 3.0, "guidance_rescale": 0.6, "guides": [AUTO]},
        [FREE, AUTO, RESCALE],
    ),
}  # fmt: skip
"""Short options, and the list that they stand for."""


def placed(value, folder):
    """With the folder of the classifier in place of its name."""
    if isinstance(value, dict):
        return {name: placed(entry, folder) for name, entry in value.items()}
    if isinstance(value, list):
        return [placed(entry, folder) for entry in value]
    return str(folder / "teller") if value == "TELLER" else value


def flags_of(guides):
    """The same list on the command line."""
    words = []
    for guide in guides:
        words += ["--guide", guide["name"]]
        for name, value in guide.items():
            if isinstance(value, dict):
                words += [f"--guide.{name}", *(f"{key}={entry}" for key, entry in value.items())]
            elif name != "name":
                words += [f"--guide.{name}", str(value)]
    return words


def drawn(run, **options):
    conditions = {"ring": ["outer", "inner"] * (N // 2)}
    return run.sample(N, conditions=conditions, seed=SEED, steps=STEPS, **options)


def drawn_by_command(run, out, *flags):
    """What the command line writes, all of one condition."""
    own = ["--n", N, "--seed", SEED, "--steps", STEPS, "--condition", "ring=outer", "--out", out]
    assert cli.main([str(word) for word in ("sample", run.path, *own, *flags)]) == 0
    return out.read_text()


def drawn_by_hand(run, denoise):
    def predicted(x, level, conditions=None, mask=None):
        return from_v(denoise(x, level, conditions), x, level)

    levels = levels_of(run.model.schedule, grid("tapered", run.model.schedule, STEPS))
    conditions = {"ring": torch.tensor([1, 0] * (N // 2))}
    return sample(predicted, run.model.codec.space, adams(), levels, indices=range(N), seed=SEED, conditions=conditions)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_the_mix_by_hand(run, hand, folder, tmp_path, name):
    """From Python, bit for bit the same by flags, and different from the list without its last entry."""
    guides, by_hand = placed(LISTS[name][0], folder), LISTS[name][1]
    found = drawn(run, guides=guides).state
    assert largest_difference(found, drawn_by_hand(run, by_hand(hand))) < 1e-4
    assert largest_difference(found, drawn(run, guides=guides[:-1]).state) > 1e-3
    run.sample(N, conditions={"ring": "outer"}, seed=SEED, steps=STEPS, guides=guides).save(tmp_path / "a.csv")
    assert drawn_by_command(run, tmp_path / "b.csv", *flags_of(guides)) == (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize("name", SHORT)
def test_short_options_are_a_list_in_a_fixed_order(run, folder, tmp_path, name):
    options, guides = (placed(part, folder) for part in SHORT[name])
    found, listed = (run.config(each)[1] for each in (options, {"guides": guides}))
    assert found.recipe() == listed.recipe()
    assert largest_difference(drawn(run, **options).state, drawn(run, guides=guides).state) == 0
    flags = []
    for option, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        flags += flags_of(value) if option == "guides" else [f"--{option.replace('_', '-')}", *map(str, values)]
    by_list = drawn_by_command(run, tmp_path / "a.csv", *flags_of(guides))
    assert drawn_by_command(run, tmp_path / "b.csv", *flags) == by_list


def test_rescaling_in_an_interval_costs_one_joint_pass_a_step(run, monkeypatch):
    sizes = []
    backbone = run.model.denoiser.backbone
    hook = backbone.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[0]))
    levels = grid("tapered", run.model.schedule, STEPS).tolist()
    drawn(run, guides=[FREE, RESCALE])
    assert sizes == [2 * N] * STEPS
    sizes.clear()
    drawn(run, guidance=3.0, guidance_rescale=0.6, guidance_interval=(-2, 4))
    assert sizes == [2 * N if -2 <= value <= 4 else N for value in levels]
    assert len({*sizes}) == 2
    hook.remove()


def test_guides_take_the_place_of_the_guidance_of_the_settings(folder, run, caplog):
    """By name they say all there is; a line says what is not used."""
    caplog.set_level("INFO")
    settings = run.settings
    guided = settings.sample.model_copy(update={"guidance": 2.0, "guidance_rescale": 0.5})
    other = Run(run.path)
    other.__dict__["loaded"] = run.loaded._replace(settings=settings.model_copy(update={"sample": guided}))
    names = [guide.name for guide in other.config({})[1].guides]
    assert names == ["classifier-free", "rescale"]
    assert [guide.name for guide in other.config({"guides": [AUTO]})[1].guides] == ["auto"]
    assert "guidance 2.0, guidance_rescale 0.5) is not used, because `guides` is given" in caplog.text
    assert other.config({"guides": []})[1].guides == ()
    both = other.config({"guides": [AUTO], "guidance": 4.0})[1]
    assert both.describe().endswith("classifier-free (weight 4) and auto (weak step-00000015, weight 1.8)")


def test_guidance_without_effect_is_left_out(run):
    nothing = [record("classifier-free", weight=1.0), RESCALE, INTERVAL, record("auto", weak="step-00000015", weight=1)]
    config = run.config({"guides": nothing})[1]
    assert config.recipe()["guidance"] == []
    assert config.describe().endswith("without guidance")
    assert [guide.name for guide in run.config({"guides": [RESCALE, FREE]})[1].guides] == ["classifier-free"]


def test_a_recipe_names_the_list_and_the_weights_of_helpers(run, folder, tmp_path):
    guides = placed([TELLER, FREE, record("interval", low=-2)], folder)
    run.sample_to(tmp_path / "out", 2, conditions={"ring": "outer"}, steps=2, guides=guides)
    stored = json.loads((tmp_path / "out" / "recipe.json").read_text())["recipe"]["guidance"]
    digest = stored[0].pop("run")
    assert len(digest) == 64
    assert stored == [
        {"name": "classifier", "weight": 2.0},
        {"name": "classifier-free", "weight": 3.0, "against": {}},
        {"name": "interval", "low": -2.0, "high": 100.0},
    ]
    moved = folder / "elsewhere"
    (folder / "teller").rename(moved)
    again = run.config({"guides": [record("classifier", run=str(moved))]})[1].recipe()["guidance"]
    moved.rename(folder / "teller")
    assert again[0]["run"] == digest


def test_a_decorator_of_the_caller_is_one_of_the_list(run):
    def away(denoise):
        return lambda x, level, conditions=None, mask=None: replace(
            (found := denoise(x, level, conditions, mask)), output=map_fields(lambda f: f + 0.1, found.output)
        )

    found = drawn(run, guides=[FREE, away, INTERVAL]).state
    assert largest_difference(found, drawn(run, guides=[FREE, INTERVAL]).state) > 1e-2
    config = run.config({"guides": [away]})[1]
    assert config.recipe()["guidance"] == [{"name": "test_a_decorator_of_the_caller_is_one_of_the_list"}]
    assert not config.may_be_fitted
    with pytest.raises(UserError, match="tune with names, not functions"):
        run.tune(4, guides=[away])


def test_a_grid_is_fitted_to_a_list_and_used_for_the_same_one(run, folder, capsys):
    quick = ["--trajectories", "2", "--iterations", "1"]
    assert cli.main(["tune", str(run.path), "--steps", "2", *quick, *flags_of([FREE, INTERVAL])]) == 0
    (entry,) = read_fitted_grids(RunFolder(run.path)).values()
    assert list(entry.guides) == [{**FREE, "against": {}}, INTERVAL]
    capsys.readouterr()

    def said(*flags):
        draw = ["sample", str(run.path), "--n", "2", "--steps", "2", "--condition", "ring=inner"]
        assert cli.main([*draw, *flags]) == 0
        return capsys.readouterr().err

    assert "on a fitted grid" in said("--guidance", "3", "--guidance-interval", "-2", "4")
    assert "on a fitted grid" in said(*flags_of([FREE, INTERVAL]))
    other = said(*flags_of([FREE]))
    assert (
        "is not used: the guidance is classifier-free (weight 3), not classifier-free (weight 3) and interval" in other
    )
    RunFolder(run.path).fitted_grids.unlink()


# Closed forms


class Known:
    """In place of a network: what is known of data N(m, s^2 I) with a mean for each ring, and one for no condition."""

    def __init__(self, std=0.4):
        self.std, self.means = std, torch.tensor([-0.6, 0.9, 0.2])
        self.conditions = REGISTRY.modalities["toy"].record.codec.conditions

    def __call__(self, x, level, conditions=None, mask=None):
        means = self.means[torch.full((x.shape[0],), 2) if conditions is None else conditions["ring"]]
        return self.gaussian(means[:, None], x, level)

    def gaussian(self, mean, x, level):
        gain = level.alpha * self.std**2 / (level.alpha**2 * self.std**2 + level.sigma**2)
        return from_x0(map_fields(lambda f: mean + gain * (f - level.alpha * mean), x), x, level)

    def log_likelihood(self, x, level, conditions, mask=None):
        """log p(x_t given c) - log p(x_t given nothing): exact up to a constant."""
        total = level.alpha**2 * self.std**2 + level.sigma**2

        def log_density(mean):
            squares = (fields(x)[name] - level.alpha * mean[:, None] for name in fields(x))
            return -sum(each.square().sum(1) for each in squares) / (2 * total)

        return log_density(self.means[conditions["ring"]]) - log_density(self.means[torch.full((x.shape[0],), 2)])

    def state_dict(self):
        return {"means": self.means}


@pytest.mark.parametrize(
    ("guides", "mean", "plain"),
    [
        ([record("classifier-free", weight=2.5)], lambda u, c, w: u + 2.5 * (c - u), None),
        ([record("composed", weights={"ring": 2.5})], lambda u, c, w: u + 2.5 * (c - u), None),
        (
            [record("classifier-free", weight=2.5, against={"ring": "inner"})],
            lambda u, c, w: -0.6 + 2.5 * (c + 0.6),
            None,
        ),
        ([record("auto", weak="weak", weight=1.5)], lambda u, c, w: w + 1.5 * (c - w), None),
        (
            [record("classifier-free", weight=0), record("classifier", run="a", weight=2)],
            lambda u, c, w: 2 * c - u,
            None,
        ),
        (
            [record("classifier-free", weight=2.5), record("interval", low=-1, high=1)],
            lambda u, c, w: u + 2.5 * (c - u),
            lambda u, c, w: c,
        ),
        (
            [NONE, record("classifier", run="a"), record("interval", low=-1, high=1)],
            lambda u, c, w: c,
            lambda u, c, w: u,
        ),
    ],
)
def test_a_list_on_gaussian_data_is_a_gaussian_with_another_mean(run, guides, mean, plain):
    """Scores of equal variance differ by a constant, so each guidance only moves the mean, at all noise levels."""
    oracle = Known()
    weak = Known()
    weak.means = torch.tensor([0.1, 0.3, 0.2])
    built = build_guides(guides, REGISTRY, run.model, lambda source, task: weak if source == "weak" else oracle)
    x, rings = map_fields(torch.ones_like, run.model.codec.space.empty(2)), torch.tensor([0, 1])
    for level in (Level(0.7, 0.6), Level(0.05, 1.0)):
        wanted = mean if plain is None or level.alpha == 0.7 else plain
        expected = wanted(oracle.means[[2, 2]], oracle.means[rings], weak.means[rings])
        found = guided_by(built, oracle)(x, level, {"ring": rings}).x0
        assert largest_difference(found, oracle.gaussian(expected[:, None], x, level).x0) < 1e-5


# Mistakes

MISTAKES = {
    ("--guide", "clasifier-free"): "unknown guide 'clasifier-free' (did you mean 'classifier-free'?)",
    ("--guide", "classifier"): "--guide.run is missing",
    ("--guide", "composed", "--guide.weights", "hue=2"): "this model has no condition 'hue'; there are: ring",
    ("--guide", "composed", "--guide.weights", "ring=two"): "--guide.weights has a name without a value, or a value",
    ("--guide", "composed", "--guide.weights", "ring"): "--guide.weights has a name without a value, or a value that",
    ("--guide", "classifier-free", "--guide.against", "ring=middle"): "unknown ring 'middle'",
    ("--guide", "interval", "--guide.low", "3", "--guide.high", "2"): "low and high: the first, 3, must be smaller",
    ("--guide", "rescale", "--guide.factor", "2"): "less than or equal to 1",
    ("--guide", "auto", "--guide.weak", "TELLER"): "has the task classify, whose network cannot be used as --weak",
    ("--guide", "classifier", "--guide.run", "step-00000015"): "no run folder",
    ("--guide.low", "3"): "--guide.low needs --guide NAME before it",
    ("--guide", "rescale", "--guide", "interval", "--guide.lo", "3"): "perhaps you meant --guide.low",
    ("--guidance", "3", "--guide", "classifier-free"): "--guidance is short for the guide classifier-free, which",
    ("--guide",): "--guide needs a value",
}  # fmt: skip


@pytest.mark.parametrize("flags", MISTAKES, ids=" ".join)
def test_mistakes_get_a_line(run, folder, capsys, flags, tmp_path):
    flags = [placed(word, folder) for word in flags]
    said = refused(capsys, "sample", run.path, "--n", "2", "--out", tmp_path / "out", *flags)
    wanted = MISTAKES[tuple("TELLER" if word == str(folder / "teller") else word for word in flags)]
    assert wanted in said


def test_mistakes_in_python_get_a_line(run):
    for guides, said in (
        ("interval", "`guides` is a list"),
        ([{"weight": 2.0}], "`guide` has options but no name"),
        ([record("interval", lo=1.0)], "the guide interval: lo is not an option here; perhaps you meant low"),
        ([3], "`guides` cannot be used: it must be a function that takes a denoiser"),
    ):
        with pytest.raises(UserError, match=said):
            run.sample(1, guides=guides)
    with pytest.raises(UserError, match=r"composed \(weights ring 2\) needs conditions, and none is given"):
        run.sample(1, guides=[record("composed", weights={"ring": 2.0})], constraint=Constraint(lambda *a: a[:2]))


def test_a_guide_that_changes_nothing_where_it_stands_is_told_of(run, caplog):
    free, window = {"name": "classifier-free", "weight": 2.0}, {"name": "interval", "low": -1.0, "high": 1.0}
    for guides, said in (([free, window], 0), ([window, free], 1), ([window, free, window, "rescale"], 1)):
        caplog.clear()
        run.sample(1, guides=guides, steps=2)
        told = [line for line in caplog.messages if "changes nothing at its place in the list" in line]
        assert len(told) == said
        assert all(line.startswith("the guide interval (low -1, high 1)") for line in told)
    caplog.clear()
    run.sample(1, guidance=1.0, guidance_interval=(-1.0, 1.0), steps=2)
    assert "changes nothing" not in caplog.text


def test_grids_that_another_version_fitted_are_refused_in_a_short_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.fitted_grids.write_text(json.dumps({"3": {"guidance": 2.0, "classifier": None, "weak": None, "steps": 3}}))
    with pytest.raises(UserError, match=r"json: 3: log_snrs is missing; delete \S+ and run diffcore tune"):
        read_fitted_grids(folder)


def test_particles_of_a_classifier(folder, run, capsys):
    """They are those of the core; the solver is ddpm unless another one with such steps is chosen."""
    how = {"classifier": folder / "teller", "steps": STEPS, "conditions": {"ring": "inner"}}
    teller, model = dc.load(folder / "teller").model.classifier, run.model
    many = run.sample(N, **how, particles=3)
    by_hand = draw(
        model.denoiser,
        model.codec.space,
        ddpm(),
        model.schedule,
        grid("tapered", model.schedule, STEPS),
        indices=range(N),
        conditions={"ring": torch.zeros(N, dtype=torch.int64)},
        particles=Particles(
            3, (Factor(teller.log_likelihood),), lambda plain: energy(plain, model.codec.space, teller.log_likelihood)
        ),
    )
    assert largest_difference(many.state, by_hand) < 1e-5
    alone = run.sample(2, **how, particles=3)  # a sample does not depend on the others
    assert largest_difference(alone.state, many.state[:2]) < 1e-5
    config = run.config({"classifier": folder / "teller", "particles": 3})[1]
    assert config.describe().endswith("with 3 particles for each sample")
    assert config.recipe()["particles"] == 3
    assert config.solver == "ddpm"
    assert run.config({"particles": 1})[1].recipe() == run.config({})[1].recipe()
    messages = {
        ("--particles", "2"): "`particles` 2: nothing says which particles are better",
        ("--particles", "2", "--classifier", "TELLER", "--solver", "adams"): "which adds no noise",
        ("--particles", "2", "--classifier", "TELLER", "--solver", "edm"): "has no steps of one evaluation",
        ("--particles", "0", "--classifier", "TELLER"): "particles",
    }
    for flags, message in messages.items():
        flags = [str(folder / "teller") if flag == "TELLER" else flag for flag in flags]
        assert cli.main(["sample", str(folder / "run"), "--condition", "ring=inner", *flags]) == 2
        assert message.replace("`particles`", "--particles") in capsys.readouterr().err


def test_an_evaluation_with_particles_needs_something_to_weigh_them_by(run):
    with pytest.raises(UserError, match="nothing says which particles are better"):
        run.evaluate(2, particles=2)


def test_particles_of_a_search_are_whole_groups(run):
    with pytest.raises(UserError, match="`per_round` 5: give a multiple of `particles`, which are 2"):
        run.optimise(lambda sample: 0.0, per_round=5, particles=2)
    with pytest.raises(UserError, match="which adds no noise"):
        run.optimise(lambda sample: 0.0, per_round=4, particles=2, solver="adams")
    found = run.optimise(lambda sample: 1.0, rounds=2, per_round=4, n=2, particles=2, steps=3)
    assert len(found.candidates) == 8
    assert found.samples.model is not None
