"""How well hydrogens can be placed: real molecules of QM9 lose them and get them back.

`python tests/benchmarks/hydrogens.py` compares the hydrogens of DFT with those that RDKit places, and with those that
MMFF94 then relaxes while all other atoms stay: stability by EDM's table of bond lengths, contacts, and displacement.
The displacement is the distance to the nearest assignment of an atom's own hydrogens.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy
from rdkit import Chem
from scipy.optimize import linear_sum_assignment

from diffcore_molecule.chemistry.bond_inference import with_inferred_bonds
from diffcore_molecule.chemistry.hydrogens import with_hydrogens
from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, sanitised, to_rdkit
from diffcore_molecule.data.collection import without_hydrogens
from diffcore_molecule.data.datasets import embedded
from diffcore_molecule.data.examples import molecule_at
from diffcore_molecule.evaluation.contacts import contact_fraction
from diffcore_molecule.evaluation.metrics import edm_valences, stable_atoms
from diffcore_molecule.options import EmbeddedOptions


def displacements(real: Molecule, placed: Molecule) -> list[float]:
    """The distances in Angstrom of the hydrogens of one molecule; both have their other atoms in the same order."""
    found: list[float] = []
    for parent in numpy.flatnonzero(real.numbers > 1):
        own, others = (m.positions[(m.numbers == 1) & (m.bonds[parent] > 0)] for m in (real, placed))
        distances = numpy.linalg.norm(own[:, None] - others[None], axis=2)
        found += distances[linear_sum_assignment(distances)].tolist()
    return found


def measured(real: list[Molecule], place: Callable[[Chem.Mol], Chem.Mol] | None) -> dict[str, float]:
    """The figures of one way to place hydrogens; None takes those that are there."""
    bare = [sanitised(to_rdkit(without_hydrogens(molecule))) for molecule in real]
    start = time.perf_counter()
    mols = [to_rdkit(m, True) if place is None else place(b) for m, b in zip(real, bare, strict=True) if b is not None]
    seconds = time.perf_counter() - start
    if place is None:
        mols = [whole for mol in mols if (whole := sanitised(mol)) is not None]
    whole = [from_rdkit(mol, hydrogens=True) for mol in mols]
    stable = [stable_atoms(with_inferred_bonds(molecule), edm_valences) for molecule in whole]
    moved = numpy.concatenate([displacements(a, b) for a, b in zip(real, whole, strict=True)])
    return {
        "stable molecules": float(numpy.mean([atoms.all() for atoms in stable])),
        "stable atoms": float(numpy.concatenate(stable).mean()),
        "contacts": contact_fraction(mols),
        "mean displacement": float(moved.mean()),
        "median displacement": float(numpy.median(moved)),
        "milliseconds": 1000 * seconds / len(mols),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="how many molecules")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    data = embedded(EmbeddedOptions(hydrogens=True, properties=()))
    real = [
        molecule_at(data.examples, row)
        for row in numpy.linspace(0, len(data.examples) - 1, options.n, dtype=int).tolist()
    ]
    ways = {
        "DFT": None,
        "RDKit": lambda mol: Chem.AddHs(mol, addCoords=True),
        "RDKit and MMFF94": with_hydrogens,
    }
    found = {name: measured(real, place) for name, place in ways.items()}
    for name, figures in found.items():
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in figures.items())}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
