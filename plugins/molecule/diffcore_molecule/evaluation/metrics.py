"""What is measured of molecules: whether they are chemistry, are new, and are std as real ones are.

All shares are of all samples that were drawn, unless a name says otherwise, so no filter can raise them unseen.
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

from diffcore_molecule.chemistry.molecules import Molecule, identity, knot, sanitised, to_rdkit

Valences = Callable[[int, int], tuple[int, ...]]
"""The sums of bond orders that an atom may have, by its atomic number and its formal charge; none: unknown atoms."""


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
    """The table of Hoogeboom et al. 2022 (EDM for molecules): by element alone, charges ignored, sulfur 4 only."""
    return _EDM.get(_symbol(number), ())


def strict_valences(number: int, charge: int) -> tuple[int, ...]:
    """Closed shells by element and formal charge: a neutral carbon has 4, N+ has 4, O- has 1, and so on.

    Tables that pool charges let a neutral carbon with 3 bonds pass: a radical, or a hydrogen too few.
    """
    return _STRICT.get(charge, {}).get(_symbol(number), ())


def stable_atoms(molecule: Molecule, allowed: Valences, hydrogens: bool = True) -> numpy.ndarray:
    """Which atoms have a sum of bond orders that is allowed, `[n]` bool. A molecule is stable where all atoms are.

    Without `hydrogens` the sum need only not exceed the largest that is allowed: implied hydrogens are the rest.
    """
    found = molecule.bonds.sum(1, dtype=int).tolist()
    atoms = zip(molecule.numbers.tolist(), molecule.charges.tolist(), found, strict=True)
    tables = [(allowed(number, charge), valence) for number, charge, valence in atoms]
    good = [valence in table if hydrogens else valence <= max(table, default=-1) for table, valence in tables]
    return numpy.array(good, dtype=bool)


def validated(molecule: Molecule, hydrogens: bool) -> Chem.Mol | None:
    """The sanitised molecule, if it is one piece and RDKit finds chemistry in it; None if it is not valid.

    With explicit hydrogens none are implied, so an atom with too few bonds is a radical: valid, but not stable.
    Places that are not finite are no molecule's.
    """
    mol = edm_validated(molecule, hydrogens, largest=False)
    return mol if mol is not None and len(Chem.GetMolFrags(mol)) == 1 else None


def is_radical(mol: Chem.Mol) -> bool:
    """Whether an atom has unpaired electrons: with explicit hydrogens, where one is missing."""
    return any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def edm_validated(molecule: Molecule, hydrogens: bool, largest: bool = True) -> Chem.Mol | None:
    """The largest piece, sanitised, if RDKit finds chemistry in the whole; None if not.

    The validity of EDM's tables: a sample that falls into pieces counts as valid. More electrons lost than an atom has,
    or bonds that RDKit must not see (`knot`), are no chemistry.
    """
    if len(molecule) == 0 or not numpy.isfinite(molecule.positions).all():
        return None
    if knot(molecule) or (molecule.charges > molecule.numbers.astype(int)).any():
        return None
    mol = sanitised(to_rdkit(molecule, hydrogens))
    if mol is None or not largest:
        return mol
    pieces = Chem.GetMolFrags(mol)
    if len(pieces) == 1:
        return mol
    chosen = numpy.array(max(pieces, key=len))
    part = Molecule(
        molecule.numbers[chosen],
        molecule.charges[chosen],
        molecule.bonds[numpy.ix_(chosen, chosen)],
        molecule.positions[chosen],
    )
    return sanitised(to_rdkit(part, hydrogens))


@dataclass(frozen=True)
class Shares:
    """Validity, uniqueness and novelty of a set of samples."""

    valid: float
    """Of all samples."""
    unique: float
    """Different molecules, of the valid samples; 0 where there are none."""
    novel: float
    """Molecules that are not among the known ones, of the different valid ones; 0 where there are none."""
    valid_unique: float
    """Different valid molecules, of all samples."""
    valid_unique_novel: float
    """Different valid molecules that are not among the known ones, of all samples."""


def shares(mols: Sequence[Chem.Mol | None], known: set[int] | frozenset[int] = frozenset()) -> Shares:
    """The shares of samples, None being those that are not valid; `known` are identities of training molecules.

    Molecules are the same where `identity` is: stereochemistry does not count.
    """
    found = [identity(mol) for mol in mols if mol is not None]
    different = set(found)
    novel = different - known
    n, valid, unique = max(len(mols), 1), max(len(found), 1), max(len(different), 1)
    return Shares(len(found) / n, len(different) / valid, len(novel) / unique, len(different) / n, len(novel) / n)


@dataclass(frozen=True)
class Measured:
    """Numbers measured on molecules: m of them, each of a kind, each of one molecule."""

    values: numpy.ndarray
    """`[m]`."""
    kinds: numpy.ndarray
    """Whole numbers `[m]`: values are compared with those of their kind."""
    owners: numpy.ndarray
    """Which molecule each is of, `[m]`."""

    def of(self, molecules: numpy.ndarray) -> "Measured":
        """What was measured on the molecules of these indices."""
        chosen = numpy.isin(self.owners, molecules)
        return Measured(self.values[chosen], self.kinds[chosen], self.owners[chosen])


def per_molecule(values: Sequence[float] | numpy.ndarray) -> Measured:
    """One number of each molecule, all of one kind; what is not finite is left out."""
    array = numpy.asarray(values, dtype=float)
    owners = numpy.flatnonzero(numpy.isfinite(array))
    return Measured(array[owners], numpy.zeros(len(owners), dtype=int), owners)


def distance(samples: Measured, reference: Measured) -> float:
    """Sum over kinds k of w_k W1(samples of k, reference of k), w_k the share of k in the reference.

    W1 is the 1-Wasserstein distance, in the unit of the values. Only kinds that both have count, their weights scaled
    to sum to 1; NaN if there are none. `kinds_apart` says how differently often kinds occur.
    """
    kinds, counts = numpy.unique(reference.kinds, return_counts=True)
    total = weight = 0.0
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        values = samples.values[samples.kinds == kind]
        if len(values):
            total += count * wasserstein_distance(values, reference.values[reference.kinds == kind])
            weight += count
    return float(total / weight) if weight else float("nan")


def relative_distance(samples: Measured, reference: Measured) -> float:
    """`distance` over the standard deviation of the reference: 1 is as far as a shift by one of them."""
    std = float(reference.values.std()) if len(reference.values) else 0.0
    return distance(samples, reference) / std if std > 0 else float("nan")


def kinds_apart(samples: Measured, reference: Measured) -> float:
    """Total variation: half the sum over kinds of |share in samples - share in reference|. 0 same, 1 none shared."""
    if not len(samples.kinds) or not len(reference.kinds):
        return float("nan")
    kinds = numpy.union1d(samples.kinds, reference.kinds)
    p, q = ((m.kinds[:, None] == kinds).mean(0) for m in (samples, reference))
    return float(numpy.abs(p - q).sum() / 2)


Comparison = Callable[[Measured, Measured], float]


def halves(compare: Comparison, real: Measured, splits: int = 5, seed: int = 0) -> float:
    """Mean of `compare` between random halves of real molecules: what a perfect model would about reach.

    With as many samples as a half holds; fewer are further away by chance alone.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = numpy.unique(real.owners)
    found = []
    for _ in range(splits):
        order = owners[torch.randperm(len(owners), generator=generator).numpy()]
        found.append(compare(real.of(order[0::2]), real.of(order[1::2])))
    return float(numpy.mean(found))


@dataclass(frozen=True)
class _Flat:
    """All atoms and bonds of several molecules in one row; bonds stand twice, once from either end."""

    numbers: numpy.ndarray
    positions: numpy.ndarray
    owners: numpy.ndarray
    first: numpy.ndarray
    second: numpy.ndarray
    orders: numpy.ndarray


def _flat(molecules: Sequence[Molecule]) -> _Flat:
    starts = numpy.cumsum([0, *map(len, molecules)])
    pairs = [molecule.bonds.nonzero() for molecule in molecules]
    empty = [numpy.zeros(0, dtype=int)]
    return _Flat(
        numpy.concatenate(empty + [m.numbers.astype(int) for m in molecules]),
        numpy.concatenate([numpy.zeros((0, 3)), *(m.positions.astype(float) for m in molecules)]),
        numpy.repeat(numpy.arange(len(molecules)), [len(m) for m in molecules]),
        numpy.concatenate(empty + [first + start for (first, _), start in zip(pairs, starts, strict=False)]),
        numpy.concatenate(empty + [second + start for (_, second), start in zip(pairs, starts, strict=False)]),
        numpy.concatenate(empty + [m.bonds[pair].astype(int) for m, pair in zip(molecules, pairs, strict=True)]),
    )


def bond_lengths(molecules: Sequence[Molecule]) -> Measured:
    """Lengths of all bonds in Angstrom; a kind is two elements and the order between them."""
    flat = _flat(molecules)
    once = flat.first < flat.second
    first, second = flat.first[once], flat.second[once]
    low, high = numpy.sort([flat.numbers[first], flat.numbers[second]], axis=0)
    lengths = numpy.linalg.norm(flat.positions[first] - flat.positions[second], axis=1)
    return Measured(lengths, (low * 256 + high) * 4 + flat.orders[once], flat.owners[first])


def bond_angles(molecules: Sequence[Molecule]) -> Measured:
    """Angles between all pairs of bonds of an atom in degrees; a kind is the element of that atom."""
    flat = _flat(molecules)
    arms = flat.positions[flat.second] - flat.positions[flat.first]
    arms /= numpy.maximum(numpy.linalg.norm(arms, axis=1, keepdims=True), 1e-12)
    angles, centres = [numpy.zeros(0)], [numpy.zeros(0, dtype=int)]
    for apart in itertools.count(
        1
    ):  # bonds of an atom stand side by side: pairs of neighbours, then of the next but one
        left = numpy.flatnonzero(flat.first[:-apart] == flat.first[apart:])
        if not len(left):
            break
        cosines = (arms[left] * arms[left + apart]).sum(1)
        angles.append(numpy.degrees(numpy.arccos(cosines.clip(-1, 1))))
        centres.append(flat.first[left])
    centre = numpy.concatenate(centres)
    return Measured(numpy.concatenate(angles), flat.numbers[centre], flat.owners[centre])


def elements(molecules: Sequence[Molecule]) -> Measured:
    """All atoms; a kind is an element."""
    flat = _flat(molecules)
    return Measured(numpy.zeros(len(flat.numbers)), flat.numbers, flat.owners)


def sizes(molecules: Sequence[Molecule]) -> Measured:
    """The number of atoms of each molecule."""
    return per_molecule([len(molecule) for molecule in molecules])


def rings(molecules: Sequence[Molecule]) -> Measured:
    """The number of independent rings of each molecule: bonds - atoms + pieces."""
    flat, n = _flat(molecules), len(molecules)
    atoms = len(flat.numbers)
    graph = coo_array((numpy.ones(len(flat.first)), (flat.first, flat.second)), shape=(atoms, atoms))
    _, piece = connected_components(graph, directed=False)
    _, member = numpy.unique(piece, return_index=True)
    counts = [numpy.bincount(flat.owners[which], minlength=n) for which in (flat.first, slice(None), member)]
    return per_molecule(counts[0] / 2 - counts[1] + counts[2])
