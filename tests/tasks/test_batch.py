import pytest
import torch

from diffcore.denoising.losses import VARIANCE_STEPS
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.system import distributed
from diffcore.tasks import batch as batches
from diffcore.tasks.batch import batch_indices, draw_batch, draw_examples
from tests.support.toy import toy_registry

REGISTRY = toy_registry()


def toy(**values):
    settings = compose(REGISTRY, "toy", file={"train": {"batch_size": 64, **values}})
    data = build_data(settings, REGISTRY)
    return build_model(settings, data.facts, REGISTRY), settings, data


def test_epochs_hold_each_example_once():
    n, batch = 10, 4
    order = torch.cat([batch_indices(n, batch, step, seed=0) for step in range(10)])
    for epoch in order.split(n):
        assert sorted(epoch.tolist()) == list(range(n))
    assert not torch.equal(order[:10], order[10:20])
    assert len(batch_indices(3, 8, 0, 0)) == 8


def test_a_step_can_be_repeated_whatever_was_drawn_before():
    first = draw_batch(*toy(), 5)
    torch.randn(3)
    again = draw_batch(*toy(), 5)
    assert torch.equal(first.noise["place"], again.noise["place"])
    assert torch.equal(first.level.log_snr, again.level.log_snr)
    assert not torch.equal(first.noise["place"], draw_batch(*toy(), 6).noise["place"])


def test_times_are_stratified_and_the_earlier_level_is_one_variance_step_before():
    model, settings, data = toy()
    batch = draw_batch(model, settings, data, 2)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    snrs = model.schedule.log_snr(grid)  # falls with time

    def time_of(log_snr):
        return grid[torch.searchsorted(-snrs, -log_snr.double().contiguous()).clamp(max=100_000)]

    t, earlier = time_of(batch.level.log_snr), time_of(batch.earlier_log_snr)
    assert sorted((t * 64).floor().tolist()) == list(range(64))
    expected = (t - 1 / VARIANCE_STEPS).clamp(min=0)
    torch.testing.assert_close(earlier, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_conditions_are_dropped_for_the_denoiser_alone(dropout):
    model, settings, data = toy(condition_dropout=dropout)
    batch = draw_batch(model, settings, data, 0)
    chosen = batch_indices(len(data.examples), 64, 0, settings.seed)
    assert torch.equal(batch.conditions["ring"], data.examples["label"][chosen])
    kept = batch.kept_conditions["ring"] == batch.conditions["ring"]
    assert kept.all() if dropout == 0 else not kept.any()


@pytest.mark.parametrize("draw", [draw_batch, draw_examples])
def test_processes_take_shares_of_the_same_batch_and_their_weights_count_the_examples(monkeypatch, draw):
    whole = draw(*toy(batch_size=33), 4)
    for module in (distributed, batches):
        monkeypatch.setattr(module, "world", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(draw(*toy(batch_size=33), 4))
    for state in ("x0", "noise") if draw is draw_batch else ("x0",):
        parts = [getattr(share, state)["place"] for share in shares]
        assert torch.equal(torch.cat(parts), getattr(whole, state)["place"])
    assert [share.weight for share in shares] == pytest.approx([2 * 16 / 33, 2 * 17 / 33])
    assert whole.weight == 1
    assert shares[0].dropout_seed != shares[1].dropout_seed
