"""Records of samples: the graph, the SMILES, the reason why a sample is not valid, and the properties."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.plugins.output import Captions
from diffcore_molecule.chemistry.geometry import geometry_fault
from diffcore_molecule.chemistry.molecules import Molecule, sanitised, to_rdkit, unsafe_bonds
from diffcore_molecule.chemistry.properties import find, measure
from diffcore_molecule.chemistry.reading import chemistry_fault
from diffcore_molecule.evaluation.centres import flat_centre

_NOT_FINITE = "positions that are not finite"
STANDARD = ("logp", "tpsa", "qed", "weight")
"""The properties in the record of every valid molecule, in addition to those of the conditions."""


DRAWN = "drawn_"
"""Begins the names of values that were drawn together with a molecule, in files and tables."""


@dataclass(frozen=True)
class Record:
    """A generated sample with its RDKit graph, SMILES and properties."""

    molecule: Molecule
    """The sample; coordinates that are not finite are replaced by zero."""
    mol: Chem.Mol
    """Its graph and conformer, not sanitised: with the generated bonds and charges."""
    smiles: str
    """The canonical SMILES, with stereochemistry from the positions; empty if RDKit cannot sanitise the sample."""
    fault: str
    """The reason why the sample is not valid; empty if it is: RDKit can sanitise it and it is one piece."""
    properties: Mapping[str, float]
    """Values of the `STANDARD` properties and of the conditions that RDKit can measure; empty if not valid."""
    unsafe_bonds: bool = False
    """Whether the bonds must not be passed to RDKit; then `mol` has no bonds."""
    geometry: str = ""
    """The reason why the positions cannot be those of the molecule; empty if they can. It is a `geometry_fault`, for
    which the reader of files leaves molecules out, or a saturated atom whose bonds lie in a plane."""

    @property
    def valid(self) -> bool:
        """Whether the sample is a valid molecule."""
        return not self.fault


def record(
    molecule: Molecule, hydrogens: bool, asked: Iterable[str] = (), standard: Iterable[str] = STANDARD
) -> Record:
    """The record of a sample. The properties `asked` are measured in addition to the `standard` ones.

    With `hydrogens`, all hydrogens are explicit atoms; otherwise hydrogens are implicit.
    """
    geometry = geometry_fault(molecule) or _flat_fault(molecule, hydrogens)
    finite = bool(numpy.isfinite(molecule.positions).all())
    if not finite:
        molecule = replace(molecule, positions=numpy.nan_to_num(molecule.positions, nan=0, posinf=0, neginf=0))
    unsafe = unsafe_bonds(molecule)
    mol = to_rdkit(replace(molecule, bonds=numpy.zeros_like(molecule.bonds)) if unsafe else molecule, hydrogens)
    overcharged = [atom for atom in mol.GetAtoms() if atom.GetFormalCharge() > atom.GetAtomicNum()]
    for atom in overcharged:
        atom.SetNoImplicit(False)  # otherwise RDKit cannot write such an atom
    mol.UpdatePropertyCache(strict=False)
    if unsafe:
        return Record(molecule, mol, "", unsafe if finite else _NOT_FINITE, {}, unsafe_bonds=True, geometry=geometry)
    Chem.FastFindRings(mol)
    Chem.DetectBondStereochemistry(mol)  # otherwise double bonds would be written with unknown stereochemistry
    clean = sanitised(mol)
    pieces = len(Chem.GetMolFrags(mol))
    if clean is None:
        problems = Chem.DetectChemistryProblems(mol)
        fault = chemistry_fault(problems[0]) if problems else "RDKit cannot sanitise it, and gives no reason"
    elif overcharged:
        fault = f"an atom of {overcharged[0].GetSymbol()} has a charge of {overcharged[0].GetFormalCharge():+d}"
    elif not finite:
        fault = _NOT_FINITE
    else:
        fault = "" if pieces == 1 else f"{pieces} pieces" if pieces else "no atoms"
    if clean is None:
        return Record(molecule, mol, "", fault, {}, geometry=geometry)
    plain = Chem.RemoveHs(clean)
    values = {} if fault else _measured(plain, [*standard, *asked])
    return Record(molecule, mol, Chem.MolToSmiles(plain), fault, values, geometry=geometry)


def _flat_fault(molecule: Molecule, hydrogens: bool) -> str:
    """The reason why the bonds of a saturated atom cannot be right; empty if all are."""
    flat = flat_centre(molecule, hydrogens) if numpy.isfinite(molecule.positions).all() else None
    if flat is None:
        return ""
    symbol = Chem.GetPeriodicTable().GetElementSymbol(int(molecule.numbers[flat]))
    return f"the single bonds of atom {flat + 1} ({symbol}) lie in a plane"


def _measured(mol: Chem.Mol, asked: Iterable[str]) -> dict[str, float]:
    names = [name for name in dict.fromkeys(asked) if _can_be_measured(name)]
    values = zip(names, measure(mol, names), strict=True)
    return {name: value for name, value in values if not math.isnan(value)}


def _can_be_measured(name: str) -> bool:
    """Whether `name` is a property that can be computed without quantum chemistry."""
    try:
        find(name)
    except UserError:
        return False
    return True


def records(
    samples: Sequence[Molecule],
    hydrogens: bool,
    asked: Captions = (),
    not_measured: Container[str] = (),
    always: Sequence[str] = (),
) -> list[Record]:
    """The records of samples; `asked` are the conditions of each sample, of which some are `not_measured`.

    The properties `always` are measured of every sample.
    """
    return [
        record(sample, hydrogens, [*always, *(name for name in names if name not in not_measured)])
        for sample, names in zip(samples, asked or [{}] * len(samples), strict=True)
    ]
