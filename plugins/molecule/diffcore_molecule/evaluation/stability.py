"""Stability as in the tables of EDM: of generated bonds, of bonds looked up from distances, and with hydrogens placed.

A molecule is stable if all of its atoms are: the sum of the bond orders of each is one that its element allows.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy
from rdkit import Chem

from diffcore.plugins.output import Metric
from diffcore_molecule.chemistry.bond_inference import with_inferred_bonds
from diffcore_molecule.chemistry.hydrogens import with_hydrogens
from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit
from diffcore_molecule.evaluation.contacts import NEAR, contact_fraction
from diffcore_molecule.evaluation.metrics import Valences, edm_valences, edm_validated, stable_atoms, strict_valences

PLACED = "hydrogens placed by RDKit and relaxed by MMFF94: "


def with_real(
    name: str,
    measure: Callable[[Sequence[Molecule]], float],
    samples: Sequence[Molecule],
    real: Sequence[Molecule],
    meaning: str,
) -> Metric:
    """A metric of samples whose meaning also gives its value for real molecules."""
    return Metric(name, measure(samples), f"{meaning}; of {len(real)} real molecules: {measure(real):.4g}")


def stability(
    prefix: str, table: str, samples: Sequence[Molecule], real: Sequence[Molecule], hydrogens: bool
) -> list[Metric]:
    """The fractions of stable molecules and of stable atoms, by the valences of EDM (`edm`) or by `strict` ones.

    Without `hydrogens`, hydrogens are implicit, and the sum of bond orders of an atom must not be too large.
    """
    allowed: Valences = {"edm": edm_valences, "strict": strict_valences}[table]
    rule = "is allowed" if hydrogens else "does not exceed the largest allowed one"
    source = "in closed shells, by element and charge" if table == "strict" else "by EDM's table, by element alone"
    meaning = f"the sum of bond orders {rule} {source}"

    def fraction(of_atoms: bool, molecules: Sequence[Molecule]) -> float:
        stable = [stable_atoms(molecule, allowed, hydrogens) for molecule in molecules]
        whole = [bool(atoms.all()) and len(atoms) > 0 for atoms in stable]
        return float(numpy.mean(numpy.concatenate(stable) if of_atoms else whole))

    atoms, molecules = partial(fraction, True), partial(fraction, False)
    return [
        with_real(
            f"{prefix}stable_{table}", molecules, samples, real, f"fraction of all samples: of every atom {meaning}"
        ),
        with_real(f"{prefix}stable_atoms_{table}", atoms, samples, real, f"fraction of all atoms: {meaning}"),
    ]


def placed(molecule: Molecule) -> Chem.Mol | None:
    """A molecule of implicit hydrogens, with these as atoms at the places that `with_hydrogens` gives them.

    None if RDKit cannot sanitise it.
    """
    mol = edm_validated(molecule, hydrogens=False, largest=False)
    return None if mol is None else with_hydrogens(mol)


def placed_stability(samples: Sequence[Molecule], real: Sequence[Molecule]) -> list[Metric]:
    """The stability of samples with implicit hydrogens once these are `placed`, and of real molecules treated alike.

    The names are those of models of all atoms, after `placed_`. `placed_lookup_...` are the numbers of EDM's tables:
    bonds are looked up from the distances of all atoms, and charges are not used. A sample that RDKit cannot sanitise
    remains without hydrogens, so most of its atoms are not stable.
    """
    mols, real_mols = list(map(placed, samples)), list(map(placed, real))
    whole, real_whole = _arrays(samples, mols), _arrays(real, real_mols)
    inferred, real_inferred = (list(map(with_inferred_bonds, molecules)) for molecules in (whole, real_whole))
    contacts = contact_fraction([mol for mol in mols if mol is not None])
    real_contacts = contact_fraction([mol for mol in real_mols if mol is not None])
    near = (
        f"fraction of the samples that RDKit can sanitise: two atoms more than two bonds apart are closer than {NEAR} "
        f"A; of {len(real)} real molecules: {real_contacts:.4g}"
    )
    lookup = "bonds inferred from distances, as in EDM's tables: "
    metrics = [
        *((PLACED, metric) for metric in stability("placed_", "strict", whole, real_whole, True)),
        *((PLACED + lookup, metric) for metric in stability("placed_lookup_", "edm", inferred, real_inferred, True)),
        (PLACED, Metric("placed_contacts", contacts, near)),
    ]
    return [Metric(metric.name, metric.value, prefix + metric.meaning) for prefix, metric in metrics]


def _arrays(molecules: Sequence[Molecule], mols: Sequence[Chem.Mol | None]) -> list[Molecule]:
    pairs = zip(molecules, mols, strict=True)
    return [molecule if mol is None else from_rdkit(mol, hydrogens=True) for molecule, mol in pairs]
