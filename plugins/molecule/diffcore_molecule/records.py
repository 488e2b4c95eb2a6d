"""What is written about a sample: its graph, its SMILES or what is wrong with it, and its properties."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem.QED import qed

from diffcore.output import Asked
from diffcore_molecule.molecules import Molecule, sanitised, to_rdkit

_FUNCTIONS = {"logp": Crippen.MolLogP, "tpsa": rdMolDescriptors.CalcTPSA, "qed": qed, "weight": Descriptors.MolWt}
STANDARD = ("logp", "tpsa", "qed", "weight")
"""Properties that every valid molecule's record has, whatever was asked."""


@dataclass(frozen=True)
class Record:
    """A sample as it was generated, and what RDKit makes of it."""

    molecule: Molecule
    """The sample, places that are not finite moved to the origin."""
    mol: Chem.Mol
    """Its graph with its conformer, not sanitised, so nothing in it is changed."""
    smiles: str
    """Canonical, stereochemistry from the places; empty where RDKit finds no chemistry."""
    fault: str
    """Why the sample is not valid; empty where it is: one molecule that RDKit sanitises."""
    properties: Mapping[str, float]
    """Values of the `STANDARD` properties and of those that were asked for and can be measured; none if not valid."""

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
    mol = to_rdkit(molecule, hydrogens)
    mol.UpdatePropertyCache(strict=False)
    if hydrogens:
        Chem.AssignRadicals(mol)  # else a reader would add the hydrogens that are missing
    good = sanitised(mol)
    pieces = len(Chem.GetMolFrags(mol))
    if good is None:
        problems = Chem.DetectChemistryProblems(mol)
        fault = problems[0].Message() if problems else "RDKit cannot sanitise it"
    elif not finite:
        fault = "places of atoms are not finite"
    else:
        fault = "" if pieces == 1 else f"{pieces} pieces" if pieces else "no atoms"
    if good is None:
        return Record(molecule, mol, "", fault, {})
    plain = Chem.RemoveHs(good)
    return Record(molecule, mol, Chem.MolToSmiles(plain), fault, {} if fault else _measured(plain, asked))


def _measured(mol: Chem.Mol, asked: Iterable[str]) -> dict[str, float]:
    names = dict.fromkeys([*STANDARD, *asked])
    return {name: float(_FUNCTIONS[name](mol)) for name in names if name in _FUNCTIONS}


def records(samples: Sequence[Molecule], asked: Asked = ()) -> list[Record]:
    """Records of samples of one model, with the properties that were `asked` of each.

    Where any sample has a hydrogen among its atoms, hydrogens are atoms of their own in all of them.
    """
    hydrogens = any((sample.numbers == 1).any() for sample in samples)
    return [
        record(sample, hydrogens, names) for sample, names in zip(samples, asked or [{}] * len(samples), strict=True)
    ]
