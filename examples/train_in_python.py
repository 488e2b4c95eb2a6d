"""Train on digits, draw threes and nines with guidance, save them: `python examples/train_in_python.py`, a minute."""

import diffcore as dc

run = dc.train("image", data="digits", train={"steps": 1500, "evaluate": 0})
samples = run.sample(20, conditions={"label": ["3"] * 10 + ["9"] * 10}, guidance=1.5, seed=0)
print(samples.save(run.path / "threes-and-nines.png"))
