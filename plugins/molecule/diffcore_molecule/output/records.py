"""What is written about a sample: its graph, its SMILES or what is wrong with it, and its properties."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy
from rdkit import Chem

from diffcore.errors import UserError
from diffcore.plugins.output import Captions
from diffcore_molecule.chemistry.molecules import Molecule, knot, sanitised, to_rdkit
from diffcore_molecule.chemistry.properties import find, measure

_NOWHERE = "places of atoms are not finite"
STANDARD = ("logp", "tpsa", "qed", "weight")
"""Properties that every valid molecule's record has, whatever was asked."""


@dataclass(frozen=True)
class Record:
    """A sample as it was generated, and what RDKit makes of it."""

    molecule: Molecule
    """The sample, places that are not finite moved to the origin."""
    mol: Chem.Mol
    """Its graph with its conformer, not sanitised: bonds and charges are the sample's own."""
    smiles: str
    """Canonical, stereochemistry from the places; empty where RDKit finds no chemistry."""
    fault: str
    """Why the sample is not valid; empty where it is: one molecule that RDKit sanitises."""
    properties: Mapping[str, float]
    """Values of the `STANDARD` properties and of those that were asked for and can be measured; none if not valid."""
    knot: bool = False
    """Whether the bonds are such that RDKit must not see them; `mol` has none then."""

    @property
    def valid(self) -> bool:
        """Whether the sample is a molecule."""
        return not self.fault


def record(molecule: Molecule, hydrogens: bool, asked: Iterable[str] = ()) -> Record:
    """The record of a sample, with the properties `asked` for too.

    With `hydrogens` all of them are among the atoms, and none are implied.
    """
    finite = bool(numpy.isfinite(molecule.positions).all())
    if not finite:
        molecule = replace(molecule, positions=numpy.nan_to_num(molecule.positions, nan=0, posinf=0, neginf=0))
    tied = knot(molecule)
    mol = to_rdkit(replace(molecule, bonds=numpy.zeros_like(molecule.bonds)) if tied else molecule, hydrogens)
    bare = [atom for atom in mol.GetAtoms() if atom.GetFormalCharge() > atom.GetAtomicNum()]
    for atom in bare:
        atom.SetNoImplicit(False)  # RDKit cannot write such an atom without its hydrogens implied
    mol.UpdatePropertyCache(strict=False)
    if tied:
        return Record(molecule, mol, "", tied if finite else _NOWHERE, {}, knot=True)
    Chem.FastFindRings(mol)
    Chem.DetectBondStereochemistry(mol)  # else double bonds would be written as of unknown stereochemistry
    good = sanitised(mol)
    pieces = len(Chem.GetMolFrags(mol))
    if good is None:
        problems = Chem.DetectChemistryProblems(mol)
        fault = problems[0].Message() if problems else "RDKit cannot sanitise it"
    elif bare:
        fault = f"an atom of {bare[0].GetSymbol()} has a charge of {bare[0].GetFormalCharge():+d}"
    elif not finite:
        fault = _NOWHERE
    else:
        fault = "" if pieces == 1 else f"{pieces} pieces" if pieces else "no atoms"
    if good is None:
        return Record(molecule, mol, "", fault, {})
    plain = Chem.RemoveHs(good)
    return Record(molecule, mol, Chem.MolToSmiles(plain), fault, {} if fault else _measured(plain, asked))


def _measured(mol: Chem.Mol, asked: Iterable[str]) -> dict[str, float]:
    names = [name for name in dict.fromkeys([*STANDARD, *asked]) if _can_be_measured(name)]
    values = zip(names, measure(mol, names), strict=True)
    return {name: value for name, value in values if not math.isnan(value)}


def _can_be_measured(name: str) -> bool:
    """Whether it is a property, and one that needs no quantum chemistry."""
    try:
        find(name)
    except UserError:
        return False
    return True


def records(samples: Sequence[Molecule], hydrogens: bool, asked: Captions = ()) -> list[Record]:
    """Records of samples, with the properties that were `asked` of each."""
    return [
        record(sample, hydrogens, names) for sample, names in zip(samples, asked or [{}] * len(samples), strict=True)
    ]
