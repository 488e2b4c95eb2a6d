"""Tetrahedral centres: whether the bonds of saturated atoms point into space, as in real molecules, or lie flat."""

import itertools
from collections.abc import Sequence

import numpy
from scipy.sparse import csr_array

from diffcore_molecule.chemistry.molecules import Molecule
from diffcore_molecule.evaluation.metrics import Flat, Measurements, flattened

FLAT = 0.25
"""A centre is called flat if all of its triples have a smaller volume; among 3,979 real ones of QM9 the smallest volume
of three bonds is 0.45."""

TAILS = 0.005
"""The range of real centres lies between their quantiles of this order and of one minus it."""

_FEW = 20
"""Kinds with fewer real centres are compared with all real centres of as many bonds."""

_TETRAHEDRAL = (5, 6, 7, 14, 15, 32)
"""B, C, N, Si, P and Ge: with four single bonds they are tetrahedral."""


def chiral_volumes(directions: numpy.ndarray) -> numpy.ndarray:
    """The volumes `[m, t]` of m centres with the directions `[m, b, 3]` of b = 3 or 4 bonds: one per triple of bonds.

    The volume of three bonds with unit vectors u, v, w is u . (v x w): 0 for bonds in a plane, 4 / (3 sqrt(3)) = 0.77
    for a regular tetrahedron, 1 for right angles. For four bonds, the triples are oriented like the faces of a
    tetrahedron, so that all volumes have the same sign if the centre lies within the tetrahedron of its neighbours.
    Volumes are multiplied by the sign of their sum, so mirror images have the same volumes.
    """
    unit = directions / numpy.maximum(numpy.linalg.norm(directions, axis=2, keepdims=True), 1e-12)
    triples = list(itertools.combinations(range(directions.shape[1]), 3))
    signs = numpy.array([(-1.0) ** k for k in range(len(triples))])
    first, second, third = (unit[:, [triple[k] for triple in triples]] for k in range(3))
    volumes = (first * numpy.cross(second, third)).sum(2) * signs
    return volumes * numpy.where(volumes.sum(1, keepdims=True) < 0, -1, 1)


def sp3_volumes(molecules: Sequence[Molecule]) -> Measurements:
    """The smallest of the `chiral_volumes` of every saturated centre with three or four bonds.

    A saturated centre is a neutral carbon atom with three or four single bonds and no others, or an atom of B, N, Si, P
    or Ge with four. Bonds to implicit hydrogens are not counted. Strain allows small rings other shapes, so the kind of
    a centre is the number of its bonds, the number of bonds among its neighbours (three-membered rings), and whether
    two neighbours have a second one in common (four-membered rings).
    """
    flat = flattened(molecules)
    found = [_of(flat, *centres) for centres in _centres(flat)]
    return Measurements(*(numpy.concatenate(parts) for parts in zip(*found, strict=True)))


def _centres(flat: Flat) -> list[tuple[numpy.ndarray, numpy.ndarray]]:
    """The saturated atoms `[m]` with three bonds, and their neighbours `[m, 3]`; the same with four."""
    atoms = len(flat.numbers)
    bonds = numpy.bincount(flat.first, minlength=atoms)
    orders = numpy.bincount(flat.first, flat.orders, minlength=atoms)
    starts = numpy.cumsum(bonds) - bonds
    carbon = (flat.numbers == 6) & (flat.charges == 0)
    kinds = {3: carbon, 4: carbon | (numpy.isin(flat.numbers, _TETRAHEDRAL) & (flat.numbers != 6))}
    found = []
    for count, kind in kinds.items():
        chosen = numpy.flatnonzero(kind & (bonds == count) & (orders == count))
        found.append((chosen, flat.second[starts[chosen, None] + numpy.arange(count)].reshape(-1, count)))
    return found


def _of(flat: Flat, centres: numpy.ndarray, neighbours: numpy.ndarray) -> tuple[numpy.ndarray, ...]:
    """The smallest volume, the kind and the molecule of each centre."""
    volumes = chiral_volumes(flat.positions[neighbours] - flat.positions[centres][:, None]).min(1)
    atoms, count = len(flat.numbers), neighbours.shape[1]
    bonded = csr_array((numpy.ones(len(flat.first), dtype=int), (flat.first, flat.second)), shape=(atoms, atoms))
    common = bonded @ bonded
    three, four = numpy.zeros(len(centres), dtype=int), numpy.zeros(len(centres), dtype=bool)
    for a, b in itertools.combinations(range(count), 2):
        first, second = neighbours[:, a], neighbours[:, b]
        three += _entries(bonded, first, second)
        four |= _entries(common, first, second) > 1  # one is the centre itself
    return volumes, count * 100 + three * 2 + four, flat.owners[centres]


def _entries(matrix: csr_array, rows: numpy.ndarray, columns: numpy.ndarray) -> numpy.ndarray:
    return numpy.asarray(matrix[rows, columns]).reshape(-1) if len(rows) else numpy.zeros(0, dtype=int)


def within_range(samples: Measurements, reference: Measurements) -> float:
    """The fraction of the samples' values between the quantiles `TAILS` and 1 - `TAILS` of the reference of their kind.

    Kinds with fewer than 20 values in the reference have the quantiles of all kinds with as many bonds, or of all
    kinds if there are none. NaN if either has no values.
    """
    if not len(samples.values) or not len(reference.values):
        return float("nan")
    inside = 0
    for kind in numpy.unique(samples.kinds):
        values = reference.values[reference.kinds == kind]
        if len(values) < _FEW:
            values = reference.values[reference.kinds // 100 == kind // 100]
        low, high = numpy.quantile(values if len(values) else reference.values, [TAILS, 1 - TAILS])
        own = samples.values[samples.kinds == kind]
        inside += int(((own >= low) & (own <= high)).sum())
    return inside / len(samples.values)


def flat_centre(molecule: Molecule, hydrogens: bool) -> int | None:
    """The index of the first saturated centre whose bonds all lie nearly in a plane (`FLAT`); None if there is none.

    With `hydrogens`, all hydrogens are atoms, and a carbon atom with three bonds is a radical, which may be flat.
    """
    flat = flattened([molecule])
    for centres, neighbours in _centres(flat)[1 if hydrogens else 0 :]:
        volumes = chiral_volumes(flat.positions[neighbours] - flat.positions[centres][:, None])
        if len(wrong := centres[(numpy.abs(volumes) < FLAT).all(1)]):
            return int(wrong[0])
    return None
