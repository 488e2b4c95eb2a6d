"""Parts of molecules: the atoms that are known, those that may bind to others, and where the part lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.states.spaces import Mask
from diffcore.states.state import State
from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, remove_hydrogens, together
from diffcore_molecule.codec import MoleculeCodec

_NUMBER = "number in the file"


@dataclass(frozen=True)
class Part:
    """The atoms of a file that samples shall have."""

    molecule: Molecule
    open: numpy.ndarray
    """The atoms that may bind to others, bool `[n]`."""
    numbers: numpy.ndarray
    """The number, from 1, of each atom in the file, `[n]`. Those of the second record follow those of the first."""
    attached: bool
    """Whether the file itself says which atoms may bind to others, by dummy atoms."""

    def __len__(self) -> int:
        return len(self.molecule)


def part_of(mol: Chem.Mol, hydrogens: bool) -> Part:
    """The part that a sanitised molecule with a conformer is. Raises `ValueError` as `from_rdkit` does.

    Dummy atoms (`*`, `R#`) are removed, and their neighbours may bind to others. Without dummies, atoms with implicit
    hydrogens or a free valence may: what the file has no room for cannot be added. Hydrogens are kept if `hydrogens`.
    """
    for atom in mol.GetAtoms():
        atom.SetIntProp(_NUMBER, atom.GetIdx() + 1)
    plain = Chem.Mol(mol) if hydrogens else remove_hydrogens(mol)
    atoms = list(plain.GetAtoms())
    real = numpy.array([atom.GetAtomicNum() > 0 for atom in atoms], dtype=bool)
    attached = not real.all()
    if attached:
        can = [any(other.GetAtomicNum() == 0 for other in atom.GetNeighbors()) for atom in atoms]
    else:
        can = [atom.GetNumImplicitHs() + atom.GetNumExplicitHs() + atom.GetNumRadicalElectrons() > 0 for atom in atoms]
    numbers = numpy.array([atom.GetIntProp(_NUMBER) for atom in atoms], dtype=int)
    whole = from_rdkit(plain, hydrogens=True)  # none are removed, as those that can be are
    return Part(_chosen(whole, real), numpy.array(can, dtype=bool)[real], numbers[real], attached)


def joined(parts: Sequence[Part]) -> Part:
    """The parts of all records of a file as one. Where some have dummy atoms, the atoms of others bind to nothing."""
    attached = any(part.attached for part in parts)
    numbers, before = [], 0
    for part in parts:
        numbers.append(part.numbers + before)
        before += int(part.numbers.max(initial=0))
    return Part(
        together([part.molecule for part in parts]),
        numpy.concatenate([part.open & (part.attached or not attached) for part in parts]),
        numpy.concatenate(numbers),
        attached,
    )


def around(part: Part, free: Sequence[int] = (), attach: Sequence[int] | None = None) -> Part:
    """The part without the atoms of the numbers `free`. The atoms of the numbers `attach` alone may bind to others.

    Without `attach`, and without dummy atoms in the file, these are the atoms that are bound to the `free` ones, if
    there are any. Raises `UserError` for numbers that no atom has, and if no atom is left.
    """
    freed, chosen = _among(part, free, "free"), part.open
    neighbours = numpy.asarray((part.molecule.bonds[:, freed] > 0).any(1), dtype=bool)
    if attach is not None:
        chosen = _among(part, attach, "attach")
        if not chosen[~freed].any():
            raise UserError("`attach`: none of these atoms is known")
    elif not part.attached and neighbours[~freed].any():
        chosen = neighbours
    if freed.all():
        raise UserError("`free` has all elements of the file, so nothing of it is known: draw samples without it")
    return Part(_chosen(part.molecule, ~freed), chosen[~freed], part.numbers[~freed], part.attached)


def _among(part: Part, numbers: Sequence[int], option: str) -> numpy.ndarray:
    """Which atoms have these numbers, bool `[n]`."""
    for number in numbers:
        if number not in part.numbers:
            one, last = part.numbers.min(initial=1), part.numbers.max(initial=0)
            holes = "" if len(part) == last else ", without those that are hydrogens or dummy atoms"
            raise UserError(f"`{option}` {number}: the file has the elements {one} to {last}{holes}")
    return numpy.isin(part.numbers, numbers)


def _chosen(molecule: Molecule, atoms: numpy.ndarray) -> Molecule:
    """Some atoms of a molecule, bool `[n]`."""
    return Molecule(
        molecule.numbers[atoms], molecule.charges[atoms], molecule.bonds[atoms][:, atoms], molecule.positions[atoms]
    )


class PartCodec(MoleculeCodec):
    """A codec that decodes to molecules with the atoms of a part first, at the positions that a file gives them.

    States have no place, so each molecule is moved to where the part lies. The elements, charges, bonds and positions
    of these atoms are those of the file.
    """

    def __init__(self, codec: MoleculeCodec, part: Molecule) -> None:
        super().__init__(codec.facts)
        self._part = part

    @property
    def recipe(self) -> dict[str, Any]:
        """Where the part lies, as values of JSON."""
        return {"place": [round(float(value), 3) for value in self._part.positions.mean(0)]}

    def decode(self, state: State, mask: Mask = None) -> list[Molecule]:
        return [self._placed(molecule) for molecule in super().decode(state, mask)]

    def _placed(self, molecule: Molecule) -> Molecule:
        part, n = self._part, len(self._part)
        numbers, charges, bonds = molecule.numbers.copy(), molecule.charges.copy(), molecule.bonds.copy()
        positions = molecule.positions + (part.positions.mean(0) - molecule.positions[:n].mean(0))
        numbers[:n], charges[:n], bonds[:n, :n], positions[:n] = (
            part.numbers,
            part.charges,
            part.bonds,
            part.positions,
        )
        return Molecule(numbers, charges, bonds, positions)
