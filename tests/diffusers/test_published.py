"""Configurations of published models are read, and make networks with as many weights as these have."""

import pytest
import torch

from diffcore_diffusers import schedulers
from diffcore_diffusers.imports.autoencoder import autoencoder_options
from diffcore_diffusers.imports.clip import clip_options
from diffcore_diffusers.imports.dit import dit_options
from diffcore_diffusers.imports.text_unet import text_unet_options

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

FOUR_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
FOUR_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
STABLE_DIFFUSION_1 = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": FOUR_DOWN,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": FOUR_UP,
}
STABLE_DIFFUSION_2 = {
    **STABLE_DIFFUSION_1,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
CLIP = """{"_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"],
"attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
"hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
"layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
"num_hidden_layers": 12, "pad_token_id": 1, "torch_dtype": "float32", "transformers_version": "4.21.0.dev0",
"vocab_size": 49408}"""
DIT = {
    "_class_name": "Transformer2DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "tokens", "expected"), [(STABLE_DIFFUSION_1, 768, 859_520_964), (STABLE_DIFFUSION_2, 1024, 865_910_724)]
)
def test_networks_of_stable_diffusion(config, tokens, expected):
    from diffcore_diffusers.networks.text_unet import HfTextUNet

    scheduler = schedulers.read(SCHEDULER, "test")
    options, sides = text_unet_options(config, scheduler, 4, tokens, "test")
    assert sides == (config["sample_size"],) * 2
    with torch.device("meta"):
        assert numbers(HfTextUNet(options, 4, sides, tokens)) == expected


def test_the_autoencoder_of_stable_diffusion():
    from diffcore_diffusers.networks.autoencoder import HfKL

    options, channels, scale, size = autoencoder_options(AUTOENCODER, "test")
    assert (channels, scale, size) == (3, 0.18215, 512)
    with torch.device("meta"):
        network = HfKL(options, 3, (512, 512))
    assert numbers(network) == 83_653_863
    assert network.space.shape == (4, 64, 64)


def test_the_text_encoder_of_stable_diffusion(tmp_path):
    from diffcore_diffusers.networks.clip import HfClip, HfClipNetwork
    from diffcore_diffusers.options.clip import LearnedPieces

    (tmp_path / "config.json").write_text(CLIP)
    options = clip_options(tmp_path, 49408)
    assert options.frozen
    pieces = (*(f"piece{number}" for number in range(49406)), "<|startoftext|>", "<|endoftext|>")
    known = LearnedPieces(pieces=pieces, joined=(), begin=pieces[-2], end=pieces[-1], filling=pieces[-1])
    with torch.device("meta"):
        assert numbers(HfClipNetwork(HfClip(options, known))) == 123_060_480


def test_a_published_dit():
    """Each of its 28 blocks has embeddings of the time and the class of its own."""
    from diffcore_diffusers.networks.dit import HfDiT

    options, channels, side = dit_options(DIT, schedulers.read({**SCHEDULER, "_class_name": "DDIMScheduler"}, "t"), "t")
    assert (channels, side, options.learns_variances) == (4, 32, True)
    width, blocks = 1152, 28
    embeddings = (256 * width + width) + (width * width + width) + 1001 * width
    block = 6 * width * width + 6 * width + 4 * (width * width + width) + 8 * width * width + 5 * width
    ends = (16 * width + width) + (width * 2 * width + 2 * width) + (width * 32 + 32)
    with torch.device("meta"):
        network = HfDiT(options, channels, side)
    assert numbers(network) == blocks * (embeddings + block) + ends
