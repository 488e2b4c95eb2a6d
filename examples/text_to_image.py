"""Pictures from sentences: a model learns rendered scenes, then draws prompts that it has and has not seen.

The last row asks for colours of shapes that no training picture shows. Writes one picture of all samples, with their
prompts, and prints how many of them show what was asked for.

    python examples/text_to_image.py [RUN]

RUN is the folder of a trained run of scenes; without one a model is trained, which takes 36 minutes of one core.
"""

import sys

import diffcore as dc

COLOURS = ("red", "blue", "green", "yellow")
PROMPTS = [
    *(f"a big {colour} square" for colour in COLOURS),
    *(f"a small {colour} square to the left of a big black circle" for colour in COLOURS),
    *(f"a big purple diamond above a tiny {colour} square" for colour in COLOURS),
    *("a big red circle", "a big yellow diamond", "a big green triangle", "a big blue cross"),
]

run = dc.load(sys.argv[1]) if sys.argv[1:] else dc.train("image", data="scenes", train={"evaluate": 0})
samples = run.sample(len(PROMPTS), prompt=PROMPTS, seed=0)
print(samples.save("text-to-image.png"))
print(*samples.summary())
