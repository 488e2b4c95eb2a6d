"""3D scenes of molecules as balls and sticks, for the report."""

import numpy
from rdkit import Chem

from diffcore.evaluation.viewer import Scene, Stick
from diffcore_molecule.chemistry.molecules import Molecule

_COLOURS = (
    "1 FFFFFF 2 D9FFFF 3 CC80FF 4 C2FF00 5 FFB5B5 6 909090 7 3050F8 8 FF0D0D 9 90E050 10 B3E3F5 11 AB5CF2 12 8AFF00 "
    "13 BFA6A6 14 F0C8A0 15 FF8000 16 FFFF30 17 1FF01F 18 80D1E3 19 8F40D4 20 3DFF00 21 E6E6E6 22 BFC2C7 23 A6A6AB "
    "24 8A99C7 25 9C7AC7 26 E06633 27 F090A0 28 50D050 29 C88033 30 7D80B0 31 C28F8F 32 668F8F 33 BD80E3 34 FFA100 "
    "35 A62929 36 5CB8D1 46 006985 47 C0C0C0 50 668080 51 9E63B5 52 D47A00 53 940094 78 D0D0E0 79 FFD123 80 B8B8D0"
)
_WORDS = _COLOURS.split()
CPK = {int(number): f"#{colour.lower()}" for number, colour in zip(_WORDS[::2], _WORDS[1::2], strict=True)}
"""Colours of elements by atomic number, from Jmol."""
OTHER = "#ff1493"
"""The colour of all other elements."""
BALL = 0.45
"""The radius of a ball, in covalent radii: small enough that bonds are visible."""


def scene(molecule: Molecule, caption: str = "", rotation: numpy.ndarray | None = None) -> Scene:
    """A ball for each atom, with the colour and size of its element, and a stick of 1 to 3 lines for each bond.

    The molecule is rotated by `rotation`, and never mirrored. Without it, the longest principal axis points to the
    right and the shortest one towards the viewer.
    """
    table = Chem.GetPeriodicTable()
    numbers = molecule.numbers.tolist()
    pairs = zip(*numpy.triu(molecule.bonds, 1).nonzero(), strict=True)
    return Scene(
        points=principal(molecule.positions, rotation),
        colours=[CPK.get(number, OTHER) for number in numbers],
        radii=[BALL * (table.GetRcovalent(number) if number else 0.7) for number in numbers],
        sticks=[Stick(int(i), int(j), int(molecule.bonds[i, j])) for i, j in pairs],
        caption=caption,
        thickness=0.1,
    )


def principal(positions: numpy.ndarray, rotation: numpy.ndarray | None = None) -> numpy.ndarray:
    """Centred positions `[n, 3]`, rotated by `rotation` `[3, 3]`, or along their principal axes if there is none."""
    return _centred(positions) @ (axes(positions) if rotation is None else rotation)


def axes(positions: numpy.ndarray) -> numpy.ndarray:
    """The rotation R `[3, 3]` for which `positions @ R` lies along its principal axes, the longest first."""
    centred = _centred(positions)
    _, vectors = numpy.linalg.eigh(centred.T @ centred)
    vectors = vectors[:, ::-1]
    return vectors * numpy.array([1, 1, numpy.sign(numpy.linalg.det(vectors))])


def _centred(positions: numpy.ndarray) -> numpy.ndarray:
    finite = numpy.nan_to_num(positions.astype(numpy.float64), nan=0, posinf=0, neginf=0)
    return finite - finite.mean(0) if len(finite) else finite
