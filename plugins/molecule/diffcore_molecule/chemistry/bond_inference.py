"""Bonds inferred from the positions of atoms: by a table of bond lengths, or by RDKit.

Published metrics of models that generate atoms without bonds are computed with the table. They cannot be compared with
metrics of generated bonds, so the two have different names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, to_rdkit
from diffcore_molecule.timeout_pool import timeout_map

_MARGINS = (10, 5, 3)
"""Tolerances in pm: by how much a bond of order 1, 2 or 3 may exceed its typical length."""
_SINGLE = {
    "H": "H 74 C 109 N 101 O 96 F 92 B 119 Si 148 P 144 As 152 S 134 Cl 127 Br 141 I 161",
    "B": "Cl 175",
    "C": "C 154 N 147 O 143 F 135 Si 185 P 184 S 182 Cl 177 Br 194 I 214",
    "N": "N 145 O 140 F 136 P 177 S 168 Cl 175 Br 214 I 222",
    "O": "O 148 F 142 Si 163 P 163 S 151 Cl 164 Br 172 I 194",
    "F": "F 142 Si 160 P 156 S 158 Cl 166 Br 178 I 187",
    "Si": "Si 233 S 200 Cl 202 Br 215 I 243",
    "P": "P 221 S 210 Cl 203 Br 222",
    "S": "S 204 Cl 207 Br 225 I 234",
    "Cl": "Cl 199 Br 214",
    "Br": "Br 228",
    "I": "I 266",
}
_DOUBLE = {"C": "C 134 N 129 O 120 S 160", "N": "N 125 O 121", "O": "O 121 P 150", "P": "S 186"}
_TRIPLE = {"C": "C 120 N 116 O 113", "N": "N 110"}
"""Typical bond lengths in pm (wiredchemist.com and chemistry-reference.com). Each pair of elements is listed once."""


def _thresholds() -> numpy.ndarray:
    """`[3, 119, 119]`: the distance in pm below which two elements have a bond of order at least 1, 2 or 3."""
    table = numpy.zeros((3, 119, 119))
    number = Chem.GetPeriodicTable().GetAtomicNumber
    lengths: Sequence[Mapping[str, str]] = (_SINGLE, _DOUBLE, _TRIPLE)
    for order, (rows, margin) in enumerate(zip(lengths, _MARGINS, strict=True)):
        for first, row in rows.items():
            words = row.split()
            for second, length in zip(words[0::2], words[1::2], strict=True):
                a, b = number(first), number(second)
                table[order, a, b] = table[order, b, a] = int(length) + margin
    return table


_THRESHOLDS = _thresholds()


def infer_bonds(numbers: numpy.ndarray, positions: numpy.ndarray) -> numpy.ndarray:
    """Bond orders `[n, n]` from atomic numbers `[n]` and positions `[n, 3]` in Angstrom, by EDM's table of lengths.

    A pair of atoms gets the highest order whose typical length plus margin (10, 5 or 3 pm) exceeds their distance.
    Pairs of elements that are not in the table get no bond. Source: Hoogeboom et al. 2022, appendix. The margins were
    tuned there on QM9, so on other molecules the table finds fewer stable ones.
    """
    distances = 100 * numpy.linalg.norm(positions[:, None].astype(float) - positions[None].astype(float), axis=2)
    short = distances < _THRESHOLDS[:, numbers[:, None], numbers[None]]
    orders = short.sum(0)  # thresholds decrease with the order
    numpy.fill_diagonal(orders, 0)
    return orders


def with_inferred_bonds(molecule: Molecule) -> Molecule:
    """The same atoms at the same positions, with the bonds of `infer_bonds` and zero charges."""
    bonds = infer_bonds(molecule.numbers, molecule.positions).astype(numpy.uint8)
    return replace(molecule, charges=numpy.zeros_like(molecule.charges), bonds=bonds)


def _bonds_by_rdkit(molecule: Molecule) -> Molecule | None:
    n = len(molecule)
    atoms = to_rdkit(replace(molecule, charges=numpy.zeros(n, int), bonds=numpy.zeros((n, n), int)), hydrogens=True)
    try:
        rdDetermineBonds.DetermineBonds(atoms, charge=int(molecule.charges.sum()))
        return from_rdkit(atoms, hydrogens=True)
    except (ValueError, RuntimeError):
        return None


def infer_bonds_with_rdkit(molecules: Sequence[Molecule], seconds: float, workers: int = 1) -> list[Molecule | None]:
    """The molecules with bonds and charges by RDKit's `DetermineBonds`, from positions and the total charge alone.

    All hydrogens must be explicit atoms. An element of the result is None if RDKit finds no bonds, or not within
    `seconds`. RDKit may never return, so it runs in worker processes, which are killed when the time is up.
    """
    results = timeout_map(_bonds_by_rdkit, molecules, seconds, workers)
    return [result if isinstance(result, Molecule) else None for result in results]
