"""Self-conditioning: networks that are told the x0 that they have predicted before."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.denoising.along import conditions_alone, told_in
from diffcore.denoising.conditions import ClassCondition
from diffcore.denoising.denoiser import Denoiser, from_x0
from diffcore.denoising.estimate import estimated, told, told_rows
from diffcore.denoising.inputs import beside_each_other, channels_beside
from diffcore.errors import UserError
from diffcore.process.schedules import Cosine
from diffcore.runs.composing import compose
from diffcore.runs.generation import generate
from diffcore.runs.model import build_data, build_model
from diffcore.runs.sampling_config import sampling_config
from diffcore.sampling.grid_fitting import flow_of
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.inverse.drawing import draw
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.particles import Factor, Particles
from diffcore.sampling.solvers import adams
from diffcore.sampling.timesteps import grid
from diffcore.states.spaces import Euclidean, ZeroCentred
from diffcore.states.state import named
from diffcore.tasks.objective import step_loss
from diffcore.testing.plugin import randomised
from tests.support.told_toy import DIT, UNET, told_registry

REGISTRY = told_registry()
LABEL = ClassCondition("label", ("a", "b"))


def mixing(x, level, conditions=None, mask=None):
    """x0 = x / 2 + e / 4, of the estimate e that the denoiser is told; zero where it is nan or not told."""
    estimate = told_in("estimate", conditions)
    return from_x0(x / 2 + (0 if estimate is None else estimate.nan_to_num() / 4), x, level)


def watched(denoise, calls):
    """`denoise`, which notes the state, the estimate and the conditions of each call."""

    def call(x, level, conditions=None, mask=None):
        calls.append((x, told_in("estimate", conditions), conditions_alone(conditions), conditions))
        return denoise(x, level, conditions, mask)

    return call


class Beside(nn.Module):
    """A network of plain numbers: the sum of the state and 10 times each of the channels beside it."""

    width, accepts = 4, ("like_state",)

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, conditioning, mask=None, like_state=None):
        self.seen.append(like_state)
        return x + 10 * like_state[:, -1:]


def test_two_steps_by_hand():
    """The first evaluation has no estimate, and the second the x0 of the first: x0_2 = x_1 / 2 + x0_1 / 4."""
    calls = []
    schedule, space = Cosine(), Euclidean((3,))
    levels = levels_of(schedule, torch.tensor([-2.0, 1.0]))
    start = torch.tensor([[1.0, -2.0, 0.5]])
    (first, second), end = (
        levels[:2],
        sample(watched(mixing, calls), space, _euler, levels, indices=[0], start=start, remember=True),
    )
    x0 = start / 2
    x1 = second.alpha * x0 + second.sigma * (start - first.alpha * x0) / first.sigma
    torch.testing.assert_close(end, x1 / 2 + x0 / 4)
    assert calls[0][1] is None
    torch.testing.assert_close(calls[1][1], x0)


def _euler(evaluate, x, move):
    """DDIM: x0_hat and eps_hat at the level that follows."""
    prediction = evaluate(x, move.now)
    return move.next.alpha * prediction.x0 + move.next.sigma * prediction.eps


def test_nothing_is_told_unless_it_is_asked_for_and_nothing_is_left_for_the_next_batch():
    calls = []
    dc.sample(watched(mixing, calls), 3, (2,), steps=3)
    assert all(estimate is None for _, estimate, _, _ in calls)
    calls.clear()
    dc.sample(watched(mixing, calls), 4, (2,), steps=3, batch_size=2, self_conditioning=True)
    assert [estimate is None for _, estimate, _, _ in calls] == [True, False, False] * 2


@pytest.mark.parametrize("solver", ["adams", "heun", "edm"])
def test_samples_do_not_depend_on_their_batch(solver):
    one, all_at_once = (
        dc.sample(mixing, 5, (3,), steps=4, solver=solver, batch_size=size, self_conditioning=True) for size in (1, 5)
    )
    torch.testing.assert_close(one, all_at_once)


def test_each_evaluation_of_guidance_is_told_the_estimate_of_its_sample_and_the_conditions_stay_the_same_tensors():
    """The joint batch holds both samples without conditions, then that which has one."""
    calls = []
    guided = classifier_free(watched(mixing, calls), (LABEL,), 2.0)
    conditions = {"label": torch.tensor([1, int(LABEL.null(1))])}
    dc.sample(guided, 2, (3,), steps=3, conditions=conditions, self_conditioning=True)
    assert [len(x) for x, *_ in calls] == [3, 3, 3]
    for (x, before, _, _), (_, estimate, _, _) in pairwise(calls):
        base = x / 2 + (0 if before is None else before / 4)
        torch.testing.assert_close(estimate, base)  # both passes agree here, so the guided x0 is that of each
    assert calls[1][2]["label"] is calls[2][2]["label"], "what belongs to the conditions is made once"


def test_what_is_known_stays_the_same_tensors():
    calls = []
    values, known = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    constraint = inpainting(values, known, Euclidean((2,)), "learned")
    drawn = dc.sample(watched(mixing, calls), 2, (2,), steps=3, constraint=constraint, self_conditioning=True)
    assert (drawn[:, 0] == 1).all()
    assert calls[0][3]["known: "] is calls[2][3]["known: "]
    assert not calls[2][1][:, 0].any(), "what is known has no estimate"


def test_a_particle_is_told_the_estimate_of_the_one_that_it_continues():
    """Here each step ends at the x0 of its evaluation, so that the next one must be told what it gets."""
    calls, schedule = [], Cosine()

    def plain(x, level, conditions=None, mask=None):
        return from_x0(x + 1, x, level)

    def step(evaluate, x, move):
        return evaluate(x, move.now).x0

    factor = Factor(lambda x, level, conditions, mask: 9 * x.sum(1))
    draw(
        watched(plain, calls), Euclidean((2,)), step, schedule, grid("log-snr", schedule, 4),
        indices=range(2), particles=Particles(4, (factor,)), remember=True,
    )  # fmt: skip
    assert len(calls) == 4
    assert len(calls[2][0].unique(dim=0)) < 8, "some have been resampled"
    for x, estimate, *_ in calls[1:]:
        torch.testing.assert_close(x, estimate)


def test_a_network_that_accepts_channels_gets_the_estimate_behind_those_of_the_conditions():
    denoiser = Denoiser(network := Beside(), parameterisation="x0", self_conditioning=True, data_std=2.0)
    x, level = torch.ones(3, 1, 2, 2), Cosine().level(torch.zeros(3, dtype=torch.float64))
    denoiser(x, level)
    assert not network.seen[-1].any()
    estimate = torch.full((3, 1, 2, 2), 6.0)
    estimate[1] = torch.nan
    denoiser(x, level, told(estimate))
    assert network.seen[-1][:, 0, 0, 0].tolist() == [3, 0, 3], "in units of the data's standard deviation"
    with pytest.raises(UserError, match="accepts no `estimate`"):
        Denoiser(nn.Identity(), width=4, self_conditioning=True)


def test_channels_of_several_fields_lie_beside_each_other():
    state = named({"place": torch.ones(2, 5, 3), "colour": torch.full((2, 5, 1), 2.0)})
    joined = beside_each_other(state, torch.full((2, 4, 2), 7.0))
    assert joined[0, :, :].tolist() == [[7, 7, 1, 1, 1, 2]] * 4 + [[0, 0, 1, 1, 1, 2]]
    assert channels_beside(state) == 4
    assert channels_beside(named({"place": torch.ones(2, 5, 3), "pairs": torch.ones(2, 5, 5, 1)})) is None
    assert channels_beside(torch.ones(2, 3, 8, 8)) == 3


def test_in_training_a_share_of_the_examples_is_predicted_twice():
    """Row 1 is told x / 2, without its mean as the space has none; row 0 is told nothing."""
    x, level = torch.tensor([[[2.0], [4.0]], [[1.0], [5.0]]]), Cosine().level(torch.zeros(2, dtype=torch.float64))
    rows = told_rows(range(2), 0.5, torch.device("cpu"))
    first = estimated(mixing, ZeroCentred((2, 1)), x, level, None, None, rows)
    assert first[0].isnan().all()
    assert first[1].flatten().tolist() == [-1.0, 1.0]
    assert not first.requires_grad


@pytest.mark.parametrize(("share", "count"), [(0.5, 32), (0.25, 16), (1.0, 64), (0.7, 44)])
def test_the_examples_that_are_told_are_spread_evenly_over_any_number_of_processes(share, count):
    rows = told_rows(range(64), share, torch.device("cpu"))
    assert len(rows) == count == len(set(rows.tolist()))
    assert rows.diff().max() <= math.ceil(1 / share)
    parts = [told_rows(range(start, start + 16), share, torch.device("cpu")) + start for start in range(0, 64, 16)]
    assert torch.equal(torch.cat(parts), rows)


def test_a_fitted_grid_follows_the_flow_that_is_sampled():
    schedule, space = Cosine(), Euclidean((3,))
    flow = flow_of(mixing, space, schedule, indices=range(2), seed=0, accurate=5, remember=True)
    levels = levels_of(schedule, grid("log-snr", schedule, 5))
    drawn = sample(mixing, space, adams(), levels, indices=range(2), start=flow.start, remember=True)
    torch.testing.assert_close(flow.end, drawn)
    log_snrs = grid("log-snr", schedule, 5).requires_grad_()
    errors = flow.errors(adams(), log_snrs)
    torch.testing.assert_close(errors, torch.zeros(2), atol=1e-4, rtol=0)
    assert errors.square().sum().backward() is None


def told_model(denoiser, share, told=("coarse",)):
    settings = compose(
        REGISTRY,
        "told",
        file={
            "task": {"name": "denoise", "self_conditioning": share},
            "denoiser": denoiser,
            "data": {"n": 64, "told": told},
            "train": {"batch_size": 8},
        },
    )
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


@pytest.mark.parametrize("denoiser", [UNET, DIT], ids=["unet", "dit"])
def test_a_run_begins_as_one_without_and_then_learns_from_its_estimate(denoiser):
    """With weights of zero for what is new, the loss and the network's other weights are the same bit for bit."""
    options = {"name": denoiser.name, **denoiser.small}
    (plain, *rest), (own, *again) = told_model(options, 0.0), told_model(options, 0.5)
    assert torch.equal(step_loss(plain, *rest, 3), step_loss(own, *again, 3))
    backbones = (model.network.backbone.state_dict() for model in (plain, own))
    for (name, weight), other in zip(next(backbones).items(), next(backbones).values(), strict=True):
        assert torch.equal(weight, other) or "beside" in name, name
    awake = replace(own, network=randomised(own.network))
    loss = step_loss(awake, *again, 3)
    loss.backward()
    gradient = awake.network.backbone.beside.layer.weight.grad
    assert gradient.flatten(1).any(1).all()
    nothing = step_loss(awake, again[0].model_copy(update={"task": rest[0].task}), again[1], 3)
    assert not torch.isclose(loss, nothing), "half of the examples are told their estimate"


def test_a_network_that_accepts_no_estimate_is_refused():
    with pytest.raises(UserError, match=r"`task.self_conditioning`: the denoiser 'plain' accepts no `estimate`"):
        told_model({"name": "plain"}, 0.5, told=())


def test_runs_sample_with_their_estimates():
    model, settings, _ = told_model({"name": "dit", **DIT.small}, 0.5, told=())
    awake = replace(model, network=randomised(model.network))
    config, seen = sampling_config(settings.sample.model_copy(update={"steps": 3}), REGISTRY, awake), []
    awake.network.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["like_state"]), with_kwargs=True
    )
    generate(awake, config, {}, 2)
    assert [bool(each.any()) for each in seen] == [False, True, True]
