"""Tiny pipelines of diffusers with random weights."""

import json
from pathlib import Path

import diffusers
import torch

from diffcore.sampling import solvers
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.loop import levels_of, sample
from diffcore_diffusers import schedulers

STEPS = 4

UNET = {
    "sample_size": 8,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 2,
}
VAE = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
    "scaling_factor": 0.3,
}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
}
TEXT_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
}
WORDS = ["a small red circle", "a big blue square left of a green star", "two crosses above it"]


def with_classes(folder, **config):
    """A pipeline of a DiT with learned variances, of four named classes, saved in `folder`."""
    torch.manual_seed(0)
    transformer, vae = diffusers.DiTTransformer2DModel(**DIT), diffusers.AutoencoderKL(**VAE)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, **config)
    labels = {0: "tench", 1: "crane", 2: "goldfish, carp", 3: "crane"}
    pipeline = diffusers.DiTPipeline(transformer.eval(), vae.eval(), scheduler, labels)
    pipeline.save_pretrained(folder)  # which leaves out the names of the classes
    place = Path(folder) / "model_index.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "id2label": labels}))
    return pipeline


def with_texts(folder, **config):
    """A pipeline in the layout of Stable Diffusion, saved in `folder`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tokens()
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            **CLIP,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE).eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**TEXT_UNET).eval(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", **config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return pipeline


def tokens():
    """A tokenizer whose pieces are the letters and words of `WORDS`, with their usual marks."""
    from transformers import CLIPTokenizer

    letters = sorted({letter for text in WORDS for letter in text if letter != " "})
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "ci", "ir"]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[("r", "e"), ("re", "d</w>"), ("c", "i"), ("i", "r")],
        model_max_length=CLIP["max_position_embeddings"],
    )


def drawn_by_ddim(run, pipeline, noise, conditions, weight):
    """Pictures from 0 to 1 that the run draws with DDIM from `noise`, as a pipeline gives them."""
    model = run.model
    config = {"_class_name": "DDIMScheduler", **dict(pipeline.scheduler.config)}
    levels = levels_of(model.schedule, schedulers.log_snrs(schedulers.read(config, "test"), STEPS))
    guided = classifier_free(model.denoiser, model.codec.conditions, weight)
    rows = range(len(noise))
    with torch.no_grad():
        z = sample(guided, model.codec.space, solvers.ddim(), levels, indices=rows, conditions=conditions, start=noise)
        return (model.codec.reconstruct(z) / 2 + 0.5).clamp(0, 1)
