"""What Python callers pass is checked: each mistake is one line that says what is wrong."""

import pytest
import torch

import diffcore as dc
from diffcore.denoising.denoiser import from_x0
from diffcore.denoising.losses import weighted_loss
from diffcore.runs.composing import with_options
from diffcore.sampling.guidance import energy
from diffcore.sampling.inverse.operators import KeepElements
from diffcore.sampling.loop import levels_of
from diffcore.sampling.loop import sample as draw
from diffcore.sampling.solvers import adams, ddim
from diffcore.states.level import CLEAN, Level
from diffcore.states.spaces import Euclidean
from diffcore.states.state import named
from diffcore.testing.oracles import gaussian
from tests.support.draws import draw as normal

RING = dc.ClassCondition("ring", ("inner", "outer"))
SIZE = dc.ScalarCondition("size", 0.0, 1.0, (-1.0, 1.0))


class Net(torch.nn.Module):
    """Two coordinates to `outputs`."""

    def __init__(self, outputs=2):
        super().__init__()
        self.width, self.line = 8, torch.nn.Linear(2, outputs)

    def forward(self, x, conditioning, mask=None):
        return self.line(x)


class Nothing(Net):
    def forward(self, x, conditioning, mask=None):
        self.line(x)


def denoiser(network=None, conditions=(RING, SIZE)):
    return dc.Denoiser(Net() if network is None else network, conditions)


X, LEVELS = torch.zeros(3, 2), [Level(0.6, 0.8), CLEAN]
RINGS, SIZES = torch.tensor([0, 1, 2]), torch.zeros(3)


def sampled(denoise, solver="ddim", **options):
    return dc.sample(denoise, n=3, shape=(2,), steps=2, solver=solver, **options)


def in_levels(levels, **options):
    return draw(gaussian(0.0, 1.0), Euclidean((2,)), ddim(), levels, indices=range(3), **options)


def guided(log_weight, **options):
    return sampled(energy(gaussian(0.0, 1.0), Euclidean((2,)), log_weight, **options))


def returning(*results):
    """A denoiser, or a solver's step, that returns these instead."""
    return lambda *arguments: results[0] if results else None


def test_a_string_is_one_name():
    """Not the list of its letters, which are names of other fields, classes and parts."""
    x = named({"ab": torch.zeros(3, 2), "a": torch.zeros(3, 1), "b": torch.zeros(3, 1)})
    space = dc.spaces.Product({"ab": Euclidean((2,)), "a": Euclidean((1,)), "b": Euclidean((1,))})
    exact = gaussian(0.0, 1.0)
    found = [dc.log_likelihood(exact, x, space=space, steps=2, given=given) for given in ("ab", ["ab"], ["a", "b"])]
    assert torch.equal(found[0], found[1])
    assert dc.ClassCondition("ring", "ab") == dc.ClassCondition("ring", ("ab",)) != dc.ClassCondition("ring", "abc")
    assert dc.ClassCondition("ring", ["inner", "outer"]) == RING
    assert dc.Denoiser(Net(), level_fields="ab").conditioning.level_fields == ("ab",)
    assert with_options("ab") == with_options(["ab"]) == with_options({"ab": {}}) == {"ab": {}}
    sets = dc.spaces.Product({name: Euclidean((1, 1)) for name in space.parts})
    state = {name: torch.zeros(1, 1, 1) for name in space.parts}
    assert [*KeepElements(torch.tensor([[True]]), sets, of="ab")(named(state)).keys()] == ["ab"]


MISTAKES = {
    "a parameterisation": (
        lambda: dc.Denoiser(Net(), parameterisation="epsilon"),
        "`parameterisation` 'epsilon' does not exist; there are: eps, x0, v; perhaps you meant 'eps'",
    ),
    "a weighting": (
        lambda: dc.denoising_loss(denoiser(conditions=()), X, weighting="min_snr"),
        "`weighting` 'min_snr' does not exist; there are: eps, x0, v, min-snr, sparse; perhaps you meant 'min-snr'",
    ),
    "a weighting of a loss": (
        lambda: weighted_loss(from_x0(X, X, Level(0.6, 0.8)), X, X, Euclidean((2,)), "snr"),
        "`weighting` 'snr' does not exist",
    ),
    "a grid": (lambda: sampled(gaussian(0.0, 1.0), grid="kerras"), "`grid` 'kerras' does not exist"),
    "a clock": (lambda: adams(clock="time"), "`clock` 'time' does not exist; there are: alpha, log-snr"),
    "a divergence": (
        lambda: dc.log_likelihood(gaussian(0.0, 1.0), X, divergence="hutch"),
        "`divergence` 'hutch' does not exist",
    ),
    "a method": (
        lambda: dc.inpainting(X[:1], torch.tensor([[True, False]]), Euclidean((2,)), "replace"),
        "`method` 'replace' does not exist",
    ),
    "what a gradient is of": (lambda: guided(lambda *a: X[:, 0], of="eps"), "`of` 'eps' does not exist"),
    "an output that would be broadcast": (
        lambda: sampled(denoiser(Net(1))),
        "the output of the network Net has not the form of the state: it has the shape [3, 1] instead of [3, 2]",
    ),
    "a network without return": (lambda: sampled(denoiser(Nothing())), "it is None instead of a tensor"),
    "a denoiser without return": (lambda: sampled(returning()), "returned None instead of a Prediction"),
    "a denoiser that returns a tensor": (lambda: sampled(returning(X)), "returned a Tensor instead of a Prediction"),
    "a prediction that would be broadcast": (
        lambda: sampled(lambda x, level, *_: from_x0(x[:, :1], x, level)),
        "the prediction of the denoiser has not the form of the state: it has the shape [3, 1] instead of [3, 2]",
    ),
    "a solver without return": (
        lambda: sampled(gaussian(0.0, 1.0), solver=returning()),
        "step 1 of the solver has not returned a state like the one it got: it is None instead of a tensor",
    ),
    "a solver that is none": (lambda: sampled(gaussian(0.0, 1.0), solver=3), "`solver` cannot be used: it must be"),
    "a schedule that is a class": (
        lambda: sampled(gaussian(0.0, 1.0), schedule=dc.schedules.Cosine),
        "`schedule` cannot be used: it must be a schedule with log_snr, time and level, but it is the class Cosine",
    ),
    "one label for three samples": (
        lambda: sampled(denoiser(), conditions={"ring": torch.tensor([1])}),
        "the condition 'ring' has the shape [1] for 3 samples; give one value for each, [3]",
    ),
    "one label for three samples of a function": (
        lambda: sampled(gaussian(0.0, 1.0), conditions={"ring": torch.tensor([1])}),
        "the condition 'ring' has the shape [1] for 3 samples",
    ),
    "one label for three samples of a network": (
        lambda: denoiser()(X, Level(0.6, 0.8), {"ring": RINGS[:1], "size": SIZES}),
        "the condition 'ring' has the shape [1] for 3 samples",
    ),
    "a condition that is missing": (
        lambda: dc.denoising_loss(denoiser(), X, conditions={"ring": RINGS}),
        "the condition 'size' is missing (given: 'ring')",
    ),
    "a condition that does not exist": (
        lambda: sampled(denoiser(), conditions={"colour": RINGS}),
        "unknown condition 'colour'; there are: ring, size",
    ),
    "a label that is no class": (
        lambda: sampled(denoiser(), conditions={"ring": RINGS + 1}),
        "the condition 'ring' has the value 3; its classes are 0 to 1, and 2 means that none is given",
    ),
    "labels that are no whole numbers": (
        lambda: sampled(denoiser(), conditions={"ring": RINGS + 0.5}),
        "the condition 'ring' has numbers of the type torch.float32",
    ),
    "levels without a clean end": (
        lambda: in_levels([Level(0.1, 0.9), Level(0.8, 0.6)]),
        "the levels of sampling must end without noise, but the last of 2 has sigma 0.6: append CLEAN",
    ),
    "a single level": (lambda: in_levels([CLEAN]), "sampling needs at least two levels, from noise to data, not 1"),
    "a mask of numbers": (lambda: in_levels(LEVELS, mask=torch.ones(3, 2)), "`mask` is float32 [3, 2]; give booleans"),
    "a mask of another batch": (
        lambda: in_levels(LEVELS, mask=torch.ones(1, 2).bool()),
        "`mask` is bool [1, 2]; give booleans [3, N]",
    ),
    "a log-weight for the batch": (
        lambda: guided(lambda x, *_: -x.square().sum()),
        "a log-weight must have one value for each sample: it has the shape [] instead of [3]",
    ),
    "a log-weight that is detached": (
        lambda: guided(lambda x, *_: -x.detach().square().sum(1)),
        "the log-weight has no gradient with respect to the state",
    ),
    "a log-weight of weights alone": (
        lambda: guided(lambda x, *_: torch.nn.Linear(2, 1)(x.detach())[:, 0]),
        "the log-weight has no gradient with respect to the state",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line(mistake):
    make, words = MISTAKES[mistake]
    with pytest.raises(dc.UserError) as raised:
        make()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_right_is_accepted():
    given = {"ring": RINGS, "size": SIZES}
    assert sampled(denoiser(), conditions=given).shape == (3, 2)
    assert sampled(denoiser(), conditions={"ring": "outer"}).shape == (3, 2)
    denoiser()(X, Level(0.6, 0.8), {**given, "of_a_classifier": SIZES})
    assert in_levels([Level(0.1, 0.9), Level(0.8, 0.6)], keep_noise=True).shape == (3, 2)
    noisy = in_levels(levels_of(dc.schedules.Cosine(), torch.tensor([-2.0, 2.0])))
    plain = sampled(gaussian(0.0, 1.0), seed=1)
    assert torch.equal(guided(lambda x, *_: torch.zeros(3)), sampled(gaussian(0.0, 1.0)))
    assert noisy.isfinite().all()
    assert plain.isfinite().all()
    x = normal(3, 2)
    half = energy(gaussian(0.0, 1.0), Euclidean((2,)), lambda x, *_: -(x[:, 0] ** 2), 1.0)(x, Level(0.6, 0.8)).x0
    moved = half - gaussian(0.0, 1.0)(x, Level(0.6, 0.8)).x0
    torch.testing.assert_close(moved, torch.stack([-2 * x[:, 0] * 0.64 / 0.6, torch.zeros(3)], 1))
