"""Many molecules stored as a few flat arrays."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy
from rdkit import Chem

from diffcore_molecule.chemistry.molecules import Molecule, from_rdkit, identity, sanitised, to_rdkit


@dataclass(frozen=True)
class Collection:
    """n molecules with explicit hydrogens: their atoms and bonds are concatenated, hydrogens last in each molecule."""

    sizes: numpy.ndarray
    """Number of atoms of each molecule `[n]`."""
    numbers: numpy.ndarray
    """Atomic numbers `[atoms]`."""
    charges: numpy.ndarray
    """Formal charges `[atoms]`."""
    positions: numpy.ndarray
    """Positions in Angstrom `[atoms, 3]`, float32."""
    bond_counts: numpy.ndarray
    """Number of bonds of each molecule `[n]`."""
    bonds: numpy.ndarray
    """For each bond the indices of its two atoms within the molecule, and its order `[bonds, 3]`."""

    def __len__(self) -> int:
        return len(self.sizes)

    def arrays(self) -> dict[str, numpy.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def normal_form(molecule: Chem.Mol) -> Chem.Mol:
    """A copy of a sanitised molecule with all hydrogens as explicit atoms after the others, and without isotopes.

    Missing hydrogens are added, with positions. Raises `ValueError` if the molecule has several pieces, atoms without
    an element, or hydrogen atoms only.
    """
    whole = Chem.Mol(molecule)
    for atom in whole.GetAtoms():
        atom.SetIsotope(0)
    if len(Chem.GetMolFrags(whole)) > 1:
        raise ValueError("several unconnected pieces")
    whole = Chem.AddHs(whole, addCoords=True)
    atoms = list(whole.GetAtoms())
    if any(atom.GetAtomicNum() < 1 for atom in atoms):
        raise ValueError("atoms without an element")
    heavy = [atom.GetIdx() for atom in atoms if atom.GetAtomicNum() > 1]
    light = [atom.GetIdx() for atom in atoms if atom.GetAtomicNum() == 1]
    if not heavy:
        raise ValueError("hydrogen atoms only" if light else "no atoms")
    return Chem.RenumberAtoms(whole, heavy + light)


def with_implicit_hydrogens(molecule: Molecule) -> Chem.Mol:
    """The molecule as a sanitised RDKit object whose hydrogens are implicit.

    Raises `ValueError` if the implicit hydrogens would differ from the explicit ones, as in radicals.
    """
    heavy = molecule.numbers > 1
    implicit = sanitised(to_rdkit(without_hydrogens(molecule)))
    counts = molecule.bonds[heavy][:, ~heavy].sum(1).tolist()
    if (molecule.bonds[~heavy].sum(1) != 1).any() or molecule.bonds[~heavy][:, ~heavy].any():
        raise ValueError("a hydrogen that does not have exactly one neighbour")
    if implicit is None or [atom.GetTotalNumHs() for atom in implicit.GetAtoms()] != counts:
        raise ValueError("hydrogens that cannot be implicit, as in a radical")
    return implicit


@dataclass(frozen=True)
class Entry:
    """A molecule that was read from a file."""

    source: int
    """The number of its record or line in the file, by which users can find it."""
    molecule: Molecule
    """The molecule in normal form."""
    identity: int
    """Its `molecules.identity`."""
    changes: tuple[str, ...] = ()
    """What was done to the molecule of the file, to complete "it is ..."."""


def entry(source: int, molecule: Molecule, changes: Sequence[str] = ()) -> Entry:
    """The entry of a molecule; raises `ValueError` if positions are not finite or hydrogens cannot be implicit."""
    if not numpy.isfinite(molecule.positions).all():
        raise ValueError("positions that are not finite")
    return Entry(source, molecule, identity(with_implicit_hydrogens(molecule)), tuple(changes))


def entry_of(source: int, molecule: Chem.Mol, changes: Sequence[str] = ()) -> Entry:
    """The entry of a sanitised RDKit molecule with a conformer; raises `ValueError` if it cannot be represented."""
    return entry(source, from_rdkit(normal_form(molecule), hydrogens=True), changes)


def without_hydrogens(molecule: Molecule) -> Molecule:
    """The molecule without its hydrogen atoms."""
    heavy = molecule.numbers > 1
    return Molecule(
        molecule.numbers[heavy], molecule.charges[heavy], molecule.bonds[heavy][:, heavy], molecule.positions[heavy]
    )


def collect(molecules: Iterable[Molecule]) -> Collection:
    """The collection of molecules that are in normal form."""
    numbers, charges, positions, bonds = [], [], [], []
    for molecule in molecules:
        first, second = numpy.triu(molecule.bonds, 1).nonzero()
        numbers.append(molecule.numbers)
        charges.append(molecule.charges)
        positions.append(molecule.positions - molecule.positions.mean(0))
        bonds.append(numpy.stack([first, second, molecule.bonds[first, second]], 1))

    def joined(parts: list[numpy.ndarray], dtype: type, shape: tuple[int, ...] = (0,)) -> numpy.ndarray:
        return numpy.concatenate([numpy.empty(shape), *parts]).astype(dtype)

    return Collection(
        sizes=numpy.array([len(part) for part in numbers], dtype=numpy.int32),
        numbers=joined(numbers, numpy.uint8),
        charges=joined(charges, numpy.int8),
        positions=joined(positions, numpy.float32, (0, 3)),
        bond_counts=numpy.array([len(part) for part in bonds], dtype=numpy.int32),
        bonds=joined(bonds, numpy.uint16, (0, 3)),
    )


def molecules_of(collection: Collection, hydrogens: bool = False) -> Iterator[Molecule]:
    """Iterate over the molecules of a collection, with or without their hydrogens."""
    starts = zip(offsets(collection.sizes).tolist(), offsets(collection.bond_counts).tolist(), strict=True)
    counts = zip(collection.sizes.tolist(), collection.bond_counts.tolist(), strict=True)
    for (start, first_bond), (size, bonds) in zip(starts, counts, strict=True):
        own = slice(start, start + size)
        first, second, order = collection.bonds[first_bond : first_bond + bonds].T
        matrix = numpy.zeros((size, size), dtype=numpy.uint8)
        matrix[first, second] = matrix[second, first] = order
        molecule = Molecule(collection.numbers[own], collection.charges[own], matrix, collection.positions[own])
        yield molecule if hydrogens else without_hydrogens(molecule)


def subset(collection: Collection, start: int, stop: int) -> Collection:
    """The molecules with indices from `start` to `stop` - 1."""
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


def offsets(counts: numpy.ndarray) -> numpy.ndarray:
    """The start of each group if groups of `counts` items are concatenated: the exclusive cumulative sum."""
    return numpy.cumsum(counts, dtype=numpy.int64) - counts
