"""Models in stages for point clouds and sounds: what is a coarse sample worth, and are two stages better than one?

Held-out examples are drawn again by a run that enlarges, given their coarse form, their other conditions, such as
classes, or both, and compared with the originals by the measure of reconstructions of the kind of data. Then as many
samples are drawn in two stages and in one, and the metrics of the kind of data are printed for both.

    python tests/benchmarks/stage_kinds.py pointcloud|audio [--steps 1000] [--small RUN --enlarge RUN --whole RUN]

Runs that are not given are trained for so many steps, the single model for twice as many.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import diffcore as dc
from diffcore.denoising.conditions.coarse_condition import enlarging_condition
from diffcore.plugins.building import part_of
from diffcore.plugins.output import Metric
from diffcore.runs.coding import decode, encode
from diffcore.system.cache import cache_folder

DATA: dict[str, dict[str, dict[str, Any]]] = {
    "pointcloud": {
        "small": {"points": 128},
        "enlarge": {"points": 512, "upscale": 4},
        "whole": {"points": 512},
    },
    "audio": {
        "small": {"seconds": 0.51, "bands": 16, "hop": 512},
        "enlarge": {"seconds": 0.51, "upscale": 4},
        "whole": {"seconds": 0.51},
    },
}
DENOISERS = {("audio", "small"): {"patch": 1}}
"""Options of networks that differ from the defaults: small spectrograms need no patches."""


def run_of(which: str, options: argparse.Namespace, folder: Path) -> dc.Run:
    """A run that is given, or a new one."""
    if given := getattr(options, which):
        return dc.load(given, device=options.device)
    steps = options.steps * (2 if which == "whole" else 1)
    network: Any = DENOISERS.get((options.kind, which))
    return dc.train(
        options.kind,
        data=DATA[options.kind][which],
        denoiser=network,
        train={"steps": steps, "evaluate": 0},
        device=options.device,
        out=folder / which,
    )


def reconstructed(run: dc.Run, n: int) -> dict[str, list[Metric]]:
    """How similar held-out examples are to what is drawn for them, by what is given of them."""
    model, held_out = run.model, run.data.held_out
    assert held_out is not None
    examples = encode(model, held_out[: min(n, len(held_out))])
    originals, measure = decode(model, examples.state, examples.mask), model.modality.fidelity
    coarse = enlarging_condition(model.codec.conditions)
    assert measure is not None
    assert coarse is not None
    others = [name for name in examples.conditions if name != coarse.name]
    found = {}
    for given in ((coarse.name,), others, (coarse.name, *others)):
        conditions = {name: examples.conditions[name] for name in given}
        samples = run.sample(len(examples.state), conditions=conditions).decoded
        found[f"given {' and '.join(given)}"] = measure(model.codec)(originals, samples)
    return found


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*DATA])
    parser.add_argument("--steps", type=int, default=1000)
    for which in ("small", "enlarge", "whole"):
        parser.add_argument(f"--{which}", help="folder of a run")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the runs that are trained")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        small, enlarge, whole = (run_of(which, options, out) for which in ("small", "enlarge", "whole"))
        results = reconstructed(enlarge, options.n)
        evaluator = part_of(whole.model.modality, "evaluator", whole.model.codec, whole.data, cache_folder())
        one = whole.sample(options.n)
        two = enlarge.sample(options.n, conditions=enlarge.conditions_of(small.sample(options.n)))
        for name, samples in (("one stage", one), ("two stages", two)):
            results[name] = evaluator(samples.decoded, samples.conditions)
    for name, metrics in results.items():
        print(f"{name}:", ", ".join(f"{metric.name} {metric.value:.4g}" for metric in metrics), flush=True)
    if options.json:
        told = {name: [vars(metric) for metric in metrics] for name, metrics in results.items()}
        options.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
