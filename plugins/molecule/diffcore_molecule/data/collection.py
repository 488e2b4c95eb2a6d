"""Many molecules in a few flat arrays."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy
from rdkit import Chem

from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, identity, sanitised, to_rdkit


@dataclass(frozen=True)
class Collection:
    """n molecules with all their hydrogens, atoms and bonds of one after those of the other; hydrogens come last."""

    sizes: numpy.ndarray
    """Atoms of each molecule `[n]`."""
    numbers: numpy.ndarray
    """Atomic numbers `[atoms]`."""
    charges: numpy.ndarray
    """Formal charges `[atoms]`."""
    positions: numpy.ndarray
    """Places in Angstrom `[atoms, 3]`, float32."""
    bond_counts: numpy.ndarray
    """Bonds of each molecule `[n]`."""
    bonds: numpy.ndarray
    """The two atoms of a bond, as numbers within the molecule, and the bond's order `[bonds, 3]`."""

    def __len__(self) -> int:
        return len(self.sizes)

    def arrays(self) -> dict[str, numpy.ndarray]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def normal_form(molecule: Chem.Mol) -> Chem.Mol:
    """A sanitised molecule with all its hydrogens as atoms, after the others, in one piece, without isotopes.

    Hydrogens that are not there are added where they belong. Raises `ValueError` where it is of several pieces, or of
    hydrogen alone.
    """
    whole = Chem.Mol(molecule)
    for atom in whole.GetAtoms():
        atom.SetIsotope(0)
    if len(Chem.GetMolFrags(whole)) > 1:
        raise ValueError("of several pieces")
    whole = Chem.AddHs(whole, addCoords=True)
    atoms = list(whole.GetAtoms())
    if any(atom.GetAtomicNum() < 1 for atom in atoms):
        raise ValueError("it has atoms of no element")
    heavy = [atom.GetIdx() for atom in atoms if atom.GetAtomicNum() > 1]
    light = [atom.GetIdx() for atom in atoms if atom.GetAtomicNum() == 1]
    if not heavy:
        raise ValueError("it has hydrogens alone")
    return Chem.RenumberAtoms(whole, heavy + light)


def implied(molecule: Molecule) -> Chem.Mol:
    """The molecule as RDKit has it, sanitised, without its hydrogens, which are implied.

    Raises `ValueError` where others than its own would be, as for radicals.
    """
    heavy = molecule.numbers > 1
    found = sanitised(to_rdkit(without_hydrogens(molecule)))
    counts = molecule.bonds[heavy][:, ~heavy].sum(1).tolist()
    if (molecule.bonds[~heavy].sum(1) != 1).any() or molecule.bonds[~heavy][:, ~heavy].any():
        raise ValueError("it has hydrogens with other than one neighbour")
    if found is None or [atom.GetTotalNumHs() for atom in found.GetAtoms()] != counts:
        raise ValueError("its hydrogens cannot be implied")
    return found


@dataclass(frozen=True)
class Entry:
    """A molecule that was read."""

    source: int
    """Which of its file: a number that people can find it by."""
    molecule: Molecule
    """In normal form."""
    identity: int


def entry(source: int, molecule: Molecule) -> Entry:
    """An entry whose hydrogens can be implied; `ValueError` otherwise."""
    if not numpy.isfinite(molecule.positions).all():
        raise ValueError("its places are not finite")
    return Entry(source, molecule, identity(implied(molecule)))


def entry_of(source: int, molecule: Chem.Mol) -> Entry:
    """The entry of a sanitised molecule with a conformer; `ValueError` says why there is none."""
    return entry(source, from_rdkit(normal_form(molecule), hydrogens=True))


def without_hydrogens(molecule: Molecule) -> Molecule:
    """The molecule's other atoms."""
    kept = molecule.numbers > 1
    return Molecule(
        molecule.numbers[kept], molecule.charges[kept], molecule.bonds[kept][:, kept], molecule.positions[kept]
    )


def collect(molecules: Iterable[Molecule]) -> Collection:
    """The arrays of molecules in normal form, put together."""
    numbers, charges, positions, bonds = [], [], [], []
    for molecule in molecules:
        first, second = numpy.triu(molecule.bonds, 1).nonzero()
        numbers.append(molecule.numbers)
        charges.append(molecule.charges)
        positions.append(molecule.positions - molecule.positions.mean(0))
        bonds.append(numpy.stack([first, second, molecule.bonds[first, second]], 1))

    def joined(parts: list[numpy.ndarray], kind: type, shape: tuple[int, ...] = (0,)) -> numpy.ndarray:
        return numpy.concatenate([numpy.empty(shape), *parts]).astype(kind)

    return Collection(
        sizes=numpy.array([len(part) for part in numbers], dtype=numpy.int32),
        numbers=joined(numbers, numpy.uint8),
        charges=joined(charges, numpy.int8),
        positions=joined(positions, numpy.float32, (0, 3)),
        bond_counts=numpy.array([len(part) for part in bonds], dtype=numpy.int32),
        bonds=joined(bonds, numpy.uint16, (0, 3)),
    )


def molecules_of(collection: Collection, hydrogens: bool = False) -> Iterator[Molecule]:
    """The molecules of a collection, one after the other."""
    begins = zip(starts(collection.sizes).tolist(), starts(collection.bond_counts).tolist(), strict=True)
    counts = zip(collection.sizes.tolist(), collection.bond_counts.tolist(), strict=True)
    for (start, first_bond), (size, bonds) in zip(begins, counts, strict=True):
        own = slice(start, start + size)
        first, second, order = collection.bonds[first_bond : first_bond + bonds].T
        matrix = numpy.zeros((size, size), dtype=numpy.uint8)
        matrix[first, second] = matrix[second, first] = order
        molecule = Molecule(collection.numbers[own], collection.charges[own], matrix, collection.positions[own])
        yield molecule if hydrogens else without_hydrogens(molecule)


def part(collection: Collection, start: int, stop: int) -> Collection:
    """The molecules from `start` to before `stop`."""
    atoms, bonds = (
        slice(int(counts[:start].sum(dtype=numpy.int64)), int(counts[:stop].sum(dtype=numpy.int64)))
        for counts in (collection.sizes, collection.bond_counts)
    )
    return Collection(
        collection.sizes[start:stop],
        collection.numbers[atoms],
        collection.charges[atoms],
        collection.positions[atoms],
        collection.bond_counts[start:stop],
        collection.bonds[bonds],
    )


def starts(counts: numpy.ndarray) -> numpy.ndarray:
    """Where the things of each begin, when `counts` things each are laid out one after the other."""
    return numpy.cumsum(counts, dtype=numpy.int64) - counts
