"""Many molecules in a few flat arrays, and as batches of padded ones."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy
import torch
from rdkit import Chem
from tensordict import TensorDict
from torch import Tensor

from diffcore_molecule.molecules import Molecule, from_rdkit, sanitised, to_rdkit
from diffcore_molecule.options import MoleculeFacts, PropertyFacts

QUANTILES = 101
"""How many quantiles of a property are kept: the percentiles."""
FEW = 5
"""With fewer molecules of a size, the spread of a property is taken from all sizes."""


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

    Hydrogens that are not there are added where they belong. Raises `ValueError` where it is of several pieces, or
    has hydrogens that cannot be implied, such as those of hydrogen itself.
    """
    whole = Chem.Mol(molecule)
    for atom in whole.GetAtoms():
        atom.SetIsotope(0)
    if len(Chem.GetMolFrags(whole)) > 1:
        raise ValueError("of several pieces")
    whole = Chem.AddHs(Chem.RemoveHs(whole), addCoords=True)
    numbers = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    if min(numbers) < 1:
        raise ValueError("it has atoms of no element")
    heavy = sum(number > 1 for number in numbers)
    if not heavy:
        raise ValueError("it has hydrogens alone")
    if 1 in numbers[:heavy]:
        raise ValueError("it has hydrogens that cannot be implied")
    return whole


def arrays_of(molecule: Chem.Mol) -> Molecule:
    """The arrays of a molecule in normal form, from which the same molecule can be had with hydrogens implied.

    Raises `ValueError` where it cannot, such as for radicals.
    """
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise ValueError("it has unpaired electrons")
    arrays = from_rdkit(molecule, hydrogens=True)
    if not numpy.isfinite(arrays.positions).all():
        raise ValueError("its places are not finite")
    implied = sanitised(to_rdkit(without_hydrogens(arrays)))
    heavy = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() > 1]
    if implied is None or any(
        atom.GetTotalNumHs() != other.GetTotalNumHs(includeNeighbors=True)
        for atom, other in zip(implied.GetAtoms(), heavy, strict=True)
    ):
        raise ValueError("its hydrogens cannot be implied")
    return arrays


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
    starts = zip(_starts(collection.sizes).tolist(), _starts(collection.bond_counts).tolist(), strict=True)
    counts = zip(collection.sizes.tolist(), collection.bond_counts.tolist(), strict=True)
    for (start, first_bond), (size, bonds) in zip(starts, counts, strict=True):
        own = slice(start, start + size)
        first, second, order = collection.bonds[first_bond : first_bond + bonds].T
        matrix = numpy.zeros((size, size), dtype=numpy.uint8)
        matrix[first, second] = matrix[second, first] = order
        molecule = Molecule(collection.numbers[own], collection.charges[own], matrix, collection.positions[own])
        yield molecule if hydrogens else without_hydrogens(molecule)


def padded(collection: Collection, rows: numpy.ndarray, hydrogens: bool = False) -> TensorDict:
    """Some molecules of a collection as one batch, 0 in padding.

    `numbers` and `charges` are `[n, N]`, `bonds` `[n, N, N]`, `positions` `[n, N, 3]`, centred at their mean;
    N is the most atoms of any molecule of the collection.
    """
    heavy = numpy.add.reduceat(collection.numbers > 1, _starts(collection.sizes), dtype=numpy.int64)
    kept = collection.sizes.astype(numpy.int64) if hydrogens else heavy
    n, most = len(rows), int(kept.max())
    owner, slot = _places(kept[rows])
    source = _starts(collection.sizes)[rows][owner] + slot
    numbers = numpy.zeros((n, most), dtype=numpy.uint8)
    charges = numpy.zeros((n, most), dtype=numpy.int8)
    positions = numpy.zeros((n, most, 3), dtype=numpy.float32)
    numbers[owner, slot] = collection.numbers[source]
    charges[owner, slot] = collection.charges[source]
    positions[owner, slot] = collection.positions[source]
    positions -= positions.sum(1, keepdims=True) / kept[rows].astype(numpy.float32)[:, None, None]
    positions[numbers == 0] = 0
    owner, slot = _places(collection.bond_counts[rows])
    first, second, order = collection.bonds[_starts(collection.bond_counts)[rows][owner] + slot].T.astype(numpy.int64)
    inside = (first < kept[rows][owner]) & (second < kept[rows][owner])
    owner, first, second, order = owner[inside], first[inside], second[inside], order[inside]
    bonds = numpy.zeros((n, most, most), dtype=numpy.uint8)
    bonds[owner, first, second] = bonds[owner, second, first] = order
    batch = {"numbers": numbers, "charges": charges, "bonds": bonds, "positions": positions}
    return TensorDict({name: torch.from_numpy(array) for name, array in batch.items()}, batch_size=[n])


def _starts(counts: numpy.ndarray) -> numpy.ndarray:
    return numpy.cumsum(counts, dtype=numpy.int64) - counts


def _places(counts: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """For `counts` things each, laid out one after the other: whose each is, and the how many-eth of them."""
    owner = numpy.repeat(numpy.arange(len(counts)), counts)
    return owner, numpy.arange(len(owner)) - _starts(counts)[owner]


def molecule_at(examples: TensorDict, row: int) -> Molecule:
    """One molecule of a batch, without padding."""
    numbers, charges, bonds, positions = (
        examples[name][row].numpy() for name in ("numbers", "charges", "bonds", "positions")
    )
    real = numbers > 0
    return Molecule(numbers[real], charges[real], bonds[real][:, real], positions[real])


def facts_of(examples: TensorDict, names: Sequence[str], units: Sequence[str], hydrogens: bool) -> MoleculeFacts:
    """What there is to know of the training molecules; `names` and `units` are those of the columns of `properties`."""
    numbers, real = examples["numbers"].long(), examples["numbers"] > 0
    counts = torch.bincount(numbers[real], minlength=2)
    charges, bonds = examples["charges"][real].double(), examples["bonds"]
    pairs = torch.triu(real[:, :, None] & real[:, None, :], 1)
    bond_counts = torch.bincount(bonds[pairs].long(), minlength=4).double()
    atoms = real.sum(1)
    sizes = torch.bincount(atoms)
    return MoleculeFacts(
        hydrogens=hydrogens,
        elements=tuple(counts.nonzero()[:, 0].tolist()),
        element_shares=tuple((counts[counts > 0] / counts.sum()).tolist()),
        charges=tuple(int(value) for value in charges.unique().tolist()),
        charge_std=charges.std(correction=0).item(),
        bond_shares=tuple((bond_counts / bond_counts.sum().clamp(min=1)).tolist()),
        position_std=max(examples["positions"][real].double().square().mean().sqrt().item(), 1e-3),
        max_atoms=numbers.shape[1],
        sizes=tuple(sizes.nonzero()[:, 0].tolist()),
        size_counts=tuple(sizes[sizes > 0].tolist()),
        properties=tuple(
            property_facts(examples["properties"][:, column], atoms, name, unit)
            for column, (name, unit) in enumerate(zip(names, units, strict=True))
        ),
    )


def property_facts(values: Tensor, atoms: Tensor, name: str, unit: str = "") -> PropertyFacts:
    """How the values `[n]` of a property are spread, NaN left aside, over molecules of `atoms` `[n]` atoms.

    Raises `ValueError` where all are NaN.
    """
    known = values.isfinite()
    if not known.any():
        raise ValueError(f"the property {name} is undefined for every molecule")
    given = values[known].double().numpy()
    mean, std = float(given.mean()), float(given.std())
    by_size = []
    for size in atoms.unique().tolist():
        own = values[known & (atoms == size)].double().numpy()
        by_size.append((float(own.mean()) if len(own) else mean, float(own.std()) if len(own) >= FEW else std))
    quantiles = numpy.quantile(given, numpy.linspace(0, 1, QUANTILES))
    return PropertyFacts(
        name=name, unit=unit, mean=mean, std=std, quantiles=tuple(quantiles.tolist()), by_size=tuple(by_size)
    )
