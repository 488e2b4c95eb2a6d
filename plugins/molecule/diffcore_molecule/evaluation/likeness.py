"""How much a set of molecules is like another: the metrics of MOSES (Polykovskiy et al. 2020).

Molecules are sanitised, with implicit hydrogens. Stereochemistry does not matter, because MOSES has none. A fingerprint
is the Morgan fingerprint of radius 2 and 1024 bits, and the similarity of two is that of Tanimoto: the number of bits
in both over the number of bits in either.
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy
from rdkit import Chem
from rdkit.Chem import BRICS, DataStructs, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import ExplicitBitVect

from diffcore_molecule.chemistry.alerts import has_alert

RADIUS, BITS = 2, 1024
ELEMENTS = frozenset({"C", "N", "S", "O", "F", "Cl", "Br", "H"})
"""The elements of MOSES."""
_SMALLEST_SCAFFOLD = 2
"""Scaffolds with fewer rings do not count."""
_LARGE_RING = 8
"""Rings of so many atoms, or more, do not pass the filters."""


def fingerprints(mols: Sequence[Chem.Mol], bits: int = BITS) -> list[ExplicitBitVect]:
    """The fingerprint of each molecule."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=bits)
    return [generator.GetFingerprint(mol) for mol in mols]


def internal_diversity(prints: Sequence[ExplicitBitVect], power: int = 1) -> float:
    """1 - (1 / n) sum_i ((1 / n) sum_j T_ij^p)^(1 / p), including the pairs of a molecule with itself; NaN for none.

    IntDiv has p = 1, IntDiv2 p = 2; the mean over i is taken of the roots, as in the code of MOSES.
    """
    if not prints:
        return math.nan
    rows = [numpy.array(DataStructs.BulkTanimotoSimilarity(each, list(prints))) for each in prints]
    return float(1 - numpy.mean([(row**power).mean() ** (1 / power) for row in rows]))


def nearest_similarity(prints: Sequence[ExplicitBitVect], reference: Sequence[ExplicitBitVect]) -> float:
    """SNN: the mean similarity of a molecule to the nearest one of the reference; NaN for none."""
    if not prints or not reference:
        return math.nan
    others = list(reference)
    return float(numpy.mean([max(DataStructs.BulkTanimotoSimilarity(each, others)) for each in prints]))


def fragments(mols: Sequence[Chem.Mol]) -> Counter[str]:
    """How often each BRICS fragment occurs (Degen et al. 2008), as SMILES with the kinds of its cut bonds."""
    found: Counter[str] = Counter()
    for mol in mols:
        flat = Chem.Mol(mol)
        Chem.RemoveStereochemistry(flat)
        found.update(Chem.MolToSmiles(BRICS.BreakBRICSBonds(flat)).split("."))
    return found


def scaffolds(mols: Sequence[Chem.Mol]) -> Counter[str]:
    """How often each scaffold of at least two rings occurs (Bemis and Murcko 1996), as SMILES."""
    found: Counter[str] = Counter()
    for mol in mols:
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
        if scaffold.GetRingInfo().NumRings() >= _SMALLEST_SCAFFOLD:
            found[Chem.MolToSmiles(scaffold, isomericSmiles=False)] += 1
    return found


def cosine(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """The cosine of the angle between two vectors of counts: sum_k a_k b_k / (|a| |b|); NaN if one is empty."""
    if not first or not second:
        return math.nan
    product = sum(count * second.get(name, 0) for name, count in first.items())
    lengths = [math.sqrt(sum(count**2 for count in counts.values())) for counts in (first, second)]
    return product / (lengths[0] * lengths[1])


def passes_filters(mol: Chem.Mol, patterns: Sequence[Chem.Mol] = ()) -> bool:
    """Whether a molecule has the elements of MOSES only, no charges, no large rings, and no substructure of PAINS.

    `patterns` are further substructures that it must not have, of molecules with hydrogens as atoms. The filters of
    MOSES are these and its medicinal chemistry filters (`medicinal_filters`). Without those, the share of molecules
    that pass is an upper bound of that in its tables.
    """
    rings = mol.GetRingInfo().AtomRings()
    whole = Chem.AddHs(mol)
    return (
        all(len(ring) < _LARGE_RING for ring in rings)
        and all(atom.GetFormalCharge() == 0 and atom.GetSymbol() in ELEMENTS for atom in mol.GetAtoms())
        and not any(whole.HasSubstructMatch(pattern) for pattern in patterns)
        and not has_alert(mol, "PAINS")
    )


def file_of_moses(name: str) -> Path | None:
    """A file of the package of MOSES, such as `metrics/mcf.csv`; None where the package is not installed.

    The package is called `molsets` and is not imported, as its models need old versions of other packages, so
    `pip install --no-deps molsets` suffices.
    """
    try:
        return Path(str(distribution("molsets").locate_file(f"moses/{name}")))
    except PackageNotFoundError:
        return None


def medicinal_filters() -> list[Chem.Mol] | None:
    """The patterns of the medicinal chemistry filters (MCF) of MOSES; None where its package is not installed."""
    place = file_of_moses("metrics/mcf.csv")
    if place is None:
        return None
    with place.open(newline="") as file:
        return [Chem.MolFromSmarts(row["smarts"]) for row in csv.DictReader(file)]
