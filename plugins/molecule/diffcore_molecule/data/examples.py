"""Molecules as a batch of padded arrays, and the statistics of such a batch."""

from collections.abc import Sequence

import numpy
import torch
from tensordict import TensorDict
from torch import Tensor

from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.data.collection import Collection, offsets
from diffcore_molecule.options import MoleculeFacts, PropertyFacts

QUANTILES = 101
"""The number of quantiles that describe the distribution of a property: the percentiles."""
MIN_PER_SIZE = 5
"""With fewer molecules of a size, the standard deviation of a property over all sizes is used."""


def atom_counts(collection: Collection, hydrogens: bool = False) -> numpy.ndarray:
    """The number of atoms of each molecule `[n]`, with or without hydrogens."""
    if hydrogens:
        return collection.sizes.astype(numpy.int64)
    return numpy.add.reduceat(collection.numbers > 1, offsets(collection.sizes), dtype=numpy.int64)


def padded(
    collection: Collection, rows: numpy.ndarray, hydrogens: bool = False, width: int | None = None
) -> TensorDict:
    """The molecules `rows` of a collection as one batch, padded with zeros.

    `numbers` and `charges` are `[n, N]`, `bonds` `[n, N, N]` and `positions` `[n, N, 3]`, centred at their mean. N is
    `width`, or the largest number of atoms of these molecules.
    """
    counts = atom_counts(collection, hydrogens)[rows]
    n, most = len(rows), int(counts.max()) if width is None else width
    owner, slot = _owners_and_slots(counts)
    source = offsets(collection.sizes)[rows][owner] + slot
    numbers = numpy.zeros((n, most), dtype=numpy.uint8)
    charges = numpy.zeros((n, most), dtype=numpy.int8)
    positions = numpy.zeros((n, most, 3), dtype=numpy.float32)
    numbers[owner, slot] = collection.numbers[source]
    charges[owner, slot] = collection.charges[source]
    positions[owner, slot] = collection.positions[source]
    positions -= positions.sum(1, keepdims=True) / counts.astype(numpy.float32)[:, None, None]
    positions[numbers == 0] = 0
    owner, slot = _owners_and_slots(collection.bond_counts[rows])
    first, second, order = collection.bonds[offsets(collection.bond_counts)[rows][owner] + slot].T.astype(numpy.int64)
    inside = (first < counts[owner]) & (second < counts[owner])
    owner, first, second, order = owner[inside], first[inside], second[inside], order[inside]
    bonds = numpy.zeros((n, most, most), dtype=numpy.uint8)
    bonds[owner, first, second] = bonds[owner, second, first] = order
    batch = {"numbers": numbers, "charges": charges, "bonds": bonds, "positions": positions}
    return TensorDict({name: torch.from_numpy(array) for name, array in batch.items()}, batch_size=[n])


def _owners_and_slots(counts: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """For concatenated groups of `counts` items: the index of each item's group, and its index within the group."""
    owner = numpy.repeat(numpy.arange(len(counts)), counts)
    return owner, numpy.arange(len(owner)) - offsets(counts)[owner]


def molecule_at(examples: TensorDict, row: int) -> Molecule:
    """The molecule in a row of a batch, without padding."""
    numbers, charges, bonds, positions = (
        examples[name][row].numpy() for name in ("numbers", "charges", "bonds", "positions")
    )
    real = numbers > 0
    return Molecule(numbers[real], charges[real], bonds[real][:, real], positions[real])


def facts_of(
    examples: TensorDict,
    names: Sequence[str],
    units: Sequence[str],
    hydrogens: bool,
    from_qm9: Sequence[str] = (),
    joint: bool = False,
) -> MoleculeFacts:
    """The statistics of the training molecules; `names` and `units` belong to the columns of the field `properties`.

    The values of the properties `from_qm9` are those of the QM9 file. If they are `joint`, they are a side of the
    state, and otherwise conditions.
    """
    numbers, real = examples["numbers"].long(), examples["numbers"] > 0
    counts = torch.bincount(numbers[real], minlength=2)
    charges, charge_counts = examples["charges"][real].unique(return_counts=True)
    bonds = examples["bonds"].numpy()
    atoms = real.sum(1)
    pairs = int((atoms * (atoms - 1) // 2).sum())
    bonded = [numpy.count_nonzero(bonds == order) // 2 for order in (1, 2, 3)]
    bond_counts = torch.tensor([pairs - sum(bonded), *bonded], dtype=torch.float64)
    sizes = torch.bincount(atoms)
    of_properties = tuple(
        property_facts(examples["properties"][:, column], atoms, name, unit, name in from_qm9)
        for column, (name, unit) in enumerate(zip(names, units, strict=True))
    )
    return MoleculeFacts(
        hydrogens=hydrogens,
        elements=tuple(counts.nonzero()[:, 0].tolist()),
        element_fractions=tuple((counts[counts > 0] / counts.sum()).tolist()),
        charges=tuple(charges.tolist()),
        charge_fractions=tuple((charge_counts / charge_counts.sum()).tolist()),
        bond_fractions=tuple((bond_counts / bond_counts.sum().clamp(min=1)).tolist()),
        position_std=max(examples["positions"][real].double().square().mean().sqrt().item(), 1e-3),
        max_atoms=numbers.shape[1],
        sizes=tuple(sizes.nonzero()[:, 0].tolist()),
        size_counts=tuple(sizes[sizes > 0].tolist()),
        properties=() if joint else of_properties,
        joint=of_properties if joint else (),
    )


def property_facts(values: Tensor, atoms: Tensor, name: str, unit: str = "", from_qm9: bool = False) -> PropertyFacts:
    """The distribution of the values `[n]` of a property over molecules of `atoms` `[n]` atoms, without NaN.

    Raises `ValueError` if all values are NaN.
    """
    known = values.isfinite()
    if not known.any():
        raise ValueError(f"the property {name!r} is undefined for every molecule")
    finite = values[known].double().numpy()
    mean, std = float(finite.mean()), float(finite.std())
    by_size = []
    for size in atoms.unique().tolist():
        own = values[known & (atoms == size)].double().numpy()
        by_size.append((float(own.mean()) if len(own) else mean, float(own.std()) if len(own) >= MIN_PER_SIZE else std))
    quantiles = numpy.quantile(finite, numpy.linspace(0, 1, QUANTILES))
    return PropertyFacts(
        name=name,
        unit=unit,
        mean=mean,
        std=std,
        quantiles=tuple(quantiles.tolist()),
        by_size=tuple(by_size),
        from_qm9=from_qm9,
    )
