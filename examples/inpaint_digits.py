"""Complete digits of which only a part is known.

Held-out digits lose their right half; the model, which was never trained for this, fills it in, without being told
which digit it is. Writes one picture, a digit a row: the digit, what is known of it (the rest is grey), completions.

    python examples/inpaint_digits.py [RUN]

RUN is the folder of a trained run of digits; without one a model is trained for 1,500 steps.
"""

import sys

import torch

import diffcore as dc

DIGITS, COMPLETIONS = 10, 10

run = dc.load(sys.argv[1]) if sys.argv[1:] else dc.train("image", train={"steps": 1500, "evaluate": 0})
model, held_out = run.model, run.data.held_out
assert held_out is not None, "these data keep no examples back"
first = [held_out["label"].tolist().index(digit) for digit in range(DIGITS)]
pixels = held_out[first]["pixels"]
values = model.codec.encode(held_out[first]).state
missing = torch.zeros(1, *values.shape[1:], dtype=torch.bool)
missing[..., values.shape[-1] // 2 :] = True

drawn = run.inpaint(values.repeat_interleave(COMPLETIONS, 0), missing, DIGITS * COMPLETIONS)

completions = drawn.decoded.reshape(DIGITS, COMPLETIONS, *pixels.shape[1:])
shown = torch.where(missing, 128, pixels).to(torch.uint8)
rows = torch.cat([pixels[:, None], shown[:, None], completions], 1)
model.modality.writer(model.codec).together(rows.flatten(0, 1), "inpainted-digits.png", columns=COMPLETIONS + 2)
print("inpainted-digits.png")
