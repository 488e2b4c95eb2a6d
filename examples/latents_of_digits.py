"""Digits that a model draws in the latents of an autoencoder.

Trains the autoencoder and the model. Writes one picture, in rows of ten: originals, their reconstructions, and samples.

    python examples/latents_of_digits.py [FIRST STAGE]

FIRST STAGE is the folder of a run of digits with the task `encode`; without one an autoencoder is trained for 1,000
steps. Digits of 8x8 are too small for latents to be worth it: this shows how it is done.
"""

import sys
from typing import Any

import torch

import diffcore as dc

AUTOENCODER = {"factor": 2, "latent": 2, "patch": 1}  # 8 x 8 pixels to 4 x 4 x 2 numbers

first: Any = sys.argv[1] if sys.argv[1:] else None
if first is None:
    first = dc.train("image", task="encode", autoencoder=AUTOENCODER, train={"steps": 1000, "batch_size": 64}).path
run = dc.train("image", latent=first, train={"steps": 1500, "evaluate": 0})

held_out = run.data.held_out
assert held_out is not None, "these data keep no examples back"
pixels = held_out[:10]["pixels"]
codec: Any = run.model.codec
with torch.no_grad():
    reconstructions = codec.decode(codec.latent(codec.first.encode(held_out[:10]).state))
drawn: Any = run.sample(20).decoded

rows = torch.cat([pixels, reconstructions, drawn])
run.model.modality.writer(codec.of_samples).together(rows, "latents-of-digits.png", columns=10)
print("latents-of-digits.png")
