"""Completes halves of held-out clouds whose place and size are hidden: `python tests/benchmarks/unplaced_parts.py RUN`.

Half of each shape, on one side of its median along the first axis, is scaled by a random factor (e^-1.5 to e^1.5) and
moved. It is completed as it was (`placed`) and moved (`unplaced`), with the class of the shape. What is measured, in
the frame of the data: the size that was drawn, relative to the true one, and the Chamfer distance of the completed
cloud to the nearest of up to 150 training shapes of its class, beside that of the held-out shape itself.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy
import torch
from torch import Tensor

import diffcore as dc
from diffcore.states.state import fields
from diffcore_pointcloud.evaluation.metrics import chamfer

NEIGHBOURS = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--shapes", type=int, default=30)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = dc.load(options.run)
    facts, train, held_out = run.model.codec.facts, run.data.examples, run.data.held_out
    random = torch.Generator().manual_seed(options.seed)
    found: dict[str, list[float]] = {name: [] for name in ("size", "placed", "unplaced", "real", "seconds")}
    for number, row in enumerate(torch.randperm(len(held_out), generator=random)[: options.shapes].tolist()):
        label = int(held_out["label"][row])
        whole = held_out["positions"][row, : facts.points].double()
        half = whole[whole[:, 0] < whole[:, 0].median()][: facts.points // 2]
        factor = math.exp(3 * torch.rand(1, generator=random).item() - 1.5)
        place = 3 * torch.randn(3, generator=random, dtype=torch.float64)
        alike = [train["positions"][other, : facts.points].double() for other in (train["label"] == label).nonzero()]
        alike = [shape.squeeze(0) for shape in alike[:NEIGHBOURS]]
        drawn = {}
        for name, part in (("placed", half), ("unplaced", half * factor + place)):
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "part.npy"
                numpy.save(path, part.numpy())
                drawn[name] = run.inpaint(
                    path,
                    n=1,
                    unplaced=name == "unplaced",
                    conditions={"label": f"#{label}"},
                    steps=options.steps,
                    seed=number,
                )
            seconds = time.monotonic() - started
            state = next(iter(fields(drawn[name].state).values()))[0].double()
            cloud = state * facts.scale + torch.tensor(facts.centre, dtype=torch.float64)
            found[name].append(nearest(cloud, alike))
        found["seconds"].append(seconds)
        found["real"].append(nearest(whole, alike))
        own, true = (points - points.mean(0) for points in (cloud[: len(half)], half))
        found["size"].append(float((own * true).sum() / true.square().sum()))
        print(run.model.codec.conditions[0].caption(torch.tensor(label)), {n: f"{v[-1]:.3g}" for n, v in found.items()})
    for name, values in found.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name}: median {middle:.3g}, quartiles {low:.3g} and {high:.3g}")


def nearest(cloud: Tensor, others: list[Tensor]) -> float:
    """The smallest Chamfer distance from a cloud to one of the others."""
    return chamfer(cloud, torch.stack(others)).min().item()


if __name__ == "__main__":
    main()
