"""What a GPU computes equals what the CPU computes, and a step of training never waits for the GPU."""

import pytest
import torch

from diffcore.denoising.precision import compute_in
from diffcore.plugins.registry import installed
from diffcore.process.schedules import Cosine
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.sampling.guidance import classifier_free, energy
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.timesteps import grid
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import fields
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.objective import step_loss
from diffcore.testing.oracles import Mixture, largest_difference
from diffcore.training.state import TrainState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SPACE = Product({"place": ZeroCentred((4, 2)), "pairs": SymmetricPairs((4, 4, 1)), "kind": Euclidean((4, 3))})
MASK = torch.tensor([[True] * 4, [True, True, True, False], [True, True, False, False]])
SMALL = {"image": {}, "molecule": {}, "audio": {"sounds": 20}, "pointcloud": {"shapes": 64, "held_out": 16}}
MODALITIES = tuple(SMALL)
SOLVERS = [plugin.name for plugin in installed().offered("solvers")]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Matrix products and convolutions of float32 in float32, not in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.set_float32_matmul_precision(before)


def centres():
    generator = torch.Generator().manual_seed(5)
    empty = SPACE.empty(2)
    empty = empty.apply(lambda field: torch.randn(field.shape, generator=generator))
    return SPACE.project(empty, torch.ones(2, 4, dtype=torch.bool))


def on(state, device):
    return state.to(device)


def test_samples_of_a_seed_start_from_the_same_noise_on_every_device():
    like = SPACE.empty(3)
    here, there = (Draws.of(7, [0, 17, 3], device).normal("prior", on(like, device)) for device in ("cpu", "cuda"))
    for name, field in fields(here).items():
        torch.testing.assert_close(field, there[name].cpu(), rtol=0, atol=1e-5)


def test_noise_needs_nothing_of_the_host_and_a_graph_draws_that_of_the_samples_it_finds():
    samples, like = torch.arange(3, device="cuda"), on(SPACE.empty(3), "cuda")
    draws = Draws(7, samples)
    torch.cuda.set_sync_debug_mode("error")
    try:
        draws.normal("fresh", like)
        draws.uniform("dropped", 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = draws.normal("fresh", like)
    samples.add_(2**40)
    graph.replay()
    expected = Draws.of(7, range(2**40, 2**40 + 3), "cuda").normal("fresh", like)
    for name, field in fields(drawn).items():
        assert torch.equal(field, expected[name])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_draws_the_same_samples_on_both_devices(solver):
    plugin = installed().solver(solver)
    levels = levels_of(Cosine(), grid("tapered", Cosine(), 12))

    def drawn(device):
        denoise = Mixture(on(centres(), device), 0.3, space=SPACE)
        step = plugin.build(plugin.options())
        with torch.device(device):
            mask = MASK.to(device)
        return sample(denoise, SPACE, step, levels, indices=[0, 1, 2], seed=1, mask=mask, device=device)

    assert largest_difference(drawn("cpu"), drawn("cuda").cpu()) < 2e-3


def test_guidance_gives_the_same_samples_on_both_devices():
    plugin = installed().solver("adams")
    levels = levels_of(Cosine(), grid("tapered", Cosine(), 12))
    step = plugin.build(plugin.options())
    from diffcore.denoising.conditions import ClassCondition

    label = ClassCondition("label", ("a", "b"))

    def drawn(device):
        mixture = Mixture(on(centres(), device), 0.3, labels=torch.tensor([0, 1], device=device), space=SPACE)
        denoise = classifier_free(mixture, (label,), 2.0)
        denoise = energy(denoise, SPACE, lambda x, level, conditions, mask: -x["kind"].square().sum((1, 2)), 0.3)
        conditions = {"label": torch.tensor([0, 1, 1], device=device)}
        mask = MASK.to(device)
        return sample(denoise, SPACE, step, levels, indices=[0, 1, 2], conditions=conditions, mask=mask, device=device)

    assert largest_difference(drawn("cpu"), drawn("cuda").cpu()) < 5e-3


def built(modality, device, **train):
    registry = installed()
    file = {"device": device, "data": SMALL[modality], "train": {"batch_size": 8, **train}}
    settings = compose(registry, modality, "default", file=file)
    data = build_data(settings, registry)
    return settings, data, build_model(settings, data.facts, registry)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_network_predicts_the_same_on_both_devices(modality):
    settings, data, here = built(modality, "cpu")
    _, _, there = built(modality, "cuda")
    batch = draw_batch(here, settings, data, 0)
    arguments = (batch.noisy, batch.level, batch.kept_conditions, batch.mask)

    def move(value):
        if isinstance(value, dict):
            return {name: move(inner) for name, inner in value.items()}
        if isinstance(value, tuple):
            return type(value)(*map(move, value))
        return None if value is None else value.to("cuda")

    with torch.no_grad():
        for parameter, other in zip(here.network.parameters(), there.network.parameters(), strict=True):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            other.copy_(parameter)
        expected = here.network(*arguments).x0
        found = there.network(*map(move, arguments)).x0
        assert largest_difference(expected, found.cpu()) < 2e-3
        compute_in(there.network, "bfloat16")
        assert largest_difference(expected, there.network(*map(move, arguments)).x0.cpu()) < 0.3


@pytest.mark.parametrize("modality", MODALITIES)
def test_training_learns_and_repeats(modality):
    settings, data, model = built(modality, "cuda", learning_rate=1e-3)
    assert step_loss(model, settings, data, 3).item() == pytest.approx(step_loss(model, settings, data, 3).item(), 1e-5)
    before = [step_loss(model, settings, data, step).item() for step in range(8)]
    state = TrainState(model, settings, data)
    for step in range(60):
        state.advance(step, 1e-3)
    after = [step_loss(model, settings, data, step).item() for step in range(8)]
    assert sum(after) < sum(before)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_recorded_step_does_what_the_step_does(modality):
    settings, data, model = built(modality, "cuda")
    plain = TrainState(model, settings, data)
    expected = [plain.advance(step, 1e-3).item() for step in range(12)]
    settings, data, model = built(modality, "cuda", cuda_graphs=True)
    state = TrainState(model, settings, data)
    for _ in range(2):  # `restore` replaces what the graph had recorded
        assert [state.advance(step, 1e-3).item() for step in range(12)] == pytest.approx(expected, rel=2e-3)
        assert state._graph._graph is not None
        state.restore(None)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_training_step_never_waits_for_the_gpu(modality):
    settings, data, model = built(modality, "cuda")
    state = TrainState(model, settings, data)
    for step in range(3):
        state.advance(step, 1e-4)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        state.advance(3, 1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
