"""Samples of a model of point clouds with other numbers of points than it was trained with.

    python tests/benchmarks/cloud_sizes.py RUN [--sizes 512 2048 16384] [--n 40] [--json FILE]

`RUN` must have been trained on the data set `shapes` with classes. The classes of the samples take turns. All distances
are Chamfer distances in units of the data's standard deviation, between clouds of as many points as the model was
trained with; of a larger cloud, these are its last points. For each size:

* `apart`: the mean distance of two samples of the same class. If it is far below that of real shapes, the samples are
  all the same shape.
* `to_real`: the mean distance of a sample to the nearest held-out shape.
* `to_sample`: the mean distance of a held-out shape to the nearest sample.

`real` has the same values for as many training shapes in place of the samples.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

import diffcore as dc
from diffcore.states.noise import Draws
from diffcore_pointcloud.evaluation.metrics import pairwise


def encoded(run: dc.Run, examples, n: int) -> tuple[Tensor, Tensor]:
    """The positions of n examples whose classes take turns, and their classes."""
    classes = len(run.model.codec.facts.classes)
    rows = [(examples["label"] == index).nonzero()[: n // classes, 0] for index in range(classes)]
    chosen = examples[torch.cat(rows)]
    state = run.model.codec.encode(chosen, Draws.of(0, range(len(chosen)))).state
    return state if isinstance(state, Tensor) else state["positions"], chosen["label"]


def compared(clouds: Tensor, label: Tensor, real: Tensor) -> dict[str, float]:
    """The three values for clouds `[n, P, 3]` of classes `label` `[n]`."""
    among, across = pairwise(clouds), pairwise(clouds, real)
    same = (label[:, None] == label[None]) & ~torch.eye(len(label), dtype=torch.bool)
    return {
        "apart": among[same].mean().item(),
        "to_real": across.amin(1).mean().item(),
        "to_sample": across.amin(0).mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 16384])
    parser.add_argument("--n", type=int, default=40, help="number of samples of each size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = dc.load(options.run)
    names, trained = run.model.codec.facts.classes, run.model.codec.facts.points
    n = options.n // len(names) * len(names)
    real, _ = encoded(run, run.data.held_out, 5 * n)
    shapes, label = encoded(run, run.data.examples, n)
    found: dict[str, dict[str, float]] = {"real": compared(shapes, label, real)}
    for size in options.sizes:
        start = time.process_time()
        label = torch.arange(n) % len(names)
        samples = run.sample(n, size=size, conditions={"label": [names[index] for index in label]})
        state = samples.state if isinstance(samples.state, Tensor) else samples.state["positions"]
        seconds = (time.process_time() - start) / n
        found[str(size)] = compared(state[:, -min(size, trained) :], label, real) | {"seconds_per_sample": seconds}
        print(size, found[str(size)], flush=True)
    print("real", found["real"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
