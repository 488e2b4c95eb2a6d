"""The codec of molecules around a part, which lie where the part does."""

from typing import Any

import numpy

from diffcore.states.spaces import Mask
from diffcore.states.state import State
from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.codec import MoleculeCodec


class PartCodec(MoleculeCodec):
    """A codec that decodes to molecules with known atoms, which have the positions that a file gives them.

    States have no place, so each molecule is moved to where its known atoms lie. Their elements, charges, bonds and
    positions are those of the file.
    """

    def __init__(self, codec: MoleculeCodec, part: Molecule, atoms: numpy.ndarray) -> None:
        super().__init__(codec.facts)
        self._part, self._at = part, atoms

    @property
    def recipe(self) -> dict[str, Any]:
        """Where the part lies, as values of JSON."""
        return {"place": [round(float(value), 3) for value in self._part.positions[self._at].mean(0)]}

    def decode(self, state: State, mask: Mask = None) -> list[Molecule]:
        return [self._placed(molecule) for molecule in super().decode(state, mask)]

    def _placed(self, molecule: Molecule) -> Molecule:
        part, atoms = self._part, self._at
        numbers, charges, bonds = molecule.numbers.copy(), molecule.charges.copy(), molecule.bonds.copy()
        positions = molecule.positions + (part.positions[atoms].mean(0) - molecule.positions[atoms].mean(0))
        numbers[atoms], charges[atoms] = part.numbers[atoms], part.charges[atoms]
        bonds[atoms[:, None], atoms] = part.bonds[atoms[:, None], atoms]
        positions[atoms] = part.positions[atoms]
        return Molecule(numbers, charges, bonds, positions)
