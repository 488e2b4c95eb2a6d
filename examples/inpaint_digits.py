"""Complete digits of which only a part is known.

Held-out digits lose their right half; the model, which was never trained for this, fills it in, without being told
which digit it is. Writes one picture, a digit a row: the digit, what is known of it (the rest is grey), completions.

    python examples/inpaint_digits.py [RUN]

RUN is the folder of a trained run of digits; without one a model is trained for 90 seconds.
"""

import sys

import torch
from digits import held_out, model_and_data

from diffcore.denoising.conditions import nulls
from diffcore.runs.generation import generate
from diffcore.runs.model import SamplingConfig
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.solvers import ddpm

DIGITS, COMPLETIONS = 10, 10

model, data = model_and_data(sys.argv[1:])
digits = held_out(data, DIGITS)
values = model.codec.encode(digits).state
known = torch.ones(1, *values.shape[1:], dtype=torch.bool)
known[..., values.shape[-1] // 2 :] = False

guide = inpainting(values.repeat_interleave(COMPLETIONS, 0), known, model.codec.space)
nothing_asked = nulls(model.codec.conditions, DIGITS * COMPLETIONS)
drawn = generate(model, SamplingConfig(ddpm(), steps=20), nothing_asked, DIGITS * COMPLETIONS, constraint=guide)

completions = model.codec.decode(drawn.state).reshape(DIGITS, COMPLETIONS, *values.shape[1:])
pixels = digits["pixels"]
shown = torch.where(known, pixels, 128).to(torch.uint8)
rows = torch.cat([pixels[:, None], shown[:, None], completions], 1)
model.modality.writer(model.codec).together(rows.flatten(0, 1), "inpainted-digits.png", columns=COMPLETIONS + 2)
print("inpainted-digits.png")
