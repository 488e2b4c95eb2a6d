"""Noise levels of schedulers, compared with those of the diffusers package."""

import pytest
import torch

from diffcore.errors import UserError
from diffcore_diffusers import schedulers, tables
from diffcore_diffusers.options.tables import BetaTableOptions

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

TABLES = {
    "linear": {},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.01, 0.03, 0.02, 0.5], "num_train_timesteps": 4},
    "short": {"num_train_timesteps": 50},
}


def made(name, **config):
    scheduler = getattr(diffusers, name)(**config)
    return scheduler, schedulers.read({"_class_name": name, **config}, "scheduler_config.json")


@pytest.mark.parametrize("config", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_the_levels_are_those_of_the_table(name, config):
    theirs, ours = made(name, **config)
    times = torch.linspace(0, 1, len(theirs.betas), dtype=torch.float64)
    found = tables.schedule(ours.table).log_snr(times).sigmoid()
    assert torch.equal(found.float(), theirs.alphas_cumprod)


def test_the_sigmoid_table():
    theirs, ours = made("DDPMScheduler", beta_schedule="sigmoid")
    assert torch.equal(tables.alphas_cumprod(ours.table), theirs.alphas_cumprod)


@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_what_is_absent_has_the_defaults_of_the_class(name):
    theirs, ours = made(name)
    assert torch.equal(tables.alphas_cumprod(ours.table), theirs.alphas_cumprod)
    assert ours.spacing == theirs.config.timestep_spacing


def test_zero_terminal_levels_agree_to_float32():
    theirs, ours = made("DDIMScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    found = tables.schedule(ours.table).log_snr(torch.linspace(0, 1, 1000, dtype=torch.float64)).sigmoid()
    assert found[-1] == 0 == theirs.alphas_cumprod[-1]
    torch.testing.assert_close(found.float(), theirs.alphas_cumprod, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "config", "steps"),
    [
        ("DDIMScheduler", {}, 7),
        ("DDIMScheduler", {"steps_offset": 1}, 50),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, 20),
        ("DDPMScheduler", {"timestep_spacing": "trailing"}, 7),
        ("DDPMScheduler", {"timestep_spacing": "linspace"}, 9),
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}, 10),
        ("EulerDiscreteScheduler", {}, 10),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, 7),
        ("DPMSolverMultistepScheduler", {}, 7),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}, 7),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, 7),
        ("UniPCMultistepScheduler", {}, 7),
        ("UniPCMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, 7),
        ("DEISMultistepScheduler", {"timestep_spacing": "trailing"}, 7),
        ("DEISMultistepScheduler", {}, 9),
        ("LMSDiscreteScheduler", {"timestep_spacing": "leading"}, 7),
    ],
)
def test_the_levels_of_steps_are_those_of_their_timesteps(name, config, steps):
    theirs, ours = made(name, **config)
    theirs.set_timesteps(steps)
    assert torch.equal(schedulers.timesteps(ours, steps), theirs.timesteps.long())
    found = schedulers.log_snrs(ours, steps).sigmoid().float()
    assert torch.equal(found, theirs.alphas_cumprod[theirs.timesteps.long()])


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        ({"timestep_spacing": "linspace"}, 10, "linspace steps to levels that are not in its list"),
        ({"timestep_spacing": "trailing"}, 7, "7 does not"),
        ({}, 1001, "1001 steps do not fit"),
        ({"steps_offset": 500}, 2, "beyond the 1000 timesteps"),
    ],
)
def test_levels_that_are_not_in_the_list_are_refused(config, steps, message):
    with pytest.raises(UserError, match=message):
        schedulers.timesteps(made("DDIMScheduler", **config)[1], steps)


def test_levels_between_those_of_the_table_are_refused():
    with pytest.raises(UserError, match="between those of its table"):
        schedulers.timesteps(made("HeunDiscreteScheduler")[1], 7)
    with pytest.raises(UserError, match="goes back to noisier levels"):
        schedulers.timesteps(made("PNDMScheduler")[1], 7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "os.system"}, "cannot be read"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "laplace"}, "beta_schedule"),
        ({"_class_name": "DDIMScheduler", "beta_start": "0; rm"}, "beta_start"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"_class_name": "DDIMScheduler", "steps_offset": -1}, "steps_offset"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.5]}, "at least two"),
    ],
)
def test_configurations_that_are_not_known_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        schedulers.read(config, "scheduler_config.json")


def test_what_a_run_does_not_do_is_noted():
    assert "clip_sample" in made("DDIMScheduler")[1].notes[0]
    assert "dpmpp-2m has its own order" in made("DPMSolverMultistepScheduler", solver_order=3)[1].notes[0]
    assert "algorithm_type" in made("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++")[1].notes[0]
    assert made("DDIMScheduler", clip_sample=False)[1].notes == ()
    assert BetaTableOptions() == made("DDIMScheduler")[1].table
