"""The parts of diffcore without its command line: train on digits for a minute, draw some, write a picture.

python examples/train_in_python.py
"""

from pathlib import Path

import torch

from diffcore.denoising.conditions import parse_conditions
from diffcore.plugins.registry import installed
from diffcore.runs.folder import Run, describe, new_folder
from diffcore.runs.generation import generate
from diffcore.runs.model import build_data, build_model
from diffcore.runs.sampling_config import SamplingConfig
from diffcore.runs.settings import compose
from diffcore.sampling.solvers import adams
from diffcore.training.loop import Callbacks, train

registry = installed()
settings = compose(registry, "image", file={"train": {"minutes": 1.0}})
data = build_data(settings, registry)
model = build_model(settings, data.facts, registry)

run = Run(new_folder(None, "image", "example"))
describe(run, settings, data.facts.model_dump(mode="json"), registry)
outcome = train(run, settings, model, data, Callbacks(log=lambda line: print(f"{line.done:4.0%}  {line.loss:.4f}")))

config = SamplingConfig(adams(), steps=20, guidance=1.5)
threes = parse_conditions(model.codec.conditions, {"label": "3"}, range(10))
nines = parse_conditions(model.codec.conditions, {"label": "9"}, range(10))
conditions = {"label": torch.cat([threes["label"], nines["label"]])}
drawn = generate(outcome.model, config, conditions, n=20, seed=0)

picture = Path(run.path) / "threes-and-nines.png"
model.modality.writer(model.codec).together(model.codec.decode(drawn.state), picture, columns=10)
print(picture)
