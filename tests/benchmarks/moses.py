"""The metrics of MOSES (Polykovskiy et al. 2020), of real molecules and of a file of samples.

    python tests/benchmarks/moses.py MOSES [--samples FILE.smi --drawn N] [--n 1000] [--cache FOLDER] [--json FILE]

MOSES is the folder with train.csv.gz, test.csv.gz and test_scaffolds.csv.gz. `--n` molecules of the training set are
measured too, which is what a perfect model reaches with so many samples. A line of FILE.smi is one sample, such as
`diffcore sample RUN --out FILE.smi` writes them; `--drawn` says how many were drawn, since samples that are not valid
are not in the file. FCD is computed where the package `fcd` is installed, which has the weights of its network. The
medicinal chemistry filters are part of the filters where `molsets`, the package of MOSES, is installed (`pip install
--no-deps molsets`). With `--reference 0`, the moments of FCD of the test sets are then those of this package;
otherwise they are computed, in 6 ms for each molecule.

The number of samples matters: of fewer samples, FCD is larger and Scaf smaller.
"""

import argparse
import gzip
import json
import pickle
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy
from rdkit import Chem
from rdkit.DataStructs import ExplicitBitVect

from diffcore_molecule.evaluation import likeness


def smiles_of(folder: Path, name: str) -> list[str]:
    """The SMILES of one of the three sets."""
    with gzip.open(folder / f"{name}.csv.gz", "rt") as file:
        return file.read().split()[1:]


def some(smiles: list[str], n: int, seed: int = 0) -> list[str]:
    """`n` of them, or all, drawn with a seed."""
    chosen = numpy.random.default_rng(seed).permutation(len(smiles))[:n]
    return [smiles[index] for index in sorted(chosen.tolist())]


def read(smiles: list[str]) -> list[Chem.Mol]:
    """Those that RDKit can sanitise."""
    return [mol for each in smiles if (mol := Chem.MolFromSmiles(each)) is not None]


Moments = tuple[numpy.ndarray, numpy.ndarray]
"""The mean and the covariance of ChemNet's activations."""


def moments(smiles: list[str]) -> Moments:
    """The moments of a set of molecules."""
    from fcd import get_predictions, load_ref_model

    found = get_predictions(load_ref_model(), smiles, n_jobs=0)
    return found.mean(0), numpy.cov(found.T)


def stored_moments(name: str) -> Moments | None:
    """The moments of a whole test set as the package of MOSES has them; None where it is not installed."""
    path = likeness.file_of_moses(f"dataset/data/{name}_stats.npz")
    if path is None:
        return None
    stored = numpy.load(path, allow_pickle=True)["stats"].item()["FCD"]
    return stored["mu"], stored["sigma"]


def fcd(first: Moments, second: Moments) -> float:
    """The Frechet ChemNet distance (Preuer et al. 2018)."""
    from fcd.utils import calculate_frechet_distance

    return float(calculate_frechet_distance(mu1=first[0], sigma1=first[1], mu2=second[0], sigma2=second[1]))


@dataclass(frozen=True)
class Reference:
    """What samples are compared with: molecules of one of the two test sets."""

    prints: list[ExplicitBitVect]
    fragments: Counter[str]
    scaffolds: Counter[str]
    moments: Moments | None


def reference_of(folder: Path, name: str, n: int, cache: Path | None) -> Reference:
    """`n` molecules of a test set, or all for 0; kept in a file of the folder `cache`, if there is one."""
    place = None if cache is None else cache / f"{name}-{n}.pickle"
    if place is not None and place.exists():
        return cast(Reference, pickle.loads(place.read_bytes()))
    smiles = smiles_of(folder, name)
    smiles = some(smiles, n) if n else smiles
    mols = read(smiles)
    ours = None if n else stored_moments(name)
    found = Reference(
        likeness.fingerprints(mols),
        likeness.fragments(mols),
        likeness.scaffolds(mols),
        (ours or moments(smiles)) if find_spec("fcd") else None,
    )
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(found))
    return found


def measured(samples: list[str], drawn: int, references: dict[str, Reference], known: set[str]) -> dict[str, float]:
    """The metrics of samples; the fractions of molecules are of the valid ones, as in the paper."""
    mols = read(samples)
    plain = [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols]
    different = set(plain)
    prints = likeness.fingerprints(mols)
    patterns = likeness.medicinal_filters() or []
    found = {
        "valid": len(mols) / drawn,
        "unique": len(different) / len(plain),
        "novelty": len(different - known) / len(different),
        "IntDiv": likeness.internal_diversity(prints),
        "IntDiv2": likeness.internal_diversity(prints, 2),
        "filters" if patterns else "filters without MCF": float(
            numpy.mean([likeness.passes_filters(mol, patterns) for mol in mols])
        ),
    }
    own = moments(plain) if find_spec("fcd") else None
    for name, other in references.items():
        found[f"SNN/{name}"] = likeness.nearest_similarity(prints, other.prints)
        found[f"Frag/{name}"] = likeness.cosine(likeness.fragments(mols), other.fragments)
        found[f"Scaf/{name}"] = likeness.cosine(likeness.scaffolds(mols), other.scaffolds)
        if own is not None and other.moments is not None:
            found[f"FCD/{name}"] = fcd(own, other.moments)
    return found


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moses", type=Path)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--drawn", type=int, help="how many samples were drawn, valid or not")
    parser.add_argument("--n", type=int, default=1000, help="how many molecules of the training set")
    parser.add_argument("--reference", type=int, default=0, help="how many molecules of each test set; 0 for all")
    parser.add_argument("--cache", type=Path, help="a folder for what is computed of the test sets")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    training = smiles_of(options.moses, "train")
    sets = {"training set": (some(training, options.n), options.n, set[str]())}
    if options.samples is not None:
        samples = [line.split()[0] for line in options.samples.read_text().splitlines() if line.strip()]
        sets = {"samples": (samples, options.drawn or len(samples), set(training)), **sets}
    references = {
        name: reference_of(options.moses, file, options.reference, options.cache)
        for name, file in (("Test", "test"), ("TestSF", "test_scaffolds"))
    }
    found = {name: measured(smiles, drawn, references, known) for name, (smiles, drawn, known) in sets.items()}
    for metric in found["training set"]:
        print(f"{metric:20}", *(f"{name} {values[metric]:.4f}" for name, values in found.items()), sep="  ")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
