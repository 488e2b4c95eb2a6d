"""Networks of diffusers trained here, exported, and loaded by the diffusers package."""

import json
import shutil

import pytest
import torch
from PIL import Image

import diffcore
from diffcore.cli import main
from diffcore.sampling import solvers
from diffcore.sampling.loop import levels_of, sample
from diffcore_diffusers import schedulers
from tests.diffusers import tiny

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

KL = ["--autoencoder.block-out-channels", "8", "8", "--autoencoder.norm-num-groups", "4"]
KL += ["--autoencoder.down-block-types", *["DownEncoderBlock2D"] * 2]
KL += ["--autoencoder.up-block-types", *["UpDecoderBlock2D"] * 2]
DIT = ["--denoiser.num-attention-heads", "2", "--denoiser.attention-head-dim", "8", "--denoiser.num-layers", "1"]
DIT += ["--denoiser.num-embeds-ada-norm", "5"]
UNET = ["--denoiser.block-out-channels", "8", "16", "--denoiser.layers-per-block", "1"]
UNET += ["--denoiser.norm-num-groups", "4"]
TEXT_UNET = [*UNET, "--denoiser.attention-head-dim", "2"]
TEXT_UNET += ["--denoiser.down-block-types", "DownBlock2D", "CrossAttnDownBlock2D"]
TEXT_UNET += ["--denoiser.up-block-types", "CrossAttnUpBlock2D", "UpBlock2D"]
CLIP = ["--text.hidden-size", "16", "--text.intermediate-size", "16", "--text.num-hidden-layers", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two classes of pictures of 8x8, of one colour each and with captions, and an autoencoder of them."""
    folder = tmp_path_factory.mktemp("trained")
    generator = torch.Generator().manual_seed(0)
    rows = ["file\tcaption"]
    for name, colour in (("red", 0), ("blue", 2)):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            pixels = torch.randint(0, 60, (8, 8, 3), generator=generator, dtype=torch.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels.numpy()).save(folder / "pictures" / name / f"{number}.png")
            rows.append(f"{name}/{number}.png\ta {name} picture")
    shutil.copytree(folder / "pictures", folder / "with-captions")
    (folder / "with-captions" / "captions.tsv").write_text("\n".join(rows))
    return folder


def trained(place, name, *words, steps="2", pictures="pictures"):
    out = place / name
    if not out.exists():
        common = ["--modality", "image", "--data", "hf-folder", "--data.root", str(place / pictures)]
        common += ["--data.size", "8", "--train.steps", steps, "--train.batch-size", "8", "--train.evaluate", "0"]
        assert main(["train", *common, "--out", str(out), *words]) == 0
    return out


@pytest.fixture(scope="module")
def stage(place):
    words = ["--task", "encode", "--task.regularisation", "none", "--autoencoder", "hf-kl", *KL]
    return trained(place, "stage", *words, steps="40")


def exported(run, out):
    assert main(["export", str(run), "--format", "diffusers", "--out", str(out)]) == 0
    return out


def test_pixels(place, tmp_path):
    words = ["--data.class-level", "none", "--denoiser", "hf-unet", *UNET, "--schedule", "hf-betas"]
    words += ["--denoiser.down-block-types", "DownBlock2D", "DownBlock2D"]
    words += ["--denoiser.up-block-types", "UpBlock2D", "UpBlock2D"]
    run = trained(place, "pixels", *words, "--parameterisation", "eps", steps="50")
    out = exported(run, tmp_path / "hf")
    _, info = diffusers.UNet2DModel.from_pretrained(out / "unet", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pipeline = diffusers.DDPMPipeline.from_pretrained(out)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    ddim = diffusers.DDIMPipeline(pipeline.unet, diffusers.DDIMScheduler.from_config(pipeline.scheduler.config))
    ddim.set_progress_bar_config(disable=True)
    found = ddim(2, torch.Generator().manual_seed(5), num_inference_steps=10, output_type="np").images
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    model = diffcore.load(run).model
    config = {"_class_name": "DDIMScheduler", **dict(ddim.scheduler.config)}
    levels = levels_of(model.schedule, schedulers.log_snrs(schedulers.read(config, "test"), 10))
    with torch.no_grad():
        x = sample(model.denoiser, model.codec.space, solvers.ddim(), levels, indices=range(2), start=noise)
    expected = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.05


def test_the_scale_of_latents_is_folded_into_the_autoencoder(place, stage, tmp_path):
    run = trained(place, "dit", "--latent", str(stage), "--denoiser", "hf-dit", *DIT)
    out = exported(run, tmp_path / "hf")
    codec = diffcore.load(run).model.codec
    std = next(iter(codec.std.parameters()))
    assert std.max() / std.min() > 1.02  # so that one factor would not do
    vae, info = diffusers.AutoencoderKL.from_pretrained(out / "vae", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert vae.config.scaling_factor == 1
    pixels = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents, posterior = codec.latent(pixels), vae.encode(pixels).latent_dist
        torch.testing.assert_close(posterior.mean, latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vae.decode(latents).sample, codec.reconstruct(latents), atol=1e-5, rtol=1e-5)
        own = codec.autoencoder.net.encode(pixels).latent_dist
        torch.testing.assert_close(posterior.std, own.std / std[:, None, None], atol=1e-6, rtol=1e-4)


def test_classes(place, stage, tmp_path):
    """Networks with room for few classes get that of a pipeline of diffusers, whose number for none is 1000."""
    run = trained(place, "dit", "--latent", str(stage), "--denoiser", "hf-dit", *DIT)
    out = exported(run, tmp_path / "hf")
    _, info = diffusers.DiTTransformer2DModel.from_pretrained(out / "transformer", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pipeline = diffusers.DiTPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.labels == {"blue": 0, "red": 1}
    found = pipeline([1, 0], 3.0, torch.Generator().manual_seed(3), 4, output_type="np").images
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    expected = tiny.drawn_by_ddim(diffcore.load(run), pipeline, noise, {"label": torch.tensor([1, 0])}, 3.0)
    torch.testing.assert_close(torch.from_numpy(found).permute(0, 3, 1, 2), expected, atol=1e-5, rtol=0)


def test_texts(place, stage, tmp_path):
    words = ["--latent", str(stage), "--data.class-level", "none", "--denoiser", "hf-unet-text", *TEXT_UNET]
    run = trained(place, "text", *words, "--text", "hf-clip", *CLIP, pictures="with-captions")
    out = exported(run, tmp_path / "hf")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    prompts = ["a red picture", "a blue one, of Zürich"]
    found = pipeline(
        prompts, num_inference_steps=4, guidance_scale=3.0, latents=noise, height=8, width=8, output_type="pt"
    ).images
    condition = diffcore.load(run).model.codec.conditions[0]
    ids = torch.cat([condition.parse(prompt, [0], 0) for prompt in prompts])
    expected = tiny.drawn_by_ddim(diffcore.load(run), pipeline, noise, {"prompt": ids}, 3.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    other = tiny.drawn_by_ddim(diffcore.load(run), pipeline, noise, {"prompt": ids[[1, 0]]}, 3.0)
    assert (other - expected).abs().max() > 1e-4


def test_an_autoencoder_alone(stage, place, tmp_path):
    """It is exported and imported again, and is a first stage then."""
    out = exported(stage, tmp_path / "vae")
    assert json.loads((out / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    vae = diffusers.AutoencoderKL.from_pretrained(out)
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    first = diffcore.load(stage).model.network.autoencoder
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), first.encode(pixels))
    assert main(["import", str(out), "--out", str(tmp_path / "run")]) == 0
    words = ["--latent", str(tmp_path / "run"), "--data.class-level", "first", "--denoiser", "hf-dit", *DIT]
    again = trained(place, "again", *words)
    codec = diffcore.load(again).model.codec
    with torch.no_grad():
        torch.testing.assert_close(codec.autoencoder.encode(pixels), first.encode(pixels))


def test_what_has_no_counterpart_is_refused(place, tmp_path, capsys):
    wrong = {
        ("--denoiser", "unet", "--data.class-level", "none"): "has the denoiser unet, which diffusers does not have",
        ("--denoiser", "hf-dit", *DIT): "does not diffuse in latents of the autoencoder hf-kl",
    }
    for number, (words, message) in enumerate(wrong.items()):
        run = trained(place, f"wrong-{number}", *words, steps="1")
        assert main(["export", str(run), "--format", "diffusers", "--out", str(tmp_path / "hf")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
