"""How accurately molecules get the properties of quantum chemistry that they are asked for, by EDM's protocol.

As in Hoogeboom et al. 2022 (section 5.2), the data are split into two halves: the run is trained on one of them, and a
regressor of the properties on the other. Molecules are drawn for values of the data, for one property at a time, and
the regressor judges what they have. MAE is the mean |requested - judged|, of valid molecules. Beside it are

* `random`: the error of molecules that have nothing to do with their targets;
* `size`: the error of the mean property of training molecules of the same number of atoms (EDM: "#atoms");
* `judge`: the error of the regressor itself, on molecules that neither it nor the run has seen.

    diffcore train --modality molecule --data qm9 --data.root PATH --data.half --out RUN \
        --data.properties alpha gap homo lumo mu cv
    diffcore train --modality molecule --data qm9 --data.root PATH --data.half --out REGRESSOR \
        --data.properties alpha gap homo lumo mu cv --preset regressor
    python tests/benchmarks/properties.py RUN [--classifier REGRESSOR] [--ways 1 2 2,0.5 1,1,4] [--count 500]

A way is the weight of classifier-free guidance, then that of the regressor, then the number of particles.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import diffcore as dc
from diffcore.denoising.conditions import ScalarCondition
from diffcore.evaluation.property_metrics import bounds, targets_of
from diffcore.plugins.building import part_of
from diffcore.system.cache import cache_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--ways", nargs="+", default=["1", "2"])
    parser.add_argument("--count", type=int, default=500, help="targets of each property")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--solver", help="that of the run by default, and ddpm with particles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--names", nargs="+", help="only these properties")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    run = dc.load(options.run)
    judge = part_of(run.model.modality, "evaluator", run.model.codec, run.data, cache_folder())
    found = {}
    for condition in run.model.codec.conditions:
        if isinstance(condition, ScalarCondition) and condition.name in (options.names or [condition.name]):
            found[condition.name] = of_property(run, judge, condition, options)
            print(condition.name, condition.unit, json.dumps(found[condition.name]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=2))


def of_property(run: dc.Run, judge, condition: ScalarCondition, options: argparse.Namespace) -> dict:
    """The bounds of a property, and the error and the validity of each way."""
    targets, sizes = targets_of(run.model, run.data, condition, options.count, options.seed)
    random, size = bounds(run.model, condition, targets, sizes)
    row = {"random": random.value, "size": size.value, "judge": judge.errors.get(condition.name)}
    for way in options.ways:
        given = [float(number) for number in way.split(",")]
        guidance, weight, particles = [*given, *(1.0, 0.0, 1.0)[len(given) :]]
        how = {"guidance": guidance, "steps": options.steps, "solver": options.solver}
        if weight:
            how |= {"classifier": options.classifier, "classifier_weight": weight, "particles": int(particles)}
        started = time.monotonic()
        samples = run.sample(len(targets), conditions={condition.name: targets}, seed=options.seed, **how)
        values = judge.measure(samples.decoded)[condition.name].double()
        valid = ~values.isnan()
        row[way] = {
            "mae": (values - targets.double())[valid].abs().mean().item(),
            "valid": valid.double().mean().item(),
            "seconds": time.monotonic() - started,
        }
    return row


if __name__ == "__main__":
    main()
