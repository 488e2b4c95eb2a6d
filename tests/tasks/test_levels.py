"""The noise levels of a batch where fields have levels of their own, and the network that is told them."""

import math

import pytest
import torch

import diffcore as dc
from diffcore.denoising.denoiser import Denoiser, velocity
from diffcore.denoising.losses import WEIGHTINGS, weighted_loss
from diffcore.errors import UserError
from diffcore.process.schedules import ByField
from diffcore.runs.composing import compose
from diffcore.runs.model import build_data, build_model
from diffcore.runs.settings import LevelSettings
from diffcore.states.level import CLEAN, GIVEN_LOG_SNR, FieldLevels, Level
from diffcore.states.noise import Draws
from diffcore.states.state import fields
from diffcore.system import distributed
from diffcore.tasks import batch as batches
from diffcore.tasks.batch import draw_batch
from diffcore.tasks.denoise import loss, losses_by_field
from diffcore.tasks.levels import CLEAN_LOG_SNR, log_snrs_of
from tests.support.sized_toy import sized_registry
from tests.support.toy import toy_registry

TOY, BEADS = toy_registry(), sized_registry()


def parts(modality="toy", registry=TOY, batch=64, **levels):
    settings = compose(registry, modality, file={"levels": levels, "train": {"batch_size": batch}})
    data = build_data(settings, registry)
    return build_model(settings, data.facts, registry), settings, data


def test_without_settings_the_network_and_the_schedule_are_the_same_as_ever():
    model, _, _ = parts()
    assert not isinstance(model.schedule, ByField)
    names = {name.split(".")[2] for name in model.network.state_dict() if name.startswith("conditioning.noise.")}
    assert names == {"1", "3"}
    torch.manual_seed(0)
    one, own = (Denoiser(model.network.backbone, level_fields=names) for names in ((), ("place", "radius")))
    assert "conditioning.noise.place.1.weight" in own.state_dict()
    assert len(own.state_dict()) - len(one.state_dict()) == 4


def test_a_shift_moves_the_log_snr_of_a_field_at_the_same_time():
    plain, shifted = (draw_batch(*parts(**levels), 2) for levels in ({}, {"shifts": {"radius": -4.0}}))
    log_snr = plain.level.log_snr
    torch.testing.assert_close(shifted.level.of["place"].log_snr, log_snr)
    torch.testing.assert_close(shifted.level.of["radius"].log_snr, log_snr - 4)
    torch.testing.assert_close(shifted.earlier_log_snr["radius"], plain.earlier_log_snr - 4)


def test_own_times_are_independent_and_uniform_and_some_fields_are_given():
    model, settings, data = parts(batch=2000, independent=0.5, given=0.3)
    batch = draw_batch(model, settings, data, 0)
    first, second = (batch.level.of[name].log_snr for name in ("place", "radius"))
    own = first != second
    given = torch.stack([first, second]) > GIVEN_LOG_SNR
    assert own.double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not given.all(0).any()
    assert not given[:, ~own].any()
    # Of two fields of which each is given with 0.3, one alone is with 2 * 0.3 * 0.7, and one of both given ones.
    expected = 0.5 * (0.3 * 0.7 + 0.3 * 0.3 / 2)
    assert given.double().mean(1).tolist() == pytest.approx([expected, expected], abs=0.04)
    both = own & ~given.any(0)
    times = torch.stack([model.schedule.time(value[both]) for value in (first, second)])
    assert abs(times.corrcoef()[0, 1].item()) < 4 / both.sum() ** 0.5
    assert ((times.sort(1).values - torch.linspace(0, 1, both.sum())).abs() < 0.1).all()


def test_the_fields_of_a_side_of_a_joint_state_have_one_time():
    shifts = {"a": 0.0, "b": -2.0, "c": 0.0}
    schedule, draws = ByField(dc.schedules.Cosine(), shifts), Draws.of(3, range(400))
    t = torch.rand(400, dtype=torch.float64)
    sides = {"first": ("a", "b"), "second": ("c",)}
    found, _ = log_snrs_of(schedule, LevelSettings(), t, 0.0, draws, sides)
    free = (found["a"] < GIVEN_LOG_SNR) & (found["b"] < GIVEN_LOG_SNR)
    torch.testing.assert_close(found["b"][free], found["a"][free] - 2)
    assert torch.equal(found["a"] == CLEAN_LOG_SNR, found["b"] == CLEAN_LOG_SNR)
    own = (found["a"] != found["c"]).double().mean().item()
    assert own == pytest.approx(0.7, abs=0.07)  # the default of joint states, of which 0.3 are given
    given = (found["c"] == CLEAN_LOG_SNR).double().mean().item()
    assert given == pytest.approx(0.7 * (0.3 * 0.7 + 0.3 * 0.3 / 2), abs=0.06)
    alone, _ = log_snrs_of(schedule, LevelSettings(), t, 0.0, draws)
    torch.testing.assert_close(alone["a"], alone["c"])


def test_shares_of_several_processes_have_the_levels_of_the_batch(monkeypatch):
    whole = draw_batch(*parts(batch=9, independent=0.7, given=0.3), 4)
    for module in (distributed, batches):
        monkeypatch.setattr(module, "world", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(draw_batch(*parts(batch=9, independent=0.7, given=0.3), 4))
    for name, field in fields(whole.noisy).items():
        assert torch.equal(torch.cat([fields(share.noisy)[name] for share in shares]), field)


def test_the_loss_weighs_each_field_by_its_own_level_and_given_ones_not_at_all():
    model, settings, data = parts(batch=200, independent=1.0, given=0.3)
    batch = draw_batch(model, settings, data, 1)
    with torch.no_grad():
        prediction = model.denoiser(batch.noisy, batch.level, batch.kept_conditions)
        found = weighted_loss(prediction, batch.x0, batch.noise, model.codec.space, "min-snr")
    total = 0.0
    for name, field in fields(batch.x0).items():
        log_snr = batch.level.of[name].log_snr
        weight = torch.where(log_snr > GIVEN_LOG_SNR, 0.0, WEIGHTINGS["min-snr"](log_snr))
        total = total + weight * (fields(prediction.x0)[name] - field).square().sum(1)
    torch.testing.assert_close(found, (total / 3).float(), rtol=2e-3, atol=2e-4)
    # With the weighting e^lambda, the error of a given field would count: |eps_hat - eps|^2 = alpha^2 |v_hat - v|^2.
    simple = weighted_loss(prediction, batch.x0, batch.noise, model.codec.space, "eps")
    target, total = velocity(batch.x0, batch.noise, batch.level), 0.0
    for name, level in batch.level.of.items():
        error = (fields(prediction.v)[name] - fields(target)[name]).square().sum(1)
        total = total + torch.where(level.log_snr > GIVEN_LOG_SNR, 0.0, level.alpha**2 * error)
    torch.testing.assert_close(simple, (total / 3).float(), rtol=1e-4, atol=1e-5)
    assert sum(losses_by_field(model, batch, settings).values()) == pytest.approx(
        loss(model, batch, settings).mean().item(), rel=1e-4
    )


@pytest.mark.parametrize("parameterisation", ["v", "x0", "eps"])
def test_masks_categories_and_given_fields_train_with_finite_gradients(parameterisation):
    settings = compose(
        BEADS,
        "beads",
        file={
            "levels": {"independent": 1.0, "given": 0.4},
            "train": {"batch_size": 30},
            "parameterisation": parameterisation,
        },
    )
    data = build_data(settings, BEADS)
    model = build_model(settings, data.facts, BEADS)
    batch = draw_batch(model, settings, data, 0)
    loss(model, batch, settings).mean().backward()
    gradients = [value.grad for value in model.network.parameters() if value.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_network_is_told_the_level_of_each_field():
    """One level for all is the same as the same level for each; otherwise each field's level matters."""
    model, _, _ = parts(independent=0.5)
    network = model.denoiser.eval()
    x = model.codec.space.empty(2) + 0.3
    level = Level(0.6, 0.8)
    with torch.no_grad():
        one = network(x, level).output
        each = network(x, FieldLevels({"place": level, "radius": level})).output
        changed = network(x, FieldLevels({"place": level, "radius": Level(0.8, 0.6)})).output
    assert (one == each).all()
    assert (one["place"] != changed["place"]).all()


def test_a_given_field_is_told_and_returned_as_it_is():
    settings = compose(BEADS, "beads", file={"levels": {"independent": 1.0}})
    data = build_data(settings, BEADS)
    model = build_model(settings, data.facts, BEADS)
    encoded = model.codec.encode(data.examples[:3])
    levels = FieldLevels({"place": Level(0.6, 0.8), "kind": CLEAN})
    with torch.no_grad():
        prediction = model.denoiser.eval()(encoded.state, levels, None, encoded.mask)
    assert torch.equal(prediction.x0["kind"], encoded.state["kind"])
    assert all(field.isfinite().all() for field in fields(prediction.v).values())


def test_a_network_of_one_level_refuses_levels_by_field():
    model, _, _ = parts()
    levels = FieldLevels({"place": Level(0.6, 0.8), "radius": CLEAN})
    with pytest.raises(UserError, match=r"is told one noise level.*`levels.independent`"):
        model.denoiser(model.codec.space.empty(2), levels)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"shifts": {"bone": -1.0}}, "'bone', which is not a field of these data; there are: place, radius"),
        ({"given": 0.5}, "`levels.given` needs a fraction `levels.independent`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(levels, message):
    with pytest.raises(UserError, match=message):
        parts(**levels)


def test_a_positive_shift_is_refused():
    with pytest.raises(UserError, match="shifts"):
        parts(shifts={"radius": 1.0})
    with pytest.raises(ValueError, match="must not be positive"):
        ByField(None, {"radius": math.nan})
