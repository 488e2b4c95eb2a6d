"""Models with random weights, imported and exported, beside the diffusers package."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import diffcore
from diffcore.cli import main
from diffcore.denoising.denoiser import from_eps
from diffcore.likelihood.flow import log_likelihood
from diffcore.sampling import solvers
from diffcore.sampling.loop import integrate, levels_of
from diffcore.sampling.solvers import Move
from diffcore.states.level import Level
from diffcore_diffusers import folders, schedulers
from tests.diffusers import tiny

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

UNET = tiny.UNET


def saved(folder, unet=UNET, **config):
    torch.manual_seed(0)
    net, scheduler = diffusers.UNet2DModel(**unet), diffusers.DDIMScheduler(**{"clip_sample": False, **config})
    diffusers.DDIMPipeline(net, scheduler).save_pretrained(folder)
    return net.eval().requires_grad_(False)


def imported(folder, out):
    assert main(["import", str(folder), "--out", str(out)]) == 0
    return diffcore.load(out)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    net = saved(folder / "model")
    return net, folder / "model", imported(folder / "model", folder / "run")


def theirs(net, scheduler, x, steps):
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


def ours(run, scheduler, solver, x, steps):
    config = {"_class_name": type(scheduler).__name__, **scheduler.config}
    grid = schedulers.log_snrs(schedulers.read(config, "test"), steps)
    levels = levels_of(run.model.schedule, grid)
    if getattr(scheduler, "init_noise_sigma", 1) != 1:  # these start from sigma_T noise in place of noise
        x = x * scheduler.init_noise_sigma * levels[0].alpha
    with torch.no_grad():
        return integrate(solver, run.model.denoiser, x, levels, lambda: torch.zeros_like(x))


def test_the_network_predicts_the_same_at_every_timestep(models):
    net, _, run = models
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0, 1, 17, 500, 998, 999])
    level = run.model.schedule.level(run.model.schedule.log_snr(times.double() / 999))
    level = type(level)(level.alpha.float(), level.sigma.float())
    torch.testing.assert_close(run.model.denoiser(x, level).eps, net(x, times).sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "steps"), [({}, 10), ({}, 7), ({"timestep_spacing": "trailing"}, 10), ({"steps_offset": 1}, 10)]
)
def test_ddim(models, spacing, steps):
    net, _, run = models
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    scheduler = diffusers.DDIMScheduler(clip_sample=False, **spacing)
    expected = theirs(net, scheduler, x, steps)
    found = ours(run, scheduler, solvers.ddim(), x, steps)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("predicted", ["sample", "v_prediction"])
def test_other_predictions(tmp_path, predicted):
    net = saved(tmp_path / "model", prediction_type=predicted)
    run = imported(tmp_path / "model", tmp_path / "run")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type=predicted)
    expected = theirs(net, scheduler, x, 10)
    torch.testing.assert_close(ours(run, scheduler, solvers.ddim(), x, 10), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "solver"),
    [
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, solvers.ddim()),
        ("EulerDiscreteScheduler", {}, solvers.ddim()),
        ("HeunDiscreteScheduler", {"beta_start": 1e-4, "beta_end": 0.02}, solvers.heun()),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, solvers.ddim()),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, solvers.dpmpp_2m()),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero"}, solvers.dpmpp_2m()),
    ],
)
def test_solvers(models, name, config, solver):
    net, _, run = models
    scheduler = getattr(diffusers, name)(**config)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = theirs(net, scheduler, x, 10)
    assert (ours(run, scheduler, solver, x, 10) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_likelihood(models):
    """The log-likelihood by a run is that of a flow along which the network of diffusers is called by hand."""
    net, _, run = models
    schedule = run.model.schedule

    def denoise(x, level, conditions=None, mask=None):
        log_snr = torch.as_tensor(level.log_snr).double().expand(len(x))
        times = schedule.time(log_snr).mul(999).clamp(0, 999).float()
        total = torch.as_tensor(level.total, dtype=torch.float32).reshape(-1, 1, 1, 1)
        return from_eps(net(x / total, times).sample, x, level)

    x0 = 0.5 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    options = {"divergence": "hutchinson", "steps": 4}
    expected = log_likelihood(denoise, x0, run.model.codec.space, schedule, **options)
    torch.testing.assert_close(run.log_likelihood(x0, **options), expected, atol=0.01, rtol=1e-4)


def test_inpainting(models, tmp_path):
    run = models[2]
    pixels = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "picture.png")
    missing = torch.zeros(8, 8, dtype=torch.uint8)
    missing[:, 4:] = 255
    Image.fromarray(missing.numpy()).save(tmp_path / "mask.png")
    samples = run.inpaint(tmp_path / "picture.png", tmp_path / "mask.png", n=2, steps=3)
    found = samples.decoded.permute(0, 2, 3, 1)
    assert torch.equal(found[:, :, :4], pixels[:, :4].expand(2, -1, -1, -1))
    assert not torch.equal(found[0, :, 4:], found[1, :, 4:])


def test_a_run_is_sampled_and_written(models, tmp_path):
    _, _, run = models
    assert main(["sample", str(run.path), "--n", "2", "--steps", "3", "--out", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").stat().st_size > 100


def test_every_scheduler_that_diffusers_writes_is_read(models, tmp_path):
    for name in schedulers.SPACINGS:
        getattr(diffusers, name)().save_pretrained(tmp_path / name)
        place = tmp_path / name / "scheduler_config.json"
        assert schedulers.read(folders.table(place), str(place)).name == name


def test_learned_variances(tmp_path):
    net = saved(tmp_path / "model", {**UNET, "out_channels": 6})
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler.save_pretrained(tmp_path / "model/scheduler")
    run = imported(tmp_path / "model", tmp_path / "run")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    schedule = run.model.schedule
    grid = schedule.log_snr(torch.tensor([600, 599], dtype=torch.float64) / 999)
    now, following, _ = levels_of(schedule, grid)
    with torch.no_grad():
        step = solvers.ddpm()
        still = step(run.model.denoiser, x, Move(now, following, lambda: torch.zeros_like(x)))
        moved = step(run.model.denoiser, x, Move(now, following, lambda: torch.ones_like(x)))
        variance = net(x, 600).sample.chunk(2, dim=1)[1]
    expected = torch.exp(0.5 * scheduler._get_variance(600, variance, "learned_range"))
    torch.testing.assert_close(moved - still, expected, atol=1e-6, rtol=1e-4)
    assert main(["export", str(run.path), "--format", "diffusers", "--out", str(tmp_path / "hf")]) == 0
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "hf")
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert pipeline.unet.config.out_channels == 6


def test_a_trained_network_with_classes(tmp_path, capsys):
    network = ["--denoiser.block-out-channels", "4", "8", "--denoiser.norm-num-groups", "2"]
    network += ["--denoiser.down-block-types", "DownBlock2D", "DownBlock2D", "--denoiser.layers-per-block", "1"]
    network += ["--denoiser.up-block-types", "UpBlock2D", "UpBlock2D"]
    words = ["train", "--modality", "image", "--data", "digits", "--denoiser", "hf-unet", *network]
    words += ["--train.steps", "2", "--train.evaluate", "0", "--train.batch-size", "4", "--out"]
    assert main([*words, str(tmp_path / "run")]) == 0
    run = diffcore.load(tmp_path / "run")
    x, level = torch.randn(2, 1, 8, 8), Level(torch.full((2,), 0.6), torch.full((2,), 0.8))
    first, none = (run.model.denoiser(x, level, {"label": torch.full((2,), k)}).v for k in (3, 10))
    assert not torch.equal(first, none)
    torch.testing.assert_close(run.model.denoiser(x, level).v, none)
    assert main(["export", str(run.path), "--format", "diffusers", "--out", str(tmp_path / "hf")]) == 2
    assert "takes conditions (label)" in capsys.readouterr().err


def test_an_imported_run_is_trained_further(models, tmp_path):
    shutil.copytree(models[2].path, tmp_path / "run")
    for k in range(8):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(k), dtype=torch.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"data/{k}.png")
    words = ["--data.root", str(tmp_path / "data"), "--train.steps", "2", "--train.evaluate", "0"]
    assert main(["resume", str(tmp_path / "run"), *words]) == 0
    before, after = (r.model.network.state_dict() for r in (models[2], diffcore.load(tmp_path / "run")))
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())


def test_old_names_half_precision_and_shards(models, tmp_path):
    _, folder, run = models
    shutil.copytree(folder, tmp_path / "model")
    place = tmp_path / "model/unet/diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in load_file(place).items():
        for now, before in old.items():
            name = name.replace(now, before)
        tensors[name] = tensor.half()
    place.unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, place.parent / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (place.parent / f"{place.name}.index.json").write_text(json.dumps(index))
    found = imported(tmp_path / "model", tmp_path / "run").model.network.state_dict()
    expected = run.model.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor.half().float()) for name, tensor in expected.items())


def test_round_trip(models, tmp_path):
    net, _, run = models
    assert main(["export", str(run.path), "--format", "diffusers", "--out", str(tmp_path / "hf")]) == 0
    back, info = diffusers.UNet2DModel.from_pretrained(tmp_path / "hf/unet", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "hf")
    assert all(torch.equal(own, net.state_dict()[name]) for name, own in pipeline.unet.state_dict().items())
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    expected = theirs(back.eval().requires_grad_(False), scheduler, x, 10)
    torch.testing.assert_close(ours(run, scheduler, solvers.ddim(), x, 10), expected, atol=1e-5, rtol=1e-5)


def changed(folder, file, **values):
    place = folder / file
    place.write_text(json.dumps(json.loads(place.read_text()) | values))


def _outside(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "w.safetensors")
    index = {"weight_map": {"conv_in.weight": "../w.safetensors"}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _linked(folder):
    place = folder / "unet/diffusion_pytorch_model.safetensors"
    place.rename(folder / "w.safetensors")
    place.symlink_to(folder / "w.safetensors")


def _pickled(folder):
    place = folder / "unet/diffusion_pytorch_model.safetensors"
    place.rename(place.with_suffix(".bin"))


def _not_finite(folder):
    place = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(place)
    tensors["conv_in.bias"][0] = torch.nan
    save_file(tensors, place)


HOSTILE = {
    "pipeline": (lambda f: changed(f, "model_index.json", _class_name="os.system"), "holds the pipeline"),
    "module": (lambda f: changed(f, "model_index.json", unet=["my_code", "UNet2DModel"]), "a class of diffusers"),
    "class": (lambda f: changed(f, "model_index.json", unet=["diffusers", "UNet1DModel"]), "UNet1DModel"),
    "block": (lambda f: changed(f, "unet/config.json", up_block_types=["Evil", "UpBlock2D"]), "up_block_types"),
    "unknown value": (lambda f: changed(f, "unet/config.json", hook="evil"), "'hook' is not known"),
    "size": (lambda f: changed(f, "unet/config.json", block_out_channels=[4, 8192]), "diffcore: "),
    "classes": (lambda f: changed(f, "unet/config.json", num_class_embeds=10), "takes classes"),
    "no JSON": (lambda f: (f / "unet/config.json").write_text("import os"), "cannot be read as JSON"),
    "outside": (_outside, "not a safetensors file of the same folder"),
    "link": (_linked, "is a link"),
    "pickle": (_pickled, "may hold code and is not read"),
    "not finite": (_not_finite, "not finite"),
    "damaged": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 50), "no readable"),
}


@pytest.mark.parametrize(("spoil", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_folders_are_refused(models, tmp_path, capsys, spoil, message):
    shutil.copytree(models[1], tmp_path / "model")
    spoil(tmp_path / "model")
    assert main(["import", str(tmp_path / "model"), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_networks_are_not_exported(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--format", "diffusers", "--out", str(tmp_path / "hf")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_commands_say_what_they_need(capsys):
    assert main(["import", "x"]) == 2
    assert "diffcore import FOLDER --out RUN" in capsys.readouterr().err
    assert main(["export", "x", "--format", "onyx", "--out", "y"]) == 2
    assert "unknown format 'onyx'" in capsys.readouterr().err
