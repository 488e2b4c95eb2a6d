"""Digits of 8x8 out of their means over blocks of 2x2.

The model was never trained for this and is not told which digit it is. Writes one picture, a digit a row: the digit,
its 4x4 means, enlargements.

    python examples/upscale_digits.py [RUN]

RUN is the folder of a trained run of digits; without one a model is trained for 1,500 steps.
"""

import sys

import torch

import diffcore as dc

DIGITS, ENLARGEMENTS, FACTOR = 10, 10, 2

run = dc.load(sys.argv[1]) if sys.argv[1:] else dc.train("image", train={"steps": 1500, "evaluate": 0})
model, held_out = run.model, run.data.held_out
assert held_out is not None, "these data keep no examples back"
first = [held_out["label"].tolist().index(digit) for digit in range(DIGITS)]
pixels = held_out[first]["pixels"]
coarse = torch.nn.functional.avg_pool2d(model.codec.encode(held_out[first]).state, FACTOR)

drawn = run.upscale(coarse.repeat_interleave(ENLARGEMENTS, 0), DIGITS * ENLARGEMENTS, factor=FACTOR)

enlarged = drawn.decoded.reshape(DIGITS, ENLARGEMENTS, *pixels.shape[1:])
blocks = model.codec.decode(coarse).repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)
rows = torch.cat([pixels[:, None], blocks[:, None], enlarged], 1)
model.modality.writer(model.codec).together(rows.flatten(0, 1), "upscaled-digits.png", columns=ENLARGEMENTS + 2)
print("upscaled-digits.png")
