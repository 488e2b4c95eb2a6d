"""The order and the orientation in which the atoms of one molecule are nearest to those of another."""

import itertools
from dataclasses import replace

import numpy
from scipy.optimize import linear_sum_assignment

from diffcore_molecule.chemistry.molecules import Molecule

OTHER_ELEMENT = 2.0
"""Atoms of different elements are matched as if they were farther apart, by this in square Angstrom."""
_ROUNDS = 20


def matched(molecule: Molecule, to: Molecule) -> Molecule:
    """`molecule` with its atoms in the order, and its positions rotated and moved, that are nearest to `to`.

    From each of the four rotations that align the principal axes, and from none, the order is the optimal assignment
    (of squared distances, and `OTHER_ELEMENT`), and the rotation is the best one for this order (Kabsch 1976), in turns
    until nothing changes. The nearest of the five results is taken. Both have the same number of atoms; a molecule is
    never mirrored.
    """
    places, goal = (each.positions.astype(float) - each.positions.mean(0) for each in (molecule, to))
    other = OTHER_ELEMENT * (to.numbers[:, None] != molecule.numbers[None, :])
    found = [_settled(places @ start, goal, other) for start in (numpy.eye(3), *_aligning(places, goal))]
    _, order, turned = min(found, key=lambda each: each[0])
    return replace(
        molecule,
        numbers=molecule.numbers[order],
        charges=molecule.charges[order],
        bonds=molecule.bonds[order][:, order],
        positions=(turned[order] + to.positions.mean(0)).astype(numpy.float32),
    )


def _settled(
    places: numpy.ndarray, goal: numpy.ndarray, other: numpy.ndarray
) -> tuple[float, numpy.ndarray, numpy.ndarray]:
    """The cost, the order and the turned places after turns of assignment and rotation."""
    order = numpy.arange(len(places))
    for number in range(_ROUNDS):
        cost = ((goal[:, None] - places[None]) ** 2).sum(2) + other
        before, order = order, linear_sum_assignment(cost)[1]
        if number and (before == order).all():
            break
        places = places @ rotation(places[order], goal)
    return float((((goal - places[order]) ** 2).sum(1) + other[numpy.arange(len(order)), order]).sum()), order, places


def rotation(places: numpy.ndarray, goal: numpy.ndarray) -> numpy.ndarray:
    """The rotation R that makes |places R - goal| least, `[3, 3]`. Kabsch 1976."""
    left, _, right = numpy.linalg.svd(places.T @ goal)
    sign = numpy.sign(numpy.linalg.det(left @ right)) or 1.0
    return left @ numpy.diag([1.0, 1.0, sign]) @ right  # type: ignore[no-any-return]


def _aligning(places: numpy.ndarray, goal: numpy.ndarray) -> list[numpy.ndarray]:
    """The rotations that take the principal axes of `places` to those of `goal`."""
    axes = [numpy.linalg.eigh(each.T @ each)[1] for each in (places, goal)]
    signs = [numpy.diag(each) for each in itertools.product((1.0, -1.0), repeat=3)]
    turns = [axes[0] @ sign @ axes[1].T for sign in signs]
    return [turn for turn in turns if numpy.linalg.det(turn) > 0]
