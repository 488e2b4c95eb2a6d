"""The metrics of MOSES (Polykovskiy et al. 2020), of real molecules and of a file of samples.

    python tests/benchmarks/moses.py MOSES [--samples FILE.smi] [--n 1000] [--json FILE]

MOSES is the folder with train.csv.gz, test.csv.gz and test_scaffolds.csv.gz. Without `--samples`, molecules of the
training set are measured, which is what a perfect model reaches. A line of FILE.smi is one sample, such as
`diffcore sample RUN --out FILE.smi` writes them; `--drawn` says how many were drawn, since samples that are not valid
are not in the file. FCD is computed where the package `fcd` is installed, which has the weights of its network. The
medicinal chemistry filters are part of the filters where `molsets`, the package of MOSES, is installed (`pip install
--no-deps molsets`). With `--reference 0`, the moments of FCD of the test sets are then those of this package;
otherwise they are computed, in 6 ms for each molecule.

The numbers of samples matter: of fewer samples, FCD is larger and Scaf smaller. Compare with the molecules of the
training set for the same `--n`.
"""

import argparse
import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import numpy
from rdkit import Chem

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


def measured(samples: list[str], drawn: int, folder: Path, reference: int, known: set[str]) -> dict[str, float]:
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
    for name, file in (("Test", "test"), ("TestSF", "test_scaffolds")):
        others = smiles_of(folder, file)
        others = some(others, reference) if reference else others
        real = read(others)
        found[f"SNN/{name}"] = likeness.nearest_similarity(prints, likeness.fingerprints(real))
        found[f"Frag/{name}"] = likeness.cosine(likeness.fragments(mols), likeness.fragments(real))
        found[f"Scaf/{name}"] = likeness.cosine(likeness.scaffolds(mols), likeness.scaffolds(real))
        if own is not None:
            stored = None if reference else stored_moments(file)
            found[f"FCD/{name}"] = fcd(own, stored or moments(others))
    return found


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moses", type=Path)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--drawn", type=int, help="how many samples were drawn, valid or not")
    parser.add_argument("--n", type=int, default=1000, help="how many molecules of the training set, without samples")
    parser.add_argument("--reference", type=int, default=0, help="how many molecules of each test set; 0 for all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    training = smiles_of(options.moses, "train")
    if options.samples is None:
        samples, known = some(training, options.n), set[str]()
    else:
        samples = [line.split()[0] for line in options.samples.read_text().splitlines() if line.strip()]
        known = set(training)
    found = measured(samples, options.drawn or len(samples), options.moses, options.reference, known)
    for name, value in found.items():
        print(f"{name}: {value:.4f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
