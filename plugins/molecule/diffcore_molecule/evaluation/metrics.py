"""Metrics of molecules: validity, stability, uniqueness and novelty, and distances to the distribution of real ones.

Fractions are of all samples that were drawn, unless stated otherwise, so that no hidden filter can increase them.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from rdkit import Chem
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import wasserstein_distance

from diffcore_molecule.chemistry.molecules import Molecule, identity, sanitised, to_rdkit, unsafe_bonds

Valences = Callable[[int, int], tuple[int, ...]]
"""A function of atomic number and formal charge: the allowed sums of an atom's bond orders, none for unknown atoms."""


Table = dict[str, tuple[int, ...]]

_EDM: Table = {
    **{"H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,), "P": (3, 5)},
    **{"S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5)},
}
_STRICT: dict[int, Table] = {
    0: {
        **{"H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,), "P": (3, 5)},
        **{"S": (2, 4, 6), "Cl": (1,), "Ge": (4,), "As": (3, 5), "Se": (2, 4, 6), "Br": (1,), "I": (1, 3, 5)},
        **{"Hg": (1, 2), "Bi": (3, 5)},
    },
    1: {
        **{"H": (0,), "C": (3,), "N": (4,), "O": (3,), "P": (4,), "S": (3, 5), "Cl": (2,), "As": (4,), "Se": (3, 5)},
        **{"Br": (2,), "I": (2, 4)},
    },
    -1: {
        **{"H": (0,), "B": (4,), "C": (3,), "N": (2,), "O": (1,), "F": (0,), "Al": (4,), "Si": (3,), "P": (2, 6)},
        **{"S": (1,), "Cl": (0,), "Se": (1,), "Br": (0,), "I": (0,)},
    },
    -2: {"N": (1,), "O": (0,), "S": (0,)},
}
_symbol = Chem.GetPeriodicTable().GetElementSymbol


def edm_valences(number: int, charge: int) -> tuple[int, ...]:
    """The valences of Hoogeboom et al. 2022 (EDM for molecules): by element alone, 4 only for sulfur."""
    return _EDM.get(_symbol(number), ())


def strict_valences(number: int, charge: int) -> tuple[int, ...]:
    """The valences of closed shells by element and formal charge: 4 for neutral carbon, 4 for N+, 1 for O-, and so on.

    A table that pools the charges would accept a neutral carbon with 3 bonds, which is a radical or lacks a hydrogen.
    """
    return _STRICT.get(charge, {}).get(_symbol(number), ())


def stable_atoms(molecule: Molecule, allowed: Valences, hydrogens: bool = True) -> numpy.ndarray:
    """Whether the sum of the bond orders of each atom is allowed, bool `[n]`. A molecule is stable if all atoms are.

    Without `hydrogens` the sum must not exceed the largest allowed one: implicit hydrogens make up the difference.
    """
    valences = molecule.bonds.sum(1, dtype=int).tolist()
    atoms = zip(molecule.numbers.tolist(), molecule.charges.tolist(), valences, strict=True)
    tables = [(allowed(number, charge), valence) for number, charge, valence in atoms]
    stable = [valence in table if hydrogens else valence <= max(table, default=-1) for table, valence in tables]
    return numpy.array(stable, dtype=bool)


def validated(molecule: Molecule, hydrogens: bool) -> Chem.Mol | None:
    """The sanitised molecule if it is valid, else None: valid means that RDKit can sanitise it and it is one piece.

    With explicit hydrogens RDKit adds none, so an atom with too few bonds is a radical: valid, but not stable. A
    molecule with positions that are not finite is not valid.
    """
    mol = edm_validated(molecule, hydrogens, largest=False)
    return mol if mol is not None and len(Chem.GetMolFrags(mol)) == 1 else None


def is_radical(mol: Chem.Mol) -> bool:
    """Whether an atom has unpaired electrons. If hydrogens are explicit, this means that one is missing."""
    return any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def edm_validated(molecule: Molecule, hydrogens: bool, largest: bool = True) -> Chem.Mol | None:
    """The largest piece, sanitised, if RDKit can sanitise the whole molecule, else None; with `largest` off, the whole.

    This is the validity in EDM's tables, which counts a sample of several pieces as valid. Molecules with a charge
    above the atomic number, or with bonds that must not be passed to RDKit (`unsafe_bonds`), are not valid.
    """
    if len(molecule) == 0 or not numpy.isfinite(molecule.positions).all():
        return None
    if unsafe_bonds(molecule) or (molecule.charges > molecule.numbers.astype(int)).any():
        return None
    mol = sanitised(to_rdkit(molecule, hydrogens))
    if mol is None or not largest:
        return mol
    pieces = Chem.GetMolFrags(mol)
    if len(pieces) == 1:
        return mol
    chosen = numpy.array(max(pieces, key=len))
    piece = Molecule(
        molecule.numbers[chosen],
        molecule.charges[chosen],
        molecule.bonds[numpy.ix_(chosen, chosen)],
        molecule.positions[chosen],
    )
    return sanitised(to_rdkit(piece, hydrogens))


@dataclass(frozen=True)
class Validity:
    """Validity, uniqueness and novelty of a set of samples, as fractions."""

    valid: float
    """Valid samples / all samples."""
    unique: float
    """Different valid molecules / valid samples; 0 if no sample is valid."""
    novel: float
    """Novel molecules / different valid molecules; 0 if no sample is valid. Novel: not among the known molecules."""
    valid_unique: float
    """Different valid molecules / all samples."""
    valid_unique_novel: float
    """Novel molecules / all samples."""


def validity(mols: Sequence[Chem.Mol | None], known: set[int] | frozenset[int] = frozenset()) -> Validity:
    """The fractions for a set of samples.

    `mols` has None for each sample that is not valid, and `known` are the identities of the training molecules.
    Molecules with equal `identity` are the same: stereochemistry does not matter.
    """
    valid = [identity(mol) for mol in mols if mol is not None]
    different = set(valid)
    novel = different - known
    n, n_valid, n_different = max(len(mols), 1), max(len(valid), 1), max(len(different), 1)
    return Validity(
        len(valid) / n, len(different) / n_valid, len(novel) / n_different, len(different) / n, len(novel) / n
    )


class KnownStereo:
    """The training molecules, to ask whether a molecule is among them with the same stereochemistry.

    `identities` `[n]` are those of the training molecules without stereochemistry, and `molecule_at(row)` is the
    sanitised molecule of a row, with stereochemistry. Only training molecules whose graph is asked for are made.
    """

    def __init__(self, identities: numpy.ndarray, molecule_at: Callable[[int], Chem.Mol | None]) -> None:
        self._order = numpy.argsort(identities, kind="stable")
        self._sorted, self._molecule_at = identities[self._order], molecule_at

    def __contains__(self, mol: Chem.Mol) -> bool:
        own = identity(mol)
        first, last = (numpy.searchsorted(self._sorted, own, side) for side in ("left", "right"))
        found = map(self._molecule_at, self._order[first:last].tolist())
        wanted = identity(mol, stereo=True)
        return any(other is not None and identity(other, stereo=True) == wanted for other in found)


def stereo_validity(mols: Sequence[Chem.Mol | None], known: KnownStereo) -> tuple[float, float]:
    """`Validity.unique` and `Validity.novel` if molecules that differ in their stereochemistry are different."""
    valid = [mol for mol in mols if mol is not None]
    different = {identity(mol, stereo=True): mol for mol in valid}
    novel = sum(mol not in known for mol in different.values())
    return len(different) / max(len(valid), 1), novel / max(len(different), 1)


def right_handed(mols: Sequence[Chem.Mol]) -> float:
    """The fraction of the atoms with a label R or S (Cahn, Ingold and Prelog) that have R; NaN if no atom has one."""
    labels = [atom.GetProp("_CIPCode") for mol in mols for atom in mol.GetAtoms() if atom.HasProp("_CIPCode")]
    return labels.count("R") / len(labels) if labels else float("nan")


@dataclass(frozen=True)
class Measurements:
    """m numbers measured on molecules. Each belongs to a kind and to a molecule."""

    values: numpy.ndarray
    """The numbers `[m]`."""
    kinds: numpy.ndarray
    """The kind of each number, an integer `[m]`. Numbers are only compared with those of their kind."""
    owners: numpy.ndarray
    """The index of the molecule that each number belongs to, `[m]`."""

    def of(self, molecules: numpy.ndarray) -> "Measurements":
        """The measurements of the molecules with these indices."""
        chosen = numpy.isin(self.owners, molecules)
        return Measurements(self.values[chosen], self.kinds[chosen], self.owners[chosen])


def per_molecule(values: Sequence[float] | numpy.ndarray) -> Measurements:
    """Measurements with one number for each molecule, all of one kind; numbers that are not finite are left out."""
    array = numpy.asarray(values, dtype=float)
    owners = numpy.flatnonzero(numpy.isfinite(array))
    return Measurements(array[owners], numpy.zeros(len(owners), dtype=int), owners)


def distance(samples: Measurements, reference: Measurements) -> float:
    """sum_k w_k W1(samples of kind k, reference of kind k), where w_k is the fraction of kind k in the reference.

    W1 is the 1-Wasserstein distance, in the unit of the values. Only kinds that occur in both count, with weights
    normalised to sum 1; NaN if there are none. `total_variation` compares how often the kinds occur.
    """
    kinds, counts = numpy.unique(reference.kinds, return_counts=True)
    total = weight = 0.0
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        values = samples.values[samples.kinds == kind]
        if len(values):
            total += count * wasserstein_distance(values, reference.values[reference.kinds == kind])
            weight += count
    return float(total / weight) if weight else float("nan")


def relative_distance(samples: Measurements, reference: Measurements) -> float:
    """`distance` divided by the standard deviation of the reference; a shift by one standard deviation gives 1."""
    std = float(reference.values.std()) if len(reference.values) else 0.0
    return distance(samples, reference) / std if std > 0 else float("nan")


def total_variation(samples: Measurements, reference: Measurements) -> float:
    """sum_k |p_k - q_k| / 2 for the fractions p_k, q_k of kind k: 0 if they are equal, 1 if no kind is in both."""
    if not len(samples.kinds) or not len(reference.kinds):
        return float("nan")
    kinds = numpy.union1d(samples.kinds, reference.kinds)
    p, q = ((m.kinds[:, None] == kinds).mean(0) for m in (samples, reference))
    return float(numpy.abs(p - q).sum() / 2)


Comparison = Callable[[Measurements, Measurements], float]
"""A distance of samples and reference."""


def halves(compare: Comparison, real: Measurements, splits: int = 5, seed: int = 0) -> float:
    """Mean of `compare` between two random halves of real molecules: about what a perfect model would reach.

    This holds for as many samples as in a half; the distance of fewer samples is larger by chance alone.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = numpy.unique(real.owners)
    distances = []
    for _ in range(splits):
        order = owners[torch.randperm(len(owners), generator=generator).numpy()]
        distances.append(compare(real.of(order[0::2]), real.of(order[1::2])))
    return float(numpy.mean(distances))


@dataclass(frozen=True)
class Flat:
    """The concatenated atoms and bonds of several molecules; each bond is listed twice, once from each end."""

    numbers: numpy.ndarray
    charges: numpy.ndarray
    positions: numpy.ndarray
    owners: numpy.ndarray
    first: numpy.ndarray
    second: numpy.ndarray
    orders: numpy.ndarray


def flattened(molecules: Sequence[Molecule]) -> Flat:
    """The atoms and bonds of all molecules, with the atoms counted through; the bonds of an atom are consecutive."""
    starts = numpy.cumsum([0, *map(len, molecules)])
    pairs = [molecule.bonds.nonzero() for molecule in molecules]
    empty = [numpy.zeros(0, dtype=int)]
    return Flat(
        numpy.concatenate(empty + [m.numbers.astype(int) for m in molecules]),
        numpy.concatenate(empty + [m.charges.astype(int) for m in molecules]),
        numpy.concatenate([numpy.zeros((0, 3)), *(m.positions.astype(float) for m in molecules)]),
        numpy.repeat(numpy.arange(len(molecules)), [len(m) for m in molecules]),
        numpy.concatenate(empty + [first + start for (first, _), start in zip(pairs, starts, strict=False)]),
        numpy.concatenate(empty + [second + start for (_, second), start in zip(pairs, starts, strict=False)]),
        numpy.concatenate(empty + [m.bonds[pair].astype(int) for m, pair in zip(molecules, pairs, strict=True)]),
    )


def bond_lengths(molecules: Sequence[Molecule]) -> Measurements:
    """The lengths of all bonds in Angstrom; the kind is given by the two elements and the bond order."""
    flat = flattened(molecules)
    once = flat.first < flat.second
    first, second = flat.first[once], flat.second[once]
    low, high = numpy.sort([flat.numbers[first], flat.numbers[second]], axis=0)
    lengths = numpy.linalg.norm(flat.positions[first] - flat.positions[second], axis=1)
    return Measurements(lengths, (low * 256 + high) * 4 + flat.orders[once], flat.owners[first])


def bond_angles(molecules: Sequence[Molecule]) -> Measurements:
    """The angles in degrees between all pairs of bonds at an atom; the kind is the element of that atom."""
    flat = flattened(molecules)
    directions = flat.positions[flat.second] - flat.positions[flat.first]
    directions /= numpy.maximum(numpy.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    angles, centres = [numpy.zeros(0)], [numpy.zeros(0, dtype=int)]
    # The bonds of an atom are consecutive, so pairs of them are 1, 2, ... entries apart.
    for step in itertools.count(1):
        left = numpy.flatnonzero(flat.first[:-step] == flat.first[step:])
        if not len(left):
            break
        cosines = (directions[left] * directions[left + step]).sum(1)
        angles.append(numpy.degrees(numpy.arccos(cosines.clip(-1, 1))))
        centres.append(flat.first[left])
    centre = numpy.concatenate(centres)
    return Measurements(numpy.concatenate(angles), flat.numbers[centre], flat.owners[centre])


def elements(molecules: Sequence[Molecule]) -> Measurements:
    """A measurement of value 0 for each atom; the kind is its element."""
    flat = flattened(molecules)
    return Measurements(numpy.zeros(len(flat.numbers)), flat.numbers, flat.owners)


def sizes(molecules: Sequence[Molecule]) -> Measurements:
    """The number of atoms of each molecule."""
    return per_molecule([len(molecule) for molecule in molecules])


def rings(molecules: Sequence[Molecule]) -> Measurements:
    """The number of independent rings of each molecule: bonds - atoms + pieces."""
    flat, n = flattened(molecules), len(molecules)
    atoms = len(flat.numbers)
    graph = coo_array((numpy.ones(len(flat.first)), (flat.first, flat.second)), shape=(atoms, atoms))
    _, piece = connected_components(graph, directed=False)
    _, member = numpy.unique(piece, return_index=True)
    counts = [numpy.bincount(flat.owners[which], minlength=n) for which in (flat.first, slice(None), member)]
    return per_molecule(counts[0] / 2 - counts[1] + counts[2])
