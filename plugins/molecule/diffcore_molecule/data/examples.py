"""Molecules as a batch of padded arrays, and what there is to know of such a batch."""

from collections.abc import Sequence

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.data.collection import Collection, starts
from diffcore_molecule.options import MoleculeFacts, PropertyFacts

QUANTILES = 101
"""How many quantiles of a property are kept: the percentiles."""
FEW = 5
"""With fewer molecules of a size, the spread of a property is taken from all sizes."""


def atom_counts(collection: Collection, hydrogens: bool = False) -> numpy.ndarray:
    """How many atoms each molecule has `[n]`, with or without hydrogens."""
    if hydrogens:
        return collection.sizes.astype(numpy.int64)
    return numpy.add.reduceat(collection.numbers > 1, starts(collection.sizes), dtype=numpy.int64)


def padded(
    collection: Collection, rows: numpy.ndarray, hydrogens: bool = False, width: int | None = None
) -> TensorDict:
    """Some molecules of a collection as one batch, 0 in padding.

    `numbers` and `charges` are `[n, N]`, `bonds` `[n, N, N]`, `positions` `[n, N, 3]`, centred at their mean;
    N is `width`, or the most atoms of any of the molecules.
    """
    kept = atom_counts(collection, hydrogens)[rows]
    n, most = len(rows), int(kept.max()) if width is None else width
    owner, slot = _places(kept)
    source = starts(collection.sizes)[rows][owner] + slot
    numbers = numpy.zeros((n, most), dtype=numpy.uint8)
    charges = numpy.zeros((n, most), dtype=numpy.int8)
    positions = numpy.zeros((n, most, 3), dtype=numpy.float32)
    numbers[owner, slot] = collection.numbers[source]
    charges[owner, slot] = collection.charges[source]
    positions[owner, slot] = collection.positions[source]
    positions -= positions.sum(1, keepdims=True) / kept.astype(numpy.float32)[:, None, None]
    positions[numbers == 0] = 0
    owner, slot = _places(collection.bond_counts[rows])
    first, second, order = collection.bonds[starts(collection.bond_counts)[rows][owner] + slot].T.astype(numpy.int64)
    inside = (first < kept[owner]) & (second < kept[owner])
    owner, first, second, order = owner[inside], first[inside], second[inside], order[inside]
    bonds = numpy.zeros((n, most, most), dtype=numpy.uint8)
    bonds[owner, first, second] = bonds[owner, second, first] = order
    batch = {"numbers": numbers, "charges": charges, "bonds": bonds, "positions": positions}
    return TensorDict({name: torch.from_numpy(array) for name, array in batch.items()}, batch_size=[n])


def _places(counts: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """For `counts` things each, laid out one after the other: whose each is, and the how many-eth of them."""
    owner = numpy.repeat(numpy.arange(len(counts)), counts)
    return owner, numpy.arange(len(owner)) - starts(counts)[owner]


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
    charges, charge_counts = examples["charges"][real].unique(return_counts=True)
    bonds = examples["bonds"].numpy()
    atoms = real.sum(1)
    pairs = int((atoms * (atoms - 1) // 2).sum())
    bonded = [numpy.count_nonzero(bonds == order) // 2 for order in (1, 2, 3)]
    bond_counts = torch.tensor([pairs - sum(bonded), *bonded], dtype=torch.float64)
    sizes = torch.bincount(atoms)
    return MoleculeFacts(
        hydrogens=hydrogens,
        elements=tuple(counts.nonzero()[:, 0].tolist()),
        element_shares=tuple((counts[counts > 0] / counts.sum()).tolist()),
        charges=tuple(charges.tolist()),
        charge_shares=tuple((charge_counts / charge_counts.sum()).tolist()),
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
