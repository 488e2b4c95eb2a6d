"""Which weighting of the loss, and which schedule, draws the best digits after the same steps?

Trains the `mnist` preset with each for the same number of steps and seed, and prints the loss's name, the shift of the
cosine schedule, the Frechet distance and the class agreement of 500 samples at 10 evaluations.

    python tests/benchmarks/mnist_objectives.py --root PATH [--steps 800] [--json FILE]

PATH holds MNIST/raw/*-ubyte. About two minutes each on two cores.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from diffcore.cli import main as diffcore

OBJECTIVES = (("eps", 0.0), ("min-snr", 0.0), ("v", 0.0), ("x0", 0.0), ("x0", -1.0))


def measure(weighting: str, shift: float, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train with one objective and evaluate its samples."""
    run = folder / f"{weighting}{shift}"
    flags = ["--data", "mnist", "--data.root", options.root, "--out", str(run), "--seed", str(options.seed)]
    flags += ["--train.steps", str(options.steps), "--train.weighting", weighting, "--schedule.shift", str(shift)]
    flags += ["--sample.steps", "10", "--train.evaluate", "500"]
    assert diffcore(["train", "--modality", "image", *flags]) == 0
    return {row["name"]: row["value"] for row in json.loads((run / "metrics.json").read_text())}


def main() -> None:
    """Measure all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the metrics there")
    options = parser.parse_args()
    torch.set_num_threads(2)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for weighting, shift in OBJECTIVES:
            found = measure(weighting, shift, options, Path(folder))
            results[f"{weighting}, shift {shift:g}"] = found
            distance, agreement = found["frechet_distance"], found["class_agreement"]
            print(
                f"{weighting:8} shift {shift:4g}   Frechet distance {distance:7.2f}   agreement {agreement:.3f}",
                flush=True,
            )
    if options.json:
        Path(options.json).write_text(json.dumps({"options": vars(options), **results}, indent=2))


if __name__ == "__main__":
    main()
