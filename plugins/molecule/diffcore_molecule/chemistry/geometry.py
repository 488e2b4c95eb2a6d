"""Whether positions can be those of a molecule. The reader of files and the writer of samples judge alike."""

import numpy

from diffcore_molecule.chemistry.elements import covalent_radii
from diffcore_molecule.chemistry.molecules import Molecule

SHORTEST, LONGEST = 0.65, 1.4
"""The shortest and the longest bond, in units of the sum of the covalent radii of its two elements.

Triple bonds of carbon, nitrogen and oxygen have 0.77 to 0.80, bonds to hydrogen by X-ray diffraction at least 0.84, and
the longest single bonds of main-group elements (N2O4, F2) 1.25.
"""
NEAREST = 0.5
"""The smallest distance of two atoms in Angstrom; the shortest bond, that of H2, has 0.74."""
_UNITS = {"nanometres": 0.1, "Bohr": 1 / 0.529177, "picometres": 100.0}
"""How long a bond of 1 Angstrom is in other units."""
_TOLERANCE = 0.12
"""By how much the median bond length may differ from the typical one for its unit to be recognised."""
_FLAT = 1e-3
"""A molecule is flat if all z coordinates are within this range, in Angstrom."""
_DRAWN_ANGLE = 0.5
"""By how many degrees an angle of a drawing differs from 120, at most."""
_SAME = 2e-3
"""Bonds of a drawing have the same length up to this, relative to their mean."""


def geometry_fault(molecule: Molecule) -> str:
    """The reason why the positions cannot be those of the molecule in Angstrom; empty if they can.

    All coordinates must be finite, no two atoms may lie within `NEAREST` of each other, the length of each bond must
    fit its two elements (`SHORTEST`, `LONGEST`), and the positions must not be those of a drawing.
    """
    positions = molecule.positions.astype(float)
    if not numpy.isfinite(positions).all():
        return "positions that are not finite"
    n = len(molecule)
    if n < 2:
        return ""
    if (numpy.ptp(positions, axis=0) < 1e-6).all():
        return "all atoms have the same position"
    first, second = numpy.triu(molecule.bonds, 1).nonzero()
    ratios = _ratios(molecule, first, second)
    if unit := _unit(ratios):
        return f"positions that seem to be in {unit}; they must be in Angstrom"
    distances = numpy.linalg.norm(positions[:, None] - positions[None], axis=-1)
    distances[numpy.tril_indices(n)] = numpy.inf
    a, b = numpy.unravel_index(distances.argmin(), distances.shape)
    if distances[a, b] < NEAREST:
        return f"atoms {a + 1} and {b + 1} are {distances[a, b]:.2f} Angstrom apart"
    wrong = numpy.flatnonzero((ratios < SHORTEST) | (ratios > LONGEST))
    if len(wrong):
        a, b = first[wrong[0]], second[wrong[0]]
        return f"the bond of atoms {a + 1} and {b + 1} has a length of {distances[a, b]:.2f} Angstrom"
    if numpy.ptp(positions[:, 2]) < _FLAT and _is_drawing(molecule, first, second):
        return "a flat drawing in place of positions in 3D"
    return ""


def _ratios(molecule: Molecule, first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """The length of each bond in units of the sum of the covalent radii of its atoms."""
    positions, radii = molecule.positions.astype(float), covalent_radii(molecule.numbers)
    lengths = numpy.linalg.norm(positions[first] - positions[second], axis=1)
    return lengths / (radii[first] + radii[second])


def _unit(ratios: numpy.ndarray) -> str:
    """The unit other than Angstrom that the lengths of most bonds point to; empty if none does."""
    if not len(ratios):
        return ""
    spread = numpy.log(ratios.clip(1e-9)).std()
    median = float(numpy.median(ratios))
    for unit, factor in _UNITS.items():
        if abs(median / factor - 1) < _TOLERANCE and spread < 0.2:
            return unit
    return ""


def _is_drawing(molecule: Molecule, first: numpy.ndarray, second: numpy.ndarray) -> bool:
    """Whether a flat molecule is a drawing, by its saturated carbon atoms or by bonds of one length.

    A neutral carbon atom with single bonds only is a tetrahedron. So three of its bonds never lie in a plane, and the
    angle of two is not the 120 degrees of drawings. Bonds of different kinds have different lengths.
    """
    single = (molecule.bonds == 1).sum(1)
    saturated = (molecule.numbers == 6) & (molecule.charges == 0) & (molecule.bonds.max(1) < 2)
    if (saturated & (single >= 3)).any():
        return True
    for atom in numpy.flatnonzero(saturated & (single == 2)):
        ends = molecule.positions[molecule.bonds[atom] == 1].astype(float) - molecule.positions[atom]
        cosine = ends[0] @ ends[1] / numpy.linalg.norm(ends[0]) / numpy.linalg.norm(ends[1])
        if abs(numpy.degrees(numpy.arccos(cosine)) - 120) < _DRAWN_ANGLE:
            return True
    ends = numpy.sort(numpy.stack([molecule.numbers[first], molecule.numbers[second]], 1), axis=1)
    kinds = {(*pair, order) for pair, order in zip(ends.tolist(), molecule.bonds[first, second].tolist(), strict=True)}
    lengths = numpy.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    return len(kinds) > 1 and bool(numpy.ptp(lengths) < _SAME * lengths.mean())
