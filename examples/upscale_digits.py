"""Digits of 8x8 out of their means over blocks of 2x2.

The model was never trained for this and is not told which digit it is. Writes one picture, a digit a row: the digit,
its 4x4 means, enlargements.

    python examples/upscale_digits.py [RUN]

RUN is the folder of a trained run of digits; without one a model is trained for 90 seconds.
"""

import sys

import torch
from digits import held_out, model_and_data

from diffcore.denoising.conditions import nulls
from diffcore.runs.generation import generate
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.sampling.inverse.editing import upscaling
from diffcore.sampling.inverse.operators import Coarse
from diffcore.sampling.solvers import ddpm

DIGITS, ENLARGEMENTS, FACTOR = 10, 10, 2

model, data = model_and_data(sys.argv[1:])
digits = held_out(data, DIGITS)
coarse = Coarse(FACTOR)(model.codec.encode(digits).state)

guide = upscaling(coarse.repeat_interleave(ENLARGEMENTS, 0), FACTOR, model.codec.space)
nothing_asked = nulls(model.codec.conditions, DIGITS * ENLARGEMENTS)
drawn = generate(model, SamplingConfig(ddpm(), steps=20), nothing_asked, DIGITS * ENLARGEMENTS, constraint=guide)

pixels = digits["pixels"]
enlarged = model.codec.decode(drawn.state).reshape(DIGITS, ENLARGEMENTS, *pixels.shape[1:])
blocks = model.codec.decode(coarse).repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)
rows = torch.cat([pixels[:, None], blocks[:, None], enlarged], 1)
model.modality.writer(model.codec).together(rows.flatten(0, 1), "upscaled-digits.png", columns=ENLARGEMENTS + 2)
print("upscaled-digits.png")
