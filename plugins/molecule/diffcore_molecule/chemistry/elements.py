"""Tables of the elements."""

import numpy
from rdkit import Chem

_TABLE = Chem.GetPeriodicTable()
_RADII = numpy.array([0.0, *(_TABLE.GetRcovalent(number) for number in range(1, 119))])


def covalent_radii(numbers: numpy.ndarray) -> numpy.ndarray:
    """The covalent radii in Angstrom of the elements with these atomic numbers `[n]` (Cordero et al. 2008)."""
    return _RADII[numbers]
