"""How similar molecules are to their reconstructions by an autoencoder."""

from collections.abc import Callable, Sequence

import numpy

from diffcore.plugins.output import Metric
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import MoleculeCodec

Molecules = Sequence[Molecule]


def fidelity(codec: MoleculeCodec) -> Callable[[Molecules, Molecules], list[Metric]]:
    """A function of molecules and their reconstructions to the fraction of identical graphs and a distance of atoms."""
    return _compared


def _compared(originals: Molecules, found: Molecules) -> list[Metric]:
    """Graphs are identical if each atom has the same element, charge and bonds."""
    pairs = list(zip(originals, found, strict=True))
    identical = [all(numpy.array_equal(getattr(a, n), getattr(b, n)) for n in _GRAPH) for a, b in pairs]
    squares = [numpy.square(a.positions - b.positions).sum(1).mean() for a, b in pairs]
    return [
        Metric("identical_graphs", float(numpy.mean(identical)), "fraction with the same atoms, charges and bonds"),
        Metric("position_error", float(numpy.sqrt(numpy.mean(squares))), "Angstrom, root mean square of distances"),
    ]


_GRAPH = ("numbers", "charges", "bonds")
