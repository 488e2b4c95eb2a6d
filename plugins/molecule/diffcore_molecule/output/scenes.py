"""Molecules as balls and sticks, for the report."""

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
"""Colours of elements by atomic number, as Jmol has them."""
OTHER = "#ff1493"
"""The colour of elements that have none of their own."""
BALL = 0.45
"""Radii of balls, in covalent radii: small enough that bonds are seen."""


def scene(molecule: Molecule, caption: str = "", turn: numpy.ndarray | None = None) -> Scene:
    """Balls in the colours of their elements, radii from covalent ones, sticks with as many lines as the bond's order.

    The molecule is turned (never mirrored) by the rotation `turn`; without one so that it is widest from left to right
    and flattest towards the reader.
    """
    table = Chem.GetPeriodicTable()
    numbers = molecule.numbers.tolist()
    pairs = zip(*numpy.triu(molecule.bonds, 1).nonzero(), strict=True)
    return Scene(
        points=principal(molecule.positions, turn),
        colours=[CPK.get(number, OTHER) for number in numbers],
        radii=[BALL * (table.GetRcovalent(number) if number else 0.7) for number in numbers],
        sticks=[Stick(int(i), int(j), int(molecule.bonds[i, j])) for i, j in pairs],
        caption=caption,
        thickness=0.1,
    )


def principal(positions: numpy.ndarray, turn: numpy.ndarray | None = None) -> numpy.ndarray:
    """Places `[n, 3]` about their mean, by a rotation: along their own axes, or `turn`."""
    return _centred(positions) @ (axes(positions) if turn is None else turn)


def axes(positions: numpy.ndarray) -> numpy.ndarray:
    """The rotation `[3, 3]` that takes places `[n, 3]`, as rows, along their principal axes, the longest first."""
    centred = _centred(positions)
    _, found = numpy.linalg.eigh(centred.T @ centred)
    found = found[:, ::-1]
    return found * numpy.array([1, 1, numpy.sign(numpy.linalg.det(found))])


def _centred(positions: numpy.ndarray) -> numpy.ndarray:
    places = numpy.nan_to_num(positions.astype(numpy.float64), nan=0, posinf=0, neginf=0)
    return places - places.mean(0) if len(places) else places
