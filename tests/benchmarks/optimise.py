"""Searching for samples of a high value: is it better than the best of as many free samples?

For each goal and each seed, `Run.optimise` draws as many samples as `Run.sample` does, with the same solver and steps.
Of the best different samples that meet the conditions: the best value, the mean of the ten best, and the mean distance
of two of these (1 - Tanimoto similarity), so that a search that finds ten times the same shows it. Evaluations of the
network are those of single samples. Values are mean +- standard deviation over the seeds.

    python tests/benchmarks/optimise.py RUN [--rounds 5] [--per-round 200] [--seeds 3] [--steps 25] [--goals qed]
"""

import argparse
import json
import logging
import math
import statistics
import time
from pathlib import Path

import diffcore as dc
from diffcore.runs.keeping import terms_of

GOALS = {"qed": ("qed", "valid"), "logp, sa<4, tpsa>20": ("logp", "sa<4, tpsa>20")}
"""The value and the conditions of each goal."""
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=200)
    parser.add_argument("--particles", type=int, nargs="+", default=[1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--goals", nargs="+", choices=[*GOALS], default=[*GOALS])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    run = dc.load(options.run)
    calls = counted(run)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        count = options.rounds * options.per_round
        started, calls[:] = time.monotonic(), [0]
        free = run.sample(count, seed=seed, steps=options.steps)
        cost = {"evaluations": calls[0], "seconds": time.monotonic() - started}
        for goal in options.goals:
            name, keep = GOALS[goal]
            found.setdefault(f"{goal}: best of {count:,}", []).append({**best_of(free, name, keep), **cost})
            for particles in options.particles:
                what = f"{goal}: search" + (f", {particles} particles" if particles > 1 else "")
                found.setdefault(what, []).append(search(run, goal, particles, seed, options, calls))
        if options.json:
            options.json.write_text(json.dumps(found, indent=2))
    for what, rows in found.items():
        told = {name: [row[name] for row in rows] for name in rows[0]}
        print(what, {name: f"{statistics.mean(v):.4g} +- {statistics.pstdev(v):.2g}" for name, v in told.items()})


def search(run: dc.Run, goal: str, particles: int, seed: int, options: argparse.Namespace, calls: list[int]):
    """A row of the table: a search with so many particles."""
    name, keep = GOALS[goal]
    started, calls[:] = time.monotonic(), [0]
    searched = run.optimise(
        name,
        rounds=options.rounds,
        per_round=options.per_round,
        n=TOP,
        keep=keep,
        seed=seed,
        steps=options.steps,
        **({"particles": particles} if particles > 1 else {}),
    )
    for each in searched.rounds:
        print(seed, goal, particles, each.words(options.rounds, TOP), flush=True)
    cost = {"evaluations": calls[0], "seconds": time.monotonic() - started}
    return {**of_values(searched.values), "apart": searched.rounds[-1].difference, **cost}


def counted(run: dc.Run) -> list[int]:
    """A list whose number is how many samples the network was evaluated for."""
    calls = [0]

    def hook(module: object, arguments: tuple, output: object) -> None:
        calls[0] += arguments[0].shape[0]

    run.model.network.register_forward_hook(hook)
    return calls


def best_of(samples: dc.Samples, name: str, keep: str) -> dict[str, float]:
    """The best different ones of free samples."""
    terms = terms_of(keep)
    values = samples.scores([name, "inchikey", *(term.name for term in terms)])
    rows = [
        row
        for row in range(len(samples))
        if values[name][row] is not None and all(term.passes(values[term.name][row]) for term in terms)
    ]
    different = {values["inchikey"][row]: row for row in rows}
    top = sorted(different.values(), key=lambda row: -values[name][row])[:TOP]
    scorer = _scorer(samples)
    decoded = [samples.decoded[row] for row in top]
    matrix = scorer.similarity(decoded, decoded)
    apart = [1 - matrix[i][j] for i in range(len(top)) for j in range(i)]
    return {**of_values([values[name][row] for row in top]), "apart": statistics.mean(apart) if apart else math.nan}


def _scorer(samples: dc.Samples):
    from diffcore.runs.scores import Scoring

    return Scoring(samples.model).scorer


def of_values(values) -> dict[str, float]:
    return {"best": values[0], "ten best": statistics.mean(values)}


if __name__ == "__main__":
    main()
