"""Pipelines of latents with classes and with texts, imported and exported, beside the diffusers package."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import diffcore
from diffcore.cli import main
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.loop import levels_of, sample
from diffcore_diffusers import folders
from tests.diffusers import tiny

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

STEPS = tiny.STEPS


def imported(folder, out, *words):
    assert main(["import", str(folder), "--out", str(out), *words]) == 0
    return diffcore.load(out)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dit")
    pipeline = tiny.with_classes(folder / "model")
    return pipeline, folder / "model", imported(folder / "model", folder / "run")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    pipeline = tiny.with_texts(folder / "model")
    return pipeline, folder / "model", imported(folder / "model", folder / "run")


def drawn_with_classes(pipeline, weight):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    found = pipeline([2, 0], weight, generator, STEPS, output_type="np").images
    return torch.from_numpy(found).permute(0, 3, 1, 2)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_classes(classes, weight):
    pipeline, _, run = classes
    expected = drawn_with_classes(pipeline, weight)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    found = tiny.drawn_by_ddim(run, pipeline, noise, {"label": torch.tensor([2, 0])}, weight)
    assert (found - expected).abs().max() <= 1e-5
    assert expected.std() > 0.02


def test_classes_have_their_names(classes):
    names = classes[2].model.codec.conditions[0].classes
    assert names[:5] == ("tench", "crane (1)", "goldfish, carp", "crane (3)", "4")
    assert len(names) == 1000


def test_the_learned_variances_of_a_transformer_are_fractions(classes):
    pipeline, _, run = classes
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    level = run.model.schedule.level(run.model.schedule.log_snr(torch.tensor([600.0, 17.0]).double() / 999))
    found = run.model.denoiser(x, level.map(torch.Tensor.float), {"label": torch.tensor([1, 1000])})
    with torch.no_grad():
        both = pipeline.transformer(x, torch.tensor([600, 17]), torch.tensor([1, 1000])).sample
    torch.testing.assert_close(found.eps, both[:, :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.variance, (both[:, 4:] + 1) / 2, atol=1e-5, rtol=1e-5)


def drawn_with_texts(pipeline, prompts, weight, **options):
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(3))
    found = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=weight, latents=noise, output_type="pt", **options
    )
    return noise, found.images


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_texts(texts, weight):
    pipeline, _, run = texts
    prompts = ["a red circle", "two big blue crosses left of a square or it"]  # the second is too long, and is cut
    noise, expected = drawn_with_texts(pipeline, prompts, weight)
    condition = run.model.codec.conditions[0]
    ids = torch.cat([condition.parse(prompt, [0], 0) for prompt in prompts])
    assert "is too long" in condition.in_part(prompts[1])
    found = tiny.drawn_by_ddim(run, pipeline, noise, {"prompt": ids}, weight)
    assert (found - expected).abs().max() <= 1e-5
    assert (found[0] - tiny.drawn_by_ddim(run, pipeline, noise, {"prompt": ids[[1, 1]]}, weight)[0]).abs().max() > 1e-3


def test_a_run_of_texts_is_sampled(texts, tmp_path):
    run = texts[2]
    words = ["--n", "2", "--steps", "2", "--prompt", "a red circle", "--out", str(tmp_path / "x.png")]
    assert main(["sample", str(run.path), *words, "--negative-prompt", "a star"]) == 0
    assert (tmp_path / "x.png").stat().st_size > 100


@pytest.mark.parametrize("kind", ["usual", "old"])
def test_files_of_tokenizers_and_text_models_of_all_versions(texts, tmp_path, kind):
    _, folder, run = texts
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    place = copied / "text_encoder/model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(place).items()}
    if kind == "old":
        save_file({**tensors, "text_model.embeddings.position_ids": torch.arange(12)[None]}, place)
        model = json.loads((copied / "tokenizer/tokenizer.json").read_text())["model"]
        (copied / "tokenizer/tokenizer.json").unlink()
        (copied / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        (copied / "tokenizer/merges.txt").write_text("\n".join(lines))
    found = imported(copied, tmp_path / "run")
    prompt = "a small red circle, or a star"
    first, second = (each.model.codec.conditions[0] for each in (run, found))
    assert torch.equal(first.parse(prompt, [0], 0), second.parse(prompt, [0], 0))
    assert first == second
    expected = run.model.network.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.model.network.state_dict().items())


def test_ids_of_texts_are_those_of_the_tokenizer(texts):
    encoder = texts[2].model.codec.conditions[0].encoder
    tokenizer = tiny.tokens()
    for text in [*tiny.WORDS, "RED  circle!", "ü"]:
        assert [number - 1 for number in encoder.ids(text)] == tokenizer(text, add_special_tokens=False).input_ids
    assert encoder.text(encoder.ids("a small red circle")) == "a small red circle"


def exported(run, out):
    assert main(["export", str(run.path), "--format", "diffusers", "--out", str(out)]) == 0
    return out


def test_round_trip_of_classes(classes, tmp_path):
    pipeline, _, run = classes
    back = diffusers.DiTPipeline.from_pretrained(exported(run, tmp_path / "hf"))
    for part in ("transformer", "vae"):
        before, after = getattr(pipeline, part).state_dict(), getattr(back, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert back.vae.config.scaling_factor == pytest.approx(0.3, rel=1e-7)
    assert back.labels["tench"] == 0
    torch.testing.assert_close(drawn_with_classes(back, 3.0), drawn_with_classes(pipeline, 3.0), atol=1e-5, rtol=0)
    again = imported(tmp_path / "hf", tmp_path / "again")
    assert again.model.codec.conditions[0].classes[:2] == ("tench", "crane (1)")


def test_round_trip_of_texts(texts, tmp_path):
    pipeline, _, run = texts
    out = exported(run, tmp_path / "hf")
    assert all(name.startswith("text_model.") for name in load_file(out / "text_encoder/model.safetensors"))
    back = diffusers.StableDiffusionPipeline.from_pretrained(out)
    back.set_progress_bar_config(disable=True)
    for part in ("unet", "vae", "text_encoder"):
        before, after = getattr(pipeline, part).state_dict(), getattr(back, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    prompts = ["a big red star", ""]
    expected = drawn_with_texts(pipeline, prompts, 5.0)[1]
    torch.testing.assert_close(drawn_with_texts(back, prompts, 5.0)[1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scheduler", "config"),
    [
        ("DDIMScheduler", {"timestep_spacing": "linspace", "set_alpha_to_one": False, "clip_sample": True}),
        ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("HeunDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}),
        ("UniPCMultistepScheduler", {}),
        ("DEISMultistepScheduler", {}),
        ("LMSDiscreteScheduler", {}),
    ],
)
def test_as_diffusers(texts, tmp_path, scheduler, config):
    """With the scheduler itself as the solver, samples are those of the pipeline, also at levels of no grid."""
    _, folder, _ = texts
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    table = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    getattr(diffusers, scheduler)(**table, **config).save_pretrained(copied / "scheduler")
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", scheduler]}))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(copied)
    pipeline.set_progress_bar_config(disable=True)
    run = imported(copied, tmp_path / "run", "--as-diffusers")
    noise, expected = drawn_with_texts(pipeline, ["a red circle"], 5.0)
    model, condition = run.model, run.model.codec.conditions[0]
    guided = classifier_free(model.denoiser, model.codec.conditions, 5.0)
    step, levels = run_solver(run), levels_of(model.schedule, grid_of(run))
    values = {"prompt": condition.parse("a red circle", [0], 0)}
    with torch.no_grad():
        z = sample(
            guided, model.codec.space, step, levels, indices=[0], conditions=values, start=noise * levels[0].sigma
        )
        found = (model.codec.reconstruct(z) / 2 + 0.5).clamp(0, 1)
    assert (found - expected).abs().max() <= 1e-4
    assert expected.std() > 0.02


def run_solver(run):
    from diffcore.plugins import registry
    from diffcore.runs.sampling_config import sampling_config

    return sampling_config(run.settings.sample, registry.installed(), run.model).step


def grid_of(run):
    from diffcore.sampling.timesteps import grid

    return grid("time", run.model.schedule, STEPS)


def test_levels_of_no_grid_need_the_scheduler_itself(texts, tmp_path, capsys):
    copied = tmp_path / "model"
    shutil.copytree(texts[1], copied)
    diffusers.EulerDiscreteScheduler(use_karras_sigmas=True).save_pretrained(copied / "scheduler")
    assert main(["import", str(copied), "--out", str(tmp_path / "run")]) == 2
    assert "use_karras_sigmas" in (said := capsys.readouterr().err)
    assert "--as-diffusers" in said
    diffusers.EulerAncestralDiscreteScheduler().save_pretrained(copied / "scheduler")
    assert main(["import", str(copied), "--out", str(tmp_path / "run"), "--as-diffusers"]) == 2
    assert "draws noise" in capsys.readouterr().err


def test_every_part_of_a_folder_is_read_as_what_it_is(texts, tmp_path, capsys):
    for part, values, message in [
        ("unet/config.json", {"in_channels": 9}, "in_channels is 9"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type"),
        ("unet/config.json", {"cross_attention_dim": 32}, "cross_attention_dim is 32"),
        ("vae/config.json", {"use_quant_conv": False}, "use_quant_conv"),
        ("vae/config.json", {"latent_channels": 8}, "in_channels is 4"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0"),
        ("text_encoder/config.json", {"vocab_size": 100}, "vocab_size is 100"),
        ("text_encoder/config.json", {"model_type": "t5"}, "model_type is t5"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.py"}}, "auto_map"),
        ("tokenizer/tokenizer.json", {"model": {"type": "WordPiece"}}, "not the tokenizer of a CLIP"),
        ("tokenizer/tokenizer_config.json", {"bos_token": "<s>"}, "'<s>' is not one of the pieces"),
        ("model_index.json", {"text_encoder": ["my_code", "CLIPTextModel"]}, "must be a class of transformers"),
        ("model_index.json", {"tokenizer": ["transformers", "T5Tokenizer"]}, "T5Tokenizer"),
        ("model_index.json", {"vae": ["diffusers", "VQModel"]}, "VQModel"),
    ]:
        copied = tmp_path / "model"
        shutil.copytree(texts[1], copied)
        place = copied / part
        place.write_text(json.dumps(json.loads(place.read_text()) | values))
        assert main(["import", str(copied), "--out", str(tmp_path / "run")]) == 2, part
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        shutil.rmtree(copied)


def test_weights_in_half_precision_beside_no_others(classes, tmp_path):
    place = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    save_file({"a": torch.ones(2).half()}, place)
    assert folders.weights(tmp_path)["a"].dtype == torch.float16


def test_a_run_of_texts_is_trained_further(texts, tmp_path):
    """With captions of one's own, whose words it knows already; the text encoder stays as it is."""
    run = texts[2]
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "pictures").mkdir()
    generator = torch.Generator().manual_seed(0)
    lines = ["file\tcaption"]
    for number in range(20):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"pictures/{number}.png")
        lines.append(f"{number}.png\t{tiny.WORDS[number % 3]}")
    (tmp_path / "pictures/captions.tsv").write_text("\n".join(lines))
    words = ["--data.root", str(tmp_path / "pictures"), "--train.steps", "2", "--train.evaluate", "0"]
    assert main(["resume", str(tmp_path / "run"), *words]) == 0
    again = diffcore.load(tmp_path / "run")
    before, after = (each.model.network.state_dict() for each in (run, again))
    text = {name for name in before if name.startswith("conditioning.texts")}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert text
    assert not changed & text
    assert changed
    assert again.model.codec.conditions[0].encoder == run.model.codec.conditions[0].encoder
    assert set(again.model.codec.conditions[0].samples) == set(tiny.WORDS)
    assert main(["resume", str(tmp_path / "run"), *words[2:3], "3", *words[4:]]) == 0
