"""What a run of molecules together with their properties (`data.joint`) draws: either side given the other, and both.

    diffcore train --modality molecule --data qm9 --data.root PATH --data.half --out RUN \
        --data.joint alpha gap homo lumo mu cv
    python tests/benchmarks/joint_properties.py RUN [--count 300] [--draws 8] [--steps 25] [--json FILE]

Tables of held-out molecules, in the unit of each property:

* **predicted**: the mean absolute error of properties that are drawn for molecules. `one` is that of one draw, `mean`
  and `median` those of several draws, and `estimate` that of E[properties | molecule], which the network predicts from
  noise alone in a single step (`--solver ddim --steps 1`). `spread` is the mean standard deviation of the draws of a
  molecule, so what the model does not know. Beside them is the error of predicting the mean of the training molecules.
* **regressor**: the errors of the evaluator's regressor of DFT properties, on molecules that it has not seen.
* **asked**: the error of molecules that are drawn for all properties of a held-out molecule at once. RDKit computes
  what they have, or the regressor judges it. `random` is the error of real molecules for the values of others, and
  `size` that of the mean property of training molecules with the number of atoms of the real one.
* **together**: the error between the drawn properties and what the molecules drawn with them have, and, as `shuffled`,
  between these and the properties drawn with other molecules.

`valid` are the shares of valid molecules; invalid ones have no error.
"""

import argparse
import functools
import json
import logging
import time
from pathlib import Path

import torch
from torch import Tensor

import diffcore as dc
from diffcore.plugins.building import part_of
from diffcore.plugins.data import spread_rows
from diffcore.runs.coding import encode
from diffcore.runs.joint import others_given
from diffcore.system.cache import cache_folder
from diffcore_molecule.codec import MOLECULE, PROPERTIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=300, help="held-out molecules, and molecules of each other table")
    parser.add_argument("--draws", type=int, default=8, help="draws of the properties of each molecule")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--solver", help="that of the run by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    run = dc.load(options.run)
    how = {"steps": options.steps, "solver": options.solver, "seed": options.seed}
    held_out = run.data.examples if run.data.held_out is None else run.data.held_out
    rows = spread_rows(held_out, options.count)
    true = held_out["properties"][rows].double()
    examples = encode(run.model, held_out[rows])
    sizes = examples.mask.sum(1)
    found = {}
    for name, table in {
        "predicted": lambda: predicted(run, examples, true, options.draws, how),
        "regressor": lambda: regressor(run),
        "asked": lambda: asked(run, examples, true, sizes, how),
        "together": lambda: together(run, len(true), how),
    }.items():
        started = time.monotonic()
        found[name] = table()
        print(f"{name} ({time.monotonic() - started:.0f} s)")
        for row, values in found[name].items():
            print(f"  {row:<10}", values if isinstance(values, float) else shown(values), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2))


def predicted(run: dc.Run, examples, true: Tensor, draws: int, how: dict) -> dict:
    """The errors of properties that are drawn for molecules."""
    each = torch.arange(len(true)).repeat(draws)
    constraint = others_given(run.model, PROPERTIES, examples.state[each], examples.mask[each])
    drawn = properties_of(run, run.sample(len(each), constraint=constraint, **how)).unflatten(0, (draws, len(true)))
    constraint = others_given(run.model, PROPERTIES, examples.state, examples.mask)
    single = run.sample(len(true), constraint=constraint, seed=how["seed"], steps=1, solver="ddim")
    facts = run.model.codec.facts.joint
    means = torch.tensor([item.mean for item in facts], dtype=torch.float64)
    return {
        "one": named(run, (drawn[0] - true).abs().mean(0)),
        "mean": named(run, (drawn.mean(0) - true).abs().mean(0)),
        "median": named(run, (drawn.quantile(0.5, 0) - true).abs().mean(0)),
        "estimate": named(run, (properties_of(run, single) - true).abs().mean(0)),
        "spread": named(run, drawn.std(0).mean(0)),
        "of mean": named(run, (means - true).abs().mean(0)),
    }


def regressor(run: dc.Run) -> dict:
    """The errors of the regressor that judges DFT properties, on molecules that it has not seen."""
    return {"error": judge_of(run).errors} if judge_of(run).errors else {}


@functools.cache
def judge_of(run: dc.Run):
    """The evaluator of the run, whose regressor is trained when it is first needed."""
    return part_of(run.model.modality, "evaluator", run.model.codec, run.data, cache_folder())


def asked(run: dc.Run, examples, true: Tensor, sizes: Tensor, how: dict) -> dict:
    """The errors of molecules that are drawn for properties."""
    constraint = others_given(run.model, MOLECULE, examples.state, examples.mask)
    obtained = measured(run, run.sample(len(true), constraint=constraint, **how))
    about, counts = run.model.codec.sizes.about, list(run.model.codec.sizes.counts)
    column = torch.tensor([counts.index(size) for size in sizes.tolist()])
    bound = torch.stack([torch.tensor(about[item.name]).double()[column, 0] for item in run.model.codec.facts.joint], 1)
    return {
        "error": named(run, error(obtained, true)),
        "random": named(run, error(true, shuffled(true))),
        "size": named(run, error(bound, true)),
        "valid": share(obtained),
    }


def together(run: dc.Run, count: int, how: dict) -> dict:
    """The errors between properties and molecules that are drawn together."""
    samples = run.sample(count, **how)
    drawn, obtained = properties_of(run, samples), measured(run, samples)
    return {
        "error": named(run, error(obtained, drawn)),
        "shuffled": named(run, error(obtained, shuffled(drawn))),
        "valid": share(obtained),
    }


def properties_of(run: dc.Run, samples: dc.Samples) -> Tensor:
    """The properties that were drawn with each sample, `[n, k]`."""
    names = [item.name for item in run.model.codec.facts.joint]
    return torch.tensor([[each.properties[name] for name in names] for each in samples.decoded], dtype=torch.float64)


def measured(run: dc.Run, samples: dc.Samples) -> Tensor:
    """The properties that the molecules of the samples have, `[n, k]`, nan for those that are not valid."""
    values = judge_of(run).measure(samples.decoded)
    return torch.stack([values[item.name].double() for item in run.model.codec.facts.joint], 1)


def error(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean absolute error of each property, `[k]`, of the rows that have values."""
    return (found - wanted).abs().nanmean(0)


def share(found: Tensor) -> float:
    """The share of rows that have values."""
    return (~found.isnan().any(1)).double().mean().item()


def shuffled(values: Tensor) -> Tensor:
    """The rows in another order, which is the same in every call."""
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]


def named(run: dc.Run, values: Tensor) -> dict[str, float]:
    """Values `[k]` by the names of the properties."""
    names = [item.name for item in run.model.codec.facts.joint]
    return dict(zip(names, values.tolist(), strict=True))


def shown(values: dict[str, float]) -> str:
    """Values by name, as a line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


if __name__ == "__main__":
    main()
