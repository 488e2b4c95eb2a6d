"""The properties in the QM9 file, which were computed by density functional theory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A property that is read from the QM9 file: `value in the file * factor` is in `unit`."""

    index: int
    """The position of the value among the numbers after `gdb i`."""
    unit: str
    factor: float = 1.0


HARTREE = 27.211386245988
"""In eV, CODATA 2018."""

DFT = {
    "mu": Column(3, "D"),
    "alpha": Column(4, "Bohr^3"),
    "homo": Column(5, "eV", HARTREE),
    "lumo": Column(6, "eV", HARTREE),
    "gap": Column(7, "eV", HARTREE),
    "cv": Column(14, "cal/(mol K)"),
}
"""Properties that only the data set qm9 has, computed at B3LYP/6-31G(2df,p): dipole moment, isotropic polarisability,
energies of the frontier orbitals and their gap, heat capacity at 298.15 K."""
